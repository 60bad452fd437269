"""Several processes that train one run: shared steps against steps taken alone, and the command."""

import contextlib
import copy
import os
import signal
import time
from pathlib import Path

import pytest
import shared_steps
import torch
from builders import difference
from commands import in_process, start
from shared_steps import compared, launched

from pyro_lrp.config import Run
from pyro_lrp.core.errors import UserError
from pyro_lrp.trainer.batch_norm import SharedStatistics
from pyro_lrp.trainer.capture import choose_compile
from pyro_lrp.trainer.processes import OwnRows

SECONDS = 300  # after which a process that hangs is ended
TINY = (
    "data=digits", "data.limit=500", "network=mlp", "network.hidden_dims=[16]", "data.flow.layers=2",
    "data.flow.width=16", "batch_size=50", "prior_batch_size=50", "device=cpu", "threads=1", "progress=false",
    "trainer.evaluations=1",
)  # fmt: skip


def ended(process, seconds=SECONDS):
    """Exit code and output of a process, which is ended with all its children if it takes too long."""
    try:
        out, _ = process.communicate(timeout=seconds)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, out


def train_both(folder, *arguments):
    """Train in two processes, as ``torchrun`` would; what both print."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launched(shared_steps.train, folder, (*TINY, *arguments), environment)
    return [(folder / f"output_{rank}.txt").read_text() for rank in range(2)]


def parameters(folder, name):
    return Run(folder / "runs" / name / "seed_0").checkpoint["game"]


def test_two_processes_take_the_steps_of_one():
    """In float64: a game whose noise, gradients or statistics were shared wrongly is far away."""
    found, _ = launched(compared).values()
    # batch norm of the neural sampler, and permutations of codes, see the rows of one process
    apart = {"total correlation", "adversarial", "adversarial, beta on a ramp", "convolutional"}
    assert {name: value for name, value in found.items() if name not in apart and not value < 1e-6} == {}
    assert apart < found.keys()
    assert found["convolutional"] > 1e-3 > 1e-6 > found["convolutional, synchronised"]


DRAWS = {
    "randn": lambda n: torch.randn(n, 4),
    "rand": lambda n: torch.rand((n, 2)),
    "size": lambda n: torch.randn(size=(n, 1)),
    "randn_like": lambda n: torch.randn_like(torch.ones(n, 3)),
    "rand_like": lambda n: torch.rand_like(torch.ones(n, 3)),
    "normal": lambda n: torch.normal(torch.ones(n, 3), 2 * torch.ones(n, 3)),
    "rsample": lambda n: torch.distributions.Normal(torch.ones(n, 3), 2.0).rsample(),
    "expanded": lambda n: torch.distributions.Normal(torch.zeros(3), 1.0).expand([n, 3]).sample(),
    "sample": lambda n: torch.distributions.Normal(torch.zeros(3), 1.0).rsample((n,)),
    "categorical": lambda n: torch.distributions.Categorical(torch.ones(4)).sample((n,)),
    "multivariate": lambda n: torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2)).rsample(
        (n,)
    ),
    "uniform": lambda n: torch.distributions.Uniform(torch.zeros(2), 1.0).sample((n,)),
    "dropout": lambda n: torch.nn.functional.dropout(torch.ones(n, 5), 0.3),
    "Dropout": lambda n: torch.nn.Dropout(0.5)(torch.ones(n, 5)),
    "in eval mode": lambda n: torch.nn.Dropout(0.5).eval()(torch.ones(n, 5)),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@pytest.mark.parametrize("size", [2, 3])
def test_noise_is_that_of_the_rows(draw, size):
    torch.manual_seed(0)
    whole = draw(6)
    for rank in range(size):
        torch.manual_seed(0)
        with OwnRows(rank, size):
            own = draw(6 // size)
        assert torch.equal(own, whole[rank::size])


def test_draws_without_replacement_are_left_as_they_are():
    torch.manual_seed(0)
    expected = torch.multinomial(torch.ones(4), 4)
    torch.manual_seed(0)
    with OwnRows(1, 2):  # of eight draws out of four there are none
        assert torch.equal(torch.multinomial(torch.ones(4), 4), expected)


@pytest.mark.parametrize("kind", ["graph", "full"])
def test_steps_of_several_processes_are_neither_captured_nor_compiled(kind):
    assert choose_compile("auto", torch.device("cuda"), processes=2) == "off"
    with pytest.raises(UserError, match=f"compile={kind} is for one process"):
        choose_compile(kind, torch.device("cuda"), processes=2)


NORMS = {
    "of vectors": (torch.nn.BatchNorm1d(3), (6, 3)),
    "of images": (torch.nn.BatchNorm2d(3, momentum=0.3), (6, 3, 2, 2)),
    "without parameters": (torch.nn.BatchNorm1d(3, affine=False), (6, 3)),
    "without running statistics": (torch.nn.BatchNorm1d(3, track_running_stats=False), (6, 3)),
    "in eval mode": (torch.nn.BatchNorm1d(3).eval(), (6, 3)),
}


@pytest.mark.parametrize("name", NORMS)
def test_one_process_normalizes_as_torch_does(name):
    """Values, gradients and running statistics."""
    norm, shape = NORMS[name]
    ends = []
    for shared in (False, True):
        torch.manual_seed(0)
        copied = copy.deepcopy(norm).double()
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        with SharedStatistics(torch.clone, 0, 1) if shared else contextlib.nullcontext():
            y = copied(x)
        (y * torch.randn_like(y)).sum().backward()
        ends.append([y, x.grad, *copied.buffers(), *(p.grad for p in copied.parameters())])
    for expected, found in zip(*ends, strict=True):
        torch.testing.assert_close(found, expected)


def test_statistics_of_half_precision_are_those_of_float32():
    x = (100 + torch.randn(64, 2)).bfloat16()
    with SharedStatistics(torch.clone, 0, 1):
        y = torch.nn.BatchNorm1d(2)(x)
    assert y.dtype == torch.bfloat16
    assert y.float().std(0, correction=0).tolist() == pytest.approx([1.0, 1.0], abs=0.01)


def test_a_run_goes_on_with_another_number_of_processes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    begun = ("epochs=1", "prior_epochs=0")
    longer = ("epochs=2", "prior_epochs=1", "extend=true")

    def alone(*arguments):
        code, _, err = in_process("train", *TINY, *arguments, capsys=capsys, monkeypatch=monkeypatch)
        assert code == 0, err

    outputs = train_both(tmp_path, *begun, "name=both")
    assert ["try next:" in out for out in outputs] == [True, False]  # the first of them prints
    alone(*longer, "name=both")
    alone(*begun, "name=one")
    alone(*longer, "name=one")
    # float32 and Adam amplify rounding: after 75 steps of 1e-4 parameters could be 7e-3 apart
    assert difference(parameters(tmp_path, "one"), parameters(tmp_path, "both"), least=1e-2) < 1e-3
    first, other = train_both(tmp_path, *longer, "name=both")
    assert "is already trained" in first
    assert other == ""


def test_ctrl_c_saves_once_and_ends_all(tmp_path):
    process = start(
        "train",
        *TINY,
        "epochs=3000",
        "devices=2",
        "trainer.report_every=5",
        cwd=tmp_path,
        start_new_session=True,
    )
    rows = tmp_path / "runs" / "vae_flow-flow-digits-beta_0" / "seed_0" / "metrics.jsonl"
    stop = time.monotonic() + SECONDS
    while not rows.is_file() and process.poll() is None and time.monotonic() < stop:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    code, out = ended(process)
    assert code == 130, out
    assert out.count("the same command goes on") == 1
    assert Run(rows.parent).step > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("devices=3",), "batch_size=50 cannot be divided among 3 processes"),
        (("nodes=5", "prior_batch_size=52"), "prior_batch_size=52 cannot be divided among 5 processes"),
        (("devices=0",), "devices must be a whole number of at least 1"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = in_process("train", *TINY, *arguments, capsys=capsys, monkeypatch=monkeypatch)
    assert (code, message in err, err.count("\n")) == (1, True, 1), err
    assert not Path("runs").exists()
