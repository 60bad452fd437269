"""Priors of several latents, each given what the decoder makes of a context and of the coarser latents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from pyro_lrp.core.gradients import boundary, full_precision
from pyro_lrp.priors.core import Prior, StandardNormal, checked

__all__ = ["Hierarchy", "HierarchyDistribution"]

_ROWS = 100  # contexts whose features are computed at once
Step = Callable[[int, Tensor], Tensor]  # the latent of a scale, ``(B, d_k)``, given that scale's features


class Hierarchy(Prior):
    r"""The prior of a decoder with several latents: :math:`p(z|c) = \prod_k p_k(z_k | h_k(c, z_{<k}))`.

    :math:`h_k` are the features of the decoder where :math:`z_k` enters it. The decoder is not the prior's: it
    is bound, and its features pass :func:`pyro_lrp.gradients.boundary`, so that the lower objective never moves
    it. A code is a vector, the latents one after another from coarse to fine; in the base it is
    :math:`z_0` of each.

    Args:
        scales: Priors of the single latents, from coarse to fine: conditional ones, whose ``context_dim`` is
            the length of the features, or ones without a context.

    Raises:
        ValueError: If it is bound to a decoder whose latents these priors do not fit.

    References:
        Esser et al. (2018), A Variational U-Net; Morrow and Chiu, section 7.
    """

    def __init__(self, scales: Sequence[Prior]) -> None:
        super().__init__()
        if not scales or not all(isinstance(prior, Prior) for prior in scales):
            raise ValueError("expected priors of the latents, from coarse to fine")
        self.scales = nn.ModuleList(scales)
        self.lengths = [prior.event_shape.numel() for prior in scales]
        self.event_shape = torch.Size([sum(self.lengths)])
        self.has_log_prob = all(prior.has_log_prob for prior in scales)
        self.has_rsample = all(prior.has_rsample for prior in scales)
        self.has_base = all(prior.has_base for prior in scales)
        self.tolerance = max(prior.tolerance for prior in scales)
        self._decoder: list[nn.Module] = []  # in a list, so that it stays another player's

    @property
    def bound(self) -> nn.Module | None:
        return self._decoder[0] if self._decoder else None

    def bind(self, autoencoder: nn.Module) -> None:
        """Take the autoencoder's decoder to compute features with."""
        decoder: Any = autoencoder.decoder
        shapes = getattr(decoder, "latent_shapes", None)
        if shapes is None:
            raise ValueError("it is of several latents, and this network's decoder has one: use network=vunet")
        lengths = [torch.Size(shape).numel() for shape in shapes]
        if lengths != self.lengths:
            raise ValueError(f"its latents have lengths {self.lengths}, and those of the decoder {lengths}")
        for number, (prior, length) in enumerate(zip(self.scales, lengths, strict=True), start=1):
            if prior.context_dim not in (0, length):
                raise ValueError(
                    f"latent {number} has features of length {length}, and its prior a context_dim of "
                    f"{prior.context_dim}"
                )
        self._decoder, self.context_dim = [decoder], decoder.context_dim

    def given(self, number: int, features: Tensor, temperature: float = 1.0) -> TorchDistribution:
        """p(z_k) of latent ``number``, from 0, given the decoder's features there, ``(B, C, h, w)``."""
        prior: Any = self.scales[number]
        return prior(boundary(full_precision(features.flatten(1))), temperature=temperature)

    def forward(self, context: Tensor | None = None, *, temperature: float = 1.0) -> TorchDistribution:
        return HierarchyDistribution(self, self._checked(context), temperature)

    def base(self, context: Tensor | None = None, *, temperature: float = 1.0) -> TorchDistribution:
        """The distribution of all z_0: each base knows the context and the coarser latents."""
        return HierarchyDistribution(self, self._checked(context), temperature, of_base=True)

    def to_base(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Latent to base, ``(*, d) -> (*, d)``; the context broadcasts against it."""
        return self._map(z, context, to_base=True)

    def to_latent(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Base to latent, ``(*, d) -> (*, d)``; the context broadcasts against it."""
        return self._map(z, context, to_base=False)

    def stand_in(self) -> Hierarchy:
        """N(0, I) for each latent."""
        return Hierarchy([StandardNormal(length) for length in self.lengths])

    @property
    def estimates(self) -> bool:
        scales: Any = self.scales
        return any(prior.estimates for prior in scales)

    @torch.no_grad()
    def fit(self, codes: Tensor, context: Tensor | None = None) -> dict[str, Any] | None:
        """Let the prior of each latent estimate itself from its codes, given the decoder's features."""
        context = self._checked(context)
        parts = codes.split(self.lengths, -1)
        done: dict[str, Any] = {}
        for number, prior in enumerate(self.scales):
            if not prior.estimates:
                continue
            features = torch.cat([self._features(number, *some) for some in _in_parts(parts, context)])
            found = prior.fit(parts[number], features) or {}  # type: ignore[operator]
            done |= {f"latent {number + 1}, {key}": value for key, value in found.items()}
        return done or None

    def _features(self, number: int, parts: Sequence[Tensor], context: Tensor) -> Tensor:
        """The decoder's features at one latent, given contexts and the coarser latents, ``(B, d_k)``."""
        found: list[Tensor] = []

        def step(at: int, features: Tensor) -> Tensor:
            if at == number:
                found.append(full_precision(features.flatten(1)))
            return parts[at]

        self.walk(context, step)
        return found[0]

    def record(self) -> dict[str, Any]:
        scales: Any = self.scales
        return {key: value for prior in scales for key, value in prior.record().items()}

    def log_probs(self, z: Tensor, context: Tensor) -> list[Tensor]:
        """The density of each latent given the coarser ones, of codes ``(B, d)``: ``(B,)`` for each scale."""
        scores = []

        def step(number: int, features: Tensor) -> Tensor:
            scores.append(self.given(number, features).log_prob(parts[number]))
            return parts[number]

        parts = z.split(self.lengths, -1)
        self.walk(context, step)
        return scores

    def walk(self, context: Tensor, step: Step) -> None:
        """Let ``step(number, features)`` make one latent after another, given contexts ``(B, context_dim)``."""
        decoder: Any = self.bound
        if decoder is None:
            raise ValueError("a prior of several latents needs a decoder: make an autoencoder of both first")

        def draw(number: int, features: Tensor) -> Tensor:
            return step(number, features).reshape(-1, *decoder.latent_shapes[number])

        decoder(context, draw, to_image=False)

    def _map(self, z: Tensor, context: Tensor | None, *, to_base: bool) -> Tensor:
        context = self._checked(context)
        batch = torch.broadcast_shapes(z.shape[:-1], context.shape[:-1])
        parts = z.expand(*batch, -1).reshape(-1, z.shape[-1]).split(self.lengths, -1)
        found: list[Tensor] = []

        def step(number: int, features: Tensor) -> Tensor:
            prior: Any = self.scales[number]
            own = full_precision(features.flatten(1))
            move = prior.to_base if to_base else prior.to_latent
            found.append(move(parts[number], own))
            return parts[number] if to_base else found[-1]

        self.walk(context.expand(*batch, -1).reshape(-1, context.shape[-1]), step)
        return torch.cat(found, -1).reshape(*batch, -1)

    def _checked(self, context: Tensor | None) -> Tensor:
        return checked(context, self.context_dim)


def _in_parts(parts: Sequence[Tensor], context: Tensor) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Latents and contexts, some rows at a time."""
    for start in range(0, len(context), _ROWS):
        rows = slice(start, start + _ROWS)
        yield [part[rows] for part in parts], context[rows]


class HierarchyDistribution(TorchDistribution):
    """What :class:`Hierarchy` returns: codes ``(*batch, d)`` given contexts ``(*batch, context_dim)``.

    Args:
        prior: Whose latents.
        context: Shape ``(*batch, context_dim)``.
        temperature: Of every base.
        of_base: Whether it is the distribution of all z_0.
    """

    arg_constraints: ClassVar = {}

    def __init__(
        self, prior: Hierarchy, context: Tensor, temperature: float = 1.0, *, of_base: bool = False
    ) -> None:
        self.prior, self.context, self.temperature, self.of_base = prior, context, temperature, of_base
        self.has_rsample = prior.has_rsample
        super().__init__(context.shape[:-1], prior.event_shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: object = None) -> HierarchyDistribution:
        context = self.context.expand(torch.Size(batch_shape) + self.context.shape[-1:])
        return HierarchyDistribution(self.prior, context, self.temperature, of_base=self.of_base)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Codes, ``(*sample_shape, *batch, d)``."""
        with torch.no_grad():
            return self._draw(sample_shape, "sample")

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """The same, with gradients to the priors' parameters."""
        return self._draw(sample_shape, "rsample")

    def _draw(self, sample_shape: Sequence[int], how: str) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        found: list[Tensor] = []

        def step(number: int, features: Tensor) -> Tensor:
            if not self.of_base:
                found.append(getattr(self.prior.given(number, features, self.temperature), how)())
                return found[-1]
            base, move = self._base(number, features)
            found.append(getattr(base, how)())
            return move(found[-1])

        self.prior.walk(self._contexts(shape), step)
        return torch.cat(found, -1).reshape(*shape, -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Of codes that broadcast against the contexts: ``(*, d) -> (*)``."""
        batch = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        parts = value.expand(*batch, -1).reshape(-1, value.shape[-1]).split(self.prior.lengths, -1)
        scores: list[Tensor] = []

        def step(number: int, features: Tensor) -> Tensor:
            if not self.of_base:
                scores.append(self.prior.given(number, features, self.temperature).log_prob(parts[number]))
                return parts[number]
            base, move = self._base(number, features)
            scores.append(base.log_prob(parts[number]))
            return move(parts[number])

        self.prior.walk(self._contexts(batch), step)
        return torch.stack(scores).sum(0).reshape(batch)

    def _base(self, number: int, features: Tensor) -> tuple[TorchDistribution, Callable[[Tensor], Tensor]]:
        """The base of a latent, and the way from it to the latent."""
        prior: Any = self.prior.scales[number]
        own = boundary(full_precision(features.flatten(1)))
        return prior.base(own, temperature=self.temperature), lambda z: prior.to_latent(z, own)

    def _contexts(self, batch: Sequence[int]) -> Tensor:
        return self.context.expand(*batch, -1).reshape(-1, self.context.shape[-1])
