"""Commands in processes of their own that need not import torch again: they are forked from this one.

It reads requests from its standard input, a JSON object a line, and answers each with one. Faults are put into
the forked process alone; the library knows nothing of them. With ``TRUST_CURVES=none`` in the environment
trainings draw no curves, which take longer than a small one.
"""

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import time

COMMANDS = ("train", "evaluate", "sample", "report", "check", "fit", "figure", "export")


def main():
    sys.dont_write_bytecode = True
    for name in COMMANDS:
        importlib.import_module(f"pyro_lrp.{name}")
    for name in (
        *(
            "pyro_lrp.trainer.reporting",
            "pyro_lrp.figures.training",
            "pyro_lrp.config.evaluating",
            "pyro_lrp.fitting",
        ),
        *("pyro_lrp.reports", "pyro_lrp.figures", "pyro_lrp.config.sweeps", "sklearn.datasets", "torchvision"),
        *("matplotlib.backends.backend_agg", "pyro_lrp.sharing", "torch.optim.adam", "torch._dynamo"),
    ):
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    if os.environ.get("TRUST_CURVES") == "none":
        sys.modules["pyro_lrp.figures.training"].training_curves = lambda rows, unit: None
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer = start(request) if "command" in request else wait(**request)
        print(json.dumps(answer), flush=True)


def start(request):
    pid = os.fork()
    if pid:
        return {"pid": pid}
    code = 70
    try:
        code = child(**request)
    except BaseException as error:  # never back into the loop of the parent
        print("the harness failed:", repr(error), file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(pid, seconds):
    """The end of a process, which is killed after some seconds."""
    deadline = time.monotonic() + seconds
    timed_out = False
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            timed_out = True
            os.kill(pid, signal.SIGKILL)
            deadline += 60
        time.sleep(0.005)
    return {
        "code": os.waitstatus_to_exitcode(status),
        "timed_out": timed_out,
        "mib": usage.ru_maxrss // 1024,
        "cpu": usage.ru_utime + usage.ru_stime,
    }


def child(command, arguments, cwd, output, environment, faults):
    """Run a command; returns its exit code."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdin = open(0, closefd=False)
    os.chdir(cwd)
    os.environ.update(environment)
    for name, value in faults.items():
        FAULTS[name](value)
    sys.argv = [f"pyro_lrp.{command}", *arguments]
    entry = importlib.import_module(f"pyro_lrp.{command}").main
    try:
        entry()
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
            return 1
        return stop.code or 0
    return 0


# ------------------------------------------------------------------ faults


def die_at_rename(value):
    """Die at the n-th rename, just before it or just after it."""
    number, after = value
    count = [0]

    def fatal(real):
        def rename(*arguments, **options):
            count[0] += 1
            mine = count[0] == number
            if mine and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*arguments, **options)
            if mine:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return rename

    os.replace = fatal(os.replace)
    os.rename = fatal(os.rename)


def count_renames(file):
    """Write the number of renames so far to a file."""
    count = [0]

    def counted(real):
        def rename(*arguments, **options):
            count[0] += 1
            with open(file, "w") as target:
                target.write(str(count[0]))
            return real(*arguments, **options)

        return rename

    os.replace = counted(os.replace)
    os.rename = counted(os.rename)


def largest_file(size):
    """No file may grow beyond some bytes: the write fails as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def ordinary_user(_):
    """Obey the permissions of files, as root does not (capabilities DAC_OVERRIDE and DAC_READ_SEARCH)."""
    if os.getuid():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    for position in range(3):
        sets[position] &= ~0b110
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


def clock(step):
    """Each look at the clock finds it some seconds earlier than the last one."""
    now = [time.time()]

    def backwards():
        now[0] -= step
        return now[0]

    time.time = backwards


def slow(seconds):
    """Sleep at each report of a training, so that there is time to hit it."""
    from pyro_lrp.trainer.history import History

    append = History.append

    def append_slowly(history, row):
        append(history, row)
        time.sleep(seconds)

    History.append = append_slowly


def nan_gradient(step):
    """The gradient of one parameter is not a number from some step on."""
    import torch

    adam = torch.optim.Adam.step
    count = [0]

    def poisoned(optimizer, *arguments, **options):
        count[0] += 1
        if count[0] >= step:
            optimizer.param_groups[0]["params"][0].grad.fill_(float("nan"))
        return adam(optimizer, *arguments, **options)

    torch.optim.Adam.step = poisoned


def nan_parameter(step):
    """One parameter is infinite after some step, whatever the loss was."""
    import torch

    adam = torch.optim.Adam.step
    count = [0]

    def poisoned(optimizer, *arguments, **options):
        result = adam(optimizer, *arguments, **options)
        count[0] += 1
        if count[0] >= step:
            with torch.no_grad():
                optimizer.param_groups[0]["params"][0].fill_(float("inf"))
        return result

    torch.optim.Adam.step = poisoned


FAULTS = {
    "die_at_rename": die_at_rename,
    "count_renames": count_renames,
    "largest_file": largest_file,
    "ordinary_user": ordinary_user,
    "clock": clock,
    "slow": slow,
    "nan_gradient": nan_gradient,
    "nan_parameter": nan_parameter,
}

if __name__ == "__main__":
    main()
