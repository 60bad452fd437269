"""The codes of images: what the encoder says of them, to be drawn from as often as needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from pyro_lrp.data import Batch, Split, chunks

__all__ = ["Codes", "ImageCodes"]


class Codes(NamedTuple):
    """The normal posteriors q(z|x) of some images.

    Attributes:
        loc: Means, shape ``(N, *event_shape)``.
        scale: Standard deviations, of the same shape; 0 for a deterministic encoder.
        context: The contexts of the images, shape ``(N, context_dim)``.
    """

    loc: Tensor
    scale: Tensor
    context: Tensor

    def sample(self) -> Tensor:
        """Codes drawn anew from q(z|x)."""
        return self.loc + self.scale * torch.randn_like(self.scale)

    def rows(self, index: Tensor) -> Codes:
        """The codes of the images at ``index``."""
        return Codes(self.loc[index], self.scale[index], self.context[index])

    @classmethod
    def joined(cls, parts: Sequence[Codes]) -> Codes:
        """The codes of several batches as one."""
        return cls(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def noised(self, noise: float) -> Codes:
        """The codes with normal noise of ``noise`` times each dimension's standard deviation over all of them.

        The sum of two independent normals is normal, so q(z|x) is only made wider.

        >>> codes = Codes(torch.tensor([[0.0], [2.0]]), torch.zeros(2, 1), torch.zeros(2, 0))
        >>> codes.noised(0.5).scale.flatten().tolist()
        [0.5, 0.5]
        """
        if noise == 0:
            return self
        variance = self.loc.var(0, correction=0) + self.scale.square().mean(0)
        return self._replace(scale=(self.scale.square() + noise**2 * variance).sqrt())


class ImageCodes:
    """The codes of images whose encoder has to be run for each draw: those of several latents.

    The mean of a finer latent is not known before the coarser one is drawn, so q(z|x) cannot be stored.

    Args:
        images: A split, or a minibatch of it.
        encode: Maps images and contexts to q(z|x).
        noise: Standard deviation of the noise that is added to each dimension, shape ``(d,)``; None for none.
    """

    def __init__(
        self,
        images: Split | Batch,
        encode: Callable[[Tensor, Tensor], TorchDistribution],
        noise: Tensor | None = None,
    ) -> None:
        self.images = images
        self.encode = encode
        self.noise = noise

    @property
    def context(self) -> Tensor:
        return self.images.context

    def sample(self) -> Tensor:
        """Codes drawn anew from q(z|x), shape ``(N, d)``."""
        parts = [self.encode(batch.x, batch.context).sample() for batch in self._batches()]
        return self._noisy(torch.cat(parts))

    def rows(self, index: Tensor) -> ImageCodes:
        """The codes of the images of a split at ``index``."""
        assert isinstance(self.images, Split), "rows are taken of a split"
        return ImageCodes(self.images.batch(index), self.encode, self.noise)

    def noised(self, noise: float) -> ImageCodes:
        """As :meth:`Codes.noised`; the deviations are those of one draw of all codes."""
        if noise == 0:
            return self
        count = 0
        total = square = torch.zeros((), dtype=torch.float64)
        for batch in self._batches():
            z = self.encode(batch.x, batch.context).sample().double()
            count += len(z)
            total = total + z.sum(0)
            square = square + z.square().sum(0)
        variance = square / count - (total / count).square()
        return ImageCodes(self.images, self.encode, noise * variance.clamp_min(0).sqrt().float())

    def _batches(self) -> Iterator[Batch]:
        if isinstance(self.images, Batch):
            yield self.images
        else:
            yield from chunks(self.images)

    def _noisy(self, z: Tensor) -> Tensor:
        return z if self.noise is None else z + self.noise * torch.randn_like(z)
