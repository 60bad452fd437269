"""Bounds on log p(x) against the exact evidence of a linear Gaussian model."""

import csv
import math

import pyro.distributions as dist
import pytest
import torch
from builders import jiggle, small_autoencoder
from linear_models import linear_gaussian

from pyro_lrp import data, priors
from pyro_lrp.metrics import METRICS, Subject
from pyro_lrp.metrics.functional import importance_weighted_bound, refine
from pyro_lrp.metrics.likelihood import _log_joint

GAMMA, DIM, PIXELS = 0.3, 3, 6


class Linear:
    """x = A z + b + noise of variance GAMMA, z ~ N(0, I): the evidence and the posterior are known."""

    def __init__(self, images=60):
        generator = torch.Generator().manual_seed(0)

        def normal(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.a, self.b = normal(PIXELS, DIM), normal(PIXELS)
        self.x = normal(images, DIM) @ self.a.T + self.b + math.sqrt(GAMMA) * normal(images, PIXELS)
        eye = torch.eye(PIXELS, dtype=torch.float64)
        self.evidence = dist.MultivariateNormal(self.b, self.a @ self.a.T + GAMMA * eye).log_prob(self.x)
        precision = torch.eye(DIM, dtype=torch.float64) + self.a.T @ self.a / GAMMA
        self.covariance = torch.linalg.inv(precision)
        self.mean = (self.x - self.b) @ self.a @ self.covariance / GAMMA

    def log_joint(self, z):
        mean = z @ self.a.T + self.b
        prior = dist.Normal(torch.zeros(DIM, dtype=torch.float64), 1.0).to_event(1)
        return dist.Normal(mean, math.sqrt(GAMMA)).to_event(1).log_prob(self.x), prior.log_prob(z)


def normal(loc, scale):
    return dist.Normal(loc, scale * torch.ones_like(loc)).to_event(1)


def test_the_exact_posterior_gives_the_exact_evidence():
    model = Linear()
    posterior = dist.MultivariateNormal(model.mean, model.covariance.expand(len(model.x), -1, -1))
    found = importance_weighted_bound(model.log_joint, posterior, 7)
    torch.testing.assert_close(found.bound, model.evidence)
    torch.testing.assert_close(found.sample_size, torch.full_like(found.bound, 7.0))


@pytest.mark.parametrize("scale", [1e-3, 0.3])  # an encoder that is far too narrow, as at beta = 0; a good one
def test_the_refined_bound_is_within_a_hundredth_of_a_nat(scale):
    model = Linear()
    torch.manual_seed(0)
    off = model.mean + 0.05
    unit = torch.ones(DIM, dtype=torch.float64)
    refined = refine(model.log_joint, off, scale * torch.ones_like(off), unit=unit)
    found = importance_weighted_bound(model.log_joint, refined, 1000)
    gap = (model.evidence - found.bound).mean().item()
    error = (model.evidence - found.bound).std().item() / math.sqrt(len(model.x))
    assert -6 * error < gap < 0.01  # below the evidence but for chance
    assert found.sample_size.mean() > 100
    # the best diagonal normal has the posterior's conditional variances
    expected = torch.linalg.inv(model.covariance).diag().rsqrt().expand_as(off)
    torch.testing.assert_close(refined.stddev.mean(0), expected.mean(0), rtol=0.15, atol=0)
    as_it_is = importance_weighted_bound(model.log_joint, normal(off, scale), 1000)
    assert as_it_is.bound.mean() < found.bound.mean() + 0.01
    if scale == 1e-3:
        assert as_it_is.bound.mean() < model.evidence.mean() - 5


def test_the_bound_rises_with_k():
    model = Linear(400)
    torch.manual_seed(0)
    bounds = [
        importance_weighted_bound(model.log_joint, normal(model.mean, 0.6), k).bound for k in (1, 10, 100)
    ]
    means = [bound.mean().item() for bound in bounds]
    assert means == sorted(means)
    assert means[-1] - means[0] > 0.3  # far more than their standard errors
    assert means[-1] < model.evidence.mean() + 0.05


def test_the_metric_of_a_linear_gaussian_autoencoder(tmp_path):
    """Through the model's own likelihood and prior, in float32, on images."""
    images = data.fake(300, (1, 2, 3))
    ae, marginal = linear_gaussian(DIM, PIXELS, GAMMA)
    subject = Subject(ae, images, n=50, k=1000, directory=tmp_path)
    found = METRICS["likelihood"].compute(subject)
    index = torch.tensor([int(row["index"]) for row in read_scores(subject)])
    x = images.test.images[index].flatten(1).double() / 255
    evidence = marginal.log_prob(x)
    bound = found["log_likelihood_bound"]
    assert bound["value"] == pytest.approx(evidence.mean().item(), abs=0.01)
    of_levels = dist.TransformedDistribution(marginal, [dist.transforms.AffineTransform(0.0, 255.0)])
    nats = of_levels.log_prob(images.test.images[index].flatten(1).double()).mean().item()
    assert bound["bits_per_dim"] == pytest.approx(-nats / (PIXELS * math.log(2)), abs=0.01 / PIXELS)
    assert bound["protocol"]["k"] == 1000
    assert found["log_likelihood_bound_encoder"]["value"] < bound["value"] - 1
    elbo = found["elbo"]
    assert elbo["value"] == pytest.approx(elbo["log_likelihood"] + elbo["log_prior"] + elbo["entropy"])
    assert elbo["kl"] == pytest.approx(-elbo["log_prior"] - elbo["entropy"])
    assert elbo["value"] < found["log_likelihood_bound_encoder"]["value"]


def read_scores(subject):
    METRICS["scores"].compute(subject)
    with open(subject.directory / "scores.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_scores_are_a_row_for_each_image(tmp_path):
    images = data.fake(300, (1, 8, 8))
    subject = Subject(small_autoencoder().eval(), images, n=30, k=5, directory=tmp_path)
    rows = read_scores(subject)
    assert list(rows[0]) == [
        "index", "label", "squared_error", "log_prior", "bound", "effective_sample_size", "typicality",
    ]  # fmt: skip
    assert len(rows) == 30
    ae = subject.autoencoder
    for row in rows[:3]:
        x = images.test.batch(slice(int(row["index"]), int(row["index"]) + 1)).x
        with torch.no_grad():
            z = ae.encode(x).mean
            assert float(row["squared_error"]) == pytest.approx(
                (ae.decode(z) - x).square().mean().item(), rel=1e-4
            )
            assert float(row["log_prior"]) == pytest.approx(ae.prior().log_prob(z).item(), rel=1e-4)
        assert int(row["label"]) == images.test.labels[int(row["index"])]
    sampler = Subject(
        small_autoencoder(prior=priors.NeuralSampler(4, 1, 8)).eval(), images, n=9, directory=tmp_path
    )
    assert list(read_scores(sampler)[0]) == ["index", "label", "squared_error"]


def test_a_conditional_prior_scores_each_image_under_its_own_context():
    digits, _ = data.with_context(data.digits(), "label")
    ae = jiggle(small_autoencoder(prior=priors.conditional_paper_flow(4, 10, 2, 8)), 0.3).eval()
    batch = digits.test.batch(slice(0, 5))
    z = torch.randn(3, 5, 4)
    log_likelihood, log_prior = _log_joint(ae, batch)(z)
    for i in range(5):
        alone = ae.prior(batch.context[i]).log_prob(z[:, i])
        torch.testing.assert_close(log_prior[:, i], alone)
        pixels = ae.likelihood(ae.decode(z[:, i])).log_prob(batch.x[i])
        torch.testing.assert_close(log_likelihood[:, i], pixels)
    assert torch.isfinite(
        METRICS["likelihood"].compute(Subject(ae, digits, n=5, k=2))["elbo"]["value"] * z
    ).all()
