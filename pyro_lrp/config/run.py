"""A run, trained or planned: access to its model and its data, from commands and from Python."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from pyro_lrp.config import build, rundir
from pyro_lrp.config.hub import located
from pyro_lrp.config.identity import Identity
from pyro_lrp.config.memory import Memory, recall, remember
from pyro_lrp.config.plan import OF_THE_TRAINER, Plan
from pyro_lrp.core import checkpoint
from pyro_lrp.core.errors import UserError, printable
from pyro_lrp.data import Condition, ImageData, Split, condition_of
from pyro_lrp.data.fingerprint import TrainedOn, fingerprint
from pyro_lrp.latents.codes import encode_split
from pyro_lrp.metrics.outliers import outlier_scores
from pyro_lrp.metrics.subject import Subject
from pyro_lrp.models import Autoencoder, Codes, Draw, ImageCodes
from pyro_lrp.trainer import Trainer
from pyro_lrp.trainer.devices import choose_device

__all__ = ["Run"]


class Run:
    """A run directory with its model and its data, each read once, on first access.

    Args:
        directory: The run directory, wherever it lies; or ``hf:OWNER/NAME``, of the Hugging Face hub.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        data_root: The folder of data sets; None for the default of ``train``.
        data_path: The file or folder of a run that was trained on your own files. Paths that the run records
            are not opened; those of runs that you trained yourself are remembered.
        places: Further places of a data set, by key, such as ``{"images": DIR}``.
        allow_targets: Your own modules (such as ``"my_package."``) that the configuration may name besides
            the targets of :mod:`pyro_lrp.config.allowed`. Nothing else is ever called. What you allowed for a
            run that you trained yourself is remembered.
        other_data: Accept a data set that holds none of the images that the run was trained on.
        log: Receives notes about the data set in one line each.

    Raises:
        UserError: On first access, if there is no such run, its checkpoint is damaged, or its configuration
            names a target that is not allowed.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        device: str = "cpu",
        data_root: str | None = None,
        data_path: str | None = None,
        places: Mapping[str, str | None] | None = None,
        allow_targets: Sequence[str] = (),
        other_data: bool = False,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.directory = located(directory)
        self.device = choose_device(device)
        self.typed = {key: place for key, place in (places or {}).items() if place is not None}
        if data_root is not None:
            self.typed["root"] = data_root
        if data_path is not None:
            self.typed["path"] = data_path
        self.typed_targets = allow_targets
        self.other_data = other_data
        self.log = log
        self.fingerprint: str | None = None  # of the data set, once it is read
        self.remembered = False  # whether the cache holds the places and targets of a claimed run
        self._trained_on: TrainedOn | None = None  # read if it changed

    @classmethod
    def of(cls, options: Mapping[str, Any], directory: str | None = None) -> Run:
        """The run for the options of a command.

        Args:
            options: The options of the command.
            directory: The run directory; by default the option ``run``.
        """
        if directory is None:
            directory = str(options["run"])
        return cls(
            directory,
            device=options["device"],
            places=options["data"],
            allow_targets=options["allow_targets"],
            other_data=options.get("other_data", False),
            log=_to_stderr,
        )

    @classmethod
    def planned(cls, plan: Plan, data: ImageData | None = None) -> Run:
        """A run that is about to be trained: the data are read and the model is built; nothing is written.

        Args:
            plan: Its plan.
            data: Its data set, if it was read before.
        """
        planned = Identity(plan.identity)
        targets = plan.circumstances["allow_targets"]
        run = cls(plan.directory, places=build.planned_places(plan), allow_targets=targets)
        data = data or build.planned_data(plan)
        node = {**planned.data, "fingerprint": fingerprint(data)}
        run.identity, run.data = build.settle({**plan.identity, "data": node}, data.limited(planned.limit))
        run.autoencoder = build.build_autoencoder(run.identity, data.image_shape, targets)
        return run

    def __repr__(self) -> str:
        return f"Run({str(self.directory)!r})"

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The configuration that decides what the run computes."""
        return rundir.read_identity(self.directory)

    @property
    def settings(self) -> Identity:
        """Typed access to :attr:`identity`."""
        return Identity(self.identity)

    @cached_property
    def summary(self) -> dict[str, Any] | None:
        """The summary of a finished run, or None."""
        return rundir.read_summary(self.directory)

    @property
    def finished(self) -> bool:
        """Whether training is complete."""
        return self.summary is not None

    @cached_property
    def checkpoint(self) -> dict[str, Any]:
        """The newest checkpoint: parameters by name, and the training step."""
        return checkpoint.load(self._existing_checkpoint())

    @property
    def checkpoint_path(self) -> Path | None:
        """The file of the newest checkpoint, or None."""
        return checkpoint.latest(self.directory / "checkpoints")

    def _existing_checkpoint(self) -> Path:
        path = self.checkpoint_path
        if path is None:
            raise UserError(f"run {self.directory} has no checkpoint yet: train it first")
        return path

    @property
    def step(self) -> int:
        """The training step of the checkpoint."""
        return self.checkpoint["step"]

    @cached_property
    def autoencoder(self) -> Autoencoder:
        """The trained autoencoder, on ``device`` and in eval mode."""
        image_shape = self.settings.image_shape
        path = self._existing_checkpoint()
        autoencoder = build.build_autoencoder(self.identity, image_shape, self.allow_targets)
        state = rundir.autoencoder_state(self.checkpoint)
        checkpoint.load_into(autoencoder, state, path)
        return autoencoder.to(self.device).eval()

    @cached_property
    def condition(self) -> Condition:
        """The meaning of the prior's contexts; :class:`~pyro_lrp.data.NoCondition` if there are none."""
        return condition_of(self.settings.context)

    @cached_property
    def memory(self) -> Memory:
        """What this user trained the run with, if they did."""
        return recall(self.identity)

    @property
    def allow_targets(self) -> Sequence[str]:
        """The targets that were typed, and those that are remembered."""
        return [*self.typed_targets, *self.memory.allow_targets]

    @property
    def places(self) -> dict[str, str | None]:
        """The places of the data set: those that were typed before those that are remembered."""
        return build.places(self.identity, {**self.memory.places, **self.typed})

    @cached_property
    def data(self) -> ImageData:
        """The data set of the run, with the contexts of its images.

        If the data set changed, only its images that the run was trained on are training images, and none of
        these is a test image.
        """
        data = self._read()
        condition = condition_of(self.settings.context, data)
        data = data.with_contexts(condition.of)
        if self.settings.fingerprint is None:
            self.log(
                f"{self.directory} was trained by an earlier version, which kept no fingerprint of its data: "
                "with a folder, a split or a limit, images that it was trained on may now be test images"
            )
            return data
        self.fingerprint = fingerprint(data)
        if self.changed:
            return self._of_changed(data)
        return data

    def _read(self) -> ImageData:
        """The data set at its places; an error says which of the remembered ones exist no longer."""
        try:
            return build.build_data(self.identity, self.places, self.allow_targets)
        except UserError as error:
            remembered = {key: place for key, place in self.memory.places.items() if key not in self.typed}
            gone = [
                f"data.{key}=..." for key, place in remembered.items() if place and not Path(place).exists()
            ]
            if not gone:
                raise
            now = " ".join(gone)
            raise UserError(
                f"{error}; it was there when {self.directory} was trained: say where it is now, {now}"
            ) from error

    @property
    def changed(self) -> bool:
        """Whether the data set that was read is not the one that the run was trained on."""
        return self.fingerprint not in (None, self.settings.fingerprint)

    def _of_changed(self, data: ImageData) -> ImageData:
        """The images of a changed data set, divided by whether the run was trained on them."""
        name = self.places.get("path") or data.name
        trained_on = rundir.read_trained_on(self.directory)
        divided = trained_on.divide(data)
        if not len(divided.train):
            if not self.other_data:
                raise UserError(
                    f"data: {name} holds none of the images that {self.directory} was trained on: say where "
                    "they are, or other_data=true to go on with other images"
                )
            self.log(f"data: {name} holds other images than those that the run was trained on")
            return data
        if not len(divided.test):
            raise UserError(f"data: {name} changed, and the run was trained on each of its test images")
        self.log(
            f"data: {name} changed since the run was trained: it holds {len(divided.train)} of the run's "
            f"training images; the other {len(divided.test)} of its test images are used for tests"
        )
        self._trained_on = trained_on
        return divided

    @cached_property
    def seen(self) -> Split:
        """The images the run was trained on: without those beyond the limit and those held out."""
        data = self.data
        if self._trained_on is not None:
            return self._trained_on.select(data)
        limited = data.limited(self.settings.limit)
        seen, _ = limited.hold_out(self.settings.validation)
        return seen

    def codes(self, split: str = "test") -> Codes | ImageCodes:
        """The posteriors q(z|x) of the images of a split, which is ``"train"``, ``"test"`` or ``"seen"``."""
        images = self._split(split)
        return encode_split(self.autoencoder, images.to(self.device))

    def _split(self, split: str) -> Split:
        if split not in ("train", "test", "seen"):
            raise ValueError(f"expected split to be train, test or seen, got {split!r}")
        if split == "seen":
            return self.seen
        return getattr(self.data, split)

    def scores(
        self, images: str | Split | Tensor = "test", scores: str | Sequence[str] | None = None, **options: Any
    ) -> dict[str, Tensor]:
        """Outlier scores of images, larger ones more outlying: :func:`~pyro_lrp.metrics.outlier_scores`.

        Args:
            images: A split by name, as for :meth:`codes`, or images of your own.
            scores: Of ``"prior"``, ``"reconstruction"``, ``"bound"`` and ``"typicality"``; None for all.
            **options: ``k`` and ``seed``.
        """
        chosen = self._split(images) if isinstance(images, str) else images
        return outlier_scores(self.autoencoder, chosen, self.seen, scores, **options)

    def subject(self, **options: Any) -> Subject:
        """The subject of metrics: the run's model and data.

        Args:
            **options: Further arguments of :class:`~pyro_lrp.metrics.Subject`, such as ``n`` and ``seed``.
        """
        return Subject(
            self.autoencoder,
            self.data,
            self.seen,
            device=self.device,
            directory=self.directory,
            **options,
        )

    @contextmanager
    def claimed(self, *, overwrite: bool = False, extend: bool = False) -> Iterator[None]:
        """Hold a planned run's directory within the block, as its only writer.

        Args:
            overwrite: Delete a run that the directory holds.
            extend: Go on with a run that the directory holds, to more epochs.

        Raises:
            UserError: If another process holds the directory, it holds another run or other files, or it cannot
                be written.
        """
        seen, held_out = self.data.hold_out(self.settings.validation)
        with rundir.claimed(self.directory, self.identity, overwrite=overwrite, extend=extend):
            rundir.write_trained_on(self.directory, TrainedOn.of(seen, held_out))
            self.remembered = remember(self.identity, self.typed, self.typed_targets)
            yield

    def prepare_likelihood(self, weights: Mapping[str, str | None]) -> dict[str, Any]:
        """Load the networks that the likelihood needs, and record in the identity which they are.

        Args:
            weights: Files of weights by network.

        Returns:
            The recorded entries.
        """
        recorded = self.autoencoder.likelihood.prepare(weights)
        self.settings.likelihood.update(recorded)
        return recorded

    def draw(self, n: int, temperature: float = 1.0, context: Any = None) -> Draw:
        """``n`` samples of the prior and their mean images.

        Args:
            n: Number of samples.
            temperature: Factor of the standard deviation of the prior's base.
            context: The contexts, as a tensor ``(n, context_dim)`` or as for the option ``context`` of the
                command ``sample``.
        """
        if not isinstance(context, Tensor):
            context = self.condition.parse(context, n)
        return self.autoencoder.draw(n, temperature, context.to(self.device))

    def export(self, folder: str | Path, **options: Any) -> Path:
        """Write the run as a folder to share, and return it; see :func:`pyro_lrp.sharing.export`.

        Args:
            folder: A folder that does not exist, or is empty.
            **options: Further arguments, such as ``programs=["pt2"]``.
        """
        import pyro_lrp  # the folder is made above: with pictures and reports

        return pyro_lrp.export(self, folder, **options)

    def trainer(self, circumstances: Mapping[str, Any], **options: Any) -> Trainer:
        """The trainer of a planned run.

        Args:
            circumstances: The circumstances of the plan.
            **options: Further arguments of the trainer, such as callbacks.
        """
        settings = self.settings
        arguments = {
            **settings.trainer,
            "schedule": build.schedule(self.identity, self.allow_targets),
            "schedules": build.schedules(self.identity, self.allow_targets),
            "optimizers": settings.optimizers(),
        }
        return Trainer(
            build.build_game(self.identity, self.autoencoder, self.allow_targets),
            self.data,
            directory=self.directory,
            seed=settings.seed,
            phases=settings.phases(),
            prior_phase=settings.prior_phase(),
            decoder_code_noise=settings.decoder_code_noise,
            lr=settings.lr,
            lr_of={"autoencoder.likelihood": settings.likelihood_lr},
            batch_size=settings.batch_size,
            prior_batch_size=settings.prior_batch_size,
            validation=settings.validation,
            precision=str(settings.precision),
            save_minutes=circumstances["trainer.save_minutes"],
            **{name: circumstances[name] for name in OF_THE_TRAINER},
            **arguments,
            **options,
        )


def _to_stderr(line: str) -> None:
    print(printable(line), file=sys.stderr)
