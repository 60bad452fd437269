"""Loggers: rows of the metrics, pictures and the configuration in TensorBoard, Weights & Biases or trackio."""

from __future__ import annotations

import importlib
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from PIL import Image
from torch import Tensor

from pyro_lrp.core.errors import UserError

__all__ = ["LOGGERS", "Logger", "TensorBoard", "Trackio", "WandB", "make_logger"]

_PROJECT = "pyro_lrp"


class Logger:
    """Writes nothing: ``logger=none``, and what the others have in common.

    Args:
        directory: The run directory. Nothing is written before :meth:`begin`.

    Raises:
        UserError: If the package is not installed.
    """

    package: str = ""
    extra: str = ""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.client: Any = None
        if not self.package:
            return
        try:
            self.client = importlib.import_module(self.package)
        except ImportError as error:
            raise UserError(
                f"logger={self.extra} needs a package: pip install 'pyro_lrp[{self.extra}]'"
            ) from error

    def begin(self, configuration: Mapping[str, Any]) -> None:
        """Take the configuration of a run, before training begins.

        Args:
            configuration: The identity of the run.

        Raises:
            UserError: If the client refuses, for instance because nobody is logged in.
        """

    def row(self, row: Mapping[str, Any]) -> None:
        """Write the numbers of a row of the metrics."""

    def picture(self, name: str, step: int, picture: Tensor) -> None:
        """Write a picture, uint8 of shape ``(3, H, W)``."""

    def close(self) -> None:
        """Flush what is not yet written."""

    @property
    def run_name(self) -> str:
        """The name of the run and its seed, such as ``mine/seed_0``."""
        directory = self.directory.absolute()
        return f"{directory.parent.name}/{directory.name}"

    def run_id(self) -> str:
        """Eight digits of the run, kept in its directory so that a resumed training goes on with them."""
        folder = self.directory / self.extra
        file = folder / "run_id.txt"
        if file.is_file():
            return file.read_text(encoding="utf-8").strip()
        folder.mkdir(parents=True, exist_ok=True)
        token = secrets.token_hex(4)
        file.write_text(f"{token}\n", encoding="utf-8")
        return token


class TensorBoard(Logger):
    """Writes scalars, images and the configuration as text to ``DIR/tensorboard``."""

    package = "torch.utils.tensorboard"
    extra = "tensorboard"

    configuration: Mapping[str, Any] = {}
    _opened: Any = None

    def begin(self, configuration: Mapping[str, Any]) -> None:
        """Take the configuration."""
        self.configuration = configuration

    def row(self, row: Mapping[str, Any]) -> None:
        """Write the numbers of a row as scalars."""
        writer = self._writer(row["step"])
        for name, value in _numbers(row).items():
            writer.add_scalar(name, value, row["step"])

    def picture(self, name: str, step: int, picture: Tensor) -> None:
        """Write a picture as an image."""
        self._writer(step).add_image(name, picture, step)

    def close(self) -> None:
        """Flush what is not yet written."""
        if self._opened is not None:
            self._opened.close()

    def _writer(self, step: int) -> Any:
        """The writer; what an earlier process wrote of later steps than the first one here is void."""
        if self._opened is None:
            self._opened = self.client.SummaryWriter(str(self.directory / "tensorboard"), purge_step=step)
            text = yaml.safe_dump(dict(self.configuration), sort_keys=False, allow_unicode=True)
            code = "".join(f"    {line}\n" for line in text.splitlines())  # of Markdown
            self._opened.add_text("configuration", code, step)
        return self._opened


class _ClientRun(Logger):
    """Writes to a run of a client, which takes rows and pictures by steps."""

    run: Any = None

    def row(self, row: Mapping[str, Any]) -> None:
        """Write the numbers of a row."""
        self.run.log(_numbers(row), step=row["step"])

    def picture(self, name: str, step: int, picture: Tensor) -> None:
        """Write a picture beside the row of its step."""
        image = self.client.Image(_pillow(picture))
        self.run.log({name: image}, step=step)

    def close(self) -> None:
        """Wait until all is written, or sent."""
        if self.run is not None:
            self.run.finish()


class WandB(_ClientRun):
    """Writes to Weights & Biases by its client, which keeps its files in ``wandb`` of the current folder.

    The client's environment variables hold: ``WANDB_MODE=offline`` sends nothing, ``WANDB_PROJECT`` names the
    project, which is ``pyro_lrp`` otherwise. The run directory holds no more than the run's number: the files
    of the client have links that lead out of it.
    """

    package = "wandb"
    extra = "wandb"

    def begin(self, configuration: Mapping[str, Any]) -> None:
        """Begin a run, or go on with the one that the directory knows."""
        try:
            self.run = self.client.init(
                project=os.environ.get("WANDB_PROJECT", _PROJECT),
                name=self.run_name,
                id=self.run_id(),
                resume="allow",
                reinit="create_new",  # other runs may be under way: those of a batched sweep
                config=dict(configuration),
            )
        except self.client.Error as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"logger=wandb: {reason} (WANDB_MODE=offline in the environment keeps all on this machine)"
            ) from error


class Trackio(_ClientRun):
    """Writes to trackio's database on this machine, ``TRACKIO_DIR``, by its client.

    ``trackio show --project pyro_lrp`` opens its page. Nothing is sent unless the client's environment
    variables ask for it: ``TRACKIO_SPACE_ID``, ``TRACKIO_SERVER_URL``.
    """

    package = "trackio"
    extra = "trackio"

    def begin(self, configuration: Mapping[str, Any]) -> None:
        """Begin a run, or go on with the one that the directory knows."""
        self.run = self.client.init(
            project=os.environ.get("TRACKIO_PROJECT", _PROJECT),
            name=f"{self.run_name.replace('/', '-')}-{self.run_id()}",
            resume="allow",
            config=dict(configuration),
            auto_log_cpu=False,
            auto_log_gpu=False,
        )


LOGGERS: dict[str, Callable[[Path], Logger]] = {
    "none": Logger,
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "trackio": Trackio,
}
"""By the name that ``logger=`` takes."""


def make_logger(name: str, directory: Path) -> Logger:
    """The logger of a run.

    Args:
        name: A key of :data:`LOGGERS`.
        directory: The run directory.

    Raises:
        UserError: If its package is not installed.
    """
    return LOGGERS[name](directory)


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The entries of a row that are numbers, without the step."""
    return {name: value for name, value in row.items() if isinstance(value, (int, float)) and name != "step"}


def _pillow(picture: Tensor) -> Image.Image:
    """A picture of shape ``(3, H, W)`` as the clients take it."""
    return Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
