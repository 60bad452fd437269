"""Sweeps: members are what plain commands make; what is complete is skipped, and what fails is named."""

import importlib
import json
import os
import re
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import yaml
from commands import QUICK, forked

LAST = "checkpoints/last.safetensors"
SMALL = (  # about 20 tiny steps
    *("data=fake", "data.image_shape=[1,8,8]", "data.n=120", "latent_dim=4", "network.hidden_dims=[32]"),
    *("batch_size=50", "epochs=4", "prior_epochs=2", "device=cpu", "progress=false", "trainer.evaluations=1"),
)
LONG = (*SMALL, "epochs=90000", "trainer.report_every=5")  # until it is stopped
PLUGINS = {"joblib": "joblib", "submitit_local": "submitit", "ray": "ray"}
ONE_PROCESS = {  # for all members of a sweep: another process would have to import torch, too
    "joblib": ("hydra.launcher.n_jobs=2", "hydra.launcher.batch_size=2"),
    "submitit_local": (),
    "ray": ("+hydra.launcher.ray.init.num_cpus=1", "+hydra.launcher.ray.init.include_dashboard=false"),
}
SECONDS = 300  # after which a process that hangs is ended


@contextmanager
def process(*arguments, cwd, **options):
    """A command in a process group of its own, all of which is gone after the block."""
    child = forked("train", *arguments, cwd=cwd, **options)
    try:
        yield child
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.join()


def ended(child, cwd):
    """The exit code and the output of a command, once it has ended."""
    child.join(SECONDS)
    return child.exitcode, (cwd / "output.txt").read_text()


def finish(*arguments, cwd, **options):
    """The exit code and the output of a command."""
    with process(*arguments, cwd=cwd, **options) as child:
        return ended(child, cwd)


def needs(launcher):
    plugin = f"hydra_plugins.hydra_{PLUGINS[launcher]}_launcher"
    if importlib.util.find_spec("hydra_plugins") is None or importlib.util.find_spec(plugin) is None:
        pytest.skip(f"needs hydra-{PLUGINS[launcher]}-launcher")


def everything(folder):
    """All files below a folder, but for what a forked command prints."""
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {path.relative_to(folder) for path in files if path.name != "output.txt"}


# ----------------------------------------------------------------- members


def test_members_are_the_runs_of_plain_commands(train, tmp_path):
    swept = ("beta=0,0.5", "prior=flow,standard_normal")
    code, out, err = train("-m", *SMALL, *swept)
    assert code == 0, err
    assert next(line for line in out.splitlines() if line.startswith("[")) == "[1/4] beta=0 prior=flow"
    assert {path.parts[0] for path in everything(".")} == {"runs", "cache"}
    runs = sorted(Path("runs").glob("*/seed_*"))
    assert len(runs) == 4
    Path("runs").rename("swept")
    for beta, prior in (("0", "flow"), ("0.5", "standard_normal")):
        code, _, err = train(*SMALL, f"beta={beta}", f"prior={prior}")
        assert code == 0, err
    plain = sorted(Path("runs").glob("*/seed_*"))
    assert len(plain) == 2
    assert set(plain) < set(runs)
    for run in plain:
        swept_run = Path("swept", run.relative_to("runs"))
        assert everything(run) == everything(swept_run)
        for name in ("config.yaml", LAST):
            assert (run / name).read_bytes() == (swept_run / name).read_bytes()


def test_a_complete_member_is_one_line_and_a_plain_command_resumes_a_member(train, interrupt_at):
    interrupt_at(6)
    code, _, err = train("-m", *SMALL, "seed=0,1", "trainer.report_every=3", "trainer.save_minutes=0")
    assert code == 130
    assert "the same command goes on:\n  python -m pyro_lrp.train -m data=fake" in err
    assert not Path("runs/vae_flow-flow-fake-beta_0/seed_1").exists()
    plain = (*SMALL, "trainer.report_every=3", "trainer.save_minutes=0")
    code, _, err = train(*plain, "seed=0")
    assert code == 0, err
    assert "resumes at step" in err
    code, out, err = train("-m", *plain, "seed=0,1")
    assert code == 0, err
    first, second, *_ = out.splitlines()
    assert first == "[1/2] seed=0: runs/vae_flow-flow-fake-beta_0/seed_0 is trained"
    assert second == "[2/2] seed=1"
    assert "seed_0" not in err


def test_a_complete_member_of_another_identity_fails(train):
    assert train(*SMALL, "name=x")[0] == 0
    code, _, err = train("-m", *SMALL, "name=x", "seed=0,1", "prior_epochs=3")
    assert code == 1
    assert Path("runs/x/seed_1/summary.json").is_file()
    assert "error: 1 of 2 members of the sweep failed:\n  seed=0: runs/x/seed_0 holds another run" in err


REFUSED = {
    "one directory": (
        ("name=x", "beta=0,1", "seed=0,1"),
        "beta=0 seed=0 and beta=1 seed=0 would share the run directory runs/x/seed_0: put what differs into "
        "its name, such as 'name=x-beta_${beta}'",
    ),
    "what the usual name does not tell": (
        ("latent_dim=2,4", "network=mlp,infogan_small"),
        "such as 'name=sweep-latent_dim_${latent_dim}-network_${hydra:runtime.choices.network}'",
    ),
    "twice": (("seed=1,1",), "seed=1 stands twice in the sweep"),
    "impossible": (("beta=0,-1",), "beta=-1: beta must be a finite number of at least 0, got -1"),
    "unknown": (("prior=flow,flaw",), "prior=flaw is unknown; the known ones are: "),
    "metric": (
        ("beta=0,1", "evaluate_with=[beauty]"),
        "evaluate_with: beauty is unknown; the known ones are: ",
    ),
    "sweeper": (("beta=0,1", "hydra/sweeper=mine"), "hydra/sweeper=mine is unknown"),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_mistakes_are_refused_before_anything_is_trained(train, mistake):
    arguments, message = REFUSED[mistake]
    code, _, err = train("-m", *QUICK, *arguments)
    assert code == 1
    assert message in err
    assert err.count("\n") == 1
    assert not Path("runs").exists()


def test_the_name_that_a_refusal_suggests_serves(train):
    name = "name=sweep-latent_dim_${latent_dim}-network_${hydra:runtime.choices.network}"
    code, _, err = train("-m", *QUICK, "latent_dim=2,4", "network=mlp,infogan_small", name, "epochs=0")
    assert code == 0, err
    assert len(list(Path("runs").iterdir())) == 4


def test_a_launcher_that_is_not_installed(train, monkeypatch):
    from hydra.core.config_store import ConfigStore

    launchers = ConfigStore.instance().repo["hydra"]["launcher"]
    monkeypatch.delitem(launchers, "joblib.yaml", raising=False)
    code, _, err = train("-m", *SMALL, "seed=0,1", "hydra/launcher=joblib")
    assert code == 1
    assert err == "error: hydra/launcher=joblib needs packages: pip install 'pyro_lrp[sweeps]'\n"


# ----------------------------------------------------------------- evaluate_with


def results(run):
    return json.loads((run / "evaluation.json").read_text())


def test_evaluate_with_is_the_command_evaluate(train):
    metrics = "[reconstruction_mse,interpolation_distance]"
    code, out, err = train(*SMALL, "name=with", f"evaluate_with={metrics}")
    assert code == 0, err
    assert "reconstruction_mse" in out
    code, _, err = train("-m", *SMALL, "name=after", "seed=0,1")
    assert code == 0, err
    code, _, err = train(f"metrics={metrics}", "run=runs/after/seed_0", "progress=false", command="evaluate")
    assert code == 0, err
    alone = results(Path("runs/after/seed_0"))
    assert alone == results(Path("runs/with/seed_0"))
    assert "evaluate_with" not in yaml.safe_load(Path("runs/with/seed_0/config.yaml").read_text())
    stamp = os.stat("runs/after/seed_0/evaluation.json").st_mtime_ns
    code, out, err = train("-m", *SMALL, "name=after", "seed=0,1", f"evaluate_with={metrics}")
    assert code == 0, err
    assert os.stat("runs/after/seed_0/evaluation.json").st_mtime_ns == stamp
    assert results(Path("runs/after/seed_1")).keys() == alone.keys()


def test_a_metric_that_cannot_be_computed_is_refused_before_training(train):
    code, _, err = train(*SMALL, "name=x", "evaluate_with=separability")
    assert code == 1
    assert err.startswith("error: evaluate_with: separability needs")
    assert not Path("runs").exists()


# ----------------------------------------------------------------- launchers


def test_joblib_with_one_process_is_this_one(train, interrupt_at):
    needs("joblib")
    options = ("seed=0,1", "trainer.report_every=3", "hydra/launcher=joblib", "hydra.launcher.n_jobs=1")
    interrupt_at(6)
    code, _, err = train("-m", *SMALL, *options)
    assert code == 130, err
    assert not Path("runs/vae_flow-flow-fake-beta_0/seed_1").exists()
    code, out, err = train("-m", *SMALL, *options)
    assert code == 0, err
    assert out.count("is trained now") == 2
    assert [path.name for path in Path("runs").iterdir()] == ["vae_flow-flow-fake-beta_0"]


@pytest.mark.parametrize("launcher", PLUGINS)
def test_members_in_processes_of_their_own(tmp_path, launcher, train):
    """One succeeds, as its plain command would, with one thread; the failure of another is carried back."""
    needs(launcher)
    name = "name=run_${batch_size}"
    options = (f"hydra/launcher={launcher}", *ONE_PROCESS[launcher])
    sweep = ("-m", *SMALL, name, "batch_size=5000,50", *options)
    code, output = finish(*sweep, cwd=tmp_path, OMP_NUM_THREADS="2")
    assert code == 1, output
    failed = (
        "error: 1 of 2 members of the sweep failed:\n  batch_size=5000: batch_size must be between 1 and the"
    )
    assert failed in output
    if launcher != "submitit_local":  # which keeps what members print in files
        assert "batch_size=50 | runs/run_50/seed_0 is trained now, in " in output
    assert "step 3" not in output
    assert {path.parts[0] for path in everything(tmp_path)} <= {"runs", "cache"}
    code, _, err = train(*SMALL, "batch_size=50", "name=alone")
    assert code == 0, err
    run = tmp_path / "runs/run_50/seed_0"
    assert (run / LAST).read_bytes() == Path("runs/alone/seed_0", LAST).read_bytes()
    assert json.loads((run / "summary.json").read_text())["circumstances"]["threads"] == 1


def wait_for(child, *files):
    deadline = time.monotonic() + SECONDS
    while not all(path.is_file() for path in files):
        assert child.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ends(group):
    """Whether all processes of a group end by themselves within some seconds."""
    deadline = time.monotonic() + 30
    while alive(group) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not alive(group)


def alive(group):
    """Whether processes of a group run."""
    done = subprocess.run(["ps", "-eo", "pgid,stat"], capture_output=True, text=True, check=True)
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    return any(int(number) == group and not state.startswith("Z") for number, state in rows)


def test_ctrl_c_saves_and_ends_all_processes(tmp_path):
    needs("joblib")
    sweep = ("-m", *LONG, "seed=0,1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    runs = [tmp_path / f"runs/vae_flow-flow-fake-beta_0/seed_{seed}" for seed in range(3)]
    with process(*sweep, cwd=tmp_path, fork_workers=True) as child:
        wait_for(child, *(run / "metrics.jsonl" for run in runs[:2]))
        os.killpg(child.pid, signal.SIGINT)
        code, output = ended(child, tmp_path)
        assert code == 130, output
        assert ends(child.pid)
    assert "the same command goes on:\n  python -m pyro_lrp.train -m" in output
    assert all((run / LAST).is_file() for run in runs[:2])
    assert not runs[2].exists()
    assert {path.parts[0] for path in everything(tmp_path)} == {"runs"}


def test_a_killed_sweep_is_completed_without_what_is_complete(tmp_path):
    needs("joblib")
    sweep = ("-m", *SMALL, "seed=0,1,2", "epochs=100", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    runs = [tmp_path / f"runs/vae_flow-flow-fake-beta_0/seed_{seed}" for seed in range(3)]
    with process(*sweep, cwd=tmp_path, fork_workers=True) as child:
        wait_for(child, runs[0] / "summary.json", runs[2] / "metrics.jsonl")
        os.killpg(child.pid, signal.SIGKILL)
    complete = [run for run in runs if (run / "summary.json").is_file()]
    assert 1 <= len(complete) < 3
    stamps = [os.stat(run / LAST).st_mtime_ns for run in complete]
    code, output = finish(*sweep, cwd=tmp_path, fork_workers=True)
    assert code == 0, output
    assert [os.stat(run / LAST).st_mtime_ns for run in complete] == stamps
    assert all((run / "summary.json").is_file() for run in runs)
    assert output.count("is trained now") == 3 - len(complete)


def test_a_process_that_is_killed_ends_no_other_member(tmp_path):
    """As the system does where memory runs out."""
    needs("joblib")
    (tmp_path / "deadly.py").write_text(
        "import os, signal, torch\n"
        "from pyro_lrp.data import fake\n"
        "def images(dies, **options):\n"
        "    print('threads:', torch.get_num_threads())\n"
        "    if dies:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return fake(**options)\n"
    )
    options = ("data._target_=deadly.images", "+data.dies=true,false", "allow_targets=[deadly.]")
    launcher = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    sweep = ("-m", *SMALL, *options, "name=dies_${data.dies}", *launcher)
    code, output = finish(*sweep, cwd=tmp_path, fork_workers=True, OMP_NUM_THREADS="2")
    assert code == 1, output
    assert set(re.findall(r"threads: (\d+)", output)) == {"1"}
    assert "1 of 2 members of the sweep failed:\n  +data.dies=True: its process ended without" in output
    assert (tmp_path / "runs/dies_False/seed_0/summary.json").is_file()
