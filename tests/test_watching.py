"""Watching a training: the progress line, samples as they form, curves, closing words, loggers."""

import io
import json
import re
import sqlite3
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from commands import QUICK, only_run, start
from PIL import Image

from pyro_lrp.config import rundir
from pyro_lrp.figures.curves import training_curves
from pyro_lrp.trainer import loggers
from pyro_lrp.trainer.bar import ProgressLine
from pyro_lrp.trainer.phases import Span

# three reports with scores in each phase
WATCHED = (
    *("data=fake", "data.image_shape=[1,8,8]", "data.n=120", "latent_dim=4", "network.hidden_dims=[32]"),
    *("epochs=3", "prior_epochs=3", "device=cpu", "progress=false", "batch_size=50", "trainer.save_minutes=0"),
    *("trainer.report_every=2", "trainer.evaluations=3", "name=watched"),
)
PICTURES = {"overview.png", "progress.gif", "curves.png", "curves.pdf", "samples.png"}


def rows_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


# --------------------------------------------------------------------- the progress line


class Terminal(io.StringIO):
    def isatty(self):
        return True


SPANS = [
    Span("joint", (), 1500, 100, 12, 0, 0, 0, False),
    Span("prior_only", (), 600, 100, 12, 18_000, 1500, 1_800_000, True),
]
ROWS = {
    "a small likelihood": {"log_likelihood": -59.2312, "log_prior": -12.1612},
    "a large one": {"log_likelihood": -12345.678, "log_prior": -1234.5678},
    "a prior alone": {"loss": 12.16, "log_prior": -12.1612, "validation/log_prior": -12.2012},
    "no density": {"loss": 0.123, "fit_loss": 0.123},
}


def lines(columns, row, monkeypatch):
    """The progress line through a training that reports a row."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    phase = "joint" if "log_likelihood" in row else "prior_only"
    start = 0 if phase == "joint" else 18_000
    with ProgressLine(SPANS, start, visible=True) as line:
        line.dynamic_ncols = lambda stream: (columns - 1, 24)  # as tqdm does: the last one stays free
        for step in (0, 1, 50, 6000):
            line.update(step)
            yield str(line)
            line.show({**row, "step": start + step, "phase": phase, "images_per_second": 18775.9})
            yield str(line)


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
@pytest.mark.parametrize("row", ROWS)
def test_the_progress_line_fits(columns, row, monkeypatch):
    for line in lines(columns, ROWS[row], monkeypatch):
        assert len(line) < columns
        assert "ETA" in line


@pytest.mark.parametrize("row", [name for name in ROWS if name != "a large one"])
def test_eighty_columns_show_all_that_matters(row, monkeypatch):
    *_, line = lines(80, ROWS[row], monkeypatch)
    first, second = {
        "a small likelihood": ("log p(x|z) -59.23", "log p(z) -12.16"),
        "a prior alone": ("log p(z) -12.16", "val -12.20"),
        "no density": ("prior's loss 0.12", ""),
    }[row]
    assert re.match(r"joint|prior_only,? ", line)
    assert re.search(r"\d+/(1500|600) ", line)
    assert "19k images/s" in line
    assert first in line
    assert second in line


# --------------------------------------------------------------------- pictures


def frames(run):
    with Image.open(run / "figures" / "progress.gif") as gif:
        return gif.n_frames


def test_a_training_leaves_its_pictures(train):
    code, out, _ = train(*WATCHED)
    assert code == 0
    run = only_run()
    assert {path.name for path in (run / "figures").iterdir()} == PICTURES
    scored = [row for row in rows_of(run) if "test/log_prior" in row]
    assert len(scored) >= 6
    assert frames(run) == len(scored) == len(list((run / "samples").iterdir()))
    assert (run / "figures/curves.pdf").read_bytes().startswith(b"%PDF")
    for name in ("overview.png", "progress.gif", "curves.png", "samples"):
        assert name in out
    assert "a nat is 1.44 bits" in out
    assert "if reconstructions had no error" in out


def test_a_resumed_training_goes_on_with_its_pictures(train, interrupt_at):
    train(*WATCHED, "name=whole")
    stops = interrupt_at(5, 9)
    while stops:
        assert train(*WATCHED, "name=parts")[0] == 130
    assert train(*WATCHED, "name=parts")[0] == 0
    for name in PICTURES:
        whole, parts = (Path("runs", run, "seed_0/figures", name).read_bytes() for run in ("whole", "parts"))
        assert whole == parts, name


def test_few_reports_make_no_curve(trained_by):
    run = trained_by(*QUICK)
    assert {path.name for path in (run / "figures").iterdir()} == {"samples.png", "overview.png"}
    assert training_curves(rows_of(run)) is None


def test_curves_show_the_splits_that_there_are():
    rows = [
        {"step": step, "phase": "joint", "epoch": step, "test/log_prior": -float(step), "train/log_prior": 1.0}
        for step in (1, 2, 3)
    ]
    figure = training_curves(rows)
    (panel,) = [axes for axes in figure.axes if axes.lines]
    assert [line.get_label() for line in panel.lines] == ["training images", "test images"]
    assert panel.get_ylabel() == "nats per image"
    styles = {line.get_linestyle() for line in panel.lines}
    assert len(styles) == 2  # not by colour alone


def test_a_verdict_on_the_prior_ends_a_training(train):
    code, out, _ = train(
        *("data=digits", "data.limit=400", "epochs=14", "prior_epochs=0", "device=cpu", "progress=false"),
        *("prior=standard_normal", "model=vae", "beta=0", "network=mlp", "trainer.evaluations=1"),
    )
    assert code == 0
    summary = json.loads((only_run() / "summary.json").read_text())
    assert summary["prior_verdict"]["culprit"] == "prior under-fits"  # nothing makes codes normal
    assert "  the prior under-fits: a classifier separates samples from test codes" in out
    assert out.index("under-fits") < out.index("try next")


# --------------------------------------------------------------------- loggers


class FakeClient:
    """A client of wandb or trackio that records what it is called with."""

    Error = RuntimeError

    def __init__(self):
        self.runs = []

    def Image(self, picture):  # noqa: N802 (the clients' name)
        return picture

    def init(self, **options):
        logged = []
        run = SimpleNamespace(options=options, logged=logged, finished=0)

        def finish():
            run.finished += 1

        run.log = lambda entries, step: logged.append((step, entries))
        run.finish = finish
        self.runs.append(run)
        return run


@pytest.fixture
def client(monkeypatch, request):
    fake = FakeClient()
    monkeypatch.setitem(sys.modules, request.param, fake)
    return request.param, fake


@pytest.mark.parametrize("client", ["wandb", "trackio"], indirect=True)
def test_clients_are_given_rows_pictures_and_the_configuration(train, client, interrupt_at):
    """Also by a run that is interrupted: it is one run to the client, until it is begun anew."""
    name, fake = client
    interrupt_at(5)
    assert train(*WATCHED, f"logger={name}")[0] == 130
    code, _, err = train(*WATCHED, f"logger={name}")
    assert code == 0, err
    first, second = fake.runs
    assert first.finished == second.finished == 1
    identifier = "id" if name == "wandb" else "name"
    assert first.options[identifier] == second.options[identifier]
    assert second.options["resume"] == "allow"
    assert second.options["project"] == "pyro_lrp"
    if name == "wandb":  # without it, members of a batched sweep would share a run
        assert second.options["reinit"] == "create_new"
    assert second.options["config"] == yaml.safe_load((only_run() / "config.yaml").read_text())

    logged = first.logged + second.logged
    rows = rows_of(only_run())
    assert sorted({step for step, entries in logged if "lr" in entries}) == [row["step"] for row in rows]
    last = [entries for _, entries in logged if "lr" in entries][-1]
    assert last["test/log_prior"] == pytest.approx(rows[-1]["test/log_prior"])
    assert "phase" not in last
    pictures = {step: entries["samples"] for step, entries in logged if "samples" in entries}
    assert [*pictures] == [row["step"] for row in rows if "test/log_prior" in row]
    assert all(isinstance(picture, Image.Image) for picture in pictures.values())
    assert [step for step, entries in logged if "overview" in entries] == [rows[-1]["step"]]
    for run in (first, second):
        steps = [step for step, _ in run.logged]
        assert steps == sorted(steps)


def test_a_run_that_is_begun_anew_is_another_run(tmp_path):
    first = loggers.WandB.run_id(SimpleNamespace(directory=tmp_path / "a", extra="wandb"))
    again = loggers.WandB.run_id(SimpleNamespace(directory=tmp_path / "a", extra="wandb"))
    assert first == again
    assert "wandb" in rundir._CONTENTS  # overwrite=true removes it
    assert loggers.WandB.run_id(SimpleNamespace(directory=tmp_path / "b", extra="wandb")) != first


@pytest.mark.parametrize("client", ["wandb"], indirect=True)
def test_a_client_that_refuses_is_a_sentence_before_training(train, client):
    _, fake = client

    def refuse(**options):
        raise fake.Error("nobody is\nlogged in")

    fake.init = refuse
    code, _, err = train(*WATCHED, "logger=wandb")
    assert code == 1
    assert "error: logger=wandb: nobody is logged in (WANDB_MODE=offline in the environment" in err
    assert not (only_run() / "metrics.jsonl").exists()


@pytest.mark.parametrize("name", ["wandb", "trackio", "tensorboard"])
def test_a_logger_without_its_package_is_a_sentence(train, name, monkeypatch):
    package = loggers.LOGGERS[name].package
    monkeypatch.setitem(sys.modules, package, None)
    code, _, err = train(*WATCHED, f"logger={name}")
    assert code == 1
    assert err == f"error: logger={name} needs a package: pip install 'pyro_lrp[{name}]'\n"
    assert not Path("runs").exists()


def test_tensorboard_has_images_and_the_configuration(train):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(*WATCHED, "logger=tensorboard")
    run = only_run()
    events = accumulator.EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    tags = events.Tags()
    assert set(tags["images"]) == {"samples", "overview"}
    rows = rows_of(run)
    assert [one.step for one in events.Scalars("log_prior")] == [row["step"] for row in rows]
    assert len(events.Images("samples")) == sum("test/log_prior" in row for row in rows)
    (text,) = events.Tensors("configuration/text_summary")
    assert "latent_dim: 4" in text.tensor_proto.string_val[0].decode()


def test_wandb_itself_offline(train, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is an extra: pip install 'pyro_lrp[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert train(*WATCHED, "logger=wandb")[0] == 0
    (folder,) = Path("wandb").glob("offline-run-*")
    assert list(folder.glob("run-*.wandb"))
    assert len(list((folder / "files/media/images").glob("samples*.png"))) >= 6
    assert train(*WATCHED, "logger=wandb")[0] == 0  # its links are no part of the run directory


def test_trackio_itself(tmp_path):
    pytest.importorskip("trackio", reason="trackio is an extra: pip install 'pyro_lrp[trackio]'")
    kept = tmp_path / "kept"  # the client reads the variable when it is imported
    process = start("train", *WATCHED, "logger=trackio", cwd=tmp_path, TRACKIO_DIR=str(kept))
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    rows = rows_of(tmp_path / "runs/watched/seed_0")
    with sqlite3.connect(kept / "pyro_lrp.db") as database:
        logged = database.execute("select step, metrics from metrics order by step").fetchall()
    assert {row["step"] for row in rows} == {step for step, _ in logged}
    assert len(list((kept / "media").rglob("*.png"))) >= 6


def test_a_logger_that_logs_nothing(tmp_path):
    logger = loggers.make_logger("none", tmp_path)
    logger.begin({})
    logger.row({"step": 1})
    logger.picture("samples", 1, torch.zeros(3, 4, 4, dtype=torch.uint8))
    logger.close()
    assert list(tmp_path.iterdir()) == []
