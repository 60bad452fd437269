import math
from dataclasses import replace

import pyro.distributions as dist
import pytest
import torch
from builders import small_autoencoder
from torch import nn

from pyro_lrp import data, likelihoods, models, priors
from pyro_lrp.core.errors import UserError
from pyro_lrp.latents.codes import DrawnCodes
from pyro_lrp.metrics import gap_in_codes
from pyro_lrp.metrics.functional import (
    moments,
)
from pyro_lrp.metrics.prior_gap import prior_gap
from pyro_lrp.metrics.subject import Subject

DIM = 24


@pytest.fixture(scope="module")
def digits(tmp_path_factory, lend_cache):
    with pytest.MonkeyPatch.context() as patch:  # the classifier is trained once
        patch.setenv("PYRO_LRP_CACHE", str(lend_cache(tmp_path_factory.mktemp("cache"))))
        yield data.digits()


class Linear(nn.Module):
    """Principal components, as a deterministic encoder or a decoder."""

    def __init__(self, split):
        super().__init__()
        x = split.batch(slice(None)).x.flatten(1)
        self.mean = x.mean(0)
        self.basis = torch.linalg.svd(x - self.mean, full_matrices=False)[2][:DIM].T
        self.scale = ((x - self.mean) @ self.basis).std(0)


class Encoder(Linear):
    def forward(self, x):
        return (x.flatten(1) - self.mean) @ self.basis / self.scale, None


class Decoder(Linear):
    contrast = 1.0

    def forward(self, z):
        return (self.mean + self.contrast * (z * self.scale) @ self.basis.T).reshape(-1, 1, 8, 8)


class Resampler(priors.Prior):
    """The empirical distribution of some codes: no density, no base."""

    has_log_prob = False

    def __init__(self, codes):
        super().__init__()
        self.event_shape, self.codes = codes.shape[1:], codes

    def forward(self, context=None, *, temperature=1.0):
        return dist.Empirical(self.codes, torch.zeros(len(self.codes)))


def halves(images):
    seen = torch.arange(len(images.train)) % 2 == 0
    return images.train[seen], images.train[~seen]


def judge(images, prior_of, *, n=500, contrast=1.0, labelled=True):
    """``prior_of`` makes a prior of codes that the model was trained on, and of others."""
    seen, unseen = halves(images)
    encoder, decoder = Encoder(images.train), Decoder(images.train)
    decoder.contrast = contrast
    codes = [encoder(split.batch(slice(None)).x)[0] for split in (seen, unseen)]
    ae = models.Autoencoder(encoder, decoder, prior_of(*codes), likelihoods.Gaussian()).eval()
    if not labelled:
        images, seen = (_unlabelled(x) for x in (images, seen))
    return prior_gap(Subject(ae, images, seen, n=n))


def _unlabelled(x):
    if isinstance(x, data.Split):
        return replace(x, labels=None)
    return replace(x, train=_unlabelled(x.train), test=_unlabelled(x.test))


def memory(seen, unseen):
    prior = priors.Mixture(DIM, len(seen), covariance="diag")
    with torch.no_grad():
        prior.loc.copy_(seen)
        prior.log_diagonal.fill_(math.log(20.0))
    return prior


def test_a_prior_equal_to_the_aggregate_posterior_is_not_blamed(digits):
    found = judge(digits, lambda seen, unseen: Resampler(unseen))
    assert found["prior_gap"]["culprit"] == "neither"
    assert 0.4 < found["prior_gap_c2st"]["value"] < 0.6
    assert 0.4 < found["prior_gap_copying"]["value"] < 0.6
    assert abs(found["prior_gap_energy_distance"]["value"]) < 0.05  # a shift by 1: 3
    assert found["prior_gap_fd_samples"]["value"] < 2 * found["prior_gap_fd_training"]["value"]
    left_out = found["prior_gap"]["protocol"]["left_out"]
    assert left_out == ["log p(z): the prior has no density", "moments in the base: the prior has none"]
    assert not any("nll" in name or "base" in name for name in found)


def test_a_shifted_prior_under_fits(digits):
    found = judge(digits, lambda seen, unseen: Resampler(unseen + 1.0))
    assert found["prior_gap"]["culprit"] == "prior under-fits"
    assert found["prior_gap"]["value"] > 0.8
    assert found["prior_gap_c2st"]["value"] > 0.9
    assert found["prior_gap_energy_distance"]["value"] > 100 * abs(
        found["prior_gap_energy_distance_training"]["value"]
    )


def test_a_prior_that_memorised_training_codes_over_fits(digits):
    found = judge(digits, memory)
    assert found["prior_gap"]["culprit"] == "prior over-fits"
    assert found["prior_gap_copying"]["value"] > 0.95
    assert found["prior_gap_copying"]["relative"] > 0.95
    assert found["prior_gap_nll_difference"]["value"] > 100
    assert (
        found["prior_gap_fd_samples"]["value"] < 2 * found["prior_gap_fd_training"]["value"]
    )  # does not see it


def test_a_collapsed_decoder_is_the_culprit(digits):
    found = judge(digits, lambda seen, unseen: Resampler(unseen), contrast=0.3)
    assert found["prior_gap"]["culprit"] == "decoder"
    assert found["prior_gap"]["value"] < 0.2


def test_without_labels_the_decoder_is_not_judged(digits):
    prior_of = {"prior under-fits": lambda seen, unseen: Resampler(unseen + 1.0), "prior over-fits": memory}
    for culprit, make in prior_of.items():
        found = judge(digits, make, contrast=0.3, labelled=False)
        assert found["prior_gap_in_codes"]["culprit"] == culprit
        assert "prior_gap" not in found
        assert not any("fd" in name for name in found)
        assert "the data set digits has none" in found["prior_gap_in_codes"]["protocol"]["left_out"][-1]


def test_densities_are_those_of_each_image_under_its_own_context(digits):
    images, _ = data.with_context(digits, "label")
    encoder = Encoder(images.train)
    prior = priors.conditional_paper_flow(DIM, 10, 2, 8)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    ae = models.Autoencoder(encoder, Decoder(images.train), prior, likelihoods.Gaussian()).eval()
    subject = Subject(ae, _unlabelled(images), n=5000)
    found = prior_gap(subject)
    with torch.no_grad():
        for of, split in (("training", images.train), ("test", images.test)):
            codes = encoder(split.batch(slice(None)).x)[0]
            nll = -prior(split.context).log_prob(codes).double()
            assert found[f"prior_gap_nll_{of}"]["value"] == pytest.approx(nll.mean().item(), rel=1e-5)
            expected = nll.std().item() / len(nll) ** 0.5
            assert found[f"prior_gap_nll_{of}"]["standard_error"] == pytest.approx(expected, rel=1e-4)
        base = moments(prior.to_base(codes, images.test.context))
    assert found["prior_gap_base_moments"]["value"] == pytest.approx(base.square, rel=1e-5)
    assert found["prior_gap_nll_difference"]["value"] == pytest.approx(
        found["prior_gap_nll_test"]["value"] - found["prior_gap_nll_training"]["value"]
    )


def test_results_do_not_depend_on_what_was_drawn_before_but_on_the_seed(digits):
    def values(state, seed=0):
        torch.manual_seed(state)
        ae = models.Autoencoder(
            Encoder(digits.train), Decoder(digits.train), priors.StandardNormal(DIM), likelihoods.Gaussian()
        )
        found = prior_gap(Subject(ae.eval(), _unlabelled(digits), n=100, seed=seed))
        return {name: result["value"] for name, result in found.items()}

    assert values(1) == values(2)
    assert values(1) != values(1, seed=1)


def test_active_units_by_both_rules(digits):
    class Scaled(Encoder):
        """Unit variances times squares of gains, and noise: the last unit has nothing else."""

        def forward(self, x):
            z, _ = super().forward(x)
            gain = torch.ones(DIM)
            gain[-3:] = torch.tensor([1e-3, 0.5, 0.0])
            scale = torch.full_like(z, 1e-4)
            scale[:, -3:-1] = torch.tensor([1e-3, 5.0])
            return z * gain, scale

    ae = models.Autoencoder(
        Scaled(digits.train), Decoder(digits.train), priors.StandardNormal(DIM), likelihoods.Gaussian()
    ).eval()
    found = prior_gap(Subject(ae, _unlabelled(digits), n=100))
    assert found["active_units"]["value"] == DIM - 2  # all but the small one and the dead one
    assert found["active_units_scale_free"]["value"] == DIM - 2  # all but the drowned one and the dead one
    assert found["active_units"]["protocol"]["of"] == DIM


def test_codes_of_any_shape_are_judged_as_vectors(digits):
    shape = (2, 3, DIM // 6)

    class Shaped(Encoder):
        def forward(self, x):
            return super().forward(x)[0].unflatten(1, shape), None

    class Flattening(Decoder):
        def forward(self, z):
            return super().forward(z.flatten(1))

    class Normal(priors.Prior):
        event_shape = torch.Size(shape)

        def forward(self, context=None, *, temperature=1.0):
            return dist.Normal(torch.zeros(shape), 1.0).to_event(3)

    def values(encoder, decoder, prior):
        ae = models.Autoencoder(encoder(digits.train), decoder(digits.train), prior, likelihoods.Gaussian())
        found = prior_gap(Subject(ae.eval(), _unlabelled(digits), n=100))
        return {name: result["value"] for name, result in found.items() if "base" not in name}

    flat = values(Encoder, Decoder, priors.StandardNormal(DIM))
    assert values(Shaped, Flattening, Normal()) == pytest.approx(flat, rel=1e-5)


def test_too_few_images_are_refused(digits):
    with pytest.raises(UserError, match="prior_gap needs 20 training images, .* at least, got 19"):
        judge(digits, lambda seen, unseen: Resampler(unseen), n=19)


@pytest.mark.parametrize("most", [60, 1000])
def test_densities_that_cost_an_equation_each_are_of_codes_at_random(monkeypatch, most):
    """Codes in the order of their length, as a split that is taken whole may be in one of its own."""
    monkeypatch.setattr(gap_in_codes, "_SOLVED", (most, most))
    z = torch.randn(400, 4)
    z = z[z.norm(dim=1).argsort()]
    codes = DrawnCodes(z, models.Codes(z, torch.zeros_like(z), torch.zeros(400, 0)), torch.zeros(400))
    ae = small_autoencoder(prior=priors.StandardNormal(4))
    ae.prior.tolerance = 1e-3
    found = gap_in_codes.densities(Subject(ae, data.fake(20, (1, 8, 8))), codes, codes)
    nll = -ae.prior().log_prob(z)
    for name in ("training", "test"):
        one = found[f"prior_gap_nll_{name}"]
        assert one["n"] == min(most, 400)
        error = nll.std().item() / one["n"] ** 0.5
        assert one["value"] == pytest.approx(nll.mean().item(), abs=4 * error + 1e-4)


class Noisy(Encoder):
    def forward(self, x):
        loc, _ = super().forward(x)
        return loc, 0.5 * loc.abs() + 0.1


def test_the_rate_is_the_kl_to_a_normal_prior_in_bits_for_each_dimension(digits):
    encoder = Noisy(digits.train)
    ae = models.Autoencoder(encoder, Decoder(digits.train), priors.StandardNormal(DIM), likelihoods.Gaussian())
    found = prior_gap(Subject(ae.eval(), digits, n=2000))
    q = ae.encode(digits.test.batch(slice(None)).x)
    kl = torch.distributions.kl_divergence(q, ae.prior().expand(q.batch_shape)).mean().item()
    rate = found["prior_gap_rate"]
    # one draw for each code: five standard errors, p < 1e-6
    assert rate["value"] == pytest.approx(kl / (DIM * math.log(2)), abs=5 * rate["standard_error"])
    assert rate["standard_error"] < 0.05 * rate["value"]


def test_a_deterministic_encoder_has_a_distortion_and_no_rate(digits):
    found = judge(digits, lambda seen, unseen: priors.StandardNormal(DIM))
    assert "prior_gap_rate" not in found
    assert 0 < found["prior_gap_distortion"]["value"] < 0.05
