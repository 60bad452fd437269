"""The exported folder: a run directory without what only training needs, with programs and a model card."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from pyro_lrp.config import Run, rundir
from pyro_lrp.config.build import PLACES
from pyro_lrp.core import checkpoint
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.randomness import seeded
from pyro_lrp.core.trees import KeyPath, map_leaves
from pyro_lrp.figures import grid, save_picture
from pyro_lrp.figures.classes import draw_by_class, rows_by_class
from pyro_lrp.metrics.evaluation import read_evaluation, write_evaluation
from pyro_lrp.sharing.card import Facts, card
from pyro_lrp.sharing.programs import FORMATS, write_programs

__all__ = ["export", "portable"]

_PICTURED = 64  # samples
_COPIED = ("metrics.jsonl", "trained_on.npz")
_OF_THIS_MACHINE = ("data.root", "weights")  # circumstances of a training


def export(
    run: Run,
    folder: str | Path,
    programs: Sequence[str] = FORMATS,
    log: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write a trained run as a folder to share; see ``pyro_lrp/sharing/README.md``.

    The folder is a run directory: :func:`pyro_lrp.load` and the commands take it. It holds no optimizer's
    state, no log and no path of this machine. It appears when it is complete.

    Args:
        run: The run.
        folder: A folder that does not exist, or is empty.
        programs: Formats of the programs, out of ``"pt2"`` and ``"onnx"``; none if empty.
        log: Receives progress, in lines.

    Returns:
        The folder.

    Raises:
        UserError: If the folder holds files or cannot be written, a format is unknown, or the run has no
            checkpoint or cannot be loaded.
    """
    for ending in programs:
        if ending not in FORMATS:
            known = ", ".join(FORMATS)
            raise UserError(f"programs: {ending} is unknown; the known ones are {known}")
    target = Path(folder).expanduser()
    _refuse_full(target)
    autoencoder = run.autoencoder  # refuses what is no run, before anything is written
    if not run.finished:
        log(f"{run.directory} is not finished; exporting step {run.step}")
    with _appearing(target) as place:
        identity = portable(run.identity)
        results = _results(run)
        rundir.write_identity(place, identity)
        _write_weights(run, place)
        if run.summary is not None:
            rundir.write_summary(place, _summary(run.summary))
        if results:
            write_evaluation(place / "evaluation.json", results)
        for name in _COPIED:
            if (run.directory / name).is_file():
                shutil.copyfile(run.directory / name, place / name)
        pictured = _write_picture(run, place / "figures" / "samples.png")
        (place / "programs").mkdir()
        written = write_programs(autoencoder, place / "programs", programs, log)
        if not any((place / "programs").iterdir()):
            (place / "programs").rmdir()
        facts = Facts(
            identity=identity,
            summary=run.summary or {},
            results=results,
            step=run.step,
            finished=run.finished,
            condition=run.condition,
            programs=written,
            pictured=pictured,
        )
        (place / "README.md").write_text(card(facts), encoding="utf-8")
    return target


def portable(tree: Any) -> Any:
    """A tree of plain values without paths of this machine: of each, the last part is left.

    >>> portable({"data": {"path": "../faces", "root": None}, "weights": "/home/me/vgg.pth", "beta": 0})
    {'data': {'path': 'faces', 'root': None}, 'weights': 'vgg.pth', 'beta': 0}
    """
    return map_leaves(_portable_leaf, tree)


def _portable_leaf(path: KeyPath, leaf: Any) -> Any:
    if not isinstance(leaf, str):
        return leaf
    is_place = path[:1] == ("data",) and path[-1] in PLACES
    is_absolute = PurePosixPath(leaf).is_absolute() or PureWindowsPath(leaf).is_absolute()
    if not (is_place or is_absolute or leaf.startswith("~")):
        return leaf
    return PureWindowsPath(leaf).name  # which knows both kinds of slashes


def _refuse_full(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise UserError(f"out={folder} exists and is not an empty folder: choose another one, or delete it")


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A temporary folder beside ``folder``, which takes its place when the block ends well.

    Raises:
        UserError: If the folder cannot be written.
    """
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.tmp")
    try:
        try:
            temporary.mkdir(parents=True)
            yield temporary
            if folder.exists():
                folder.rmdir()
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise UserError(f"out={folder} cannot be written ({error.strerror}): choose another folder") from error


def _write_weights(run: Run, place: Path) -> None:
    """Write the autoencoder's tensors as the checkpoint of a run."""
    state = {f"autoencoder.{name}": tensor for name, tensor in run.autoencoder.state_dict().items()}
    path = place / "checkpoints" / "last.safetensors"
    path.parent.mkdir()
    checkpoint.save(path, {"game": state, "step": run.step})


def _results(run: Run) -> dict[str, Any]:
    """The results of the run's evaluation, without those that lie in files of their own."""
    path = run.directory / "evaluation.json"
    if not path.is_file():
        return {}
    results = {}
    for name, result in portable(read_evaluation(path)).items():
        protocol = result.get("protocol") if isinstance(result, dict) else None
        if not isinstance(protocol, dict):
            raise UserError(f"{path}: {name[:60]} is not a result of a metric: delete it, or the file")
        if "file" not in protocol:
            results[name] = result
    return results


def _summary(summary: dict[str, Any]) -> dict[str, Any]:
    """The summary without the circumstances that belong to this machine."""
    circumstances = summary.get("circumstances")
    if not isinstance(circumstances, dict):
        return portable(summary)
    kept = {key: value for key, value in circumstances.items() if key not in _OF_THIS_MACHINE}
    return portable({**summary, "circumstances": kept})


def _write_picture(run: Run, path: Path) -> bool:
    """Draw a grid of samples; returns whether there is one.

    Where contexts cannot be made without images, the grid that the training drew is taken.
    """
    path.parent.mkdir()
    condition = run.condition
    if len(condition) and not condition.classes(None):
        drawn = run.directory / "figures" / "samples.png"
        if not drawn.is_file():
            path.parent.rmdir()
            return False
        shutil.copyfile(drawn, path)
        return True
    with seeded(0, "sample"):
        if not len(condition):
            picture = grid(run.draw(_PICTURED).images)
        else:
            names = condition.classes(None)
            images, _ = draw_by_class(run.autoencoder, condition, names, _PICTURED)
            picture = rows_by_class(images)
    save_picture(path, picture)
    return True
