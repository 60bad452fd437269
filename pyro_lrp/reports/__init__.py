"""Reports: runs compared in one table and one page, and experiments of the paper with their claims.

:func:`collect` reads runs, each a :class:`ReportedRun` with its identity, its seed and its metrics with their
protocols; :func:`summarize` makes the :class:`Table` of groups that differ in their seed alone; :func:`write`
writes the files of a report, and :func:`read` reads them to draw it again. ``python -m pyro_lrp.report`` does
all of it::

    from pyro_lrp import reports

    runs = reports.collect(["runs/sweep"])
    for run in runs.runs:
        print(run.identity["beta"], run.seed, run.scores["fid"].value, run.scores["fid"].protocol)
    table = reports.summarize(runs, metrics=["fid", "test/*"])
    print(reports.terminal(table, width=100))
    reports.write(runs, "runs/report")
"""

from pyro_lrp.metrics.meanings import better
from pyro_lrp.reports.collect import Collection, ReportedRun, collect
from pyro_lrp.reports.page import Lead
from pyro_lrp.reports.record import read
from pyro_lrp.reports.scores import Score
from pyro_lrp.reports.table import Cell, Row, Table, summarize
from pyro_lrp.reports.text import closing, markdown, terminal
from pyro_lrp.reports.write import default_folder, write

__all__ = [
    "Cell",
    "Collection",
    "Lead",
    "ReportedRun",
    "Row",
    "Score",
    "Table",
    "better",
    "closing",
    "collect",
    "default_folder",
    "markdown",
    "read",
    "summarize",
    "terminal",
    "write",
]
