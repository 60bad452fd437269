"""A training that is stopped, started twice or made longer, and the number of its threads."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from builders import small_game
from commands import QUICK, ROOT, forked, only_run, start
from test_trainer import _close, terms, trainer

from pyro_lrp.config import rundir
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.locks import one_writer
from pyro_lrp.core.stopping import Stopped
from pyro_lrp.trainer import Phase, snapshots, threads
from pyro_lrp.trainer.phases import lay_out

LAST = "checkpoints/last.safetensors"


@pytest.fixture(autouse=True)
def _interruptible():
    """A shell starts what runs in its background with SIGINT ignored, and a child inherits that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def send(number, at):
    """A callback for ``advance`` that sends a signal to this process during a step."""

    def install(training):
        advance = training.game.advance

        def advance_and_send(progress):
            if training.step == at:
                os.kill(os.getpid(), number)
            advance(progress)

        training.game.advance = advance_and_send
        return training

    return install


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [0, 4, 19, 27])
def test_a_signal_ends_the_step_and_loses_nothing(tmp_path, number, at):
    """Reports come every 9 steps; steps 0, 4 and 27 lie between two of them, 19 ends the joint phase."""
    options = {"report_every": 9, "save_minutes": 60}
    whole = trainer(directory=tmp_path / "whole", **options).fit()
    handlers = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    with pytest.raises(Stopped, match=f"stopped at step {at + 1} of 35, and saved in") as stopped:
        send(number, at)(trainer(directory=tmp_path / "parts", **options)).fit()
    assert stopped.value.signal == number
    assert handlers == [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    rows = trainer(directory=tmp_path / "parts", **options).fit()
    assert (tmp_path / "parts" / LAST).read_bytes() == (tmp_path / "whole" / LAST).read_bytes()
    assert _close(terms(rows), terms(whole), timing=set())


def test_a_second_signal_acts_at_once(tmp_path):
    training = trainer(directory=tmp_path)

    def twice(progress):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)  # the handler runs before the next line
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)

    training.game.advance = twice
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt) as stopped:
        training.fit()
    assert not isinstance(stopped.value, Stopped)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_command_says_what_to_type(tmp_path, number, code):
    arguments = ("data=fake", "network=mlp", "epochs=20000", "progress=false", "name=my run", "device=cpu")
    process = forked("train", *arguments, cwd=tmp_path)
    run = tmp_path / "runs/my run/seed_0"
    printed = tmp_path / "output.txt"
    deadline = time.monotonic() + 120
    while not (run / "metrics.jsonl").is_file() or not (run / "metrics.jsonl").read_text():
        assert time.monotonic() < deadline
        assert process.is_alive(), printed.read_text()
        time.sleep(0.05)
    os.kill(process.pid, number)
    process.join(60)
    output = printed.read_text()
    assert process.exitcode == code, output
    last = output.splitlines()[-1].strip()
    assert last == f"python -m pyro_lrp.train {' '.join(arguments[:4])} 'name=my run' device=cpu"
    assert (run / LAST).is_file()


WHILE_IMPORTING = {  # the module that is imported, and what is printed
    "omegaconf": "interrupted before anything began\n",
    "torch": "interrupted; the same command goes on:\n  python -m pyro_lrp.train model=vae\n",
}


@pytest.mark.parametrize("module", WHILE_IMPORTING)
def test_ctrl_c_while_modules_are_imported_is_a_plain_line(tmp_path, module):
    """A module of that name sends the signal: before the command begins, and once it needs torch."""
    (tmp_path / f"{module}.py").write_text(
        "import os, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
    )
    process = start("train", "model=vae", cwd=tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}")
    output, _ = process.communicate(timeout=120)
    assert output == WHILE_IMPORTING[module]
    assert process.returncode in (130, -signal.SIGINT)  # a shell says 130 of both


# ----------------------------------------------------------------- one writer


def test_a_lock_is_refused_or_waited_for_and_never_stale(tmp_path, capsys):
    """A process that is killed while it holds the lock blocks nobody."""
    code = (
        "import sys, time; from pathlib import Path; from pyro_lrp.core.locks import one_writer\n"
        "with one_writer(Path(sys.argv[1]), what='a'):\n"
        "    print('held', flush=True); time.sleep(float(sys.argv[2]))"
    )
    path = tmp_path / "lock"

    def holder(seconds):
        process = subprocess.Popen([sys.executable, "-c", code, str(path), seconds], stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"held\n"
        return process

    process = holder("600")
    with (
        pytest.raises(UserError, match=f"b is being written by process {process.pid} on "),
        one_writer(path, what="b"),
    ):
        pytest.fail("two writers")
    process.kill()
    process.communicate()
    with one_writer(path, what="b"), one_writer(path, what="b"):  # a process may take its lock again
        pass
    process = holder("0.5")
    with one_writer(path, what="b", wait=True):
        process.communicate(timeout=10)
    assert f"process {process.pid}" in capsys.readouterr().err


def test_a_run_has_one_writer(train, trained_by):
    run = trained_by(*QUICK)
    arguments = ("data=fake", "network=mlp", "epochs=20000", "progress=false", "name=long")
    process = forked("train", *arguments, cwd=run.parents[2])
    try:
        second = run.parents[2] / "runs/long/seed_0"
        deadline = time.monotonic() + 120
        while not (second / "metrics.jsonl").is_file():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for options in ((), ("overwrite=true",)):
            code, _, err = train("data=fake", "network=mlp", "epochs=20000", "name=long", *options)
            assert code == 1
            assert f"runs/long/seed_0 is being written by process {process.pid}" in err
        with pytest.raises(UserError, match=f"process {process.pid}"):
            trainer(directory=second).fit()
        assert process.is_alive()
    finally:
        process.kill()
        process.join()


# ----------------------------------------------------------------- longer phases


@pytest.mark.parametrize(
    ("before", "after", "step", "expected"),
    [
        ((4, 3), (4, 3), 30, 30),  # nothing changed
        ((4, 3), (4, 5), 35, 35),  # the prior goes on
        ((4, 3), (6, 3), 35, 20),  # the joint phase goes on, then the prior anew
        ((4, 3), (6, 3), 12, 12),
        ((4, 3), (6, 9), 27, 20),
        ((4, 3), (2, 3), 35, 35),  # shorter: left to the caller, who compares it with the total
        ((4, 0), (4, 3), 20, 20),
    ],
)
def test_training_goes_on_where_the_first_unfinished_phase_was(before, after, step, expected):
    """Five steps an epoch; the joint phase is that of 4 epochs, and so on."""

    def spans(lengths):
        phases = [Phase("joint", lengths[0]), Phase("prior_only", lengths[1])]
        return lay_out(small_game(), phases, lambda name: 10, 58)[0]

    phases = [[span.name, span.stop - span.start] for span in spans(before)]
    assert snapshots.position(spans(after), {"step": step, "phases": phases}) == expected


def test_a_longer_training_goes_on_in_the_same_directory(tmp_path):
    trainer(directory=tmp_path).fit()
    rows = trainer(directory=tmp_path, phases=(Phase("joint", 6), Phase("prior_only", 3))).fit()
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps))
    assert [row["phase"] for row in rows if row["step"] in (20, 30, 45)] == ["joint", "joint", "prior_only"]


def test_extend_goes_on_with_a_run_and_nothing_else_does(train, trained_by):
    run = trained_by(*QUICK)
    assert train(*QUICK, "epochs=3")[0] == 1
    assert "extend=true goes on" in train(*QUICK, "epochs=3")[2]
    code, _, err = train(*QUICK, "epochs=3", "lr=0.1", "extend=true")
    assert code == 1
    assert "lr" in err
    code, _, err = train(*QUICK, "epochs=3", "extend=true")
    assert code == 0, err
    assert "resumes at step 2 of 8" in err
    summary = json.loads((run / "summary.json").read_text())
    assert summary["final"]["step"] == 8
    assert train(*QUICK, "epochs=1", "extend=true")[0] == 1


# ----------------------------------------------------------------- threads


def test_small_networks_get_one_thread_and_large_ones_the_idle_cores(monkeypatch):
    monkeypatch.setattr(threads, "affordable", lambda: 7)
    said = []

    def product(size):
        a = torch.zeros(size, 1000)
        return lambda: a.T @ a

    assert threads.work_of(product(1000)) == 2e9
    assert threads.settled("auto", None, product(1000), said.append) == 1
    assert threads.settled("auto", None, product(3000), said.append) == 7
    assert threads.settled("auto", 3, product(3000), said.append) == 3
    assert threads.settled(2, None, product(3000), said.append) == 2
    assert threads.settled(None, None, product(3000), said.append) == torch.get_num_threads()
    assert said == []
    assert threads.settled(2, 1, product(1000), said.append) == 2
    assert said == ["goes on with threads=2, begun with 1: results may differ in rounding"]


def test_the_number_of_threads_is_kept_stated_and_restored(train):
    before = torch.get_num_threads()
    code, _, err = train(*QUICK, "threads=3")
    assert code == 0
    assert torch.get_num_threads() == before
    assert "on cpu, 3 threads" in err
    run = only_run()
    assert json.loads((run / "summary.json").read_text())["circumstances"]["threads"] == 3
    code, _, err = train(*QUICK, "epochs=2", "extend=true")
    assert "on cpu, 3 threads" in err
    code, _, err = train(*QUICK, "threads=0")
    assert "threads must be auto, or a whole number of at least 1" in err


def test_evaluations_take_their_turn_and_the_number_of_threads(train, trained_by):
    """While another process evaluates, a second one waits, and then finds the results there."""
    run = trained_by(*QUICK)
    before = torch.get_num_threads()
    options = (f"run={run}", "metrics=[reconstruction_mse]", "threads=2")
    code = (
        "import sys, time; from pathlib import Path; from pyro_lrp.config import rundir\n"
        "with rundir.evaluating(Path(sys.argv[1], 'evaluation.json')):\n"
        "    print('held', flush=True); time.sleep(3)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(run)], stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"held\n"
        code, out, err = train(*options, command="evaluate")
        assert code == 0, err
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
        other.communicate(timeout=30)
    assert f"evaluation.json is being written by process {other.pid}" in err
    assert "reconstruction_mse" in out


def test_a_directory_that_cannot_be_locked_is_evaluated_all_the_same(train, trained_by, monkeypatch):
    def refused(*arguments, **options):
        raise PermissionError

    trained_by(*QUICK)
    monkeypatch.setattr(rundir, "one_writer", refused)
    assert train(f"run={only_run()}", "metrics=[reconstruction_mse]", command="evaluate")[0] == 0
