"""Priors that break one law each, on purpose."""

import math

import pyro.distributions as dist
import pyro.distributions.transforms as T
import torch
from torch import nn

from pyro_lrp.priors import (
    Flow,
    FlowDistribution,
    Prior,
    StandardNormal,
)
from pyro_lrp.priors.core import NormalBase
from pyro_lrp.transforms import paper_flow as paper_stack


class Honest(Prior):
    """A mixture of normals as torch has it: a density and a sampler, no base and no reparametrization."""

    has_rsample = False

    def __init__(self, dim, components=3, scale=1.0):
        super().__init__()
        self.event_shape = torch.Size([dim])
        self.logits = nn.Parameter(torch.randn(components))
        self.loc = nn.Parameter(torch.randn(components, dim))
        self.tril = nn.Parameter(torch.zeros(components, dim, dim))
        self.log_scale = nn.Parameter(torch.full((components, dim), math.log(scale)))

    def mixture(self, scale=1.0):
        factor = scale * (self.tril.tril(-1) + self.log_scale.exp().diag_embed())
        components = dist.MultivariateNormal(self.loc, scale_tril=factor)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), components)

    def forward(self, context=None, *, temperature=1.0):
        return self.mixture()


class Differing(dist.TorchDistribution):
    """The samples of one distribution and the density of another, or a function of it."""

    arg_constraints = {}

    def __init__(self, sampler, log_prob):
        self.sampler, self.log_prob, self.has_rsample = sampler, log_prob, sampler.has_rsample
        super().__init__(sampler.batch_shape, sampler.event_shape)

    def expand(self, batch_shape, _instance=None):
        return Differing(self.sampler.expand(batch_shape), self.log_prob)

    def sample(self, sample_shape=()):
        return self.sampler.sample(torch.Size(sample_shape))

    def rsample(self, sample_shape=()):
        return self.sampler.rsample(torch.Size(sample_shape))


class WrongLogDet(Flow):
    def __init__(self):
        super().__init__(2, paper_stack(2, 2, 8))

    def forward(self, context=None, *, temperature=1.0):
        return Differing(
            super().forward(), lambda z: FlowDistribution(self.base(), self.transforms).log_prob(z) + 0.1
        )


class WrongInverse(Flow):
    def __init__(self):
        super().__init__(4, paper_stack(4, 2, 8))

    def to_latent(self, z, context=None):
        return super().to_latent(z) + 1e-3


class StaleTransform(NormalBase):
    """A stock transform as it comes, with its cache."""

    def __init__(self):
        super().__init__(4)
        self.coupling = T.affine_coupling(4, hidden_dims=[8])

    def forward(self, context=None, *, temperature=1.0):
        return dist.TransformedDistribution(self.base(), [self.coupling])

    def to_base(self, z, context=None):
        return self.coupling.inv(z)

    def to_latent(self, z, context=None):
        return self.coupling(z)


class StaleMixture(Honest):
    """It remembers the last codes that it scored."""

    last = None, None

    def forward(self, context=None, *, temperature=1.0):
        return Differing(self.mixture(), self.score)

    def score(self, z):
        if self.last[0] is not z:
            self.last = z, self.mixture().log_prob(z)
        return self.last[1]


class HiddenInAList(Honest):
    def __init__(self):
        super().__init__(3)
        self.shifts = [nn.Parameter(torch.zeros(3))]

    def forward(self, context=None, *, temperature=1.0):
        return dist.Normal(self.shifts[0] + self.loc.mean(0), 1.0).to_event(1)


class HiddenInALambda(NormalBase):
    def __init__(self):
        super().__init__(3)
        network = nn.Linear(3, 3)
        self.shift = lambda: network(self.zero)

    def forward(self, context=None, *, temperature=1.0):
        return dist.Normal(self.shift(), 1.0).to_event(1)


class Underflowing(Honest):
    """The density itself is computed on the way to its logarithm."""

    def forward(self, context=None, *, temperature=1.0):
        return Differing(self.mixture(), lambda z: self.mixture().log_prob(z).exp().log())


class Unnormalised(Honest):
    def __init__(self, dim, excess=0.1):
        super().__init__(dim)
        self.excess = excess

    def forward(self, context=None, *, temperature=1.0):
        return Differing(self.mixture(), lambda z: self.mixture().log_prob(z) + self.excess)


class Narrow(Honest):
    """Samples whose deviations are 0.9 of what the density says."""

    def forward(self, context=None, *, temperature=1.0):
        return Differing(self.mixture(0.9), self.mixture().log_prob)


class NarrowBase(Flow):
    """Samples of another base; the density jumps where a coordinate is zero, so importance sampling is lost."""

    def __init__(self):
        super().__init__(16, [T.LeakyReLUTransform()])

    def forward(self, context=None, *, temperature=1.0):
        return Differing(super().forward(temperature=0.9), super().forward().log_prob)


class IgnoresContext(Honest):
    context_dim = 3

    def forward(self, context=None, *, temperature=1.0):
        return self.mixture().expand(context.shape[:-1])


class OneDrawForAll(NormalBase):
    """A batch of contexts gets a batch of densities, and one sample many times over."""

    context_dim = 3

    def __init__(self):
        super().__init__(3)
        self.mean = nn.Linear(3, 3)

    def base(self, context=None, *, temperature=1.0):
        return dist.Normal(self.mean(context), 1.0).to_event(1)

    def forward(self, context=None, *, temperature=1.0):
        right = self.base(context)
        draw = right.sample
        right.sample = lambda shape=(): draw(shape)[..., :1, :].expand(*shape, *right.batch_shape, 3)
        return right if context.dim() > 1 else self.base(context)


class OneDensityForAll(OneDrawForAll):
    """A batch of contexts gets as many densities, all of them that of the first context."""

    def forward(self, context=None, *, temperature=1.0):
        first = context if context.dim() == 1 else context[:1].expand_as(context)
        return self.base(first)


class DensityOfABatch(StandardNormal):
    """An unconditional prior whose density of a code changes with the number of contexts."""

    def forward(self, context=None, *, temperature=1.0):
        right = self.base(context)
        return Differing(right, lambda z: right.log_prob(z) - math.log(right.batch_shape.numel()))


class LostPermutation(NormalBase):
    """A permutation drawn at random and kept as a plain list: no state holds it."""

    def __init__(self):
        super().__init__(6)
        self.order = torch.randperm(6).tolist()
        self.log_scale = nn.Parameter(torch.linspace(-1.0, 1.0, 6))

    def forward(self, context=None, *, temperature=1.0):
        return dist.Normal(self.zero, self.log_scale[self.order].exp()).to_event(1)

    def to_base(self, z, context=None):
        return z / self.log_scale[self.order].exp()

    def to_latent(self, z, context=None):
        return z * self.log_scale[self.order].exp()


class Unsaved(StandardNormal):
    """A tensor drawn at random, and neither a parameter nor a buffer."""

    def __init__(self):
        super().__init__(2)
        self.shift = torch.randn(2, dtype=torch.float64)

    def forward(self, context=None, *, temperature=1.0):
        return dist.Normal(self.zero + self.shift.to(self.zero), torch.ones_like(self.zero)).to_event(1)

    def to_base(self, z, context=None):
        return z - self.shift

    def to_latent(self, z, context=None):
        return z + self.shift
