"""Captured steps are eager ones bit for bit, on a recorder that repeats kernels as a CUDA graph does."""

import contextlib
import copy
import json
import warnings

import pyro
import pytest
import torch
from builders import GAMES, small_autoencoder, small_game
from commands import QUICK, only_run
from presets import UNETS, ZOO, planned
from recorded_graph import RecordedGraph
from test_step import RAMP
from torch._subclasses.fake_tensor import FakeTensorMode

from pyro_lrp import data, objectives, schedules
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.randomness import seeded
from pyro_lrp.data import Batch
from pyro_lrp.schedules import Progress
from pyro_lrp.trainer import Phase, PriorPhase, Trainer, capture, loop
from pyro_lrp.trainer import step as step_module
from pyro_lrp.trainer.capture import CapturedStep, StepFactory, choose_compile
from pyro_lrp.trainer.obstacles import Watch, watched

ALL = {**GAMES, **RAMP}
BOTH = [Phase("joint", 1), Phase("prior_only", 1)]
CLOCK = ("seconds", "images_per_second")


def captured(run, graph=RecordedGraph):
    """A trainer, made to capture its steps with a recorder."""
    run.step_factory = StepFactory("graph", run.log, graph)
    return run


def trainer(game, phases=BOTH, **options):
    """Eight steps an epoch; with all that changes or averages from step to step."""
    options = {
        "prior_phase": PriorPhase(code_noise=0.3, ema=0.9),
        "schedule": schedules.ConstantThenLinear(start=0.0, final=0.1),
        "optimizers": {"prior": {"weight_decay": 0.1}},
        "report_every": 1,
        **options,
    }
    return Trainer(
        game, data.fake(64, (1, 8, 8)), phases=phases, batch_size=8, lr=1e-2, device="cpu", evaluations=2,
        progress=False, **options,
    )  # fmt: skip


def trained(run):
    """The rows of a training without its clock, and the tensors of its game."""
    rows = [{name: value for name, value in row.items() if name not in CLOCK} for row in run.fit()]
    return rows, dict(run.game.state_dict())


def are_equal(first, second):
    same_tensors = all(torch.equal(value, second[1][name]) for name, value in first[1].items())
    return first[0] == second[0] and same_tensors


def pair(make, **options):
    """What an eager and a captured training of the same game end with."""
    with seeded(0, "game"):
        game = make()
    eager = trained(trainer(copy.deepcopy(game), **options))
    run = captured(trainer(game, **options))
    return eager, trained(run), run


# equality


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
@pytest.mark.parametrize("name", ALL)
def test_a_captured_game_is_the_eager_one_bit_for_bit(name, precision):
    """8 joint and 8 prior-only steps, 5 of them replayed; every row of the metrics, parameter and buffer."""
    eager, replayed, run = pair(ALL[name], precision=precision)
    assert run.step in (8, 16)
    assert run.step_factory.used() == {"compile": "graph"}
    assert are_equal(eager, replayed)


def test_a_decoder_only_phase_is_captured():
    phases = [Phase("joint", 1), Phase("decoder_only", 2), Phase("prior_only", 1)]
    eager, replayed, run = pair(small_game, phases=phases, decoder_code_noise=0.2)
    assert run.step_factory.used() == {"compile": "graph"}
    assert are_equal(eager, replayed)


FALL_BACK = {  # presets that no graph can hold at beta = 1: the phases, and the line that asks for a value
    "flow_matching": (["joint"], "priors/ode.py"),  # the solver chooses its steps
    "iaf": (["joint", "prior_only"], "transforms/core.py"),  # Pyro's loop over the permutation
    "spline": (["joint", "prior_only"], "transforms/splines.py"),  # Pyro asserts that a root exists
}


@pytest.mark.parametrize("name", [*ZOO, *UNETS])
def test_every_preset_is_captured_or_says_why_not(name):
    make = planned(name, beta=1)
    eager = trained(make())
    said = []
    run = captured(make(said.append))
    assert are_equal(eager, trained(run))

    phases, place = FALL_BACK.get(name, ([], ""))
    reasons = run.step_factory.used().get("not_captured", {})
    assert [*reasons] == phases
    assert [line for line in said if "without a CUDA graph" in line] == [
        f"{phase} runs without a CUDA graph: {reasons[phase]}" for phase in phases
    ]
    for reason in reasons.values():
        assert reason.startswith(f"aten::_local_scalar_dense at pyro_lrp/{place}:")
        assert reason.endswith(" reads a value on the host")


def test_flow_matching_is_captured_where_nothing_is_solved():
    make = planned("flow_matching", beta=0)
    run = captured(make())
    assert are_equal(trained(make()), trained(run))
    assert run.step_factory.used() == {"compile": "graph"}


# interruptions


@pytest.mark.parametrize("kinds", ["graph graph graph", "off graph off"])
def test_a_run_that_is_killed_and_resumed_ends_with_the_same_bytes(tmp_path, interrupt_at, kinds):
    """In the joint phase, then in the prior's; captured and eager runs go on from one another."""
    first, *later = kinds.split()

    def run(kind, folder):
        with seeded(0, "game"):
            game = small_game()
        phases = [Phase("joint", 1), Phase("prior_only", 1)]
        started = trainer(game, phases, directory=tmp_path / folder, save_minutes=0)
        if kind == "graph":
            captured(started)
        return started

    run("off", "whole").fit()
    stops = interrupt_at(5, 13)
    for kind in (first, *later[:1]):
        with pytest.raises(KeyboardInterrupt):
            run(kind, "parts").fit()
    run(later[1], "parts").fit()
    assert not stops
    ends = [tmp_path / folder / "checkpoints" / "last.safetensors" for folder in ("whole", "parts")]
    assert ends[0].read_bytes() == ends[1].read_bytes()


# negative controls: what is baked into a recording is seen


class OwnGenerator(objectives.LatentGame):
    """Draws noise of the images from a generator that is a new one in each step."""

    def advance(self, progress):
        super().advance(progress)
        self.generator = torch.Generator().manual_seed(round(1000 * progress.fraction))

    def _losses(self, batch):
        noise = torch.randn(batch.x.shape, generator=self.generator)
        return super()._losses(Batch(batch.x + 0.1 * noise))


class NumberedBeta(objectives.LatentGame):
    """Its weight is a Python number."""

    def advance(self, progress):
        self.beta.value = progress.fraction


def bake_batch(monkeypatch):
    monkeypatch.setattr(torch, "_foreach_copy_", lambda to, values: None)


def bake_rate(monkeypatch):
    def set_rate(optimizer, factor):
        for group in optimizer.param_groups:
            group["lr"] = group.get("base_lr", 0.0) * factor

    monkeypatch.setattr(step_module, "set_rate", set_rate)


def leave(monkeypatch):
    pass


@pytest.mark.parametrize(
    ("kind", "bake"),
    [
        (objectives.LatentGame, bake_batch),
        (objectives.LatentGame, bake_rate),
        (OwnGenerator, leave),
        (NumberedBeta, leave),
    ],
    ids=["batch", "rate", "seed", "beta"],
)
def test_a_baked_value_is_seen(kind, bake, monkeypatch):
    def make():
        return kind(small_autoencoder(), objectives.BilevelELBO(0.5))

    joint = [Phase("joint", 1)]
    assert kind is not objectives.LatentGame or are_equal(*pair(make, phases=joint)[:2])
    bake(monkeypatch)
    eager, replayed, run = pair(make, phases=joint)
    assert run.step_factory.used() == {"compile": "graph"}
    assert not are_equal(eager, replayed)


# what no graph can hold


OBSTACLES = {
    "item": (lambda x: x * x.mean().item(), "reads a value on the host"),
    "branch": (lambda x: x if x.sum() > 0 else -x, "reads a value on the host"),
    "equal": (lambda x: x * torch.equal(x, x), "reads a value on the host"),
    "normal": (lambda x: torch.normal(x, x.abs()), "reads a value on the host"),
    "nonzero": (lambda x: x + len(x.nonzero()), "has a size that depends on values"),
    "masked_select": (lambda x: x + x.masked_select(x > 0.5).mean(), "has a size that depends on values"),
    "unique": (lambda x: x + len(x.unique()), "has a size that depends on values"),
    "mask": (lambda x: x + x[x > 0.5].mean(), "has a size that depends on values"),
}


def hindered(change):
    """A game that changes its images in a way that no graph can hold."""

    class Hindered(objectives.LatentGame):
        def _losses(self, batch):
            return super()._losses(Batch(change(batch.x)))

    return Hindered(small_autoencoder(), objectives.BilevelELBO(0.0))


@pytest.mark.parametrize("name", OBSTACLES)
def test_an_obstacle_is_found_before_recording_and_named_once(name, monkeypatch):
    change, why = OBSTACLES[name]
    said = []
    eager, replayed, run = pair(lambda: hindered(change), phases=[Phase("joint", 1)], log=said.append)
    assert are_equal(eager, replayed)
    (line,) = [line for line in said if "without a CUDA graph" in line]
    assert line.startswith("joint runs without a CUDA graph: aten::")
    assert f" at {__file__.rsplit('/', 1)[-1]}:" in line
    assert line.endswith(why)

    # and it is one: the recorder, too, cannot follow
    monkeypatch.setattr(capture, "watched", lambda device: contextlib.nullcontext(Watch()))
    unwatched = captured(trainer(hindered(change), phases=[Phase("joint", 1)]))
    with pytest.raises(UserError, match="cannot be recorded as a CUDA graph, use compile=off: operation not"):
        unwatched.fit()


def test_harmless_operations_are_no_obstacles():
    x = torch.rand(4, 3)
    rows = torch.tensor([2, 0])
    with Watch() as watch:
        x[rows], x[:, 1:], x.index_select(0, rows), x.where(x > 0, -x), x.masked_fill(x > 0.5, 0.0)
        x[x > 0.5] = 0.0
        torch.zeros(4, 3, dtype=torch.uint8)[rows] = torch.ones(2, 3, dtype=torch.uint8)
        torch.normal(x, 1.0), torch.tensor([1.0, 2.0]) * 2, x * torch.tensor(2.0)
    assert watch.found is None


FAKE = {  # on a device that is not here
    "a list as a tensor": lambda x: torch.tensor([0.0, 1.0], device="cuda"),
    "a list as an index": lambda x: x[:, [0, 2]],
    "rows on the host": lambda x: x[torch.arange(2)],
    "to the host": lambda x: x.cpu(),
    "from the host": lambda x: x.copy_(torch.zeros(3, 4)),
    "one number from the host": lambda x: torch.tensor(1.0).to(x.device),
}


@pytest.mark.parametrize("name", FAKE)
def test_a_copy_between_devices_is_an_obstacle(name):
    with FakeTensorMode():
        x = torch.zeros(3, 4, device="cuda")
        with Watch() as watch:
            FAKE[name](x)
    assert "test_capture.py" in watch.found
    assert watch.found.endswith("copies between the host and the device")


def test_a_wait_that_only_torch_knows_of_is_found(monkeypatch):
    """On CUDA torch is asked to warn of waits; here an operation of ours warns as it would."""
    modes = ["default"]
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    @torch.library.custom_op("tests::waiting", mutates_args=())
    def waiting(x: torch.Tensor) -> torch.Tensor:
        if modes[-1] == "warn":
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        return x.clone()

    with watched(torch.device("cuda")) as watch:
        waiting(torch.zeros(2) + 1)
    assert watch.found.startswith("tests::waiting at test_capture.py:")
    assert watch.found.endswith("makes the host wait for the device")
    assert modes == ["default", "warn", "default"]


@pytest.mark.parametrize("name", ALL)
def test_no_loss_copies_between_devices(name):
    """All losses of a game on a CUDA device that is not here, which computes no values."""
    game = ALL[name]()
    on_gpu = FakeTensorMode(allow_non_fake_inputs=True)
    with on_gpu, parameters_may_move(), pyro.validation_enabled(False), Watch() as watch:
        game._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda"))
        batch = Batch(torch.rand(6, 1, 8, 8, device="cuda"))
        for phase in ("joint", "prior_only"):
            game.advance(Progress(0, 0.1, phase))
            memo = {}
            source = batch if phase == "joint" else game.codes(batch) or batch
            for turn in game.turns(phase):
                game(turn.name, [source] * turn.batches, memo)
    assert watch.found is None


@contextlib.contextmanager
def parameters_may_move():
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


# the step, the trainer, the command


def test_optimizers_are_capturable_while_they_are_recorded_and_at_no_other_time():
    seen = []

    class Looking(RecordedGraph):
        def record(self, body, generators=()):
            seen.append(capturable())
            super().record(body, generators)

    def capturable():
        groups = [group for optimizer in run.optimizers.values() for group in optimizer.param_groups]
        return {group["capturable"] for group in groups}

    run = captured(trainer(small_game()), Looking)
    run.fit()
    assert seen == [{True}, {True}]
    assert capturable() == {False}


def test_terms_are_copies():
    run = captured(trainer(small_game()))
    run.prepare({})
    step = run.step_of(run.spans[0])
    assert isinstance(step, CapturedStep)
    terms = []
    with pyro.validation_enabled(False):
        for number in range(6):
            step.prepare(number, Progress(0, 0.0))
            terms.append(step([run.images.at(number)]))
    losses = [term["loss"].item() for term in terms]
    assert len(set(losses)) == 6


def test_what_compile_stands_for():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [choose_compile(kind, cuda) for kind in ("auto", "off", "graph")] == ["graph", "off", "graph"]
    assert [choose_compile(kind, cpu) for kind in ("auto", "off", "full")] == ["off", "off", "full"]
    with pytest.raises(UserError, match="compile=graph needs a CUDA device, and this is cpu"):
        trainer(small_game(), compile="graph")
    with pytest.raises(UserError, match="compile=full needs a CUDA device or a CPU, and this is mps"):
        choose_compile("full", torch.device("mps"))
    with pytest.raises(UserError, match="compile must be auto, off, graph or full, got 'all'"):
        trainer(small_game(), compile="all")


def test_the_command_refuses_before_it_trains(train, tmp_path):
    for typed, sentence in {
        "compile=graph": "error: compile=graph needs a CUDA device, and this is cpu: use compile=auto or off\n",
        "compile=all": "error: compile must be auto, off, graph or full, got 'all'\n",
    }.items():
        code, _, err = train(*QUICK, typed)
        assert (code, err) == (1, sentence)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("typed", ["compile=auto", "compile=false"])
def test_the_summary_says_that_steps_were_eager(train, typed):
    """YAML reads ``off`` as false."""
    code, _, err = train(*QUICK, typed)
    assert code == 0, err
    assert "steps on cpu, 1 thread\n" in err
    assert used_by(only_run()) == {"compile": "off"}
    assert "compile" not in (only_run() / "config.yaml").read_text()


def test_the_summary_says_what_was_captured(train, monkeypatch):
    recorder = lambda kind, log, device, processes: StepFactory("graph", log, RecordedGraph)  # noqa: E731
    monkeypatch.setattr(loop, "make_factory", recorder)
    code, _, err = train(
        *QUICK,
        "prior=flow_matching",
        "prior.width=8",
        "prior.method=euler",
        "prior.steps=2",
        "beta=1",
        "batch_size=16",
    )
    assert code == 0, err
    used = used_by(only_run())
    assert used["compile"] == "graph"
    assert [*used["not_captured"]] == ["joint"]
    assert (
        err.count("joint runs without a CUDA graph: aten::_local_scalar_dense at pyro_lrp/priors/ode.py") == 1
    )
    assert "prior_only runs without" not in err


def used_by(run):
    circumstances = json.loads((run / "summary.json").read_text())["circumstances"]
    return {name: circumstances[name] for name in ("compile", "not_captured") if name in circumstances}
