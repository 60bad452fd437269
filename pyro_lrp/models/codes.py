"""The posteriors q(z|x) of a set of images, from which codes can be drawn repeatedly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from pyro_lrp.data import Batch, Split, chunks

__all__ = ["CodedImages", "Codes", "ImageCodes"]


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
        """A new draw from q(z|x)."""
        noise = torch.randn_like(self.scale)
        return self.loc + self.scale * noise

    def rows(self, index: Tensor) -> Codes:
        """The codes of the images at ``index``."""
        return Codes(self.loc[index], self.scale[index], self.context[index])

    def map(self, change: Callable[[Tensor], Tensor]) -> Codes:
        """The codes of the changed tensors."""
        return Codes(change(self.loc), change(self.scale), change(self.context))

    @classmethod
    def joined(cls, parts: Sequence[Codes]) -> Codes:
        """The concatenation of the codes of several batches."""
        loc = torch.cat([part.loc for part in parts])
        scale = torch.cat([part.scale for part in parts])
        context = torch.cat([part.context for part in parts])
        return cls(loc, scale, context)

    def noised(self, noise: float) -> Codes:
        """The codes plus normal noise of ``noise`` times each dimension's standard deviation over all codes.

        The sum of two independent normals is normal, so only the scale of q(z|x) changes.

        >>> codes = Codes(torch.tensor([[0.0], [2.0]]), torch.zeros(2, 1), torch.zeros(2, 0))
        >>> codes.noised(0.5).scale.flatten().tolist()
        [0.5, 0.5]
        """
        if noise == 0:
            return self
        squares = self.scale.square()
        variance = self.loc.var(0, correction=0) + squares.mean(0)
        widened = (squares + noise**2 * variance).sqrt()
        return self._replace(scale=widened)


class ImageCodes:
    """The codes of images whose encoder must run for each draw, as for several latents.

    The mean of a finer latent depends on the draw of the coarser one, so q(z|x) cannot be stored.

    Args:
        images: A split, or a minibatch of it.
        encode: Maps images and contexts to q(z|x).
        noise: Standard deviation of noise added to each dimension, shape ``(d,)``; None for no noise.
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
        """A new draw from q(z|x), shape ``(N, d)``."""
        parts = list(self._draws())
        return self._noisy(torch.cat(parts))

    def rows(self, index: Tensor) -> ImageCodes:
        """The codes of the images of a split at ``index``."""
        assert isinstance(self.images, Split), "rows can only be taken from a split"
        return ImageCodes(self.images.batch(index), self.encode, self.noise)

    def map(self, change: Callable[[Tensor], Tensor]) -> ImageCodes:
        """The codes of the changed images of a minibatch."""
        assert isinstance(self.images, Batch), "a split's images are not changed"
        return ImageCodes(self.images.map(change), self.encode, self.noise)

    def noised(self, noise: float) -> ImageCodes:
        """See :meth:`Codes.noised`; the standard deviations are those of one draw of all codes."""
        if noise == 0:
            return self
        count = 0
        total = torch.zeros((), dtype=torch.float64)
        squares = torch.zeros((), dtype=torch.float64)
        for draw in self._draws():
            z = draw.double()
            count += len(z)
            total = total + z.sum(0)
            squares = squares + z.square().sum(0)
        mean = total / count
        variance = squares / count - mean.square()
        deviation = variance.clamp_min(0).sqrt().float()
        return ImageCodes(self.images, self.encode, noise * deviation)

    def _draws(self) -> Iterator[Tensor]:
        """One draw of the codes, batch by batch."""
        for batch in self._batches():
            q = self.encode(batch.x, batch.context)
            yield q.sample()

    def _batches(self) -> Iterator[Batch]:
        if isinstance(self.images, Batch):
            yield self.images
        else:
            yield from chunks(self.images)

    def _noisy(self, z: Tensor) -> Tensor:
        if self.noise is None:
            return z
        return z + self.noise * torch.randn_like(z)


class CodedImages(NamedTuple):
    """Images beside their posteriors: what a decoder is trained on while the encoder is frozen.

    Attributes:
        images: A split, or a minibatch of it.
        codes: The posteriors of these images, in the same order.
    """

    images: Split | Batch
    codes: Codes

    def rows(self, index: Tensor) -> CodedImages:
        """The images of a split at ``index``, with their posteriors."""
        assert isinstance(self.images, Split), "rows can only be taken from a split"
        return CodedImages(self.images.batch(index), self.codes.rows(index))

    def map(self, change: Callable[[Tensor], Tensor]) -> CodedImages:
        """The changed images of a minibatch beside their changed posteriors."""
        assert isinstance(self.images, Batch), "a split's images are not changed"
        return CodedImages(self.images.map(change), self.codes.map(change))
