"""Pictures of the latent space of a trained autoencoder: reconstructions, paths, traversals, edits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.modules import eval_mode
from pyro_lrp.data import no_context
from pyro_lrp.latents.geometry import PrincipalDirections, along, even_speed, lerp, slerp, typicality
from pyro_lrp.models import Autoencoder

__all__ = [
    "SPACES", "Space", "Strip", "changes", "decode", "edits", "interpolations", "means", "reconstructions",
    "traversals",
]  # fmt: skip

SPACES = ("base", "latent")
_BATCH = 100  # pairs of images that are compared at once
_FINE = 4  # parts that a step of a path is divided into to measure its speed
Distance = Callable[[Tensor, Tensor], Tensor]
Curve = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Strip:
    """Rows of images, their codes and their labels.

    Attributes:
        images: In [0, 1], shape ``(R, S, C, H, W)``.
        latents: The codes, shape ``(R, S, *event_shape)``.
        rows: A label for each row.
        columns: A label for each column, or none.
        notes: Remarks, a sentence each.
        groups: How many rows belong together; 0 for none.
    """

    images: Tensor
    latents: Tensor
    rows: Sequence[str]
    columns: Sequence[str] = ()
    notes: Sequence[str] = ()
    groups: int = 0


@dataclass(frozen=True)
class Space:
    """The space of a path: straight between codes (``latent``), or spherical in the prior's base (``base``).

    Args:
        autoencoder: The model whose codes are meant.
        name: ``"base"`` or ``"latent"``.
        context: The context of each path, shape ``(B, context_dim)``.

    Raises:
        UserError: If the space is ``base`` and the prior has none.
    """

    autoencoder: Autoencoder
    name: str
    context: Tensor | None = None

    def __post_init__(self) -> None:
        if self.name not in SPACES:
            raise UserError(f"space={self.name} is unknown; the known ones are: {', '.join(SPACES)}")
        if self.name == "base" and not self.autoencoder.prior.has_base:
            kind = type(self.autoencoder.prior).__name__
            raise UserError(f"space=base: this run's prior, {kind}, has no base; use space=latent")

    @property
    def label(self) -> str:
        """The name of the space in the paper."""
        return {"base": "z_0", "latent": "z_T"}[self.name]

    @torch.no_grad()
    def path(self, a: Tensor, b: Tensor, t: Tensor) -> Tensor:
        """Codes on paths between two codes, which are the ends in either space.

        Args:
            a: Codes where paths begin, shape ``(B, d)``.
            b: Codes where they end.
            t: Times from 0 to 1, shape ``(steps,)`` or ``(B, steps)``.

        Returns:
            Shape ``(B, steps, d)``.
        """
        start = self.from_latent(a)
        end = self.from_latent(b)
        points = along(start, end, t, self.curve)
        return self.to_latent(points)

    @property
    def curve(self) -> Curve:
        """The path between two points of the space."""
        return {"base": slerp, "latent": lerp}[self.name]

    def contexts(self, like: Tensor) -> Tensor:
        """The context of each row of ``like``, shape ``(B, 0)`` if there is none."""
        return _contexts(self.context, like)

    def from_latent(self, z: Tensor) -> Tensor:
        """Points of the space from codes of the decoder, both ``(B, d)``."""
        if self.name == "latent":
            return z
        prior = self.autoencoder.prior
        codes = z.reshape(-1, *prior.event_shape)
        return prior.to_base(codes, self.contexts(z)).reshape(z.shape)

    def to_latent(self, points: Tensor) -> Tensor:
        """Codes of the decoder from points of the space, both ``(B, steps, d)``."""
        if self.name == "latent":
            return points
        prior = self.autoencoder.prior
        base = points.reshape(-1, *prior.event_shape)
        context = self.contexts(points).repeat_interleave(points.shape[1], 0)
        return prior.to_latent(base, context).reshape(points.shape)

    @torch.no_grad()
    def at_even_speed(self, a: Tensor, b: Tensor, steps: int, distance: Distance) -> Tensor:
        """The path of :meth:`path`, at times between which the decoded image changes by equal amounts.

        The changes are measured over a finer division of the path; the times that follow are divided and
        measured once more. LPIPS and squared errors grow as the square of a small step, so a length is a sum of
        their roots.

        Returns:
            Shape ``(B, steps, d)``.
        """
        fine = _FINE * steps
        times = torch.linspace(0, 1, fine + 1, dtype=a.dtype, device=a.device).expand(len(a), -1)
        for _ in range(2):
            codes = self.path(a, b, times)
            images = decode(self.autoencoder, codes, self.context)
            speed = changes(images, distance).clamp_min(0).to(times).sqrt()
            times = _compose(times, even_speed(speed, fine + 1))
        return self.path(a, b, _thin(times, steps))


def changes(sequences: Tensor, distance: Distance, batch_size: int = _BATCH) -> Tensor:
    """Distances between adjacent images of sequences.

    Args:
        sequences: Images, shape ``(S, T, C, H, W)``.
        distance: Maps two batches of images to distances ``(B,)``.
        batch_size: Pairs that are compared at once.

    Returns:
        Shape ``(S, T - 1)``.
    """
    before = sequences[:, :-1].flatten(0, 1).split(batch_size)
    after = sequences[:, 1:].flatten(0, 1).split(batch_size)
    pairs = zip(before, after, strict=True)
    distances = [distance(x, y) for x, y in pairs]
    return torch.cat(distances).reshape(len(sequences), -1)


def _compose(times: Tensor, at: Tensor) -> Tensor:
    """Piecewise linear ``times`` (values on an even grid) read at ``at`` in [0, 1], row by row."""
    parts = times.shape[-1] - 1
    place = (at * parts).clamp(0, parts)
    left = place.floor().long().clamp(max=parts - 1)
    before = times.gather(-1, left)
    after = times.gather(-1, left + 1)
    return before + (place - left) * (after - before)


def _thin(times: Tensor, steps: int) -> Tensor:
    """Times read at ``steps`` evenly spaced places."""
    at = torch.linspace(0, 1, steps, dtype=times.dtype, device=times.device).expand(len(times), -1)
    return _compose(times, at)


@torch.no_grad()
def means(autoencoder: Autoencoder, x: Tensor, context: Tensor | None = None) -> Tensor:
    """Posterior means of images as vectors, shape ``(B, d)``.

    Args:
        autoencoder: The model; it is in eval mode meanwhile.
        x: Images, shape ``(B, C, H, W)``.
        context: Their contexts, shape ``(B, context_dim)``, for encoders that see them.
    """
    size = autoencoder.at_once
    contexts = _contexts(context, x).split(size)
    with eval_mode(autoencoder):
        parts = [autoencoder.encode(*pair).mean for pair in zip(x.split(size), contexts, strict=True)]
    return torch.cat(parts).flatten(1)


@torch.no_grad()
def decode(autoencoder: Autoencoder, z: Tensor, context: Tensor | None = None) -> Tensor:
    """Mean images of codes.

    Args:
        autoencoder: The model; it is in eval mode meanwhile.
        z: Codes, shape ``(B, *steps, d)``.
        context: The context of each row, shape ``(B, context_dim)``.

    Returns:
        Shape ``(B, *steps, C, H, W)``.
    """
    size = autoencoder.at_once
    flat = z.reshape(-1, *autoencoder.prior.event_shape)
    context = _contexts(context, z)
    contexts = context.repeat_interleave(len(flat) // len(context), 0).split(size)
    with eval_mode(autoencoder):
        parts = [autoencoder.decode(*pair) for pair in zip(flat.split(size), contexts, strict=True)]
    images = torch.cat(parts)
    return images.reshape(*z.shape[:-1], *images.shape[1:])


def _contexts(context: Tensor | None, like: Tensor) -> Tensor:
    """The context, or one of length 0 for each row of ``like``."""
    if context is None:
        return no_context(like)
    return context


def reconstructions(
    autoencoder: Autoencoder, x: Tensor, names: Sequence[str], context: Tensor | None = None
) -> Strip:
    """A row of images and a row of their decoded posterior means."""
    z = means(autoencoder, x, context)
    images = torch.stack([x, decode(autoencoder, z, context)])
    return Strip(images, z.expand(2, *z.shape), ("image", "reconstruction"), names)


def interpolations(
    a: Tensor,
    b: Tensor,
    names: Sequence[str],
    spaces: Sequence[Space],
    steps: int,
    distance: Distance | None = None,
    contexts: tuple[Tensor | None, Tensor | None] = (None, None),
) -> Strip:
    """Paths from image to image, a row for each pair and space, between the images themselves.

    Args:
        a: Images where paths begin, shape ``(B, C, H, W)``.
        b: Images where they end.
        names: Labels of the pairs.
        spaces: The spaces of the paths; all have the same autoencoder.
        steps: Decoded codes of a path, reconstructions of both ends included.
        distance: Maps two batches of images to distances, by which the speed is made even. None: even in t.
        contexts: The contexts of the images at either end; a path has the context of its space.
    """
    autoencoder = spaces[0].autoencoder
    z_a = means(autoencoder, a, contexts[0])
    z_b = means(autoencoder, b, contexts[1])
    codes = _walks(z_a, z_b, spaces, steps, distance)
    images = decode(autoencoder, codes, _repeated(spaces, z_a))
    first = a.repeat_interleave(len(spaces), 0).unsqueeze(1)
    last = b.repeat_interleave(len(spaces), 0).unsqueeze(1)
    rows = [f"{name}\n{space.label}" for name in names for space in spaces]
    columns = ("image", *(f"{k / (steps - 1):.2f}" for k in range(steps)), "image")
    beside = torch.cat([codes[:, :1], codes, codes[:, -1:]], 1)
    return Strip(torch.cat([first, images, last], 1), beside, rows, columns, groups=_pairs(spaces))


def edits(
    x: Tensor, direction: Tensor, names: Sequence[str], what: str, spaces: Sequence[Space], steps: int,
    distance: Distance | None = None, reference: Tensor | None = None,
) -> Strip:  # fmt: skip
    """Images moved along a direction of the latent space, a row for each image and space (Fig. 6).

    In either space the path leads from the code z to z + direction.

    Args:
        x: Images, shape ``(B, C, H, W)``.
        direction: The direction, shape ``(d,)``.
        names: Labels of the images.
        what: The attribute that the direction adds.
        spaces: The spaces of the paths.
        steps: Decoded codes of a path, both ends included.
        distance: Maps two batches of images to distances, by which the speed is made even.
        reference: log p(z) of real codes, shape ``(N,)``; with it the typicality of each edited code is noted.
    """
    autoencoder = spaces[0].autoencoder
    z = means(autoencoder, x, spaces[0].context)
    codes = _walks(z, z + direction, spaces, steps, distance)
    decoded = decode(autoencoder, codes, _repeated(spaces, z))
    images = torch.cat([x.repeat_interleave(len(spaces), 0).unsqueeze(1), decoded], 1)
    notes = []
    if reference is not None:
        notes = _typical(spaces[0], z + direction, names, reference)
    rows = [f"{name}\n{space.label}" for name in names for space in spaces]
    columns = ("image", *("" for _ in range(steps - 1)), f"+ {what}")
    beside = torch.cat([codes[:, :1], codes], 1)
    return Strip(images, beside, rows, columns, notes, _pairs(spaces))


@torch.no_grad()
def traversals(
    autoencoder: Autoencoder, x: Tensor, principal: PrincipalDirections, components: Sequence[int],
    values: Tensor, space: Space,
) -> Strip:  # fmt: skip
    """The code of an image with one principal coefficient replaced by each of some values (Fig. 7).

    Args:
        autoencoder: The model.
        x: The image, shape ``(1, C, H, W)``.
        principal: The principal components of codes in ``space``.
        components: The coefficients to replace, a row for each, from 0.
        values: New values in standard deviations of a component, shape ``(steps,)``.
        space: The space of the directions.
    """
    z = space.from_latent(means(autoencoder, x, space.context))
    points = z.expand(len(values), -1)
    rows = [principal.replace(points, k, values.to(z)) for k in components]
    repeated = space.contexts(z).expand(len(components), -1)
    codes = Space(autoencoder, space.name, repeated).to_latent(torch.stack(rows))
    decoded = decode(autoencoder, codes, repeated)
    images = torch.cat([x.expand(len(components), *x.shape[1:]).unsqueeze(1), decoded], 1)
    share = principal.deviations.square() / principal.deviations.square().sum()
    labels = [f"component {k + 1}\n{100 * share[k]:.0f} % of variance" for k in components]
    columns = ("image", *(f"{value:+.1f} sd" for value in values.tolist()))
    return Strip(images, torch.cat([codes[:, :1], codes], 1), labels, columns)


def _walks(a: Tensor, b: Tensor, spaces: Sequence[Space], steps: int, distance: Distance | None) -> Tensor:
    """Paths pair by pair, space by space, ``(B * spaces, steps, d)``."""
    t = torch.linspace(0, 1, steps, dtype=a.dtype, device=a.device)
    paths = []
    for space in spaces:
        if distance is None:
            paths.append(space.path(a, b, t))
        else:
            paths.append(space.at_even_speed(a, b, steps, distance))
    return torch.stack(paths, 1).flatten(0, 1)


def _repeated(spaces: Sequence[Space], like: Tensor) -> Tensor:
    """The contexts of the rows of :func:`_walks`."""
    return spaces[0].contexts(like).repeat_interleave(len(spaces), 0)


def _pairs(spaces: Sequence[Space]) -> int:
    """The number of rows that show the same pair; 0 if each shows another."""
    if len(spaces) > 1:
        return len(spaces)
    return 0


@torch.no_grad()
def _typical(space: Space, z: Tensor, names: Sequence[str], reference: Tensor) -> list[str]:
    """A remark for each edited code."""
    density = space.autoencoder.prior(space.contexts(z))
    shares = typicality(density.log_prob(z), reference)
    notes = []
    for name, share in zip(names, shares.tolist(), strict=True):
        note = f"{name}: the edited code is less likely than {100 * (1 - share):.0f} % of real codes"
        if share < 0.01:
            note += ": it has left the data"
        notes.append(note)
    return notes
