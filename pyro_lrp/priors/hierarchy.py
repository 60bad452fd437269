"""Priors of several latents, each conditional on decoder features of a context and of the coarser latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from pyro_lrp.core.gradients import boundary, full_precision
from pyro_lrp.priors.core import Prior, StandardNormal, checked

__all__ = ["Hierarchy", "HierarchyDistribution"]

_ROWS = 100  # contexts whose features are computed in one batch

Map = Callable[[Tensor], Tensor]
Step = Callable[[int, Tensor], Tensor]  # scale number and features to its latent, ``(B, d_k)``


class Hierarchy(Prior):
    r"""The prior of a decoder with several latents: :math:`p(z|c) = \prod_k p_k(z_k | h_k(c, z_{<k}))`.

    :math:`h_k` are the features of the decoder where :math:`z_k` enters it. The prior is bound to the decoder
    and does not own it: the features pass :func:`pyro_lrp.gradients.boundary`, so that the lower objective
    never changes the decoder. A code is a vector, the concatenation of the latents from coarse to fine; a code
    of the base is the concatenation of the :math:`z_0` of each.

    Args:
        scales: Priors of the latents, from coarse to fine: conditional priors, whose ``context_dim`` is the
            length of the features, or unconditional ones.

    Raises:
        ValueError: From :meth:`bind`, if the latents of the decoder do not fit these priors.

    References:
        Esser et al. (2018), A Variational U-Net; Morrow and Chiu, section 7.
    """

    def __init__(self, scales: Sequence[Prior]) -> None:
        super().__init__()
        are_priors = all(isinstance(prior, Prior) for prior in scales)
        if not scales or not are_priors:
            raise ValueError("expected priors of the latents, from coarse to fine")
        self.scales = nn.ModuleList(scales)
        self.lengths = [prior.event_shape.numel() for prior in scales]
        self.event_shape = torch.Size([sum(self.lengths)])
        self.has_log_prob = all(prior.has_log_prob for prior in scales)
        self.has_rsample = all(prior.has_rsample for prior in scales)
        self.has_base = all(prior.has_base for prior in scales)
        self.tolerance = max(prior.tolerance for prior in scales)
        # a list, so that the decoder is not registered as a submodule
        self._decoder: list[nn.Module] = []

    @property
    def bound(self) -> nn.Module | None:
        if not self._decoder:
            return None
        return self._decoder[0]

    def bind(self, autoencoder: nn.Module) -> None:
        """Bind the prior to the autoencoder's decoder, which computes the features."""
        decoder: Any = autoencoder.decoder
        shapes = getattr(decoder, "latent_shapes", None)
        if shapes is None:
            raise ValueError("it is of several latents, and this network's decoder has one: use network=vunet")
        lengths = [torch.Size(shape).numel() for shape in shapes]
        if lengths != self.lengths:
            raise ValueError(f"its latents have lengths {self.lengths}, and those of the decoder {lengths}")
        for index, prior in enumerate(self.scales):
            length = lengths[index]
            context_dim = prior.context_dim
            if context_dim not in (0, length):
                raise ValueError(
                    f"latent {index + 1} has features of length {length}, "
                    f"and its prior a context_dim of {context_dim}"
                )
        self._decoder = [decoder]
        self.context_dim = decoder.context_dim

    def given(
        self,
        number: int,
        features: Tensor,
        temperature: float = 1.0,
    ) -> TorchDistribution:
        """p(z_k) of latent ``number``, counted from 0, for the decoder's features there, ``(B, C, h, w)``."""
        prior: Any = self.scales[number]
        context = boundary(_flattened(features))
        return prior(context, temperature=temperature)

    def forward(
        self,
        context: Tensor | None = None,
        *,
        temperature: float = 1.0,
    ) -> TorchDistribution:
        context = self._checked(context)
        return HierarchyDistribution(self, context, temperature)

    def base(
        self,
        context: Tensor | None = None,
        *,
        temperature: float = 1.0,
    ) -> TorchDistribution:
        """The distribution of all z_0: each base is conditional on the context and the coarser latents."""
        context = self._checked(context)
        return HierarchyDistribution(self, context, temperature, of_base=True)

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
        """Fit the prior of each latent to its codes, conditional on the decoder's features."""
        context = self._checked(context)
        parts = codes.split(self.lengths, -1)
        record: dict[str, Any] = {}
        for number, prior in enumerate(self.scales):
            if not prior.estimates:
                continue
            features = self._features(number, parts, context)
            fitted = prior.fit(parts[number], features)  # type: ignore[operator]
            for key, value in (fitted or {}).items():
                record[f"latent {number + 1}, {key}"] = value
        return record or None

    def _features(self, number: int, parts: Sequence[Tensor], context: Tensor) -> Tensor:
        """The decoder's features at one latent, from contexts and the coarser latents, ``(B, d_k)``."""
        batches = []
        for start in range(0, len(context), _ROWS):
            rows = slice(start, start + _ROWS)
            some_parts = [part[rows] for part in parts]
            batches.append(self._features_of_batch(number, some_parts, context[rows]))
        return torch.cat(batches)

    def _features_of_batch(self, number: int, parts: Sequence[Tensor], context: Tensor) -> Tensor:
        at_latent: list[Tensor] = []

        def step(current: int, features: Tensor) -> Tensor:
            if current == number:
                at_latent.append(_flattened(features))
            return parts[current]

        self.walk(context, step)
        return at_latent[0]

    def record(self) -> dict[str, Any]:
        scales: Any = self.scales
        record: dict[str, Any] = {}
        for prior in scales:
            record |= prior.record()
        return record

    def log_probs(self, z: Tensor, context: Tensor) -> list[Tensor]:
        """Log densities of the latents, each given the coarser ones: ``(B, d)`` to ``(B,)`` for each scale."""
        parts = z.split(self.lengths, -1)
        scores: list[Tensor] = []

        def step(number: int, features: Tensor) -> Tensor:
            distribution = self.given(number, features)
            scores.append(distribution.log_prob(parts[number]))
            return parts[number]

        self.walk(context, step)
        return scores

    def walk(self, context: Tensor, step: Step, *, to_image: bool = False) -> Any:
        """Run the decoder on contexts ``(B, context_dim)``; ``step(number, features)`` returns each latent.

        Returns:
            The mean images if ``to_image``, else None.
        """
        decoder: Any = self.bound
        if decoder is None:
            raise ValueError("a prior of several latents needs a decoder: make an autoencoder of both first")

        def draw(number: int, features: Tensor) -> Tensor:
            z = step(number, features)
            return z.reshape(-1, *decoder.latent_shapes[number])

        return decoder(context, draw, to_image=to_image)

    def _map(
        self,
        z: Tensor,
        context: Tensor | None,
        *,
        to_base: bool,
    ) -> Tensor:
        context = self._checked(context)
        batch = torch.broadcast_shapes(z.shape[:-1], context.shape[:-1])
        parts = _rows(z, batch).split(self.lengths, -1)
        mapped: list[Tensor] = []

        def step(number: int, features: Tensor) -> Tensor:
            prior: Any = self.scales[number]
            prior_context = _flattened(features)
            if to_base:
                mapped.append(prior.to_base(parts[number], prior_context))
                return parts[number]
            mapped.append(prior.to_latent(parts[number], prior_context))
            return mapped[-1]

        self.walk(_rows(context, batch), step)
        return torch.cat(mapped, -1).reshape(*batch, -1)

    def _checked(self, context: Tensor | None) -> Tensor:
        """The context in the precision of the decoder that reads it."""
        context = checked(context, self.context_dim)
        if self.bound is None:
            return context
        parameter = next(self.bound.parameters())
        return context.to(parameter.dtype)


def _flattened(features: Tensor) -> Tensor:
    """Feature maps as contexts of a prior, ``(B, C, h, w)`` to ``(B, C h w)``."""
    return full_precision(features.flatten(1))


def _rows(vectors: Tensor, batch: Sequence[int]) -> Tensor:
    """Vectors expanded to a batch, as the rows of a matrix."""
    return vectors.expand(*batch, -1).reshape(-1, vectors.shape[-1])


class HierarchyDistribution(TorchDistribution):
    """Distribution of codes ``(*batch, d)`` of a :class:`Hierarchy` given contexts ``(*batch, context_dim)``.

    Args:
        prior: The hierarchy.
        context: Shape ``(*batch, context_dim)``.
        temperature: Temperature of every base.
        of_base: Whether this is the distribution of all z_0 instead.
    """

    arg_constraints: ClassVar = {}

    def __init__(
        self,
        prior: Hierarchy,
        context: Tensor,
        temperature: float = 1.0,
        *,
        of_base: bool = False,
    ) -> None:
        self.prior = prior
        self.context = context
        self.temperature = temperature
        self.of_base = of_base
        self.has_rsample = prior.has_rsample
        batch = context.shape[:-1]
        super().__init__(batch, prior.event_shape, validate_args=False)

    def expand(
        self,
        batch_shape: Any,
        _instance: object = None,
    ) -> HierarchyDistribution:
        shape = torch.Size(batch_shape) + self.context.shape[-1:]
        return HierarchyDistribution(
            self.prior,
            self.context.expand(shape),
            self.temperature,
            of_base=self.of_base,
        )

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Codes, ``(*sample_shape, *batch, d)``."""
        with torch.no_grad():
            return self._draw(sample_shape, "sample")

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Codes with gradients to the parameters of the priors."""
        return self._draw(sample_shape, "rsample")

    def _draw(self, sample_shape: Sequence[int], method: str) -> Tensor:
        """Draw with ``sample`` or ``rsample``, latent by latent."""
        shape = torch.Size(sample_shape) + self.batch_shape
        draws: list[Tensor] = []

        def step(number: int, features: Tensor) -> Tensor:
            distribution, to_latent = self._at(number, features)
            draws.append(getattr(distribution, method)())
            return to_latent(draws[-1])

        self.prior.walk(_rows(self.context, shape), step)
        return torch.cat(draws, -1).reshape(*shape, -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of codes that broadcast against the contexts: ``(*, d) -> (*)``."""
        batch = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        parts = _rows(value, batch).split(self.prior.lengths, -1)
        scores: list[Tensor] = []

        def step(number: int, features: Tensor) -> Tensor:
            distribution, to_latent = self._at(number, features)
            scores.append(distribution.log_prob(parts[number]))
            return to_latent(parts[number])

        self.prior.walk(_rows(self.context, batch), step)
        return torch.stack(scores).sum(0).reshape(batch)

    def _at(self, number: int, features: Tensor) -> tuple[TorchDistribution, Map]:
        """The distribution of a part of the code, and the map from that part to the latent."""
        if not self.of_base:
            return self.prior.given(number, features, self.temperature), _identity
        prior: Any = self.prior.scales[number]
        context = boundary(_flattened(features))
        base = prior.base(context, temperature=self.temperature)

        def to_latent(z_0: Tensor) -> Tensor:
            return prior.to_latent(z_0, context)

        return base, to_latent


def _identity(z: Tensor) -> Tensor:
    return z
