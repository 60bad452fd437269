"""Answers to what one asks of a trained run in a browser, as tensors; the page shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_lrp.config import Run
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.randomness import seeded
from pyro_lrp.data import Split, pictures
from pyro_lrp.features.weights import obtainable
from pyro_lrp.figures.explorer.answers import Point, Samples, Walk
from pyro_lrp.figures.explorer.code_map import CodeMap, code_map
from pyro_lrp.figures.explorer.gauge import Gauge, Reading, in_chunks, log_densities
from pyro_lrp.figures.explorer.given import Given
from pyro_lrp.figures.explorer.neighbours import Neighbours, nearest
from pyro_lrp.figures.requests import Request, some
from pyro_lrp.latents import PrincipalDirections, principal_directions
from pyro_lrp.latents.codes import posterior_means
from pyro_lrp.latents.views import Distance, Space, decode, means
from pyro_lrp.models import Autoencoder

__all__ = ["Explorer"]

LPIPS_NETWORKS = ("squeezenet", "alexnet", "vgg16")  # the fastest one first
_CODES = 2000  # codes of real images that are computed with; fewer of long codes
_LONG = 512  # dimensions
_FEW = 200  # codes where log p(z) is the solution of a differential equation


class _Quick(Request):
    """A request that computes directions from few codes: somebody waits for them."""

    @cached_property
    def training(self) -> Split:
        return some(self.run.seen, _count(self.autoencoder), "training").to(self.device)


class Explorer:
    """Answers questions about a trained run. What costs time is computed when it is first asked for.

    It is not safe for threads: random numbers are those of torch's own generators.

    Args:
        run: The run.
        weights: Files of weights by network, for distances between images.

    Attributes:
        given: What samples can be asked for, of a conditional prior.
        image_shape: ``(C, H, W)``.
    """

    def __init__(self, run: Run, weights: Mapping[str, str | None] | None = None) -> None:
        self.run = run
        self.weights = weights or {}
        self.autoencoder = run.autoencoder
        self.image_shape = tuple(run.settings.image_shape)
        self._request = _Quick(run, {"weights": self.weights, "strength": 1.0})
        self.given = Given(run.condition, self._context_of)
        self._principal: dict[str, PrincipalDirections] = {}
        self._attribute_directions: dict[str, Tensor] = {}
        self._distances: dict[str, Distance] = {}

    # --------------------------------------------------------------------- what there is

    @cached_property
    def without_data(self) -> str | None:
        """Why there are no images of the data set, in a sentence; None if there are."""
        try:
            data = self.run.data
        except UserError as error:
            return str(error)
        if not len(data.test):
            return f"the data set {data.name} has no test images"
        return None

    @property
    def has_density(self) -> bool:
        """Whether the prior has a density, by which codes are ranked."""
        return self.autoencoder.prior.has_log_prob

    @property
    def dimensions(self) -> int:
        """The length of a code as a vector."""
        return self.autoencoder.prior.event_shape.numel()

    @property
    def spaces(self) -> dict[str, str]:
        """The spaces of paths by their names in the paper; the prior's base comes first, if it has one."""
        if self.autoencoder.prior.has_base:
            return {"z_0": "base", "z_T": "latent"}
        return {"z_T": "latent"}

    @cached_property
    def directions(self) -> list[str]:
        """The attributes and classes of the data set, each of which defines a direction."""
        if self.without_data:
            return []
        data = self.run.data
        names: list[str] = []
        if self._request.training.attributes is not None:
            names += data.attributes
        if self._request.training.labels is not None:
            names += data.classes
        return names

    @property
    def distances(self) -> list[str]:
        """Distances between images that need no download: LPIPS by network, and the data set's classifier."""
        names = [network for network in LPIPS_NETWORKS if obtainable(network, self.weights)]
        if self.directions:
            names.append("classifier")
        return names

    @property
    def test_images(self) -> int:
        """The number of test images."""
        return len(self.run.data.test)

    # --------------------------------------------------------------------- codes

    def contexts(self, wanted: Any, n: int) -> Tensor:
        """``n`` contexts, shape ``(n, context_dim)``; see :meth:`Given.contexts`."""
        return self.given.contexts(wanted, n).to(self.run.device)

    def samples(self, n: int, temperature: float = 1.0, wanted: Any = None, seed: int = 0) -> Samples:
        """Samples of the prior: those of the command ``sample`` with the same options.

        Args:
            n: How many.
            temperature: Factor of the standard deviation of the prior's base, above 0.
            wanted: See :meth:`contexts`.
            seed: Seed of the noise.

        Raises:
            UserError: If no sample is finite; or one is not, and each has a context of its own.
        """
        context = self.contexts(wanted, n)
        with seeded(seed, "sample"):
            images, codes, non_finite = self.autoencoder.draw(n, temperature, context)
        if non_finite == n or (non_finite and context.shape[1]):
            raise UserError(f"{non_finite} of {n} samples are not finite: lower the temperature")
        return Samples(images, codes.flatten(1), context[: len(images)], non_finite)

    def _context_of(self, index: int) -> Tensor:
        return self._request.test_images([index], "test image").context

    def test_image(self, index: int) -> Point:
        """A test image and the mean of its q(z|x).

        Raises:
            UserError: If there is no such image.
        """
        batch = self._request.test_images([int(index)], "test image")
        code = means(self.autoencoder, batch.x, batch.context)
        return Point(code[0], batch.context[0], batch.x[0], f"test image {int(index)}")

    def own_image(self, path: str | Path, wanted: Any = None) -> Point:
        """An image file as the model sees it, and the mean of its q(z|x).

        Args:
            path: The file.
            wanted: Its class or attributes, if the prior is given them: see :meth:`contexts`.

        Raises:
            UserError: If the file is no image, or the prior is given what a file alone does not hold.
        """
        if self.given.by_example:
            raise UserError(
                f"this prior is given the {self.given.kind} of an image, which a file alone does not hold"
            )
        background = self.run.settings.data.get("background", "white")
        _, raw, _ = pictures([path], self.image_shape, background)
        x = raw.to(self.run.device) / 255
        context = self.contexts(wanted, 1)
        code = means(self.autoencoder, x, context)
        return Point(code[0], context[0], x[0], "your image")

    def decoded(self, code: Tensor, context: Tensor) -> Tensor:
        """The mean image of a code, shape ``(C, H, W)``."""
        return decode(self.autoencoder, code[None], context[None])[0]

    # --------------------------------------------------------------------- typicality

    @cached_property
    def gauge(self) -> Gauge | None:
        """Ranks codes by log p(z); None if the prior has no density, or there are no test images."""
        if not self.has_density or self.without_data:
            return None
        test = some(self.run.data.test, _count(self.autoencoder), "reference").to(self.run.device)
        real = log_densities(self.autoencoder, self._means(test), test.context)
        with seeded(0, "explore", "samples"):
            drawn = in_chunks(self.autoencoder, self._drawn, test.context, test.context)
        return Gauge(real, log_densities(self.autoencoder, drawn, test.context))

    def readings(self, codes: Tensor, context: Tensor) -> list[Reading]:
        """How typical codes are; nothing where there is no :attr:`gauge`.

        Args:
            codes: Shape ``(B, d)``.
            context: Their contexts, shape ``(B, context_dim)``.
        """
        if self.gauge is None:
            return []
        return self.gauge.read(log_densities(self.autoencoder, codes, context))

    def _means(self, split: Split) -> Tensor:
        return posterior_means(self.autoencoder, split).flatten(1)

    def _drawn(self, _: Tensor, context: Tensor) -> Tensor:
        return self.autoencoder.prior(context).sample().flatten(1)

    def nearest(self, image: Tensor, k: int = 8) -> Neighbours:
        """The training images nearest to an image ``(C, H, W)``."""
        return nearest(image, self.run.seen, k)

    # --------------------------------------------------------------------- directions

    @cached_property
    def training_codes(self) -> Tensor:
        """Means of q(z|x) of training images, shape ``(N, d)``."""
        return self._means(self._request.training)

    def principal(self, space: str) -> PrincipalDirections:
        """Principal components of :attr:`training_codes`.

        Args:
            space: ``"latent"``, or ``"base"`` for the codes in the prior's base.
        """
        if space not in self._principal:
            codes = self._into(space, self.training_codes, self._request.training.context)
            self._principal[space] = principal_directions(codes)
        return self._principal[space]

    def moved(
        self,
        point: Point,
        components: Mapping[int, float],
        attributes: Mapping[str, float],
        space: str = "latent",
    ) -> Tensor:
        """A code moved along principal components, then along directions of attributes.

        Args:
            point: The start.
            components: Distances by component, from 0, in standard deviations of the training codes.
            attributes: Distances by attribute or class, in differences of the means with and without it; these
                directions are those of the latent space.
            space: The space of the components, ``"latent"`` or ``"base"``.

        Returns:
            Shape ``(d,)``.
        """
        z = point.code[None]
        context = point.context[None]
        steps = {component: step for component, step in components.items() if step}
        if steps:
            principal = self.principal(space)
            moved = self._into(space, z, context)
            for component, step in steps.items():
                moved = moved + step * principal.deviations[component] * principal.directions[component]
            z = Space(self.autoencoder, space, context).to_latent(moved[:, None])[:, 0]
        for name, step in attributes.items():
            z = z + step * self._direction(name)
        return z[0]

    def _direction(self, name: str) -> Tensor:
        if name not in self._attribute_directions:
            self._attribute_directions[name] = self._request.direction(name, self.training_codes)
        return self._attribute_directions[name]

    def _into(self, space: str, z: Tensor, context: Tensor) -> Tensor:
        """Codes as points of a space."""

        def convert(codes: Tensor, contexts: Tensor) -> Tensor:
            return Space(self.autoencoder, space, contexts).from_latent(codes)

        return in_chunks(self.autoencoder, convert, z, context)

    # --------------------------------------------------------------------- map and paths

    @cached_property
    def map(self) -> CodeMap:
        """The map of :attr:`training_codes`.

        Raises:
            UserError: If codes have one dimension.
        """
        if self.dimensions < 2:
            raise UserError("codes of one dimension have no map")
        return code_map(self.training_codes, self.principal("latent"))

    @property
    def map_labels(self) -> Tensor | None:
        """The class of each point of the map, -1 for none; None if the data set has no classes."""
        return self._request.training.labels

    @cached_property
    def map_densities(self) -> Tensor:
        """Log p(z) of each point of the map, in nats."""
        return log_densities(self.autoencoder, self.training_codes, self._request.training.context)

    def on_map(self, place: Tensor) -> tuple[Point, Point]:
        """The code at a place of the map, and the training image whose code is nearest there.

        The first has the context of the second.

        Args:
            place: Coordinates, shape ``(2,)``.
        """
        index = self.map.nearest(place)
        batch = self._request.training.batch(slice(index, index + 1))
        context = batch.context[0]
        near = Point(self.training_codes[index], context, batch.x[0], "training image with the nearest code")
        code = self.map.code(place)
        return Point(code, context, self.decoded(code, context), "code at the mark"), near

    def walks(
        self, a: Point, b: Point, spaces: Sequence[str], steps: int, distance: str | None = None
    ) -> list[Walk]:
        """Paths from one point to another, one in each space.

        Args:
            a: Where paths begin; they have its context.
            b: Where they end.
            spaces: ``"base"`` and ``"latent"``: spherical in the prior's base, straight in the latent space.
            steps: Number of codes, both ends included, at least 2.
            distance: One of :attr:`distances`, by which the image changes at constant speed; None for even
                steps of the path's parameter.

        Raises:
            UserError: If the prior has no base and its space is asked for, or a distance cannot be had.
        """
        context = a.context[None]
        t = torch.linspace(0, 1, steps).to(a.code)
        walks = []
        for name in spaces:
            space = Space(self.autoencoder, name, context)
            if distance is None:
                codes = space.path(a.code[None], b.code[None], t)
            else:
                codes = space.at_even_speed(a.code[None], b.code[None], steps, self._distance(distance))
            images = decode(self.autoencoder, codes, context)[0]
            readings = self.readings(codes[0], context.expand(steps, -1))
            walks.append(Walk(space.label, images, readings))
        return walks

    def _distance(self, name: str) -> Distance:
        if name not in self._distances:
            self._distances[name] = self._request.with_options(distance=name).distance()
        return self._distances[name]


def _count(autoencoder: Autoencoder) -> int:
    """How many codes of real images are computed with."""
    dimensions = autoencoder.prior.event_shape.numel()
    if autoencoder.prior.tolerance:
        return _FEW
    if dimensions > _LONG:
        return _CODES // 4
    return _CODES
