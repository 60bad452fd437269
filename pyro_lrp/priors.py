"""Priors: modules which, called with a context or with none, return a Pyro distribution over codes z.

The two ends of a flow are its base, z_0, and its latent space, z_T; ``to_base`` and ``to_latent`` go between.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import Transform, constraints
from torch.distributions.transforms import _InverseTransform
from torch.distributions.utils import lazy_property

from pyro_lrp import transforms as paper_transforms
from pyro_lrp.gradients import full_precision
from pyro_lrp.networks import perceptron
from pyro_lrp.transforms import inverse_and_ladj

__all__ = [
    "Flow", "FlowDistribution", "NeuralSampler", "Prior", "SamplerDistribution", "StandardNormal", "paper_flow",
]  # fmt: skip


class Prior(nn.Module):
    """A learnable density over codes.

    Attributes:
        event_shape: Shape of one code; ``(d,)`` for a vector.
        has_log_prob: Whether its distributions have a density. Objectives that need one refuse it otherwise.
        has_rsample: Whether samples pass gradients to its parameters.
    """

    event_shape: torch.Size
    has_log_prob: bool = True
    has_rsample: bool = True

    def bind(self, autoencoder: nn.Module) -> None:
        """Called once with the autoencoder that the prior belongs to. It must not register it."""

    def forward(self, context: Tensor | None = None, *, temperature: float = 1.0) -> TorchDistribution:
        """The distribution of one code; ``temperature`` multiplies the standard deviation of its base."""
        raise NotImplementedError

    def to_base(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Latent to base, ``z_T -> z_0``; the identity where a prior has no base of its own."""
        return z

    def to_latent(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Base to latent, ``z_0 -> z_T``; the inverse of :meth:`to_base`."""
        return z


class _NormalBase(Prior):
    """A prior over vectors whose base is N(0, I)."""

    zero: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"expected a latent_dim of at least 1, got {dim}")
        self.event_shape = torch.Size([dim])
        self.register_buffer("zero", torch.zeros(dim), persistent=False)  # follows device and dtype

    def base(self, temperature: float = 1.0) -> TorchDistribution:
        """N(0, temperature^2 I)."""
        # filled on the device: a Python number would be copied there, which waits for it
        return dist.Normal(self.zero, torch.full_like(self.zero, temperature)).to_event(1)


class StandardNormal(_NormalBase):
    """The fixed prior N(0, I) of a plain VAE; it has no parameters.

    >>> round(StandardNormal(2)().log_prob(torch.zeros(2)).item(), 5)
    -1.83788
    """

    def forward(self, context: Tensor | None = None, *, temperature: float = 1.0) -> TorchDistribution:
        return self.base(temperature)


class FlowDistribution(dist.TransformedDistribution):
    """A ``TransformedDistribution`` that scores in one pass and never in less than float32.

    Transforms that offer ``inverse_and_ladj`` are evaluated once; the stock class evaluates each twice when
    caches are off.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        event_dim = len(self.event_shape)
        with torch.autocast(value.device.type, enabled=False):
            x = full_precision(value)
            total: Tensor | float = 0.0
            for transform in reversed(self.transforms):
                x, ladj = inverse_and_ladj(transform, x, event_dim)
                total = total + ladj
            return self.base_dist.log_prob(x) + total


class Flow(_NormalBase):
    r"""A normal base pushed through ANY list of invertible Pyro transforms.

    :math:`\log p(z_T) = \log N(z_0; 0, I) + \log|\det dz_0/dz_T|`, with :math:`z_0` from :meth:`to_base`.

    The flow owns what the transforms hold: parameters are registered, fixed tensors such as a permutation are
    saved and loaded as buffers, and all move with ``.to()``. Caches are switched off, since a stock transform's
    cache returns the density of the old parameters after an update.

    Args:
        dim: Length of a code.
        transforms: From base to latent, so the one nearest the data is last; nested lists are flattened. Pyro's
            ``iterated`` and ``ComposeTransformModule``, ``.inv`` and parameter-free transforms all serve.

    Raises:
        ValueError: If a transform does not map vectors of length ``dim`` to such vectors, if it has no inverse
            (planar, radial, Sylvester, polynomial, block and neural autoregressive: these cannot score an
            encoder's codes), or if the stack does not reach all codes. The message names the transform.

    References:
        Dinh et al. (2017), RealNVP; Morrow and Chiu, section 4 and appendix A.1.

    >>> from pyro_lrp.transforms import paper_flow
    >>> prior = Flow(4, paper_flow(4, layers=2, width=8))
    >>> z = torch.randn(5, 4)
    >>> bool(torch.allclose(prior.to_latent(prior.to_base(z)), z, atol=1e-6))
    True
    >>> prior().log_prob(z).shape
    torch.Size([5])
    """

    def __init__(self, dim: int, transforms: Sequence[Transform | Sequence[Transform]]) -> None:
        super().__init__(dim)
        self.transforms: list[Transform] = list(_flatten(transforms))
        self.parts = nn.ModuleList()
        self._held: list[tuple[object, str, str]] = []
        for leaf in {id(leaf): leaf for t in self.transforms for leaf in _leaves(t)}.values():
            self._own(leaf)
        self._refuse_unless_invertible()
        self.register_load_state_dict_post_hook(lambda flow, _: flow._hand_back())

    def forward(self, context: Tensor | None = None, *, temperature: float = 1.0) -> TorchDistribution:
        return FlowDistribution(self.base(temperature), self.transforms)

    def to_base(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Latent to base, ``z_T -> z_0``, shape ``(*, dim)``."""
        for transform in reversed(self.transforms):
            z, _ = inverse_and_ladj(transform, z)
        return z

    def to_latent(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Base to latent, ``z_0 -> z_T``, shape ``(*, dim)``."""
        for transform in self.transforms:
            z = transform(z)
        return z

    def _own(self, leaf: Transform) -> None:
        leaf._cache_size = 0
        holders: list[object] = [leaf]
        if isinstance(leaf, nn.Module):
            if leaf not in set(self.parts.modules()):
                self.parts.append(leaf)
            holders = list(leaf.modules())
        for holder in holders:
            for name, value in list(vars(holder).items()):
                held = (
                    isinstance(value, Tensor) and not name.startswith("_cache") and not _is_lazy(holder, name)
                )
                if held and not any(holder is h and name == n for h, n, _ in self._held):
                    self._hold(holder, name, value)

    def _hold(self, holder: object, name: str, value: Tensor) -> None:
        key = f"held_{len(self._held)}_{name}"
        if isinstance(value, nn.Parameter):
            self.register_parameter(key, value)
        else:
            self.register_buffer(key, value)
        self._held.append((holder, name, key))

    def _hand_back(self) -> None:
        """Give moved or loaded tensors back to the transforms that hold them, and drop what they derived."""
        for holder, name, key in self._held:
            for derived in [n for n in vars(holder) if _is_lazy(holder, n)]:
                delattr(holder, derived)
            setattr(holder, name, getattr(self, key))

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, FBT002
        super()._apply(fn, recurse)
        self._hand_back()
        return self

    @torch.no_grad()
    def _refuse_unless_invertible(self) -> None:
        dim = self.event_shape[0]
        points = torch.linspace(-1.0, 1.0, 2 * dim).reshape(2, dim)
        x = points
        for index, transform in enumerate(self.transforms):
            name = f"transform {index} ({_name(transform)})"
            try:
                y = transform(x)
            except (RuntimeError, ValueError, IndexError, TypeError) as error:
                raise ValueError(f"{name} does not accept vectors of length {dim}: {_line(error)}") from error
            if y.shape != x.shape:
                raise ValueError(f"{name} maps shape {tuple(x.shape)} to {tuple(y.shape)}; expected no change")
            try:
                back, _ = inverse_and_ladj(transform, y.clone())
            except (NotImplementedError, KeyError) as error:
                raise ValueError(f"{name} has no inverse, so it cannot score an encoder's codes") from error
            if not torch.allclose(back, x, atol=1e-3):
                error_size = (back - x).abs().max().item()
                raise ValueError(f"{name} has no accurate inverse: a round trip is off by {error_size:.2g}")
            x = y
        far = 3.0 * points
        base = self.to_base(far)
        if not (torch.isfinite(base).all() and torch.allclose(self.to_latent(base), far, atol=1e-2)):
            last = _name(self.transforms[-1])
            raise ValueError(
                f"the transforms do not reach all codes (the last is {last}), so some have no density"
            )


class SamplerDistribution(TorchDistribution):
    """What a network makes of noise: samples, which pass gradients on, and no density.

    Args:
        network: Maps noise ``(N, noise_dim)`` to codes ``(N, dim)``.
        base: Distribution of one noise vector.
        dim: Length of a code.
        batch_shape: Of independent samples.
    """

    arg_constraints: ClassVar = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self, network: nn.Module, base: TorchDistribution, dim: int, batch_shape: Sequence[int] = ()
    ) -> None:
        self.network, self.base, self.dim = network, base, dim
        super().__init__(torch.Size(batch_shape), torch.Size([dim]), validate_args=False)

    def expand(self, batch_shape: Any, _instance: object = None) -> SamplerDistribution:
        return SamplerDistribution(self.network, self.base, self.dim, torch.Size(batch_shape))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        noise = self.base.sample(torch.Size([shape.numel()]))
        return full_precision(self.network(noise)).reshape(*shape, self.dim)

    def log_prob(self, value: Tensor) -> Tensor:
        """Refused: a push-forward of noise through a network has no density in closed form."""
        raise NotImplementedError(
            "a neural sampler has no log_prob: it can only be sampled (objective=adversarial)"
        )


class NeuralSampler(_NormalBase):
    """A prior that can only be sampled: N(0, I) noise through a network (appendix A.2).

    Each layer is linear, batch normalization, ReLU; a linear layer ends it. Its batch statistics are those of
    the batch in training and running ones in eval mode, in which samples are drawn.

    Args:
        dim: Length of a code.
        layers: Hidden layers.
        width: Of a hidden layer.
        noise_dim: Length of a noise vector; ``dim`` if None.

    >>> sum(p.numel() for p in NeuralSampler(64).parameters())
    2237504
    >>> NeuralSampler(2, width=8)().rsample((5,)).shape
    torch.Size([5, 2])
    """

    has_log_prob = False

    def __init__(self, dim: int, layers: int = 3, width: int = 1024, noise_dim: int | None = None) -> None:
        super().__init__(noise_dim or dim)  # the base is the noise
        if min(dim, layers, width) < 1:
            raise ValueError(f"expected dim, layers and width of at least 1, got {dim}, {layers} and {width}")
        self.event_shape = torch.Size([dim])
        linear = perceptron(noise_dim or dim, [width] * layers, dim)
        parts = [[part, nn.BatchNorm1d(width)] if i % 2 == 0 else [part] for i, part in enumerate(linear[:-1])]
        self.network = nn.Sequential(*(module for part in parts for module in part), linear[-1])

    def forward(self, context: Tensor | None = None, *, temperature: float = 1.0) -> TorchDistribution:
        return SamplerDistribution(self.network, self.base(temperature), self.event_shape[0])

    def to_base(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Refused: the network has no inverse."""
        raise NotImplementedError("a neural sampler has no inverse, so codes cannot be taken to its base")

    def to_latent(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Noise to code, shape ``(*, noise_dim)`` to ``(*, dim)``."""
        return self.network(z.flatten(0, -2)).reshape(*z.shape[:-1], -1)


def _flatten(transforms: Sequence[Transform | Sequence[Transform]]) -> Iterator[Transform]:
    for item in transforms:
        if isinstance(item, Transform):
            yield item
        elif isinstance(item, (list, tuple)):
            yield from _flatten(item)
        else:
            raise ValueError(f"expected Pyro transforms, got {_name(item)}: {item!r}")


def _leaves(transform: Transform) -> Iterator[Transform]:
    """The transform, and every one inside it: inverses, compositions and independents are seen through."""
    yield transform
    inner = [*getattr(transform, "parts", ()), *getattr(transform, "transforms", ())]
    inner += [_inverted(transform), getattr(transform, "base_transform", None)]
    for part in inner:
        if isinstance(part, Transform):
            yield from _leaves(part)


def _inverted(transform: object) -> Transform | None:
    """What ``transform.inv`` wraps, if it is such a wrapper."""
    return transform._inv if isinstance(transform, _InverseTransform) else None


def _is_lazy(holder: object, name: str) -> bool:
    """Whether the attribute is a value that the object derived from what it holds, and kept."""
    return isinstance(getattr(type(holder), name, None), lazy_property)


def _name(item: object) -> str:
    inner = _inverted(item)
    return type(item).__name__ if inner is None else f"inverse of {_name(inner)}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def paper_flow(dim: int, layers: int = 24, width: int = 1024, *, permute: str = "swap", seed: int = 0) -> Flow:
    """The paper's flow prior (appendix A.1); see :func:`pyro_lrp.transforms.paper_flow`.

    >>> sum(p.numel() for p in paper_flow(16, layers=8, width=256).parameters())
    577792
    """
    return Flow(dim, paper_transforms.paper_flow(dim, layers, width, permute=permute, seed=seed))
