"""The modes of ``sample`` that start from images: each turns a user's request into a strip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pyro_lrp.config import Run
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.randomness import some_rows
from pyro_lrp.data import Batch, ImageData, Split, chunks, pictures
from pyro_lrp.latents import attribute_direction, principal_directions, views
from pyro_lrp.latents.views import Distance, Space, Strip, means
from pyro_lrp.metrics.image_distance import classifier_distance, lpips_distance
from pyro_lrp.metrics.metric import labels_or_attributes
from pyro_lrp.metrics.subject import Subject
from pyro_lrp.models import Autoencoder

__all__ = ["Request", "edit", "interpolate", "noted", "real_densities", "reconstruct", "some", "traverse"]

_CODES = 20_000  # training images from whose codes directions are computed
_REFERENCE = 2000  # test images whose densities are computed


@dataclass
class Request:
    """A request for a figure: a run, and the options of the command."""

    run: Run
    options: dict[str, Any]

    def with_options(self, **options: Any) -> Request:
        """The same request with some options replaced."""
        return replace(self, options={**self.options, **options})

    @property
    def autoencoder(self) -> Autoencoder:
        return self.run.autoencoder

    @property
    def data(self) -> ImageData:
        return self.run.data

    @property
    def device(self) -> torch.device:
        return self.run.device

    def images(self, default: int) -> tuple[list[str], Tensor, Tensor, list[str]]:
        """The requested images: the user's files, or test images by index.

        Args:
            default: The number of test images if the user names none; :meth:`some_test_images`.

        Returns:
            The names of the images, the images, their contexts, and notes about changes to files.
        """
        indices = self.options["indices"]
        files = self.options["images"]
        if files is not None:
            if indices is not None:
                raise UserError("indices and images: give one of the two")
            return self._files(files)
        if self.options.get("context") is not None:
            raise UserError("context has no effect on test images, which have their own: it is for images=FILE")
        if indices is None:
            indices = self.some_test_images(default)
        batch = self.test_images(indices, "indices")
        names = [f"test {index}" for index in indices]
        return names, batch.x, batch.context, []

    def some_test_images(self, n: int) -> list[int]:
        """The indices of ``n`` test images at random, always the same: the first ones may be of one class."""
        return some_rows(len(self.data.test), n, "figure", "test images").tolist()

    def _files(self, files: Any) -> tuple[list[str], Tensor, Tensor, list[str]]:
        paths = files
        if not isinstance(files, list):
            paths = [files]
        background = self.run.settings.data.get("background", "white")
        names, raw, notes = pictures(paths, tuple(self.run.settings.image_shape), background)
        context = self.run.condition.of_files(paths, self.options["context"], len(names))
        x = raw.to(self.device) / 255
        return names, x, context.to(self.device), notes

    def test_images(self, indices: Sequence[int], key: str) -> Batch:
        """Test images by index.

        Args:
            indices: The indices.
            key: The option that holds the indices, for the error.

        Raises:
            UserError: If there is no such image.
        """
        last = len(self.data.test) - 1
        for index in indices:
            if not 0 <= index <= last:
                raise UserError(f"{key}: {index} is outside the test images of {self.data.name}, 0 to {last}")
        images = self.data.test[torch.tensor(indices)]
        return images.to(self.device).batch(slice(None))

    def spaces(self, context: Tensor) -> list[Space]:
        """The requested spaces; by default the prior's base if it has one, and the latent space otherwise."""
        name = self.options["space"]
        if name == "both":
            names = ["base", "latent"]
        elif name is not None:
            names = [name]
        elif self.autoencoder.prior.has_base:
            names = ["base"]
        else:
            names = ["latent"]
        return [Space(self.autoencoder, name, context) for name in names]

    def pace(self) -> Distance | None:
        """The distance by which paths have constant speed; None for even steps of the path's parameter."""
        if self.options["speed"] == "even":
            return None
        return self.distance()

    def distance(self) -> Distance:
        """The requested distance between images."""
        subject = Subject(
            self.autoencoder,
            self.data,
            weights=self.options["weights"],
            device=self.device,
        )
        name = self.options["distance"]
        if name != "classifier":
            return lpips_distance(subject, name).distance
        reason = labels_or_attributes(subject)
        if reason:
            raise UserError(f"distance=classifier {reason}")
        return classifier_distance(subject).distance

    @property
    def training(self) -> Split:
        """The training images that directions are computed from: all, or some at random."""
        return some(self.data.train, _CODES, "training")

    def training_codes(self) -> Tensor:
        """Posterior means of training images, :attr:`training`."""
        train = self.training.to(self.device)
        codes = [means(self.autoencoder, batch.x, batch.context) for batch in chunks(train)]
        return torch.cat(codes)

    def without(self, name: str, n: int) -> tuple[Tensor, Tensor]:
        """At most ``n`` test images that lack an attribute or belong to another class, and their contexts."""
        lacks = ~self.has(name, self.data.test) & self._is_told(name, self.data.test)
        candidates = lacks.nonzero().flatten().cpu()
        rows = candidates[some_rows(len(candidates), n, "figure", "without")]
        images = self.data.test[rows].to(self.device)
        batch = images.batch(slice(None))
        return batch.x, batch.context

    def has(self, name: str, split: Split | None = None) -> Tensor:
        """Whether each image has an attribute, or belongs to a class.

        Args:
            name: The name of the attribute or the class.
            split: The images; by default those of :meth:`training_codes`.

        Raises:
            UserError: If there is no such attribute or class.
        """
        if split is None:
            split = self.training
        attributes = self.data.attributes
        if split.attributes is not None and name in attributes:
            column = split.attributes[:, attributes.index(name)]
            return column.to(self.device)
        classes = self.data.classes
        if name in classes and split.labels is not None:
            return (split.labels == classes.index(name)).to(self.device)
        known = [*attributes, *classes]
        if not known:
            raise UserError(
                f"attribute={name}: the data set {self.data.name} has neither attributes nor classes"
            )
        raise UserError(f"attribute={name} is unknown; the known ones are: {', '.join(known)}")

    def _is_told(self, name: str, split: Split) -> Tensor:
        """Whether the data set says if an image has an attribute or class: of an unlabelled one it does not."""
        if name in self.data.attributes or split.labels is None:
            return torch.ones(len(split), dtype=torch.bool, device=self.device)
        return (split.labels >= 0).to(self.device)

    def direction(self, name: str, codes: Tensor) -> Tensor:
        """The direction of an attribute or a class among training codes, scaled by ``strength``."""
        has = self.has(name)
        told = self._is_told(name, self.training)
        try:
            direction = attribute_direction(codes[told], has[told])
        except ValueError as error:
            raise UserError(f"attribute={name}: {error}") from error
        return self.options["strength"] * direction


def reconstruct(request: Request) -> Strip:
    """Images above their reconstructions."""
    names, x, context, notes = request.images(8)
    strip = views.reconstructions(request.autoencoder, x, names, context)
    return noted(strip, notes)


def interpolate(request: Request) -> Strip:
    """Paths from the first image to the second, from the third to the fourth, and so on."""
    names, x, context, notes = request.images(6)
    if len(x) < 2 or len(x) % 2:
        raise UserError(f"mode=interpolate needs pairs of images, an even number of them, got {len(x)}")
    first = slice(0, None, 2)
    second = slice(1, None, 2)
    pairs = [f"{a} to {b}" for a, b in zip(names[first], names[second], strict=True)]
    strip = views.interpolations(
        x[first],
        x[second],
        pairs,
        request.spaces(context[first]),
        request.options["steps"],
        request.pace(),
        (context[first], context[second]),
    )
    return noted(strip, notes)


def traverse(request: Request) -> Strip:
    """Principal components of the codes, one per row, from -1.5 to 1.5 standard deviations."""
    _, x, context, notes = request.images(1)
    space = request.spaces(context[:1])[-1]
    codes = request.training_codes()
    if space.name == "base":
        contexts = request.training.context.to(codes.device)
        with torch.no_grad():
            codes = request.autoencoder.prior.to_base(codes, contexts)
    principal = principal_directions(codes)
    count = len(principal.deviations)
    components = request.options["components"]
    if components is None:
        components = list(range(min(4, codes.shape[1])))
    for component in components:
        if not 0 <= component < count:
            raise UserError(f"components: {component} is outside 0 to {count - 1}")
    reach = 1.5 * request.options["strength"]
    values = torch.linspace(-reach, reach, request.options["steps"], device=request.device)
    strip = views.traversals(request.autoencoder, x[:1], principal, components, values, space)
    return noted(strip, notes)


def edit(request: Request) -> Strip:
    """Images moved along the direction of an attribute."""
    name = request.options["attribute"]
    if name is None:
        raise UserError("mode=edit needs attribute=NAME, such as attribute=Smiling, or a class")
    name = str(name)
    request.has(name)  # refuses an unknown name before any computation
    names, x, context, notes = request.images(4)
    direction = request.direction(name, request.training_codes())
    strip = views.edits(
        x,
        direction,
        names,
        name,
        request.spaces(context),
        request.options["steps"],
        request.pace(),
        real_densities(request),
    )
    return noted(strip, notes)


@torch.no_grad()
def real_densities(request: Request) -> Tensor | None:
    """Log densities log p(z) of the posterior means of test images; None if the prior has no density."""
    prior = request.autoencoder.prior
    if not prior.has_log_prob:
        return None
    densities = []
    reference = some(request.data.test, _REFERENCE, "reference")
    for batch in chunks(reference.to(request.device)):
        z = means(request.autoencoder, batch.x, batch.context)
        densities.append(prior(batch.context).log_prob(z))
    return torch.cat(densities)


def some(split: Split, n: int, label: str) -> Split:
    """A split, or ``n`` of its images in order, chosen at random and always the same."""
    if n >= len(split):
        return split
    return split[some_rows(len(split), n, "figure", label).sort().values]


def noted(strip: Strip, notes: Sequence[str]) -> Strip:
    """The strip with further notes before its own."""
    return replace(strip, notes=[*notes, *strip.notes])
