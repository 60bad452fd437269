"""``python -m pyro_lrp.report``: runs compared in one table and one page."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from pyro_lrp.config.command import WIDTH, run_plain
from pyro_lrp.core.arguments import listed
from pyro_lrp.core.errors import UserError, printable

if TYPE_CHECKING:
    from pyro_lrp.reports import Lead

HELP = """\
Compare runs: a table with mean ± sd over seeds, a page with curves and samples, a CSV file with everything.

  python -m pyro_lrp.report RUN... [out=FOLDER] [metrics=[NAME,...]]

  RUN                run directories, folders that hold runs at any depth, or patterns such as 'runs/*beta*'
  out=FOLDER         where the report goes. Default: DIR/report if one folder DIR is named, else runs/report
  metrics=[NAME,...] of the tables, in this order; NAME may be a pattern, such as 'fid*' or 'test/*'.
                     Default: the first 12; report.csv has all

Runs that differ in seed alone make one row. Columns are what differs between the runs; a key such as
prior.width is one only if it differs among runs with the same prior=. Metrics come from evaluation.json (see
python -m pyro_lrp.evaluate), and log p(x|z), log p(z) and KL of the test images from summary.json, in nats.
Values whose protocol, n or data set differ carry different letters, and are neither averaged nor ranked.
Runs that are not finished or not evaluated, and folders that cannot be read, are named at the end.

Written: report.html (one file, for a browser), report.md, report.csv (a row per run), report.json (protocols
and curves). In Python: pyro_lrp.reports.collect, summarize, write, read.
"""
_NAMED = 6  # runs that a line of the terminal names


def main() -> None:
    """The command."""
    run_plain("report", HELP, lambda arguments: report(*parsed(arguments)))


def parsed(arguments: list[str]) -> tuple[list[str], str | None, list[str] | None]:
    """The paths of runs, the folder of ``out=`` and the names of ``metrics=``, as typed.

    Raises:
        UserError: If a flag is unknown, an option has no value, or no path is left.
    """
    paths = []
    out = None
    metrics = None
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if argument.startswith("-"):
            raise UserError(f"unknown flag {argument}; see --help")
        if key in ("out", "metrics") and equals and not value:
            raise UserError(f"{argument} names nothing; see --help")
        if key == "out" and equals:
            out = value
        elif key == "metrics" and equals:
            metrics = listed(value)
        else:
            paths.append(argument)
    if not paths:
        raise UserError("which runs? python -m pyro_lrp.report RUN... takes run directories; see --help")
    return paths, out, metrics


def report(
    paths: list[str],
    out: str | None = None,
    metrics: list[str] | None = None,
    lead: Lead | None = None,
) -> None:
    """Collect the runs, write the report, print its table.

    Raises:
        UserError: If there is no run, or the report cannot be written.
    """
    from pyro_lrp import reports  # torch is imported here: --help does not wait for it

    collection = reports.collect(paths)
    if not collection.runs:
        more = ""
        if len(collection.broken) > 1:
            more = f" (and {len(collection.broken) - 1} more cannot be read)"
        raise UserError(f"no run to report: {collection.broken[0]}{more}")
    table = reports.summarize(collection, metrics)
    files = reports.write(collection, out or reports.default_folder(paths), metrics, lead)
    width = shutil.get_terminal_size((WIDTH, 24)).columns
    print(reports.terminal(table, width))
    for line in reports.closing(collection, table, _NAMED):
        print(printable(line))
    for path in files:
        print(path)


if __name__ == "__main__":
    main()
