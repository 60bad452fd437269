"""Steps that are traced through Pyro's handlers are eager ones bit for bit; compiled ones, up to rounding."""

import os
import shutil

import pyro
import pytest
import torch
from builders import small_autoencoder, small_game
from commands import QUICK, only_run
from presets import ZOO, planned
from recorded_graph import RecordedGraph
from test_capture import (
    ALL,
    FALL_BACK,
    OBSTACLES,
    NumberedBeta,
    are_equal,
    hindered,
    trained,
    trainer,
    used_by,
)
from test_step import batches, make_step

from pyro_lrp import objectives, priors
from pyro_lrp.core.randomness import seeded
from pyro_lrp.schedules import Phase, Progress
from pyro_lrp.trainer import loop, tracing
from pyro_lrp.trainer.capture import StepFactory
from pyro_lrp.trainer.compiling import apart
from pyro_lrp.trainer.tracing import dry, eager, trace, uncompiled

JOINT = [Phase("joint", 1)]
OLD = torch.__version__ < "2.7"
COMPILERS = ("g++", "clang++", "c++")


def full(run, graph=None, compiler=uncompiled):
    """A trainer, made to trace its steps."""
    run.step_factory = StepFactory("full", run.log, graph, compiler=compiler)
    return run


def pair(make, graph=None, compiler=uncompiled, **options):
    """What an eager and a traced training of the same game end with."""
    ends = []
    runs = []
    for traced in (False, True):
        with seeded(0, "game"):
            run = trainer(make(), **options)
        if traced:
            full(run, graph, compiler)
        ends.append(trained(run))
        runs.append(run)
    return *ends, runs[1].step_factory.used()


# equality


@pytest.mark.parametrize(("precision", "graph"), [("32", None), ("bf16-mixed", RecordedGraph)])
@pytest.mark.parametrize("name", ALL)
def test_a_traced_game_is_the_eager_one_bit_for_bit(name, precision, graph):
    """8 joint and 8 prior-only steps, alone and recorded by a graph."""
    expected, found, used = pair(ALL[name], graph, precision=precision)
    assert "joint" in used["compile_seconds"]
    assert used.keys() == {"compile", "compile_seconds"}
    if precision == "bf16-mixed" and name.startswith("adversarial"):
        # eager steps cast a weight once for both its uses, and add its two gradients in bf16
        assert_near(expected[0], found[0], 1e-2)
    elif OLD and name == "flow matching":  # torch 2.6 traces another backward pass of SiLU
        assert_near(expected[0], found[0], 1e-2 if precision == "bf16-mixed" else 1e-6)
    else:
        assert are_equal(expected, found)


def assert_near(rows, others, tolerance):
    for row, other in zip(rows, others, strict=True):
        floats = {name: value for name, value in row.items() if isinstance(value, float)}
        values = {name: value for name, value in floats.items() if name != "discriminator_accuracy"}
        assert {name: other[name] for name in values} == pytest.approx(values, rel=tolerance, abs=tolerance)


def test_a_decoder_only_phase_is_traced():
    phases = [*JOINT, Phase("decoder_only", 1), Phase("prior_only", 1)]
    expected, found, used = pair(small_game, phases=phases, decoder_code_noise=0.2)
    assert [*used["compile_seconds"]] == ["joint", "decoder_only", "prior_only"]
    assert are_equal(expected, found)


@pytest.mark.parametrize("name", [*ZOO, "unet_flow"])
def test_every_preset_is_traced_or_says_why_not(name):
    make = planned(name, 1, "prior_epochs=0")
    run = full(make())
    assert are_equal(trained(make()), trained(run))
    reasons = run.step_factory.used().get("not_compiled", {})
    assert [*reasons] == (["joint"] if name in FALL_BACK else [])


def test_a_baked_value_is_seen():
    def make():
        return NumberedBeta(small_autoencoder(), objectives.BilevelELBO(0.5))

    expected, found, _ = pair(make, phases=JOINT)
    assert not are_equal(expected, found)


@pytest.mark.parametrize("name", ["adversarial", "total correlation"])
def test_tracing_changes_nothing(name):
    """Neither parameters nor statistics nor generators: the step that follows is the first one."""
    step = make_step(ALL[name]())
    step.prepare(0, Progress(0, 0.0))
    inputs = batches(step, 0)
    before = {key: value.clone() for key, value in step.game.state_dict().items()}
    generator = torch.get_rng_state()
    with pyro.validation_enabled(False):
        program = trace(step, inputs)
        expected = dry(step, lambda: [*eager(step, inputs)])
    found = dry(step, lambda: [*program.computed(inputs)])
    assert torch.equal(generator, torch.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in step.game.state_dict().items())
    assert apart(expected, found, 1e-3) == 0.0


# what cannot be traced or compiled


@pytest.mark.parametrize("graph", [None, RecordedGraph])
@pytest.mark.parametrize("name", ["item", "nonzero"])
def test_an_obstacle_is_named_once(name, graph):
    change, why = OBSTACLES[name]
    said = []
    expected, found, used = pair(lambda: hindered(change), graph, phases=JOINT, log=said.append)
    assert are_equal(expected, found)
    words = "uncompiled and without a CUDA graph" if graph else "uncompiled"
    (line,) = [line for line in said if "uncompiled" in line]
    assert line.startswith(f"joint runs {words}: aten::")
    assert line.endswith(why)
    assert used["not_compiled"] == {"joint": line.partition(": ")[2]}
    assert used.get("not_captured") == (used["not_compiled"] if graph else None)


def no_compiler(graph, examples):
    raise OSError("there is no\ncompiler here")


def wrong(graph, examples):
    """Forgets a tenth of each result."""

    def function(*arguments):
        return [0.9 * value if value.is_floating_point() else value for value in graph(*arguments)]

    return function


@pytest.mark.parametrize("graph", [None, RecordedGraph])
@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        (no_compiler, "OSError: there is no compiler here"),
        (wrong, "compiled gradients differ from eager ones by"),
    ],
)
def test_a_compiler_that_fails_is_named_once(compiler, reason, graph):
    """The step is captured all the same, where there is a graph."""
    said = []
    expected, found, used = pair(small_game, graph, compiler, phases=JOINT, log=said.append)
    assert are_equal(expected, found)
    (line,) = [line for line in said if "uncompiled" in line]
    assert line.startswith(f"joint runs uncompiled: {reason}")
    assert used.keys() == {"compile", "not_compiled"}


def test_steps_of_several_runs_as_one_are_not_compiled():
    said = []
    factory = StepFactory("full", said.append, None)
    factory.stacked("joint", [make_step(small_game()) for _ in range(2)])
    reason = "the steps of several runs as one are not compiled"
    assert said == [f"joint runs uncompiled: {reason}"]
    assert factory.used() == {"compile": "full", "not_compiled": {"joint": reason}}


def test_gradients_that_are_only_rounding_do_not_count():
    one = tracing.Results(torch.tensor(1.0), {}, [torch.ones(4), torch.tensor([1e-7]), None])
    other = tracing.Results(torch.tensor(1.0), {}, [torch.ones(4), torch.tensor([-1e-7]), None])
    far = tracing.Results(torch.tensor(1.0), {}, [torch.ones(4), torch.tensor([0.1]), None])
    assert apart([one], [other], 1e-3) < 1e-3
    assert apart([one], [far], 1e-3) > 1e-3
    assert apart([torch.ones(2)], [torch.tensor([1.0, 1.1])], 1e-3) > 1e-2


# the compiler


def two_draws():
    """A game in few kernels that draws codes of images and codes of the prior."""
    autoencoder = small_autoencoder(prior=priors.StandardNormal(4))
    return objectives.LatentGame(autoencoder, objectives.BilevelELBO(1.0), latent_reconstruction=0.5)


@pytest.mark.skipif(OLD, reason="torch 2.6 takes eager steps, and says so")
@pytest.mark.skipif(
    not (os.environ.get("CXX") or any(map(shutil.which, COMPILERS))), reason="needs a C++ compiler"
)
def test_a_compiled_run_is_near_the_eager_one_and_resumes_bit_for_bit(tmp_path, interrupt_at):
    """And what goes on finds its graph in torch's cache."""
    from torch._dynamo.utils import counters

    def run(folder, **options):
        with seeded(0, "game"):
            game = two_draws()
        return trainer(game, phases=JOINT, directory=tmp_path / folder, save_minutes=0, **options)

    expected, _ = trained(run("eager"))
    whole = run("whole", compile="full")
    found, _ = trained(whole)
    assert whole.step_factory.used().keys() == {"compile", "compile_seconds"}
    assert_near(expected, found, 1e-4)

    interrupt_at(5)
    found_before = counters["inductor"]["fxgraph_cache_hit"]
    with pytest.raises(KeyboardInterrupt):
        run("parts", compile="full").fit()
    run("parts", compile="full").fit()
    assert counters["inductor"]["fxgraph_cache_hit"] == found_before + 2
    ends = [tmp_path / folder / "checkpoints" / "last.safetensors" for folder in ("whole", "parts")]
    assert ends[0].read_bytes() == ends[1].read_bytes()


# the command


def test_the_summary_says_what_was_compiled(train, monkeypatch):
    def factory(kind, log, device, processes):
        return StepFactory(kind, log, None, compiler=uncompiled)

    monkeypatch.setattr(loop, "make_factory", factory)
    code, _, err = train(*QUICK, "compile=full")
    assert code == 0, err
    assert "steps on cpu, 1 thread, compile=full\n" in err
    assert "joint: compiled in " in err
    used = used_by(only_run())
    assert used["compile"] == "full"
    assert "compile" not in (only_run() / "config.yaml").read_text()
