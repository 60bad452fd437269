"""Run a command as a user would, in a process of its own or, for speed, in this one."""

import atexit
import importlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

from joblib.externals.loky.backend import fork_exec

ROOT = Path(__file__).parents[1]
QUICK = ("data=fake", "epochs=1", "prior_epochs=1", "device=cpu", "progress=false", "trainer.evaluations=1")

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        *("torch._dynamo", "lightning_fabric", "sklearn.datasets", "joblib", "matplotlib.backends.backend_agg"),
        *("pyro_lrp.train", "pyro_lrp.config.run", "pyro_lrp.config.sweeps", "pyro_lrp.figures.training"),
    ]
)


class Unread:
    """In the place of ``capsys`` where nobody looks at what is printed."""

    def readouterr(self):
        return "", ""


def in_process(command, *arguments, capsys, monkeypatch):
    """``(exit code, stdout, stderr)`` of a command's ``main``, run here."""
    monkeypatch.setattr(sys, "argv", [f"pyro_lrp.{command}", *map(str, arguments)])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # so that what the command sets is undone
    main = importlib.import_module(f"pyro_lrp.{command}").main
    code: object = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code
        if isinstance(code, str):  # the interpreter would print it and exit with 1
            print(code, file=sys.stderr)
            code = 1
    out, err = capsys.readouterr()
    return code or 0, out, err


def only_run():
    """The one run of the current folder."""
    (directory,) = Path("runs").glob("*/seed_*")
    return directory


def start(command, *arguments, cwd, start_new_session=False, **environment):
    """A process that runs ``python -m pyro_lrp.<command>``, in a process group of its own if asked for."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(
        [sys.executable, "-m", f"pyro_lrp.{command}", *map(str, arguments)],
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=start_new_session,
    )


def forked(command, *arguments, cwd, fork_workers=False, **environment):
    """A process that runs a command, and has not to import torch first: its parent has, once for all tests.

    It leads a process group, and prints into ``output.txt`` of ``cwd``. With ``fork_workers`` the workers of
    joblib that it starts are forked from it, and need not import torch either.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    process = SERVER.Process(target=run_forked, args=(command, arguments, cwd, environment, fork_workers))
    process.start()
    return process


def run_forked(command, arguments, cwd, environment, fork_workers=False, output="output.txt"):
    """Run a command in this process, which was forked for it, and end as the interpreter does.

    As in the process of the tests, a training draws no curves.
    """
    os.setsid()
    os.chdir(cwd)
    sys.path.insert(0, str(cwd))  # as python -m does
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)  # which the package of Fabric sets
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [f"pyro_lrp.{command}", *map(str, arguments)]
    importlib.import_module("pyro_lrp.figures.training").training_curves = lambda rows, unit: None
    if fork_workers:
        fork_exec.fork_exec = _fork_instead
    try:
        importlib.import_module(f"pyro_lrp.{command}").main()
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()


def _fork_instead(words, keep_fds, env=None):
    """In the place of joblib's function: ``python -m MODULE ...`` is run by a fork of this process."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        warnings.simplefilter("ignore")  # the module is imported already, which runpy remarks
        os.environ.update(env or {})
        sys.argv = words[2:]
        runpy.run_module(words[2], run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        code = stop.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)


def composed(*arguments):
    """The identity of a run, without training it."""
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    from pyro_lrp import config

    with initialize_config_dir(config.conf_dir(), version_base="1.3"):
        cfg = compose("train", list(arguments), return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg.hydra
        return config.plan(cfg).identity
