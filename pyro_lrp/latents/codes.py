"""Codes of the images of a split and samples of the prior: in chunks, seeded, non-finite rows counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, TypeVar

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.modules import eval_mode
from pyro_lrp.core.randomness import seeded
from pyro_lrp.data import Batch, Split, chunks
from pyro_lrp.models import Autoencoder, Codes, ImageCodes

__all__ = [
    "DrawnCodes", "draw_codes", "encode_split", "finite_chunks", "finite_rows", "posterior_means",
    "posteriors", "seeded_chunks",
]  # fmt: skip

T = TypeVar("T")


class Chunk(Protocol):
    """Some samples of the prior without their non-finite rows, such as :class:`~pyro_lrp.models.Draw`."""

    @property
    def images(self) -> Tensor: ...

    @property
    def non_finite(self) -> int: ...


C = TypeVar("C", bound=Chunk)


class DrawnCodes(NamedTuple):
    """One code drawn for each of some images.

    Attributes:
        z: Draws from q(z|x), shape ``(N, *event_shape)``.
        posterior: The mean, the standard deviation and the context of each image.
        log_q: log q(z|x) of the draws in nats, shape ``(N,)``; meaningless for a deterministic encoder.
    """

    z: Tensor
    posterior: Codes
    log_q: Tensor

    @property
    def flat(self) -> Tensor:
        """The draws as vectors, shape ``(N, d)``."""
        return self.z.flatten(1)

    @property
    def context(self) -> Tensor:
        """The contexts of the images, shape ``(N, context_dim)``."""
        return self.posterior.context

    def rows(self, index: Tensor | slice) -> DrawnCodes:
        """The codes of the images at ``index``."""
        posterior = Codes(*(tensor[index] for tensor in self.posterior))
        return DrawnCodes(self.z[index], posterior, self.log_q[index])

    @property
    def deterministic(self) -> bool:
        """Whether the encoder is, so that no draw differs from its mean."""
        return not self.posterior.scale.any()


@torch.no_grad()
def encode_split(autoencoder: Autoencoder, split: Split) -> Codes | ImageCodes:
    """The codes of all images of a split.

    Args:
        autoencoder: On the split's device.
        split: Images; they are encoded in chunks.
    """
    with eval_mode(autoencoder):
        return autoencoder.codes(split)


@torch.no_grad()
def posteriors(autoencoder: Autoencoder, split: Split) -> Iterator[tuple[Batch, TorchDistribution]]:
    """The images of a split chunk by chunk, each with its q(z|x).

    Args:
        autoencoder: In eval mode, on the split's device.
        split: Images, in order.
    """
    for batch in chunks(split):
        yield batch, autoencoder.encode(batch.x, batch.context)


@torch.no_grad()
def posterior_means(autoencoder: Autoencoder, split: Split) -> Tensor:
    """The means of q(z|x) of a split, shape ``(N, *event_shape)``; arguments as of :func:`posteriors`."""
    parts = [q.mean for _, q in posteriors(autoencoder, split)]
    return torch.cat(parts)


@torch.no_grad()
def draw_codes(
    autoencoder: Autoencoder,
    split: Split,
    seed: int,
    *labels: str | int,
    on_batch: Callable[[int], None] = lambda size: None,
) -> DrawnCodes:
    """One code drawn for each image of a split, on the CPU.

    Args:
        autoencoder: In eval mode, on the split's device.
        split: Images, in order.
        seed: Each chunk is drawn under a seed derived from it, ``labels`` and the number of the chunk.
        labels: Names of the random stream.
        on_batch: Called after each chunk with the number of its images.
    """
    drawn = []
    scores = []
    moments = []
    for number, (batch, q) in enumerate(posteriors(autoencoder, split)):
        with seeded(seed, *labels, number):
            z = q.sample()
        drawn.append(z.cpu())
        scores.append(q.log_prob(z).cpu())
        moments.append(Codes(q.mean.cpu(), q.stddev.cpu(), batch.context.cpu()))
        on_batch(len(batch.x))
    return DrawnCodes(torch.cat(drawn), Codes.joined(moments), torch.cat(scores))


def seeded_chunks(
    draw: Callable[[slice], T],
    n: int,
    batch_size: int,
    seed: int,
    *labels: str | int,
    by_number: bool = False,
) -> Iterator[T]:
    """The random draws for one range of rows after another, each under its own seed.

    Args:
        draw: Maps a range of rows to their draws.
        n: How many rows.
        batch_size: How many of them at once. Another size gives other random numbers.
        seed: Each seed is derived from it, ``labels`` and the first row of the range.
        labels: Names of the random stream.
        by_number: Derive the seeds from the number of the range (0, 1, ...) in place of its first row.
    """
    for number, start in enumerate(range(0, n, batch_size)):
        label = start
        if by_number:
            label = number
        with seeded(seed, *labels, label):
            part = draw(slice(start, min(start + batch_size, n)))
        yield part


def finite_chunks(chunks: Iterator[C], n: int) -> Iterator[C]:
    """The chunks of prior samples, refused in the end if all of them are empty.

    Args:
        chunks: Samples without their non-finite rows; a chunk may be empty.
        n: How many samples were drawn in all, for the message.

    Raises:
        UserError: After the last chunk, if no sample was finite.
    """
    finite = 0
    for chunk in chunks:
        finite += len(chunk.images)
        yield chunk
    if not finite:
        raise UserError(f"none of {n} prior samples is finite: there is nothing to evaluate")


def finite_rows(*tensors: Tensor) -> Tensor:
    """Which rows are finite in every tensor, bool of shape ``(N,)``.

    >>> finite_rows(torch.tensor([[1.0], [torch.nan]]), torch.zeros(2, 3)).tolist()
    [True, False]
    """
    finite = torch.ones(len(tensors[0]), dtype=torch.bool, device=tensors[0].device)
    for tensor in tensors:
        finite &= torch.isfinite(tensor.flatten(1)).all(1)
    return finite
