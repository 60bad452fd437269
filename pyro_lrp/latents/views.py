"""What a trained autoencoder shows of its latent space: reconstructions, paths, traversals, edits."""

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
_MEASURED = 100  # images compared at once
_FINE = 4  # how much finer a path is measured than it is drawn
Distance = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Strip:
    """Rows of images and how they came about.

    Attributes:
        images: In [0, 1], shape ``(R, S, C, H, W)``.
        latents: Their codes, shape ``(R, S, *event_shape)``.
        rows: A label for each row.
        columns: A label for each column, or none.
        notes: Sentences worth reading beside the picture.
        groups: Rows that belong together; 0 for none.
    """

    images: Tensor
    latents: Tensor
    rows: Sequence[str]
    columns: Sequence[str] = ()
    notes: Sequence[str] = ()
    groups: int = 0


@dataclass(frozen=True)
class Space:
    """Where a path runs: straight among the codes (``latent``), or round in the prior's base (``base``).

    Args:
        autoencoder: Whose codes.
        name: ``"base"`` or ``"latent"``.
        context: The context of each path, shape ``(B, context_dim)``.

    Raises:
        UserError: If the prior has no base and that is asked for.
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
        """Its name in the paper's terms."""
        return {"base": "z_0", "latent": "z_T"}[self.name]

    @torch.no_grad()
    def path(self, a: Tensor, b: Tensor, t: Tensor) -> Tensor:
        """Codes at times ``t``, ``(steps,)`` or ``(B, steps)``, of paths from ``a`` to ``b``, each ``(B, d)``.

        Returns:
            Shape ``(B, steps, d)``; both spaces share the ends.
        """
        if self.name == "latent":
            return along(a, b, t, lerp)
        context = self.contexts(a)
        base_a, base_b = (self.autoencoder.prior.to_base(z, context) for z in (a, b))
        return self.to_latent(along(base_a, base_b, t, slerp))

    def contexts(self, like: Tensor) -> Tensor:
        """The context of each row of ``like``; of length 0 if there is none."""
        return _contexts(self.context, like)

    def to_latent(self, z: Tensor) -> Tensor:
        """Base codes ``(B, steps, d)`` as codes of the decoder."""
        context = self.contexts(z).repeat_interleave(z.shape[1], 0)
        return self.autoencoder.prior.to_latent(z.flatten(0, 1), context).reshape(z.shape)

    @torch.no_grad()
    def at_even_speed(self, a: Tensor, b: Tensor, steps: int, distance: Distance) -> Tensor:
        """The same path at times between which the decoded image changes by equal amounts, ``(B, steps, d)``.

        What is measured is the change over a finer division of the path, twice: the second time of the first's.
        LPIPS and squared errors grow as the square of a small step, so that a length is the sum of their roots.
        """
        fine = _FINE * steps
        times = torch.linspace(0, 1, fine + 1, dtype=a.dtype, device=a.device).expand(len(a), -1)
        for _ in range(2):
            images = decode(self.autoencoder, self.path(a, b, times), self.context)
            even = even_speed(changes(images, distance).clamp_min(0).to(times).sqrt(), fine + 1)
            times = _compose(times, even)
        return self.path(a, b, _thin(times, steps))


def changes(sequences: Tensor, distance: Distance, at_once: int = _MEASURED) -> Tensor:
    """Distances between adjacent images of sequences.

    Args:
        sequences: Images, shape ``(S, T, C, H, W)``.
        distance: Of two batches of images, ``(B,)``.
        at_once: Pairs that are compared at once.

    Returns:
        Shape ``(S, T - 1)``.
    """
    before, after = (x.flatten(0, 1).split(at_once) for x in (sequences[:, :-1], sequences[:, 1:]))
    found = torch.cat([distance(x, y) for x, y in zip(before, after, strict=True)])
    return found.reshape(len(sequences), -1)


def _compose(times: Tensor, at: Tensor) -> Tensor:
    """Piecewise linear ``times`` (values on an even grid) read at ``at`` in [0, 1], row by row."""
    parts = times.shape[-1] - 1
    place = (at * parts).clamp(0, parts)
    left = place.floor().long().clamp(max=parts - 1)
    before, after = times.gather(-1, left), times.gather(-1, left + 1)
    return before + (place - left) * (after - before)


def _thin(times: Tensor, steps: int) -> Tensor:
    at = torch.linspace(0, 1, steps, dtype=times.dtype, device=times.device).expand(len(times), -1)
    return _compose(times, at)


@torch.no_grad()
def means(autoencoder: Autoencoder, x: Tensor, context: Tensor | None = None) -> Tensor:
    """Posterior means of images, flattened to vectors, ``(B, d)``; of networks that see a context, given it."""
    contexts = _contexts(context, x).split(autoencoder.at_once)
    pairs = zip(x.split(autoencoder.at_once), contexts, strict=True)
    with eval_mode(autoencoder):
        parts = [autoencoder.encode(*pair).mean for pair in pairs]
    return torch.cat(parts).flatten(1)


@torch.no_grad()
def decode(autoencoder: Autoencoder, z: Tensor, context: Tensor | None = None) -> Tensor:
    """Mean images ``(B, *steps, C, H, W)`` of codes ``(B, *steps, d)`` and contexts ``(B, context_dim)``."""
    flat = z.reshape(-1, *autoencoder.prior.event_shape)
    context = _contexts(context, z)
    contexts = context.repeat_interleave(len(flat) // len(context), 0).split(autoencoder.at_once)
    with eval_mode(autoencoder):
        parts = [
            autoencoder.decode(*pair) for pair in zip(flat.split(autoencoder.at_once), contexts, strict=True)
        ]
    images = torch.cat(parts)
    return images.reshape(*z.shape[:-1], *images.shape[1:])


def _contexts(context: Tensor | None, like: Tensor) -> Tensor:
    return no_context(like) if context is None else context


def reconstructions(
    autoencoder: Autoencoder, x: Tensor, names: Sequence[str], context: Tensor | None = None
) -> Strip:
    """Images, and below them the decoded means of their posteriors."""
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
    """Paths from image to image, a row for each pair and space; the images themselves stand at the ends.

    Args:
        a: Images where paths begin, shape ``(B, C, H, W)``.
        b: Images where they end.
        names: Of the pairs.
        spaces: In which to walk; each has the same autoencoder.
        steps: Decoded codes of a path, reconstructions of both ends included.
        distance: Of two batches of images: makes the speed even. None: even in t.
        contexts: Of the images at either end, which encoders may see; a path keeps that of its space.
    """
    autoencoder = spaces[0].autoencoder
    z_a, z_b = means(autoencoder, a, contexts[0]), means(autoencoder, b, contexts[1])
    codes = _walks(z_a, z_b, spaces, steps, distance)
    images = decode(autoencoder, codes, _repeated(spaces, z_a))
    ends = (x.repeat_interleave(len(spaces), 0).unsqueeze(1) for x in (a, b))
    first, last = ends
    rows = [f"{name}\n{space.label}" for name in names for space in spaces]
    columns = ("image", *(f"{k / (steps - 1):.2f}" for k in range(steps)), "image")
    beside = torch.cat([codes[:, :1], codes, codes[:, -1:]], 1)
    return Strip(torch.cat([first, images, last], 1), beside, rows, columns, groups=_pairs(spaces))


def edits(
    x: Tensor, direction: Tensor, names: Sequence[str], what: str, spaces: Sequence[Space], steps: int,
    distance: Distance | None = None, reference: Tensor | None = None,
) -> Strip:  # fmt: skip
    """Images moved along a direction of the latent space, a row for each image and space (Fig. 6).

    Both spaces lead from the code z to z + direction; they differ in the way there.

    Args:
        x: Images, shape ``(B, C, H, W)``.
        direction: Where to, shape ``(d,)``.
        names: Of the images.
        what: What the direction adds.
        spaces: In which to walk.
        steps: Decoded codes of a path, both ends included.
        distance: Of two batches of images: makes the speed even.
        reference: log p(z) of real codes: the typicality of each edited code is then noted.
    """
    autoencoder = spaces[0].autoencoder
    z = means(autoencoder, x, spaces[0].context)
    codes = _walks(z, z + direction, spaces, steps, distance)
    decoded = decode(autoencoder, codes, _repeated(spaces, z))
    images = torch.cat([x.repeat_interleave(len(spaces), 0).unsqueeze(1), decoded], 1)
    notes = [] if reference is None else _typical(spaces[0], z + direction, names, reference)
    rows = [f"{name}\n{space.label}" for name in names for space in spaces]
    columns = ("image", *("" for _ in range(steps - 1)), f"+ {what}")
    beside = torch.cat([codes[:, :1], codes], 1)
    return Strip(images, beside, rows, columns, notes, _pairs(spaces))


@torch.no_grad()
def traversals(
    autoencoder: Autoencoder, x: Tensor, principal: PrincipalDirections, components: Sequence[int],
    values: Tensor, space: Space,
) -> Strip:  # fmt: skip
    """One image's code with one principal coefficient after another replaced by each of some values (Fig. 7).

    Args:
        autoencoder: Whose codes.
        x: The image, shape ``(1, C, H, W)``.
        principal: Of the codes of ``space``.
        components: Which, from 0.
        values: In standard deviations of a component, shape ``(steps,)``.
        space: In which the directions lie.
    """
    z = means(autoencoder, x, space.context)
    if space.name == "base":
        z = autoencoder.prior.to_base(z, space.contexts(z))
    rows = [principal.replace(z.expand(len(values), -1), k, values.to(z)) for k in components]
    codes = torch.stack(rows)
    repeated = space.contexts(z).expand(len(components), -1)
    if space.name == "base":
        codes = Space(autoencoder, "base", repeated).to_latent(codes)
    decoded = decode(autoencoder, codes, repeated)
    images = torch.cat([x.expand(len(components), *x.shape[1:]).unsqueeze(1), decoded], 1)
    share = principal.deviations.square() / principal.deviations.square().sum()
    labels = [f"component {k + 1}\n{100 * share[k]:.0f} % of variance" for k in components]
    columns = ("image", *(f"{value:+.1f} sd" for value in values.tolist()))
    return Strip(images, torch.cat([codes[:, :1], codes], 1), labels, columns)


def _walks(a: Tensor, b: Tensor, spaces: Sequence[Space], steps: int, distance: Distance | None) -> Tensor:
    """Paths pair by pair, space by space, ``(B * spaces, steps, d)``."""
    t = torch.linspace(0, 1, steps, dtype=a.dtype, device=a.device)
    paths = [
        space.path(a, b, t) if distance is None else space.at_even_speed(a, b, steps, distance)
        for space in spaces
    ]
    return torch.stack(paths, 1).flatten(0, 1)


def _repeated(spaces: Sequence[Space], like: Tensor) -> Tensor:
    """The contexts of :func:`_walks`."""
    return spaces[0].contexts(like).repeat_interleave(len(spaces), 0)


def _pairs(spaces: Sequence[Space]) -> int:
    return len(spaces) if len(spaces) > 1 else 0


@torch.no_grad()
def _typical(space: Space, z: Tensor, names: Sequence[str], reference: Tensor) -> list[str]:
    prior = space.autoencoder.prior
    shares = typicality(prior(space.contexts(z)).log_prob(z), reference)
    return [
        f"{name}: the edited code is less likely than {100 * (1 - share):.0f} % of real codes"
        + (": it has left the data" if share < 0.01 else "")
        for name, share in zip(names, shares.tolist(), strict=True)
    ]
