"""Several trainings as one computation: what comes out is what each gives alone, up to rounding."""

import copy
import json
import signal
from pathlib import Path

import pytest
import torch
from builders import GAMES, small_game
from commands import QUICK
from presets import UNETS, ZOO, planned
from recorded_graph import RecordedGraph
from test_step import RAMP
from torch import nn

from pyro_lrp import config, data, schedules
from pyro_lrp.config.alike import groups_alike, joint
from pyro_lrp.core.gradients import Gate, scale_grad
from pyro_lrp.core.randomness import seeded
from pyro_lrp.core.stopping import Stopped
from pyro_lrp.trainer import Phase, PriorPhase, Trainer
from pyro_lrp.trainer.capture import StepFactory
from pyro_lrp.trainer.history import read_rows
from pyro_lrp.trainer.stack import MemberNoise, Stack
from pyro_lrp.trainer.together import Together, keep_weights_in_tensors

ALL = {**GAMES, **RAMP}
CLOCK = ("seconds", "images_per_second")
IMAGES = data.fake(64, (1, 8, 8))
SHORT = [Phase("joint", 1), Phase("prior_only", 1)]
PARTS = {"phases": [Phase("joint", 2), Phase("prior_only", 2)], "prior_phase": PriorPhase(0.3, ema=0.9)}


def trainer(game, seed=0, **options):
    """Eight steps an epoch."""
    options = {**PARTS, "report_every": 4, "evaluations": 2, "lr": 1e-3, **options}
    return Trainer(game, IMAGES, batch_size=8, device="cpu", progress=False, seed=seed, **options)


def members(make, count=3, *, rates=(1e-3, 1e-3, 1e-3), **options):
    """Trainers of equal games with other parameters and seeds."""
    trainers = []
    for seed in range(count):
        with seeded(seed, "game"):
            game = make()
        trainers.append(trainer(game, seed, lr=rates[seed], **options))
    return trainers


def fit_together(trainers, log=lambda line: None):
    together = Together({str(k): one for k, one in enumerate(trainers)}, progress=False, log=log)
    together.fit()
    return together


def largest_difference(rows, others):
    """Of two histories, relative to values above 1; the clock does not count."""
    largest = 0.0
    assert len(rows) == len(others)
    for row, other in zip(rows, others, strict=True):
        assert row.keys() == other.keys()
        for name in row.keys() - set(CLOCK):
            if isinstance(row[name], float):
                largest = max(largest, abs(row[name] - other[name]) / max(1.0, abs(row[name])))
            else:
                assert row[name] == other[name]
    return largest


# equality


@pytest.mark.parametrize("rates", [(1e-3, 1e-3), (1e-3, 2e-3)], ids=["one rate", "two rates"])
@pytest.mark.parametrize("name", ALL)
def test_every_game_is_trained_as_one(name, rates):
    """8 joint and 8 prior-only steps of two games: every row of the metrics is that of a training alone."""
    together = members(ALL[name], count=2, rates=rates, phases=SHORT)
    alone = copy.deepcopy(together)
    said = []
    done = fit_together(together, said.append)
    assert not any("after another" in line for line in said)
    assert done.errors == {}
    for one, other in zip(alone, together, strict=True):
        assert largest_difference(one.fit(), other.history.rows) < 1e-4


NOT_AS_ONE = {  # presets of which a phase cannot be mapped at β = 1: its solver or its loop reads values
    "flow_matching": ["joint"],
    "iaf": ["joint", "prior_only"],
    "spline": ["joint", "prior_only"],
}


@pytest.mark.parametrize("name", [*ZOO, *UNETS])
def test_every_preset_is_trained_as_one_or_says_why_not(name):
    make = planned(name, beta=1)
    together = [make() for _ in range(2)]
    alone = copy.deepcopy(together)
    said = []
    fit_together(together, said.append)
    reasons = [line.split(" is trained one step after another: vmap: ") for line in said]
    assert [phase for phase, *reason in reasons if reason] == NOT_AS_ONE.get(name, [])
    for one, other in zip(alone, together, strict=True):
        assert largest_difference(one.fit(), other.history.rows) < 1e-3


@pytest.mark.parametrize("name", ALL)
def test_captured_steps_of_several_are_those_steps_bit_for_bit(name):
    """On the recorder that repeats kernels as a CUDA graph does; with all that changes from step to step."""
    schedule = schedules.ConstantThenLinear(start=0.0, final=0.1)
    plain = members(ALL[name], schedule=schedule, count=2, phases=SHORT)
    captured = copy.deepcopy(plain)
    said = []
    for one in captured:
        one.step_factory = StepFactory("graph", said.append, RecordedGraph)
    fit_together(plain)
    fit_together(captured)
    assert not any("without a CUDA graph" in line for line in said)
    for one, other in zip(plain, captured, strict=True):
        assert largest_difference(one.history.rows, other.history.rows) == 0
        assert all(map(torch.equal, one.game.state_dict().values(), other.game.state_dict().values()))


def test_each_has_its_own_weight():
    betas = (0.5, 1.0, 2.0)
    together = [trainer(small_game(beta), seed) for seed, beta in enumerate(betas)]
    alone = copy.deepcopy(together)
    keep_weights_in_tensors([one.game for one in together])
    said = []
    fit_together(together, said.append)
    assert said[0] == "joint: 3 at once, from step 0 of 16"
    for one, other in zip(alone, together, strict=True):
        assert largest_difference(one.fit(), other.history.rows) < 1e-4


def test_a_weight_that_only_python_knows_is_noticed():
    """Without tensors the first game's β would be that of all: it changes gradients, and no loss."""
    together = [trainer(small_game(beta), seed) for seed, beta in enumerate((0.5, 2.0))]
    alone = copy.deepcopy(together)
    said = []
    fit_together(together, said.append)
    assert said[0] == "joint is trained one step after another: model 1 has other losses than alone"
    for one, other in zip(alone, together, strict=True):
        assert largest_difference(one.fit(), other.history.rows) == 0


def test_models_of_other_shapes_are_trained_one_after_another():
    together = [trainer(small_game(hidden=hidden)) for hidden in (8, 16)]
    said = []
    done = fit_together(together, said.append)
    assert said[0].startswith("joint is trained one step after another: ")
    assert [one.step for one in together] == [32, 32]
    assert not done.errors


class Scaled(nn.Linear):
    """A layer with a number that is neither parameter nor buffer."""

    factor = 1.0

    def forward(self, x):
        return self.factor * super().forward(x)


def test_a_number_that_only_python_knows_is_noticed():
    together = members(small_game, count=2)
    for number, one in enumerate(together):
        layer = Scaled(16, 8)
        layer.factor = 1.0 + number
        one.game.autoencoder.encoder.output = layer
    said = []
    fit_together(together, said.append)
    assert said[0].startswith("joint is trained one step after another: model 1 has other ")


# interruptions


def test_trainings_that_stopped_go_on_bit_for_bit(tmp_path):
    def trainers(folder):
        return [
            trainer(one.game, one.seed, lr=one.lr, directory=tmp_path / folder / str(one.seed))
            for one in members(small_game)
        ]

    whole = trainers("whole")
    fit_together(whole)
    stopped = trainers("parts")
    stop_at(stopped[1], 10)
    with pytest.raises(Stopped, match="stopped at step 10, 3 trainings are saved"):
        fit_together(stopped)
    resumed = trainers("parts")
    fit_together(resumed)
    for one, other in zip(whole, resumed, strict=True):
        assert all(map(torch.equal, one.game.state_dict().values(), other.game.state_dict().values()))
        assert largest_difference(rows_of(one.directory), rows_of(other.directory)) == 0


def rows_of(directory):
    return read_rows(directory / "metrics.jsonl").rows


def stop_at(one, step):
    """Send the signal of Ctrl-C when a training has taken a step."""
    count = one.count

    def counting(span, stop):
        found = count(span, stop)
        if one.step == step:
            signal.raise_signal(signal.SIGINT)
        return found

    one.count = counting


def test_a_training_that_lags_behind_catches_up(tmp_path):
    """One was stopped at step 5, one at 20 in the next phase, one never began."""
    alone = members(small_game)
    together = []
    for one, step in zip(copy.deepcopy(alone), (5, 20, None), strict=True):
        folder = tmp_path / str(one.seed)
        if step is not None:
            first = trainer(copy.deepcopy(one.game), one.seed, lr=one.lr, directory=folder)
            stop_at(first, step)
            with pytest.raises(Stopped):
                first.fit()
        together.append(trainer(one.game, one.seed, lr=one.lr, directory=folder))
    fit_together(together)
    for one, other in zip(alone, together, strict=True):
        assert other.step == 32
        assert largest_difference(one.fit(), other.history.rows) < 1e-4


def test_a_training_that_was_begun_with_others_goes_on_alone(tmp_path):
    alone = members(small_game)
    together = [
        trainer(one.game, one.seed, lr=one.lr, directory=tmp_path / str(one.seed))
        for one in copy.deepcopy(alone)
    ]
    stop_at(together[0], 10)
    with pytest.raises(Stopped):
        fit_together(together)
    last = trainer(small_game(), 2, lr=alone[2].lr, directory=tmp_path / "2")
    assert largest_difference(alone[2].fit(), last.fit()) < 1e-4


def test_one_whose_checkpoint_is_damaged_leaves_the_others_alone(tmp_path):
    def trainers():
        return [
            trainer(one.game, one.seed, directory=tmp_path / str(one.seed))
            for one in members(small_game, count=2)
        ]

    first = trainers()
    stop_at(first[0], 10)
    with pytest.raises(Stopped):
        fit_together(first)
    (tmp_path / "0" / "checkpoints" / "last.safetensors").write_bytes(b"damaged")
    resumed = trainers()
    done = fit_together(resumed)
    assert [*done.errors] == ["0"]
    assert "is truncated or is not a checkpoint" in str(done.errors["0"])
    assert resumed[1].step == 32


def test_one_that_fails_leaves_the_others_alone():
    together = members(small_game)
    alone = copy.deepcopy(together)
    together[1].lr = 1e30
    done = fit_together(together)
    assert [*done.errors] == ["1"]
    assert "is not finite" in str(done.errors["1"]) or "at step" in str(done.errors["1"])
    for k in (0, 2):
        assert largest_difference(alone[k].fit(), together[k].history.rows) < 1e-4


def test_one_that_stops_early_leaves_the_others_alone():
    options = {"prior_phase": PriorPhase(patience=1), "validation": 0.25, "evaluations": 8, "report_every": 1}
    together = members(small_game, **options)
    together[1].lr = 3.0  # of which the prior only gets worse
    alone = copy.deepcopy(together)
    fit_together(together)
    rows = [one.fit() for one in alone]
    assert len(rows[1]) < len(rows[0])
    assert len(together[1].history.rows) == len(rows[1])
    assert largest_difference(rows[0], together[0].history.rows) < 1e-4


# parts


def test_images_of_the_same_data_are_held_once():
    together = members(small_game, validation=0.25)
    Together({str(k): one for k, one in enumerate(together)}, progress=False)
    first, second, _ = together
    assert first.splits["train"] is second.splits["train"]
    assert first.images.source is second.images.source


def test_a_stack_holds_the_parameters_of_its_modules():
    modules = [nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)) for _ in range(2)]
    stack = Stack(modules)
    with torch.no_grad():
        stack.parameters["0.bias"][1] = 7.0
        modules[0][1].running_mean.fill_(5.0)
    assert modules[1][0].bias.tolist() == [7.0] * 3
    assert stack.buffers["1.running_mean"].tolist() == [[5.0] * 3, [0.0] * 3]
    stack.parameters["0.bias"].sum().backward()
    stack.share_gradients()
    assert modules[0][0].bias.grad.tolist() == [1.0] * 3
    assert modules[0][0].weight.grad is None


@pytest.mark.parametrize(
    "draw",
    [
        lambda x: torch.randn_like(x),
        lambda x: torch.rand_like(x[:2]),
        lambda x: torch.randn(3, 2),
        lambda x: torch.rand(2),
        lambda x: torch.randint(0, 9, (4,)),
        lambda x: torch.empty(3).normal_(1.0, 2.0),
        lambda x: torch.empty(3).uniform_(-1, 1),
        lambda x: torch.empty(3).exponential_(2.0),
        lambda x: torch.distributions.Normal(x, 2.0).rsample(),
    ],
)
def test_each_draws_what_it_would_draw_alone(draw):
    x = torch.zeros(3, 4)
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]

    def one(row, number):
        with MemberNoise(number, generators):
            return draw(row)

    together = torch.func.vmap(one, randomness="error")(x.expand(2, 3, 4), torch.arange(2.0))
    for number, seed in enumerate((5, 6)):
        torch.manual_seed(seed)
        assert torch.equal(together[number], draw(x))


def test_factors_of_gradients_are_mapped():
    x = torch.ones(2, 3, requires_grad=True)
    torch.func.vmap(scale_grad)(x, torch.tensor([0.5, 2.0])).sum().backward()
    assert x.grad.tolist() == [[0.5] * 3, [2.0] * 3]

    def gated(row, number):
        gate = Gate()
        y = gate(row).sum()
        gate.factor = y * number
        return y

    x = torch.ones(2, 3, requires_grad=True)
    torch.func.vmap(gated)(x, torch.tensor([1.0, 2.0])).sum().backward()
    assert x.grad.tolist() == [[3.0] * 3, [6.0] * 3]


# the command

SMALL = (*QUICK, "parallel=batched", "name=x")


def test_groups_are_of_one_shape():
    plans = {
        text: config.compose_train("data=fake", "parallel=batched", *text.split())
        for text in (
            "seed=0", "seed=1", "lr=1e-3", "trainer.schedule.milestones=[0.5]", "beta=1", "beta=2",
            "latent_dim=3", "beta=1 latent_dim=3 seed=9", "prior_epochs=7",
        )
    }  # fmt: skip
    assert groups_alike(plans) == [
        ["seed=0", "seed=1", "lr=1e-3", "trainer.schedule.milestones=[0.5]"],
        ["beta=1", "beta=2"],
        ["latent_dim=3"],
        ["beta=1 latent_dim=3 seed=9"],
        ["prior_epochs=7"],
    ]
    assert joint(plans["seed=0"])
    assert not joint(config.compose_train("data=fake", "parallel=batched", "devices=2"))


def test_members_of_a_sweep_are_trained_as_one_and_the_others_by_the_launcher(train):
    code, out, err = train("-m", *SMALL, "seed=0,1", "latent_dim=2,4", "name=x-${latent_dim}")
    assert code == 0, err
    assert out.count("2 members as one computation: ") == 2
    directories = sorted(Path("runs").glob("*/*"))
    assert len(directories) == 4
    assert all((directory / "summary.json").is_file() for directory in directories)


def test_a_member_trained_with_others_is_what_its_plain_command_gives(train):
    assert train("-m", *SMALL, "seed=0,1", "evaluate_with=[reconstruction_mse]")[0] == 0
    assert train(*QUICK, "name=y", "seed=1", "evaluate_with=[reconstruction_mse]")[0] == 0
    assert largest_difference(*(rows_of(Path("runs", name, "seed_1")) for name in "xy")) < 1e-4
    files = [{p.name for p in Path("runs", name, "seed_1").rglob("*")} for name in "xy"]
    assert files[0] == files[1]
    first, second = (json.loads(Path("runs", name, "seed_1", "evaluation.json").read_text()) for name in "xy")
    assert first.keys() == second.keys()


def test_a_complete_or_foreign_member_stands_aside(train):
    assert train(*QUICK, "name=x", "seed=0", "prior_epochs=2")[0] == 0
    assert train(*QUICK, "name=x", "seed=1")[0] == 0
    code, out, err = train("-m", *SMALL, "seed=0,1,2,3")
    assert code == 1
    assert "error: 1 of 4 members of the sweep failed:\n  seed=0: runs/x/seed_0 holds another run" in err
    assert "seed=2 is complete" in out


def test_a_single_run_is_not_trained_together(train):
    code, _, err = train(*QUICK, "parallel=batched")
    assert code == 1
    assert err == "error: parallel=batched is for the members of a sweep, such as -m seed=0,1,2\n"
    code, _, err = train("-m", *QUICK, "parallel=yes", "seed=0,1")
    assert err == "error: seed=0: parallel must be batched, or null, got 'yes'\n"
