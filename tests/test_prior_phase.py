"""What a prior-only phase may do besides descending its loss: noise, averages, a stop, an own estimate."""

import math

import pytest
import torch
from builders import small_autoencoder, small_game
from test_trainer import StopError, trainer

from pyro_lrp.core import checkpoint
from pyro_lrp.objectives import BilevelELBO, Codes, LatentGame
from pyro_lrp.priors import Flow, Mixture, StandardNormal
from pyro_lrp.trainer import PriorPhase
from pyro_lrp.trainer.prior_phase import EMA, EarlyStop, PriorOnly
from pyro_lrp.transforms import paper_flow


def mixture_game():
    return LatentGame(small_autoencoder(prior=Mixture(4, 3, em_iterations=5)), BilevelELBO(0.0))


def whitened_game():
    prior = Flow(4, paper_flow(4, 2, 8), whiten="pca", base=Mixture(4, 2, covariance="diag", em_iterations=3))
    return LatentGame(small_autoencoder(prior=prior), BilevelELBO(0.0))


CASES = {
    "all of them": (small_game, PriorPhase(code_noise=0.3, ema=0.9, patience=50)),
    "a stop at once": (lambda: small_game(beta=0.0), PriorPhase(ema=0.5, patience=1)),
    "EM first": (mixture_game, PriorPhase()),
    "whitening and EM of the base first": (whitened_game, PriorPhase(ema=0.9)),
}


@pytest.mark.parametrize("name", CASES)
def test_resume_is_bit_for_bit(tmp_path, name):
    """Stopped in the joint phase, at its end, and twice in the prior-only phase (steps 21 to 35)."""
    make, options = CASES[name]

    def run(folder, on_row=lambda row: None):
        folder.mkdir(exist_ok=True)
        torch.manual_seed(3)
        return trainer(make(), folder, prior_phase=options, on_row=on_row, evaluations=5, lr=0.05)

    stops = [12, 20, 24, 30]

    def stop(row):
        if row["step"] >= stops[0]:
            stops.pop(0)
            raise StopError

    expected = run(tmp_path / "whole").fit()
    while stops:
        with pytest.raises(StopError):
            run(tmp_path / "parts", stop).fit()
    actual = run(tmp_path / "parts").fit()
    last = "checkpoints/last.safetensors"
    assert (tmp_path / "parts" / last).read_bytes() == (tmp_path / "whole" / last).read_bytes()
    assert [row["step"] for row in actual] == [row["step"] for row in expected]
    again = run(tmp_path / "parts").fit()
    assert [row["step"] for row in again] == [row["step"] for row in expected]


def test_noise_widens_the_codes_by_shares_of_their_deviation():
    codes = Codes(
        torch.randn(50_000, 2) * torch.tensor([3.0, 0.1]), torch.full((50_000, 2), 0.05), torch.zeros(50_000, 0)
    )
    drawn, wide = codes.sample(), codes.noised(0.5).sample()
    added = wide.var(0) - drawn.var(0)
    torch.testing.assert_close(added, 0.25 * drawn.var(0), rtol=0.06, atol=0)  # six standard errors
    assert codes.noised(0.0) is codes


def test_noise_reaches_the_prior_alone(tmp_path):
    """Encoder and decoder end where they end without it."""
    finals = []
    for k in (0.0, 0.5):
        torch.manual_seed(2)
        run = trainer(small_game(), prior_phase=PriorPhase(code_noise=k))
        run.fit()
        finals.append(run.game.state_dict())
    differing = {name for name in finals[0] if not torch.equal(finals[0][name], finals[1][name])}
    assert differing
    assert all(".prior." in name for name in differing)


def test_averages_are_scored_and_kept():
    """What callbacks see last is what stays, and it is not what it would be without."""
    finals = []
    for decay in (0.0, 0.999):
        torch.manual_seed(2)
        game = small_game()
        seen = []

        def remember(report, game=game, seen=seen):
            seen.append(next(game.autoencoder.prior.parameters()).clone())

        trainer(game, prior_phase=PriorPhase(ema=decay), callbacks=[remember]).fit()
        finals.append(next(game.autoencoder.prior.parameters()))
        assert torch.equal(seen[-1], finals[-1])
    assert not torch.equal(*finals)


def test_a_short_phase_forgets_the_first_parameters():
    """After 15 steps they have a weight of 15! 9! / 24!, not of 0.999^15 = 0.985."""
    module = torch.nn.Linear(1, 1, bias=False)
    ema = EMA(module, 0.999)
    with torch.no_grad():
        module.weight.zero_()
        ema.values[0].fill_(1.0)
    for _ in range(15):
        ema.update()
    expected = math.factorial(15) * math.factorial(9) / math.factorial(24)
    assert ema.values[0].item() == pytest.approx(expected, rel=1e-5)


def test_an_average_of_an_older_checkpoint_goes_on_with_the_largest_decay():
    """It has no count of updates."""
    phase = PriorOnly(small_game(), PriorPhase(ema=0.9), seed=0, fabric=None, log=print)
    module = torch.nn.Linear(1, 1, bias=False)
    phase.ema = EMA(module, 0.9)
    phase._load({"averages": [torch.ones(1, 1)], "early_stop": {}})
    with torch.no_grad():
        module.weight.zero_()
    phase.ema.update()
    assert phase.ema.values[0].item() == pytest.approx(0.9)


def test_averages_are_exponential_with_a_decay_that_grows():
    """By the decays 1/10, 2/11, 3/12, ..., of which the largest is 0.3 here."""
    module = torch.nn.Linear(1, 1)
    ema, expected = EMA(module, 0.3), module.bias.item()
    for decay in (1 / 10, 2 / 11, 3 / 12, 0.3, 0.3):
        module.bias.data.add_(1.0)
        ema.update()
        expected = decay * expected + (1 - decay) * module.bias.item()
    present = module.bias.item()
    with ema.applied():
        assert module.bias.item() == pytest.approx(expected, abs=1e-6)
    assert module.bias.item() == present


def test_the_options_of_a_phase_are_told_in_words():
    options, words = PriorPhase(code_noise=0.2, patience=3), []
    trainer(small_game(), prior_phase=options, log=words.append).fit()
    told = "noise of 0.2 deviations on the codes, a stop after 3 scorings without a better one"
    assert f"prior_only: {told}" in words
    assert str(PriorPhase()) == ""


def test_an_early_stop_keeps_the_best_and_says_so(tmp_path):
    notes = []
    torch.manual_seed(2)
    run = trainer(
        small_game(), tmp_path, prior_phase=PriorPhase(patience=2), lr=0.3, evaluations=12, log=notes.append
    )  # a rate at which the prior gets worse
    rows = run.fit()
    assert rows[-1]["step"] < run.total_steps
    scores = [row["validation/log_prior"] for row in rows if row["phase"] == "prior_only"]
    assert rows[-1]["best_held_out_score"] >= max(scores[:-1])
    assert any("prior_only stops at step" in note for note in notes)
    assert checkpoint.load(tmp_path / "checkpoints/last.safetensors")["prior"]["stopped"]


def test_the_best_parameters_are_those_that_scored_best():
    module = torch.nn.Linear(1, 1)
    stop = EarlyStop(module, patience=2)
    decisions = []
    for score in (1.0, 3.0, 2.0, 2.5):
        module.bias.data.fill_(score)
        decisions.append(stop.observe(score))
    assert decisions == [False, False, False, True]
    stop.restore()
    assert module.bias.item() == 3.0


def test_the_own_estimate_comes_first_and_moments_start_anew():
    notes, means = [], {}
    torch.manual_seed(2)
    game = mixture_game()

    def remember(row):
        means[row["step"]] = game.autoencoder.prior.loc.detach().clone()

    run = trainer(game, log=notes.append, on_row=remember, report_every=1, lr=1e-5)
    run.fit()
    text = next(note for note in notes if "the prior's own fit to 58 codes" in note)
    assert "em_iterations" in text
    moved = {step: (means[step] - means[step - 1]).abs().max().item() for step in means if step > 1}
    assert moved.pop(21) > 0.1  # EM at the first step of the phase, and Adam's steps of 1e-5 at all others
    assert max(moved.values()) < 1.1e-5
    steps = {float(state["step"]) for state in run.optimizers["prior"].state.values()}
    assert steps == {15.0}


@pytest.mark.parametrize(("name", "value"), [("code_noise", -1.0), ("ema", 1.0), ("patience", 0)])
def test_options_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        PriorPhase(**{name: value})


def test_patience_needs_held_out_codes():
    with pytest.raises(ValueError, match="prior_patience needs held-out codes"):
        trainer(small_game(), prior_phase=PriorPhase(patience=1), validation=0.0)


def test_weight_decay_is_decoupled_and_of_one_player():
    run = trainer(small_game(), optimizers={"prior": {"weight_decay": 0.1}})
    run.fit()
    assert isinstance(run.optimizers["prior"], torch.optim.AdamW)
    assert type(run.optimizers["autoencoder"]) is torch.optim.Adam


def test_a_fixed_prior_has_no_such_phase():
    game = LatentGame(small_autoencoder(prior=StandardNormal(4)), BilevelELBO(1.0))
    rows = trainer(game, prior_phase=PriorPhase(code_noise=0.5, ema=0.9)).fit()
    assert {row["phase"] for row in rows} == {"joint"}
