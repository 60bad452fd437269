"""The modes of ``sample`` that start from images: a request in a user's words becomes a strip of pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_lrp import config
from pyro_lrp.config import rundir
from pyro_lrp.core.errors import UserError
from pyro_lrp.data import ImageData, Split, chunks, joints_beside, pictures
from pyro_lrp.latents import attribute_direction, principal_directions
from pyro_lrp.latents import views as explore
from pyro_lrp.latents.views import Space, Strip, means
from pyro_lrp.metrics.metric import labels_or_attributes
from pyro_lrp.metrics.perceptual_distance import classifier_judge, lpips_judge
from pyro_lrp.metrics.subject import Subject
from pyro_lrp.models import Autoencoder

__all__ = ["TOURS", "Tour", "noted", "real_densities"]

_CODES = 20_000  # training codes that directions are computed from


@dataclass
class Tour:
    """A request: a trained model, its data set, and the options of the command."""

    autoencoder: Autoencoder
    data: ImageData
    identity: dict[str, Any]
    options: dict[str, Any]
    device: torch.device

    @classmethod
    def of(cls, run: Path, options: dict[str, Any], device: torch.device) -> Tour:
        """Read a run and its data set."""
        allow, identity = options["allow_targets"], rundir.read_identity(run)
        data = config.build_data(identity, config.places(identity, options["data"]), allow)
        data = config.with_contexts(identity, data)
        return cls(config.load(run, allow_targets=allow).to(device), data, identity, dict(options), device)

    def images(self, usual: int) -> tuple[list[str], Tensor, Tensor | None, list[str]]:
        """Names, images, contexts and notes: of the user's files, or of test images by their index."""
        indices, files = self.options["indices"], self.options["images"]
        if files is not None:
            if indices is not None:
                raise UserError("indices and images: give one of the two")
            paths = files if isinstance(files, list) else [files]
            names, raw, notes = pictures(paths, self.data.image_shape)
            return names, raw.to(self.device) / 255, self._context_of_files(paths, len(names)), notes
        chosen = list(range(min(usual, len(self.data.test)))) if indices is None else indices
        outside = [i for i in chosen if not 0 <= i < len(self.data.test)]
        if outside:
            last = len(self.data.test) - 1
            raise UserError(
                f"indices: {outside[0]} is outside the test images of {self.data.name}, 0 to {last}"
            )
        batch = self.data.test[torch.tensor(chosen)].to(self.device).batch(slice(None))
        conditional = self.autoencoder.prior.context_dim is not None
        return [f"test {i}" for i in chosen], batch.x, batch.context if conditional else None, []

    def _context_of_files(self, paths: list[str], n: int) -> Tensor | None:
        if self.autoencoder.prior.context_dim is None:
            return None
        meaning = config.contexts(self.identity)
        if meaning is not None and meaning.kind == "pose":
            return joints_beside(paths).flatten(1).to(self.device)
        if self.options["context"] is None or meaning is None:
            raise UserError(
                "context must say what the images are, such as context=3: this prior is conditional"
            )
        return meaning.encode(self.options["context"], n).to(self.device)

    def spaces(self, context: Tensor | None) -> list[Space]:
        """Those asked for; by default the base where there is one."""
        name = self.options["space"]
        if name is None:
            name = "base" if self.autoencoder.prior.has_base else "latent"
        names = ("base", "latent") if name == "both" else (name,)
        return [Space(self.autoencoder, part, context) for part in names]

    def distance(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        """What makes the speed constant, or None."""
        if self.options["speed"] == "even":
            return None
        subject = Subject(self.autoencoder, self.data, weights=self.options["weights"], device=self.device)
        if self.options["distance"] != "classifier":
            return lpips_judge(subject, self.options["distance"]).distance
        lacks = labels_or_attributes(subject)
        if lacks:
            raise UserError(f"distance=classifier {lacks}")
        return classifier_judge(subject).distance

    def training_codes(self) -> Tensor:
        """Posterior means of training images."""
        train = self.data.train[:_CODES].to(self.device)
        return torch.cat([means(self.autoencoder, batch.x, batch.context) for batch in chunks(train)])

    def without(self, name: str, n: int) -> tuple[Tensor, Tensor | None]:
        """Test images that lack an attribute or are of another class, at most ``n``, and their contexts."""
        rows = (~self.has(name, self.data.test)).nonzero().flatten()[:n]
        batch = self.data.test[rows.cpu()].to(self.device).batch(slice(None))
        return batch.x, batch.context if self.autoencoder.prior.context_dim is not None else None

    def has(self, name: str, split: Split | None = None) -> Tensor:
        """Which images have an attribute, or are of a class; by default those of :meth:`training_codes`."""
        train = self.data.train[:_CODES] if split is None else split
        if train.attributes is not None and name in self.data.attributes:
            return train.attributes[:, self.data.attributes.index(name)].to(self.device)
        labels = self.data.train.labels
        classes = [] if labels is None else [str(k) for k in range(int(labels.max()) + 1)]
        if name in classes and train.labels is not None:
            return (train.labels == int(name)).to(self.device)
        known = [*self.data.attributes, *classes]
        if not known:
            raise UserError(f"attribute={name}: data={self.data.name} has neither attributes nor classes")
        raise UserError(f"attribute={name} is unknown; the known ones are: {', '.join(known)}")

    def direction(self, name: str, codes: Tensor) -> Tensor:
        """That of an attribute or a class among training codes, ``strength`` times."""
        try:
            return self.options["strength"] * attribute_direction(codes, self.has(name))
        except ValueError as error:
            raise UserError(f"attribute={name}: {error}") from error


def reconstruct(tour: Tour) -> Strip:
    """Images above their reconstructions."""
    names, x, context, notes = tour.images(8)
    return noted(explore.reconstructions(tour.autoencoder, x, names, context), notes)


def interpolate(tour: Tour) -> Strip:
    """Paths from the first image to the second, from the third to the fourth, ..."""
    names, x, context, notes = tour.images(6)
    if len(x) < 2 or len(x) % 2:
        raise UserError(f"mode=interpolate needs pairs of images, an even number of them, got {len(x)}")
    pairs = [f"{a} to {b}" for a, b in zip(names[::2], names[1::2], strict=True)]
    ends = (None, None) if context is None else (context[::2], context[1::2])
    strip = explore.interpolations(
        x[::2], x[1::2], pairs, tour.spaces(ends[0]), tour.options["steps"], tour.distance(), ends
    )
    return noted(strip, notes)


def traverse(tour: Tour) -> Strip:
    """Principal components of the codes, one after another, from -1.5 to 1.5 standard deviations."""
    _, x, context, notes = tour.images(1)
    space = tour.spaces(None if context is None else context[:1])[-1]
    codes = tour.training_codes()
    if space.name == "base":
        known = tour.data.train.context if context is not None else None
        own = None if known is None else known[: len(codes)].to(codes.device)
        with torch.no_grad():
            codes = tour.autoencoder.prior.to_base(codes, own)
    principal = principal_directions(codes)
    components = (
        list(range(min(4, codes.shape[1])))
        if tour.options["components"] is None
        else tour.options["components"]
    )
    outside = [k for k in components if not 0 <= k < len(principal.deviations)]
    if outside:
        raise UserError(f"components: {outside[0]} is outside 0 to {len(principal.deviations) - 1}")
    reach = 1.5 * tour.options["strength"]
    values = torch.linspace(-reach, reach, tour.options["steps"], device=tour.device)
    return noted(explore.traversals(tour.autoencoder, x[:1], principal, components, values, space), notes)


def edit(tour: Tour) -> Strip:
    """Images moved along an attribute's direction, ``strength`` times its length."""
    name = tour.options["attribute"]
    if name is None:
        raise UserError("mode=edit needs attribute=NAME, such as attribute=Smiling, or a class")
    tour.has(str(name))  # an unknown one is refused before any work
    names, x, context, notes = tour.images(4)
    direction = tour.direction(str(name), tour.training_codes())
    spaces = tour.spaces(context)
    strip = explore.edits(
        x, direction, names, str(name), spaces, tour.options["steps"], tour.distance(), real_densities(tour)
    )
    return noted(strip, notes)


@torch.no_grad()
def real_densities(tour: Tour) -> Tensor | None:
    """Densities log p(z) of test images' posterior means, if the prior has a density."""
    prior = tour.autoencoder.prior
    if not prior.has_log_prob:
        return None
    found = []
    for batch in chunks(tour.data.test[:2000].to(tour.device)):
        context = batch.context if prior.context_dim is not None else None
        found.append(prior(context).log_prob(means(tour.autoencoder, batch.x, batch.context)))
    return torch.cat(found)


def noted(strip: Strip, notes: Sequence[str]) -> Strip:
    """The strip with notes before its own."""
    return Strip(strip.images, strip.latents, strip.rows, strip.columns, [*notes, *strip.notes], strip.groups)


TOURS = {"reconstruct": reconstruct, "interpolate": interpolate, "traverse": traverse, "edit": edit}
