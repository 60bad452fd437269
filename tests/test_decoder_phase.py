"""Phases of the decoder alone: codes of a frozen encoder, with noise on them."""

import pytest
import torch
from builders import GAMES, gradients, small_game
from commands import QUICK, composed, only_run
from test_trainer import StopError, trainer

import pyro_lrp
from pyro_lrp import config, models
from pyro_lrp.core.errors import UserError
from pyro_lrp.data import Batch
from pyro_lrp.models import CodedImages, Codes
from pyro_lrp.schedules import Constant, Linear, Phase, Progress, StepDecay

PHASES = (Phase("joint", 2), Phase("decoder_only", 3), Phase("prior_only", 2))


@pytest.mark.parametrize("name", GAMES)
def test_decoder_and_likelihood_move_and_nothing_else(name):
    game = GAMES[name]()
    before = {}

    def keep(row):
        if row["phase"] == "joint":
            before.update({key: value.clone() for key, value in game.state_dict().items()})

    trainer(game, phases=PHASES[:2], decoder_code_noise=0.3, on_row=keep).fit()
    moved = {key for key, value in game.state_dict().items() if not torch.equal(value, before[key])}
    parts = ("autoencoder.decoder.", "autoencoder.likelihood.")
    own = {key for key, _ in game.named_parameters() if key.startswith(parts)}
    assert own <= moved <= {key for key in game.state_dict() if key.startswith(parts)}


def test_the_loss_is_the_negative_log_likelihood_of_the_given_codes():
    game = small_game(learn_gamma=True).double()
    x = torch.rand(6, 1, 8, 8, dtype=torch.float64)
    z = torch.randn(6, 4, dtype=torch.float64)
    codes = Codes(z, torch.zeros_like(z), torch.zeros(6, 0))
    losses = game("decoder", [CodedImages(Batch(x), codes)], {})
    autoencoder = game.autoencoder
    expected = -autoencoder.likelihood(autoencoder.decoder(z), 3).log_prob(x).mean()
    torch.testing.assert_close(losses.loss, expected, rtol=1e-12, atol=0)
    ours = gradients(losses.loss, game)
    theirs = gradients(expected, game)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-10, atol=1e-12)


def test_codes_carry_the_noise_of_the_encoder_and_that_of_the_phase():
    seen = []
    game = small_game()

    class Spy(type(game)):
        def decoder_alone(self, coded):
            seen.append(coded.codes.scale)
            return super().decoder_alone(coded)

    game.__class__ = Spy
    trained = trainer(game, phases=(Phase("decoder_only", 1),), decoder_code_noise=0.5)
    codes = game.eval().codes(trained.splits["train"])
    deviation = (codes.loc.var(0, correction=0) + codes.scale.square().mean(0)).sqrt()
    trained.fit()
    floor = 0.5 * deviation
    expected = (codes.scale.square() + floor.square()).sqrt()
    distances = (torch.cat(seen)[:, None] - expected).abs().amax(2)
    assert distances.amin(1).max() < 1e-5  # each is that of some image


def test_resume_is_bit_for_bit(tmp_path):
    """Stopped in the joint phase, at the begin and the end of the decoder's, and in the prior's."""

    def run(folder, on_row=lambda row: None):
        folder.mkdir(exist_ok=True)
        return trainer(None, folder, phases=PHASES, decoder_code_noise=0.3, on_row=on_row)

    stops = [9, 12, 24, 27]

    def stop(row):
        if row["step"] >= stops[0]:
            stops.pop(0)
            raise StopError

    run(tmp_path / "whole").fit()
    while stops:
        with pytest.raises(StopError):
            run(tmp_path / "parts", stop).fit()
        torch.rand(17)
    run(tmp_path / "parts").fit()
    last = "checkpoints/last.safetensors"
    assert (tmp_path / "parts" / last).read_bytes() == (tmp_path / "whole" / last).read_bytes()


def test_a_decoder_of_noisy_codes_decodes_them_better():
    """The mean squared error of decoded codes with noise falls, on images that the decoder never saw."""
    game = small_game(hidden=64)
    rarely = {"report_every": 1000, "evaluations": 1}
    trainer(game, phases=(Phase("joint", 60),), **rarely).fit()

    def error():
        split = trainer(game).splits["test"]
        torch.manual_seed(0)
        with torch.no_grad():
            z = game.autoencoder.codes(split).noised(0.5).sample()
            return (game.autoencoder.decode(z) - split.batch(slice(None)).x).square().mean().item()

    before = error()
    trainer(game, phases=(Phase("decoder_only", 60),), decoder_code_noise=0.5, **rarely).fit()
    assert error() < before


@pytest.mark.parametrize("noise", [-0.1, float("nan"), float("inf")])
def test_noise_that_is_none_is_refused(noise):
    with pytest.raises(UserError, match="decoder_code_noise must be a number of at least 0"):
        trainer(decoder_code_noise=noise)


def test_codes_that_cannot_be_stored_are_refused():
    game = small_game()
    game.autoencoder.__class__ = type("Several", (models.Autoencoder,), {"sites": ["z1", "z2"]})
    with pytest.raises(UserError, match="codes that can be stored"):
        trainer(game, phases=PHASES)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [(Constant(), 1.0), (Linear(0.0, 0.5), 1.0), (StepDecay((0.5, 1.0)), 0.25)],
)
def test_schedules_of_the_joint_phase_are_over(schedule, expected):
    assert schedule(Progress(9, 0.0, "decoder_only", prior_was_joint=True)) == expected


def test_a_prior_that_is_not_trained_yet_is_not_shown():
    game = small_game()
    game.advance(Progress(9, 0.0, "decoder_only", prior_was_joint=False))
    assert game.in_force().prior is game.stand_in
    game.advance(Progress(9, 0.0, "decoder_only", prior_was_joint=True))
    assert game.in_force() is game.autoencoder


# ----------------------------------------------------------------- runs


def test_a_run_trains_its_decoder_between_the_phases(train):
    assert train(*QUICK, "decoder_epochs=2", "decoder_code_noise=0.2", "order=two_stage")[0] == 0
    summary = pyro_lrp.Run(only_run()).summary
    assert [*summary["after_phase"]] == ["autoencoder_only", "decoder_only", "prior_only"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("epochs=0", "decoder_epochs=1"), "decoder_epochs needs a trained encoder: epochs must be above 0"),
        (("decoder_code_noise=0.1",), "decoder_code_noise has no effect without decoder_epochs"),
        (("decoder_epochs=-1",), "decoder_epochs must be a whole number of at least 0"),
        (("decoder_epochs=1", "decoder_code_noise=-1"), "decoder_code_noise must be a finite number"),
    ],
)
def test_a_phase_without_meaning_is_refused(train, options, message):
    code, _, err = train(*QUICK, *options)
    assert (code, message in err) == (1, True), err


def test_a_finished_run_goes_on_with_its_decoder(train, trained_by):
    more = ("decoder_epochs=1", "decoder_code_noise=0.2")
    trained_by(*QUICK)
    before = pyro_lrp.load(only_run())
    code, _, err = train(*QUICK, *more)
    assert (code, "extend=true goes on" in err) == (1, True)
    code, _, err = train(*QUICK, *more, "extend=true")
    assert code == 0, err
    after = pyro_lrp.load(only_run())
    for part, moves in (("encoder", False), ("decoder", True)):
        was, now = (getattr(ae, part).state_dict() for ae in (before, after))
        assert any(not torch.equal(now[key], value) for key, value in was.items()) == moves
    code, _, err = train(*QUICK, "decoder_epochs=2", "decoder_code_noise=0.9", "extend=true")
    assert (code, "decoder_code_noise (there 0.2, here 0.9)" in err) == (1, True)


# ----------------------------------------------------------------- published choices

PUBLISHED = {
    "ldm_kl": {"beta": 1e-6, "order": "two_stage"},
    "stop_gradient": {"beta": 0, "network.latent_norm": "batch"},
    "noise_floor": {"beta": 1, "network.noise": "fixed", "network.latent_norm": "batch"},
    "noisy_decoder": {"beta": 0, "decoder_epochs": 10, "decoder_code_noise": 0.3, "prior_code_noise": 0.3},
}


def _at(identity, key):
    for part in key.split("."):
        identity = identity[part]
    return identity


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_choice_changes_what_it_says(name):
    identity = composed(f"experiment={name}")
    assert {key: _at(identity, key) for key in PUBLISHED[name]} == PUBLISHED[name]
    small = config.compose_train(f"experiment=[mnist_small,{name}]")
    assert {key: _at(small.identity, key) for key in PUBLISHED[name]} == PUBLISHED[name]
    assert small.identity["presets"]["experiment"] == f"mnist_small+{name}"
    assert small.directory.parent.name.startswith(f"mnist_small+{name}-")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_choice_trains(train, name):
    shorter = {"noisy_decoder": ["decoder_epochs=1"], "ldm_kl": ["prior.width=8", "prior.rtol=1e-2"]}.get(
        name, []
    )
    code, _, err = train(*QUICK, f"experiment={name}", "network=mlp", *shorter)
    assert code == 0, err


@pytest.mark.parametrize("names", ["[]", "[mnist_small,nothing]", "[3]"])
def test_a_list_of_unknown_experiments_is_refused(train, names):
    code, _, err = train(*QUICK, f"experiment={names}")
    assert (code, "the known ones are: disentanglement" in err) == (1, True), err
