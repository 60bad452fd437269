"""The AAE's three turns against Eq. 14-16 written out, in float64; and what they make a prior do."""

import math

import pytest
import torch
from builders import gradients, jiggle, small_autoencoder
from torch import nn

from pyro_lrp import likelihoods, models, networks, priors
from pyro_lrp.data import Batch
from pyro_lrp.objectives import Adversarial, Codes
from pyro_lrp.schedules import Linear, Progress


def game(beta=0.0, *, gan_loss="minimax", prior=None, stochastic=False, learn_gamma=True):
    ae = small_autoencoder(prior=prior or priors.NeuralSampler(4, 2, 8), learn_gamma=learn_gamma)
    if not stochastic:
        ae.encoder, _ = networks.mlp((1, 8, 8), 4, hidden_dims=(16,), stochastic=False)
    return jiggle(Adversarial(ae, networks.discriminator(4, 2, 8), beta=beta, gan_loss=gan_loss)).double()


def written_out(game, x, u, beta, gan_loss):
    """The three objectives of Eq. 14-16 (or their non-saturating forms), to be MAXIMISED, for noise u."""
    ae = game.autoencoder
    z, _ = ae.encoder(x)
    residual = (x - ae.decoder(z)).flatten(1)
    log_s = ae.likelihood.log_scale
    log_x = (-0.5 * (residual / log_s.exp()) ** 2 - log_s - 0.5 * math.log(2 * math.pi)).sum(1).mean()
    p = ae.prior.network(u)
    d_q, d_p = game.discriminator(z).sigmoid(), game.discriminator(p).sigmoid()
    if gan_loss == "minimax":
        upper, lower = log_x - beta * torch.log(1 - d_q).mean(), -torch.log(d_p).mean()
    else:
        upper, lower = log_x + beta * torch.log(d_q).mean(), torch.log(1 - d_p).mean()
    return upper, lower, torch.log(d_p).mean() + torch.log(1 - d_q).mean()


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("gan_loss", ["minimax", "nonsaturating"])
def test_each_turn_has_the_gradients_of_its_equation(beta, gan_loss):
    adversarial = game(beta, gan_loss=gan_loss)
    x = torch.rand(6, 1, 8, 8, dtype=torch.float64)
    torch.manual_seed(3)
    u = torch.randn(6, 4, dtype=torch.float64)
    objectives = written_out(adversarial, x, u, beta, gan_loss)
    expected = dict(zip(("autoencoder", "prior", "discriminator"), objectives, strict=True))
    memo = {}
    for turn in adversarial.turns("joint"):
        torch.manual_seed(3)
        losses = adversarial(turn.name, [Batch(x)], memo)
        (player,) = turn.moves
        own = adversarial.players()[player]
        actual = gradients(losses.loss, own, retain_graph=True)
        wanted = gradients(-expected[player], own, retain_graph=True)
        for name, gradient in wanted.items():
            scale = 1 + gradient.abs().max()
            assert (actual[name] - gradient).abs().max() < 1e-10 * scale, (turn.name, name)
        assert any(g.abs().max() > 1e-6 for g in wanted.values())


def test_a_turn_leaves_no_gradient_in_players_it_does_not_move():
    adversarial = game(1.0)
    memo = {}
    for turn in adversarial.turns("joint"):
        adversarial.zero_grad()
        adversarial(turn.name, [Batch(torch.rand(6, 1, 8, 8, dtype=torch.float64))], memo).loss.backward()
        touched = {
            name
            for name, player in adversarial.players().items()
            if any(p.grad is not None for p in player.parameters())
        }
        assert touched == set(turn.moves), turn.name
    assert all(p.requires_grad for p in adversarial.parameters())


def test_known_value_of_an_undecided_discriminator():
    """Spec 15.6: logits of 0 everywhere give 2 log 2; the labels are 1 for the prior, 0 for the codes."""
    adversarial = game()
    for parameter in adversarial.discriminator.parameters():
        nn.init.zeros_(parameter)
    loss = adversarial("discriminator", [Codes(*torch.zeros(2, 6, 4).double(), torch.zeros(6, 0))], {}).loss
    assert loss.item() == pytest.approx(2 * math.log(2), abs=1e-12)


@pytest.mark.parametrize("gan_loss", ["minimax", "nonsaturating"])
def test_signs_of_a_single_step(gan_loss):
    """Spec 15.6: the encoder's step raises the codes' logits, the prior's lowers those of its samples."""
    adversarial = game(1000.0, gan_loss=gan_loss)
    x = torch.rand(64, 1, 8, 8, dtype=torch.float64)

    def logits(turn, memo):
        torch.manual_seed(0)
        if turn == "autoencoder":
            return adversarial.discriminator(adversarial.autoencoder.encoder(x)[0]).mean().item()
        return adversarial.discriminator(adversarial.autoencoder.prior().rsample((64,))).mean().item()

    for turn in ("autoencoder", "prior"):
        memo = {}
        torch.manual_seed(0)
        memo["prior_samples"] = adversarial.autoencoder.prior().rsample((64,))
        before = logits(turn, memo)
        sgd = torch.optim.SGD(
            adversarial.players()[turn].parameters(), lr=1e-5 if turn == "autoencoder" else 0.1
        )
        sgd.zero_grad()
        adversarial(turn, [Batch(x)], memo).loss.backward()
        sgd.step()
        assert (logits(turn, memo) - before) * (1 if turn == "autoencoder" else -1) > 0


@pytest.mark.parametrize("gan_loss", ["minimax", "nonsaturating"])
def test_the_learned_prior_moves_to_the_codes(gan_loss):
    """Codes N(3, 0.5^2) in two dimensions, and a prior that starts about 0. No sign error passes.

    A wrong sign of the prior's or of the discriminator's loss, or swapped labels, drives the samples away.
    """

    class Encoder(nn.Module):
        def forward(self, x):
            return x, None

    ae = models.Autoencoder(Encoder(), nn.Linear(2, 2), priors.NeuralSampler(2, 2, 64), likelihoods.Gaussian())
    adversarial = Adversarial(ae, networks.discriminator(2, 2, 64), beta=0.0, gan_loss=gan_loss)
    movers = {name: adversarial.players()[name] for name in ("discriminator", "prior")}
    adam = {name: torch.optim.Adam(p.parameters(), 1e-3, betas=(0.5, 0.999)) for name, p in movers.items()}
    samples = [ae.prior().sample((1000,))]
    for _ in range(600):
        codes, memo = Codes(3.0 + 0.5 * torch.randn(100, 2), torch.zeros(100, 2), torch.zeros(100, 0)), {}
        for turn in adversarial.turns("prior_only"):
            (player,) = turn.moves
            loss = adversarial(turn.name, [codes], memo).loss
            adam[player].zero_grad()
            loss.backward()
            adam[player].step()
        samples.append(memo["prior_samples"].detach())
    start, orbit = samples[0], torch.cat(samples[300:])  # the two players circle about the solution
    assert (start.mean(0) - 3.0).abs().min() > 2.0
    assert (orbit.mean(0) - 3.0).abs().max() < 0.2
    assert 0.3 < orbit.std(0).min() <= orbit.std(0).max() < 1.5


def test_turns_of_fixed_and_learned_priors():
    learned, fixed = game(), game(prior=priors.StandardNormal(4))
    assert [t.name for t in learned.turns("joint")] == ["autoencoder", "discriminator", "prior"]
    assert [t.name for t in fixed.turns("joint")] == ["autoencoder", "discriminator"]
    assert [t.name for t in learned.turns("prior_only")] == ["discriminator", "prior"]
    assert fixed.turns("prior_only") == ()


@pytest.mark.parametrize("prior", [lambda: priors.NeuralSampler(4, 1, 8), lambda: priors.paper_flow(4, 2, 8)])
@pytest.mark.parametrize("stochastic", [False, True])
def test_players_are_disjoint_and_complete_and_all_get_gradients(prior, stochastic):
    adversarial = game(0.5, prior=prior(), stochastic=stochastic)
    owned = [p for player in adversarial.players().values() for p in player.parameters()]
    assert len(owned) == len({id(p) for p in owned}) == len(list(adversarial.parameters()))
    memo, seen = {}, set()
    for turn in adversarial.turns("joint"):
        adversarial(turn.name, [Batch(torch.rand(6, 1, 8, 8).double())], memo).loss.backward()
        seen |= {name for name, p in adversarial.named_parameters() if p.grad is not None}
    assert seen == {name for name, _ in adversarial.named_parameters()}


def test_a_scheduled_beta_is_followed_and_logged():
    ae = small_autoencoder(prior=priors.NeuralSampler(4, 1, 8))
    adversarial = Adversarial(ae, networks.discriminator(4, 1, 8), 2.0, beta_schedule=Linear(0.0, 1.0))
    adversarial.advance(Progress(0, 0.25))
    losses = adversarial("autoencoder", [Batch(torch.rand(6, 1, 8, 8))], {})
    assert losses.terms["beta"].item() == 0.5
    expected = -losses.terms["log_likelihood"] + 0.5 * losses.terms["adversarial"]
    torch.testing.assert_close(losses.loss, expected)


def test_bad_arguments_are_refused():
    ae = small_autoencoder(prior=priors.NeuralSampler(4, 1, 8))
    critic = networks.discriminator(4, 1, 8)
    with pytest.raises(ValueError, match="beta to be a finite number of at least 0, got -1"):
        Adversarial(ae, critic, beta=-1)
    with pytest.raises(ValueError, match="gan_loss to be minimax or nonsaturating, got 'hinge'"):
        Adversarial(ae, critic, gan_loss="hinge")
    ae.prior.has_rsample = False
    with pytest.raises(TypeError, match="needs differentiable samples, and those of the prior NeuralSampler"):
        Adversarial(ae, critic)


def test_the_sampler_samples_and_refuses_a_density():
    prior = priors.NeuralSampler(3, 2, 8, noise_dim=5).double()
    p = prior()
    assert p.rsample((7, 2)).shape == (7, 2, 3)
    assert p.expand((6,)).sample().shape == (6, 3)
    assert prior.to_latent(torch.randn(4, 5).double()).shape == (4, 3)
    with pytest.raises(NotImplementedError, match=r"a neural sampler has no log_prob: it can only be sampled"):
        p.log_prob(torch.zeros(3))
    with pytest.raises(NotImplementedError, match="no inverse"):
        prior.to_base(torch.zeros(1, 3))
    gradient = gradients(p.rsample((9,)).square().sum(), prior)
    assert all(g.abs().max() > 0 for n, g in gradient.items() if not n.endswith("0.bias"))
    prior.eval()
    assert prior(temperature=1e-9).sample((4,)).var(0).max() < 1e-12
    with pytest.raises(ValueError, match="layers and width of at least 1"):
        priors.NeuralSampler(3, 0)
