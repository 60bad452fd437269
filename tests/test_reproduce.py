"""The experiments of the paper as commands: their files, their members, and small ones run to the end."""

import math
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from commands import ROOT, Unread, in_process

from pyro_lrp import config
from pyro_lrp import reproduce as command
from pyro_lrp.config.compose import members_of
from pyro_lrp.metrics import METRICS
from pyro_lrp.reports import Collection, ReportedRun, Score, experiments, results

SMALL = (
    *("data=fake", "data.image_shape=[1,8,8]", "data.n=120", "latent_dim=4", "data.flow.layers=2"),
    *("data.flow.width=16", "network.hidden_dims=[16]", "device=cpu", "trainer.evaluations=1"),
)
ALL = [(name, scale) for name in experiments.names() for scale in experiments.SCALES]


@pytest.mark.parametrize(("name", "scale"), ALL)
def test_every_member_composes(name, scale):
    experiment = experiments.load(name, scale)
    assert set(experiment.metrics) <= METRICS.keys()
    assert len(experiment.show) <= 1
    for sweep in experiment.sweeps:  # one of each sweep: all would take minutes
        config.compose_train(*members_of(sweep)[-1])
    assert len(set(experiment.members)) == len(experiment.members)


def test_the_figures_and_tables_of_the_paper_are_there():
    expected = {f"figure_{number}" for number in range(1, 10)} | {"table_1", "table_2"}
    assert expected <= set(experiments.names())


@pytest.fixture
def reproduce(tmp_path, monkeypatch, capfd, lend_cache):
    """Runs the command in an empty folder: ``(code, stdout, stderr)``, those of its children among them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYRO_LRP_CACHE", str(lend_cache(tmp_path / "cache")))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["reproduce", *arguments])
        code = 0
        try:
            command.main()
        except SystemExit as stop:
            code = stop.code
        out, err = capfd.readouterr()
        if isinstance(code, str):
            return 1, out, err + code
        return code, out, err

    return run


@pytest.fixture
def in_one_process(monkeypatch):
    """The commands of an experiment run in this process: importing torch takes longer than they do."""

    def run(name, *arguments):
        code, _, _ = in_process(name, *arguments, capsys=Unread(), monkeypatch=monkeypatch)
        return code

    monkeypatch.setattr(command, "_run", run)


@pytest.mark.usefixtures("in_one_process")
def test_a_smoke_run_ends_with_figure_verdicts_and_report(reproduce):
    code, out, err = reproduce("figure=3", "scale=smoke", *SMALL)
    assert code == 0, err
    folder = Path("runs/reproduce/figure_3_smoke")
    assert {"figure_3.png", "figure_3.pdf", "figure_3.md", "report.csv", "report.html"} <= set(
        os.listdir(folder)
    )
    verdicts = (folder / "figure_3.md").read_text()
    assert verdicts.count(": undecided (") == 3  # one seed decides nothing
    assert "fewer than 3 seeds" in verdicts
    assert verdicts.strip() in out
    picture = (folder / "figure_3.png").read_bytes()
    page = (folder / "report.html").read_text()
    assert page.count("undecided (") == 3
    assert 'class="result"' in page

    # a recorded report draws the same figure
    code, _, err = reproduce("figure=3", "scale=smoke", f"from={folder}")
    assert code == 0, err
    assert (folder / "figure_3.png").read_bytes() == picture
    assert (folder / "figure_3.md").read_text() == verdicts


def test_commands_of_an_experiment_are_processes(reproduce, capfd):
    assert command._run("check", "prior=flaw") == 1
    out, err = capfd.readouterr()
    assert out == "> python -m pyro_lrp.check prior=flaw\n"
    assert err.startswith("error: prior=flaw is unknown")


@pytest.mark.usefixtures("in_one_process")
def test_a_table_stands_beside_the_paper(reproduce):
    code, out, err = reproduce("table=1", "scale=smoke", *SMALL)
    assert code == 0, err
    table = Path("runs/reproduce/table_1_smoke/table_1.md").read_text()
    assert "| VAE + flow, β = 0, z_T | " in table
    row = next(line for line in table.splitlines() if "β = 0, z_T" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2::2][:3] == ["1.67", "1076", "33.1"]
    assert cells[1:4:2] == ["–", "–"]  # the scale leaves them out
    assert math.isfinite(float(cells[5]))
    page = Path("runs/reproduce/table_1_smoke/report.html").read_text()
    assert "<td>1076</td>" in page


@pytest.mark.usefixtures("in_one_process")
def test_a_figure_of_the_latent_space_is_drawn(reproduce):
    code, _, err = reproduce("figure=4", "scale=smoke", "trainer.evaluations=1")
    assert code == 0, err
    assert Path("runs/reproduce/figure_4_smoke/figure_4.png").is_file()


def test_unfinished_runs_and_mixed_protocols_have_no_mean():
    experiment = experiments.load("table_1", "small")
    one = ReportedRun("a", 0, {"model": "vae"}, {"fd_classifier": Score(40.0, protocol={"images": 1})})
    other = replace(one, name="b", seed=1, scores={"fd_classifier": Score(60.0, protocol={"images": 2})})
    same = replace(one, name="c", seed=2, scores={"fd_classifier": Score(60.0, protocol={"images": 1})})
    rows = [results.table(experiment, runs)[1][0] for runs in ([one, other], [one, same])]
    assert rows[0][-3:] == ["different protocols", "41.4", "2"]
    assert rows[1][-3:] == ["50 ± 14", "41.4", "2"]
    unfinished = replace(same, finished=False)
    header, rows = results.table(experiment, [one, unfinished])
    assert rows[0][-3:] == ["40", "41.4", "1"]
    assert results.markdown(header, rows).splitlines()[2].endswith("| 40 | 41.4 | 1 |")
    assert len(results.observations([one, unfinished])) == 1


def test_a_figure_that_cannot_be_drawn_is_a_failure(reproduce, monkeypatch):
    codes = {"train": 0, "figure": 1, "report": 0}
    monkeypatch.setattr(command, "_run", lambda name, *arguments: codes[name])
    directory = config.compose_train(*experiments.load("figure_4", "smoke").members[0]).directory
    directory.mkdir(parents=True)
    run = ReportedRun("a", 0, {}, directory=directory)
    monkeypatch.setattr("pyro_lrp.reports.collect", lambda paths: Collection((run,)))
    code, _, err = reproduce("figure=4", "scale=smoke")
    assert (code, "figure_4: a training, a figure or the report failed" in err) == (1, True), err


def test_a_dry_run_prints_commands_and_does_nothing(reproduce):
    code, out, _ = reproduce("figure=5", "scale=small", "--dry-run", "data.root=/some where")
    lines = out.splitlines()
    assert (code, len(lines)) == (0, 61)
    assert "latent_dim=4 beta=0 seed=1" in lines[1]
    assert lines[0].endswith("'data.root=/some where'")
    assert lines[-1] == "# figure_5, scale=small: 60 members; about 5.0 hours of a core, 5 minutes each"
    assert not {"runs", "figures"} & set(os.listdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "say which experiment"),
        (("figure=12",), "figure_12 is no experiment; the known ones are: control_"),
        (("figure=3", "scale=huge"), "scale=huge is unknown; the known ones are: paper, small, smoke"),
        (("figure=3", "beta"), "beta is no argument: expected key=value"),
        (("figure=3", "from=nowhere"), "nowhere"),
    ],
)
def test_mistakes_are_told(reproduce, arguments, message):
    code, _, err = reproduce(*arguments)
    assert (code, message in err) == (1, True), err
