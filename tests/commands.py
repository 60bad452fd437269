"""Run a command as a user would, in a process of its own or, for speed, in this one."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
QUICK = ("data=fake", "epochs=1", "prior_epochs=1", "device=cpu", "progress=false", "trainer.evaluations=1")

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["torch._dynamo", "sklearn.datasets", "pyro_lrp.train", "pyro_lrp.config.run", "pyro_lrp.figures.training"]
)


class Unread:
    """In the place of ``capsys`` where nobody looks at what is printed."""

    def readouterr(self):
        return "", ""


def in_process(command, *arguments, capsys, monkeypatch):
    """``(exit code, stdout, stderr)`` of a command's ``main``, run here."""
    import importlib

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


def forked(command, *arguments, cwd):
    """A process that runs a command, and has not to import torch first: its parent has, once for all tests.

    What it prints is in ``output.txt`` of ``cwd``.
    """
    process = SERVER.Process(target=_command, args=(command, arguments, cwd), daemon=True)
    process.start()
    return process


def _command(command, arguments, cwd):
    import importlib

    os.chdir(cwd)
    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.argv = [f"pyro_lrp.{command}", *map(str, arguments)]
    importlib.import_module(f"pyro_lrp.{command}").main()


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
