"""FactorVAE: who is moved by what, and whether the discriminator finds the total correlation."""

import math

import pytest
import torch
from builders import gradients, jiggle, small_autoencoder
from torch import nn

from pyro_lrp import likelihoods, models, networks, priors
from pyro_lrp.data import Batch
from pyro_lrp.objectives import BilevelELBO, TotalCorrelation, permute_dims


def game(weight=40.0, **options):
    ae = small_autoencoder(prior=options.pop("prior", priors.StandardNormal(4)), learn_gamma=True)
    return jiggle(
        TotalCorrelation(ae, BilevelELBO(1.0), networks.factor_discriminator(4, 2, 8), weight)
    ).double()


def test_the_joint_loss_is_the_elbo_and_the_weighted_estimate():
    total = game()
    x = torch.rand(6, 1, 8, 8, dtype=torch.float64)
    torch.manual_seed(0)
    losses = total("joint", [Batch(x)], {})
    ae = total.autoencoder
    torch.manual_seed(0)
    elbo = BilevelELBO(1.0).losses(ae.model, ae.guide, x)
    logits = total.discriminator(elbo.latents["z"])
    expected = elbo.loss / 6 + 40.0 * (logits[:, 0] - logits[:, 1]).mean()
    torch.testing.assert_close(losses.loss, expected, rtol=1e-12, atol=0)
    own = total.players()["autoencoder"]
    wanted, actual = (gradients(loss, own, retain_graph=True) for loss in (expected, losses.loss))
    for name in wanted:
        torch.testing.assert_close(actual[name], wanted[name], rtol=1e-9, atol=1e-12)
    plain = gradients(elbo.loss / 6, own, retain_graph=True)
    assert any((plain[n] - wanted[n]).abs().max() > 1e-6 for n in plain if n.startswith("0."))  # the encoder


def test_the_discriminators_loss_is_its_equation():
    """0.5 [CE(l(z), class 1) + CE(l(z_perm), class 2)], with z detached and z_perm of a second minibatch."""
    total = game()
    first, second = (torch.rand(6, 1, 8, 8, dtype=torch.float64) for _ in range(2))
    memo = {}
    total("joint", [Batch(first)], memo)
    torch.manual_seed(1)
    loss = total("discriminator", [Batch(first), Batch(second)], memo).loss
    torch.manual_seed(1)
    z_perm = permute_dims(total.autoencoder.encode(second).sample())
    log_1 = total.discriminator(memo["z"]).log_softmax(1)[:, 0]
    log_2 = total.discriminator(z_perm).log_softmax(1)[:, 1]
    torch.testing.assert_close(loss, -0.5 * (log_1.mean() + log_2.mean()), rtol=1e-12, atol=0)


@pytest.mark.parametrize("prior", [lambda: priors.StandardNormal(4), lambda: priors.paper_flow(4, 2, 8)])
def test_gradients_reach_the_right_players_only(prior):
    total = game(prior=prior())
    assert [turn.batches for turn in total.turns("joint")] == [1, 2]
    memo = {}
    for turn in total.turns("joint"):
        total.zero_grad()
        batches = [Batch(torch.rand(6, 1, 8, 8, dtype=torch.float64)) for _ in range(turn.batches)]
        total(turn.name, batches, memo).loss.backward()
        for name, player in total.players().items():
            touched = [p.grad is not None for p in player.parameters()]
            assert all(touched) if name in turn.moves else not any(touched), (turn.name, name)
    owned = [p for player in total.players().values() for p in player.parameters()]
    assert len(owned) == len({id(p) for p in owned}) == len(list(total.parameters()))
    assert all(p.requires_grad for p in total.parameters())


def test_permuting_keeps_marginals_and_destroys_dependence():
    torch.manual_seed(0)
    z = torch.randn(5000, 1).expand(-1, 3) + 0.1 * torch.randn(5000, 3)
    permuted = permute_dims(z)
    assert torch.equal(permuted.sort(0).values, z.sort(0).values)
    correlation = permuted.T.corrcoef() - torch.eye(3)
    assert correlation.abs().max() < 6 / math.sqrt(5000)  # six deviations: p < 1e-8


@pytest.mark.parametrize("rho", [0.0, 0.8])
def test_the_estimate_is_near_the_analytic_total_correlation(rho):
    """TC of a normal with correlation rho in two dimensions is -0.5 log(1 - rho^2): 0, and 0.511 nats."""

    class Encoder(nn.Module):
        def forward(self, x):
            return x, torch.full_like(x, 1e-3)

    torch.manual_seed(0)
    ae = models.Autoencoder(Encoder(), nn.Linear(2, 2), priors.StandardNormal(2), likelihoods.Gaussian())
    total = TotalCorrelation(ae, BilevelELBO(1.0), networks.factor_discriminator(2, 2, 64))
    root = torch.linalg.cholesky(torch.tensor([[1.0, rho], [rho, 1.0]]))
    adam = torch.optim.Adam(total.discriminator.parameters(), 2e-3, betas=(0.5, 0.9))
    for _ in range(500):
        x = torch.randn(2, 500, 2) @ root.T
        loss = total("discriminator", [Batch(x[0]), Batch(x[1])], {"z": x[0]}).loss
        adam.zero_grad()
        loss.backward()
        adam.step()
    estimate = total.score(Batch(torch.randn(20_000, 2) @ root.T))["total_correlation"].item()
    assert estimate == pytest.approx(-0.5 * math.log(1 - rho**2), abs=0.08)


def test_a_bad_weight_is_refused():
    with pytest.raises(ValueError, match="weight to be a finite number of at least 0, got -1"):
        game(weight=-1)
