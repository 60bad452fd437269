"""A step: the arithmetic of a loop by hand, and kernels that see no number that changes."""

import builtins

import pyro
import pytest
import torch
from builders import GAMES, small_autoencoder, small_game
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyro_lrp import data, objectives, priors, schedules
from pyro_lrp.core.randomness import derive_seed
from pyro_lrp.data import Batch
from pyro_lrp.schedules import ConstantThenLinear, Progress
from pyro_lrp.trainer import Phase, Step, Trainer
from pyro_lrp.trainer import step as step_module
from pyro_lrp.trainer.devices import make_fabric, matrix_products
from pyro_lrp.trainer.optimizers import make_optimizers
from pyro_lrp.trainer.prior_phase import EMA

CPU = make_fabric("cpu", "32")
DECAY = ConstantThenLinear(start=0.0, final=0.1)
OPTIONS = {"prior": {"weight_decay": 0.1}}
RAMP = {
    "free bits, beta on a ramp": lambda: objectives.LatentGame(
        small_autoencoder(),
        objectives.BilevelELBO(2.0, free_bits=0.5),
        schedules.Linear(0.0, 0.5),
    )
}
ALL = {**GAMES, **RAMP}


def make_step(game, *, schedule=DECAY, seed=0, averages=None, cls=Step):
    game.initialize(Batch(torch.rand(6, 1, 8, 8)))
    optimizers = make_optimizers(game, game.players(), lr=1e-2, options=OPTIONS)
    turns = game.turns("joint")
    return cls(game, turns, optimizers, CPU, seed=seed, schedule=schedule, averages=averages)


def batches(step, number):
    generator = torch.Generator().manual_seed(number)
    return [Batch(torch.rand(6, 1, 8, 8, generator=generator)) for _ in range(step.streams)]


class Numbers(TorchDispatchMode):
    """Records each kernel with the Python numbers it receives; a value read by the host is one too."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        leaves = tree_leaves((args, kwargs or {}))
        numbers = [x for x in leaves if isinstance(x, (bool, int, float))]
        self.calls.append((str(func), numbers))
        return func(*args, **(kwargs or {}))


def record(step, numbers=(1, 2)):
    """The kernels of two steps of the device's half, after a first one that makes the moments."""
    calls = []
    with pyro.validation_enabled(False):
        for number in (0, *numbers):
            step.prepare(number, Progress(0, 0.1 * number))
            inputs = batches(step, number)
            with Numbers() as mode:
                step(inputs)
            calls.append(mode.calls)
    return calls[1:]


@pytest.mark.parametrize("name", ALL)
def test_no_kernel_receives_a_number_that_changes(name):
    """Rates decay, and betas follow their ramps, and yet two steps are the same calls."""
    torch.manual_seed(0)
    game = ALL[name]()
    ema = EMA(game.players()["prior"], 0.9)
    step = make_step(game, averages={"prior": ema})
    first, second = record(step)
    assert first == second
    assert not [kernel for kernel, _ in first if "_local_scalar_dense" in kernel]


def test_a_rate_that_is_a_number_would_be_seen(monkeypatch):
    def set_rate(optimizer, factor):
        for group in optimizer.param_groups:
            group["lr"] = group.get("base_lr", 0.0) * factor

    monkeypatch.setattr(step_module, "set_rate", set_rate)
    first, second = record(make_step(small_game()))
    assert first != second


def test_a_beta_that_is_a_number_would_be_seen():
    game = small_game(beta=0.5)

    def advance(progress):
        game.beta.value = progress.fraction

    game.advance = advance
    first, second = record(make_step(game))
    assert first != second


@pytest.mark.parametrize("name", ALL)
def test_a_step_builds_no_module_and_no_class(name, monkeypatch):
    step = make_step(ALL[name]())
    built = []

    def watch(self, *args, **kwargs):
        built.append(type(self).__name__)
        init(self, *args, **kwargs)

    def watch_class(function, label, *args, **kwargs):
        built.append(label)
        return build_class(function, label, *args, **kwargs)

    init = torch.nn.Module.__init__
    build_class = builtins.__build_class__
    with pyro.validation_enabled(False):
        for number in range(2):
            if number == 1:
                monkeypatch.setattr(torch.nn.Module, "__init__", watch)
                monkeypatch.setattr(builtins, "__build_class__", watch_class)
            step.prepare(number, Progress(0, 0.1 * number))
            step(batches(step, number))
    assert built == []


def by_hand(game, images, steps):
    """The joint phase of a bilevel game as a person would write it: rates are Python numbers."""
    players = game.players()
    groups = {name: [*player.parameters()] for name, player in players.items()}
    adams = {
        "autoencoder": torch.optim.Adam(groups["autoencoder"], lr=1e-2, fused=True),
        "prior": torch.optim.AdamW(groups["prior"], lr=1e-2, weight_decay=0.1, fused=True),
    }
    losses = []
    for number in range(steps):
        progress = Progress(0, number / steps)
        game.advance(progress)
        torch.manual_seed(derive_seed(3, "noise", number))
        memo = {}
        for turn in game.turns("joint"):
            result = game(turn.name, [images.at(number, i) for i in range(turn.batches)], memo)
            for player in turn.moves:
                adams[player].zero_grad()
            result.loss.backward()
            for player in turn.moves:
                for group in adams[player].param_groups:
                    group["lr"] = 1e-2 * DECAY(progress)
                adams[player].step()
            losses.append(result.loss.item())
    return losses


@pytest.mark.parametrize("name", ["bilevel", "learned gamma, beta on a ramp"])
def test_the_trainer_is_a_loop_by_hand_bit_for_bit(name):
    """Two epochs of five steps: the trainer, a loop over a step, and a loop with rates as numbers."""
    fake = data.fake(64, (1, 8, 8))
    games = []
    for _ in range(3):
        torch.manual_seed(1)
        games.append(GAMES[name]())
    trainer = Trainer(
        games[0], fake, phases=[Phase("joint", 2)], batch_size=12, lr=1e-2, schedule=DECAY, seed=3,
        optimizers=OPTIONS, device="cpu", progress=False, report_every=1,
    )  # fmt: skip
    rows = trainer.fit()
    images = data.Batches(fake.train, 12, seed=3, fetch=data.Split.batch)

    step = make_step(games[1], seed=3)
    losses = []
    with pyro.validation_enabled(False):
        for number in range(10):
            step.prepare(number, Progress(0, number / 10))
            terms = step([images.at(number)])
            losses.append(terms["loss"].item())
        assert by_hand(games[2], images, 10) == losses

    assert [row["loss"] for row in rows] == losses
    expected = games[2].state_dict()
    for game in games[:2]:
        for key, value in game.state_dict().items():
            assert torch.equal(value, expected[key]), key


def test_gradients_are_reduced_between_backward_and_the_optimizers():
    """A reduction to zero leaves every parameter where it was."""
    seen = []

    class Zeroed(Step):
        def reduce(self, moves):
            seen.append(tuple(moves))
            for player in moves:
                for parameter in self.game.players()[player].parameters():
                    parameter.grad.mul_(0.0)

    game = small_game()
    before = {name: p.clone() for name, p in game.named_parameters()}
    step = make_step(game, cls=Zeroed)
    step.optimizers["prior"].param_groups[0]["weight_decay"] = 0.0
    step.prepare(0, Progress(0, 0.0))
    step(batches(step, 0))
    assert seen == [("autoencoder", "prior")]
    for name, parameter in game.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_noise_is_that_of_manual_seed_and_a_function_of_the_step():
    step = make_step(small_game(), seed=5)
    step.prepare(7, Progress(0, 0.5))
    drawn = torch.rand(3)
    torch.manual_seed(derive_seed(5, "noise", 7))
    assert torch.equal(drawn, torch.rand(3))


def test_a_fixed_prior_steps_with_an_idle_optimizer():
    game = objectives.LatentGame(small_autoencoder(prior=priors.StandardNormal(4)), objectives.BilevelELBO(1.0))
    step = make_step(game)
    step.prepare(0, Progress(0, 0.0))
    assert torch.isfinite(step(batches(step, 0))["loss"])


@pytest.mark.parametrize(("precision", "inside"), [("32", (False, True)), ("tf32", (True, True))])
def test_tf32_is_used_within_a_training_alone(precision, inside):
    def allowed():
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    before = allowed()
    with matrix_products(precision):
        assert allowed() == inside
    assert allowed() == before == (False, True)
