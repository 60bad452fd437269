"""The files of a report."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.files import write_atomically
from pyro_lrp.reports.collect import Collection, folders
from pyro_lrp.reports.page import Lead, page
from pyro_lrp.reports.record import csv_text, rest
from pyro_lrp.reports.table import summarize
from pyro_lrp.reports.text import markdown

__all__ = ["default_folder", "write"]


def write(
    collection: Collection,
    folder: str | Path,
    metrics: Iterable[str] | None = None,
    lead: Lead | None = None,
) -> list[Path]:
    """Write ``report.csv``, ``report.json``, ``report.md`` and ``report.html``; equal runs give equal bytes.

    Args:
        collection: The runs.
        folder: The folder, which is made if it is missing.
        metrics: Names or patterns of the metrics in the tables; the CSV file has all.
        lead: The result of an experiment, with which the page begins.

    Returns:
        The files.

    Raises:
        UserError: If no run has a metric of some name, or the folder cannot be written.
    """
    table = summarize(collection, metrics)
    contents = {
        "report.csv": csv_text(table),
        "report.json": json.dumps(rest(collection), indent=1) + "\n",
        "report.md": markdown(collection, table),
        "report.html": page(collection, table, lead),
    }
    paths = []
    try:
        folder = Path(folder).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in contents.items():
            path = Path(folder, name)
            write_atomically(path, partial(_write, text=text))
            paths.append(path)
    except OSError as error:
        reason = error.strerror
        raise UserError(
            f"{folder} cannot be written ({reason}): choose another folder by out=FOLDER"
        ) from error
    return paths


def _write(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8", "backslashreplace"))  # a name that is no text has half a letter


def default_folder(paths: Iterable[str | Path]) -> Path:
    """Where a report of some paths goes: ``DIR/report`` if they are one folder, else ``runs/report``.

    Raises:
        UserError: If a link lies in its place, which may be a stranger's.
    """
    named = folders(paths)
    if len(named) != 1:
        return Path("runs", "report")
    folder = named[0] / "report"
    if folder.is_symlink():
        raise UserError(f"{folder} is a link: say where the report goes by out=FOLDER")
    return folder
