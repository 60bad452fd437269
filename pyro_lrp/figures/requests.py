"""The modes of ``sample`` that start from images: a request in a user's words becomes a strip of pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_lrp.config import Run
from pyro_lrp.core.errors import UserError
from pyro_lrp.data import Batch, ImageData, Split, chunks, pictures
from pyro_lrp.latents import attribute_direction, principal_directions
from pyro_lrp.latents import views as explore
from pyro_lrp.latents.views import Space, Strip, means
from pyro_lrp.metrics.image_distance import classifier_distance, lpips_distance
from pyro_lrp.metrics.metric import labels_or_attributes
from pyro_lrp.metrics.subject import Subject
from pyro_lrp.models import Autoencoder

__all__ = ["REQUESTS", "Request", "noted", "real_densities"]

_CODES = 20_000  # training codes that directions are computed from


@dataclass
class Request:
    """A request for a picture: a run, and the options of the command."""

    run: Run
    options: dict[str, Any]

    @property
    def autoencoder(self) -> Autoencoder:
        return self.run.autoencoder

    @property
    def data(self) -> ImageData:
        return self.run.data

    @property
    def device(self) -> torch.device:
        return self.run.device

    def images(self, usual: int) -> tuple[list[str], Tensor, Tensor, list[str]]:
        """Names, images, contexts and notes: of the user's files, or of test images by their index."""
        indices, files = self.options["indices"], self.options["images"]
        if files is not None:
            if indices is not None:
                raise UserError("indices and images: give one of the two")
            paths = files if isinstance(files, list) else [files]
            names, raw, notes = pictures(paths, self.data.image_shape)
            context = self.run.condition.of_files(paths, self.options["context"], len(names))
            return names, raw.to(self.device) / 255, context.to(self.device), notes
        chosen = list(range(min(usual, len(self.data.test)))) if indices is None else indices
        batch = self.test_images(chosen, "indices")
        return [f"test {i}" for i in chosen], batch.x, batch.context, []

    def test_images(self, numbers: Sequence[int], key: str) -> Batch:
        """Test images by their numbers.

        Raises:
            UserError: If there is no such image; it names the key.
        """
        last = len(self.data.test) - 1
        outside = [number for number in numbers if not 0 <= number <= last]
        if outside:
            raise UserError(f"{key}: {outside[0]} is outside the test images of {self.data.name}, 0 to {last}")
        return self.data.test[torch.tensor(numbers)].to(self.device).batch(slice(None))

    def spaces(self, context: Tensor) -> list[Space]:
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
            return lpips_distance(subject, self.options["distance"]).distance
        lacks = labels_or_attributes(subject)
        if lacks:
            raise UserError(f"distance=classifier {lacks}")
        return classifier_distance(subject).distance

    def training_codes(self) -> Tensor:
        """Posterior means of training images."""
        train = self.data.train[:_CODES].to(self.device)
        return torch.cat([means(self.autoencoder, batch.x, batch.context) for batch in chunks(train)])

    def without(self, name: str, n: int) -> tuple[Tensor, Tensor]:
        """Test images that lack an attribute or are of another class, at most ``n``, and their contexts."""
        rows = (~self.has(name, self.data.test)).nonzero().flatten()[:n]
        batch = self.data.test[rows.cpu()].to(self.device).batch(slice(None))
        return batch.x, batch.context

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


def reconstruct(request: Request) -> Strip:
    """Images above their reconstructions."""
    names, x, context, notes = request.images(8)
    return noted(explore.reconstructions(request.autoencoder, x, names, context), notes)


def interpolate(request: Request) -> Strip:
    """Paths from the first image to the second, from the third to the fourth, ..."""
    names, x, context, notes = request.images(6)
    if len(x) < 2 or len(x) % 2:
        raise UserError(f"mode=interpolate needs pairs of images, an even number of them, got {len(x)}")
    pairs = [f"{a} to {b}" for a, b in zip(names[::2], names[1::2], strict=True)]
    ends = (context[::2], context[1::2])
    strip = explore.interpolations(
        x[::2], x[1::2], pairs, request.spaces(ends[0]), request.options["steps"], request.distance(), ends
    )
    return noted(strip, notes)


def traverse(request: Request) -> Strip:
    """Principal components of the codes, one after another, from -1.5 to 1.5 standard deviations."""
    _, x, context, notes = request.images(1)
    space = request.spaces(context[:1])[-1]
    codes = request.training_codes()
    if space.name == "base":
        own = request.data.train.context[: len(codes)].to(codes.device)
        with torch.no_grad():
            codes = request.autoencoder.prior.to_base(codes, own)
    principal = principal_directions(codes)
    components = (
        list(range(min(4, codes.shape[1])))
        if request.options["components"] is None
        else request.options["components"]
    )
    outside = [k for k in components if not 0 <= k < len(principal.deviations)]
    if outside:
        raise UserError(f"components: {outside[0]} is outside 0 to {len(principal.deviations) - 1}")
    reach = 1.5 * request.options["strength"]
    values = torch.linspace(-reach, reach, request.options["steps"], device=request.device)
    return noted(explore.traversals(request.autoencoder, x[:1], principal, components, values, space), notes)


def edit(request: Request) -> Strip:
    """Images moved along an attribute's direction, ``strength`` times its length."""
    name = request.options["attribute"]
    if name is None:
        raise UserError("mode=edit needs attribute=NAME, such as attribute=Smiling, or a class")
    request.has(str(name))  # an unknown one is refused before any work
    names, x, context, notes = request.images(4)
    direction = request.direction(str(name), request.training_codes())
    spaces = request.spaces(context)
    strip = explore.edits(
        x,
        direction,
        names,
        str(name),
        spaces,
        request.options["steps"],
        request.distance(),
        real_densities(request),
    )
    return noted(strip, notes)


@torch.no_grad()
def real_densities(request: Request) -> Tensor | None:
    """Densities log p(z) of test images' posterior means, if the prior has a density."""
    prior = request.autoencoder.prior
    if not prior.has_log_prob:
        return None
    found = []
    for batch in chunks(request.data.test[:2000].to(request.device)):
        found.append(prior(batch.context).log_prob(means(request.autoencoder, batch.x, batch.context)))
    return torch.cat(found)


def noted(strip: Strip, notes: Sequence[str]) -> Strip:
    """The strip with notes before its own."""
    return Strip(strip.images, strip.latents, strip.rows, strip.columns, [*notes, *strip.notes], strip.groups)


REQUESTS = {"reconstruct": reconstruct, "interpolate": interpolate, "traverse": traverse, "edit": edit}
