"""A run, trained or planned: the one way to its model and its data, from commands and from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from pyro_lrp.config import build, rundir
from pyro_lrp.config.plan import Plan, optimizers, phases, prior_phase
from pyro_lrp.core import checkpoint
from pyro_lrp.core.errors import UserError
from pyro_lrp.data import Condition, ImageData, Split, condition_of
from pyro_lrp.latents.codes import encode_split
from pyro_lrp.models import Autoencoder, Codes, Draw, ImageCodes
from pyro_lrp.trainer import Trainer
from pyro_lrp.trainer.devices import choose_device

__all__ = ["Run", "load"]


class Run:
    """A run directory: its model and its data, read once, when they are first asked for.

    Args:
        directory: The run directory, wherever it lies.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        data_root: The folder of data sets; None for the place where ``train`` looks.
        data_path: The file or folder of a run on files of your own. A place that a run names is not opened.
        places: Further places of a data set, by key, such as ``{"images": DIR}``.
        allow_targets: Modules of yours (such as ``"my_package."``) that its configuration may name besides
            those of :mod:`pyro_lrp.config.allowed`. Nothing else is ever called.

    Raises:
        UserError: If there is no such run, its checkpoint is damaged, or its configuration names a target that
            is not allowed; when that is first read.
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
    ) -> None:
        self.directory = Path(directory).expanduser()
        self.device = choose_device(device)
        self.places = {**(places or {})}
        if data_root is not None:
            self.places["root"] = data_root
        if data_path is not None:
            self.places["path"] = data_path
        self.allow_targets = allow_targets

    @classmethod
    def of(cls, options: Mapping[str, Any], directory: str | None = None) -> Run:
        """The run that the options of a command name, or the one of a directory, under these options."""
        return cls(
            str(options["run"] if directory is None else directory), device=options["device"],
            places=options["data"], allow_targets=options["allow_targets"],
        )  # fmt: skip

    @classmethod
    def planned(cls, plan: Plan) -> Run:
        """A run that is about to be trained: its data are read and its model is built, nothing is written."""
        circumstances = plan.circumstances
        allow = circumstances["allow_targets"]
        places = {key: plan.identity["data"].get(key) for key in build.PLACES}
        places["root"] = circumstances["data.root"]
        run = cls(plan.directory, places=places, allow_targets=allow)
        data = build.build_data(plan.identity, places, allow).limited(plan.identity["data"].get("limit"))
        run.identity, run.data = build.settle(plan.identity, data)
        run.autoencoder = build.build_autoencoder(run.identity, data.image_shape, allow)
        return run

    def __repr__(self) -> str:
        return f"Run({str(self.directory)!r})"

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The configuration that decides what the run computes."""
        return rundir.read_identity(self.directory)

    @cached_property
    def summary(self) -> dict[str, Any] | None:
        """The summary of a finished run, or None."""
        return rundir.read_summary(self.directory)

    @property
    def finished(self) -> bool:
        """Whether training came to its end."""
        return self.summary is not None

    @cached_property
    def checkpoint(self) -> dict[str, Any]:
        """The newest checkpoint: parameters by name, and the step they are of."""
        path = self.checkpoint_path
        if path is None:
            raise UserError(f"run {self.directory} has no checkpoint yet: train it first")
        return checkpoint.load(path)

    @property
    def checkpoint_path(self) -> Path | None:
        """The file of the newest checkpoint, if there is one."""
        return checkpoint.latest(self.directory / "checkpoints")

    @property
    def step(self) -> int:
        """The number of training steps that the checkpoint has seen."""
        return self.checkpoint["step"]

    @cached_property
    def autoencoder(self) -> Autoencoder:
        """The trained autoencoder, on ``device`` and in eval mode."""
        identity, path = self.identity, self.checkpoint_path
        if path is None:
            raise UserError(f"run {self.directory} has no checkpoint yet: train it first")
        autoencoder = build.build_autoencoder(identity, identity["image_shape"], self.allow_targets)
        prefix = "autoencoder."
        game = self.checkpoint.get("game", {})
        state = {key.removeprefix(prefix): value for key, value in game.items() if key.startswith(prefix)}
        checkpoint.load_into(autoencoder, state, path)
        return autoencoder.to(self.device).eval()

    @cached_property
    def condition(self) -> Condition:
        """The meaning of the contexts of its prior; :class:`~pyro_lrp.data.NoCondition` without any."""
        return condition_of(self.identity.get("context"))

    @cached_property
    def data(self) -> ImageData:
        """The data set it was trained on, with the contexts of its images."""
        data = build.build_data(self.identity, build.places(self.identity, self.places), self.allow_targets)
        return data.with_contexts(condition_of(self.identity.get("context"), data).of)

    @cached_property
    def seen(self) -> Split:
        """The training images that it saw: without those beyond its limit and those held out."""
        options = self.identity["data"]
        return self.data.limited(options.get("limit")).hold_out(options.get("validation", 0.0))[0]

    def codes(self, split: str = "test") -> Codes | ImageCodes:
        """The codes of a split: q(z|x) of each image.

        Args:
            split: ``"train"``, ``"test"``, or ``"seen"`` for the training images that the run saw.
        """
        if split not in ("train", "test", "seen"):
            raise ValueError(f"expected split to be train, test or seen, got {split!r}")
        if split == "seen":
            images = self.seen
        else:
            images = self.data.train if split == "train" else self.data.test
        return encode_split(self.autoencoder, images.to(self.device))

    def draw(self, n: int, temperature: float = 1.0, context: Any = None) -> Draw:
        """``n`` samples of the prior and their mean images.

        Args:
            n: Number of samples.
            temperature: Factor of the standard deviation of the prior's base.
            context: As ``context=`` of the command ``sample`` takes it, or a tensor ``(n, context_dim)``.
        """
        if not isinstance(context, torch.Tensor):
            context = self.condition.parse(context, n)
        return self.autoencoder.draw(n, temperature, context.to(self.device))

    def trainer(self, circumstances: Mapping[str, Any], **options: Any) -> Trainer:
        """The trainer of a planned run; ``options`` are further arguments of it, such as callbacks."""
        identity = self.identity
        game = build.build_game(identity, self.autoencoder, self.allow_targets)
        own_rate = identity["likelihood"].get("lr") or identity["lr"]
        settings = {
            **identity["trainer"],
            "schedule": build.schedule(identity, self.allow_targets),
            "optimizers": optimizers(identity),
        }
        return Trainer(
            game, self.data, directory=self.directory, seed=identity["seed"], phases=phases(identity),
            prior_phase=prior_phase(identity), lr=identity["lr"], lr_of={"autoencoder.likelihood": own_rate},
            batch_size=identity["batch_size"], prior_batch_size=identity["prior_batch_size"],
            validation=identity["data"].get("validation", 0.0), precision=str(identity["precision"]),
            device=circumstances["device"], progress=circumstances["progress"],
            save_minutes=circumstances["trainer.save_minutes"], **settings, **options,
        )  # fmt: skip


def load(run: str | Path, *, allow_targets: Sequence[str] = ()) -> Autoencoder:
    """The trained autoencoder of a run directory, wherever it lies, on the CPU and in eval mode.

    Args:
        run: A run directory.
        allow_targets: As for :class:`Run`.

    Raises:
        UserError: If there is no such run, its checkpoint is damaged, or its configuration names a target that
            is not allowed.
    """
    return Run(run, allow_targets=allow_targets).autoencoder
