import math
from dataclasses import replace

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_lrp import data, likelihoods, models, priors
from pyro_lrp.core.errors import UserError
from pyro_lrp.metrics.functional import (
    Copying,
    FeatureStatistics,
    TwoSample,
    copying,
    energy_distance,
    frechet_error,
    moments,
    two_sample,
)
from pyro_lrp.metrics.functional import classifier_two_sample_test as c2st
from pyro_lrp.metrics.prior_gap import prior_gap
from pyro_lrp.metrics.prior_verdict import Evidence, verdict
from pyro_lrp.metrics.subject import Subject

DIM = 24


def test_a_classifier_does_not_tell_equal_samples_apart():
    # under the null |accuracy - 0.5| exceeds 5 standard errors with a probability below 6e-7
    a, b = torch.randn(2, 400, 8)
    found = c2st(a, b)
    assert abs(found.accuracy - 0.5) < 5 * 0.5 / 400**0.5
    assert found.p_value > 1e-6
    assert found.interval[0] < found.accuracy < found.interval[1]
    assert found.interval[1] - found.interval[0] == pytest.approx(2 * 1.96 * 0.5 / 400**0.5, rel=0.03)
    assert found.n == 800


def test_a_classifier_tells_a_shift_by_the_bayes_accuracy():
    # accuracy of N(0, I) against N(m, I), |m| = 2: at most Phi(1) = 0.841, and near it; se 0.012
    a, b = torch.randn(2, 900, 4)
    found = c2st(a, b + 1.0)
    assert 0.78 < found.accuracy < 0.841 + 5 * 0.012
    assert found.p_value < 1e-40


@pytest.mark.parametrize("change", ["correlation", "product"])
def test_a_classifier_finds_differences_that_are_not_of_single_dimensions(change):
    a, b = torch.randn(2, 1000, 8)
    if change == "correlation":
        b[:, 1] = 0.8 * b[:, 0] + 0.6 * b[:, 1]
    else:
        b[:, 0] = b[:, 1] * b[:, 2]
    assert c2st(a, b).interval[0] > 0.55


def test_a_constant_dimension_and_unequal_sizes_do_no_harm():
    a, b = torch.randn(100, 3), torch.randn(300, 3) + 6.0
    a[:, 1] = b[:, 1] = 2.0
    found = c2st(a, b)
    assert found.accuracy > 0.95
    assert found.n == 200


@pytest.mark.parametrize("function", [c2st, energy_distance])
def test_samples_of_other_lengths_are_refused(function):
    with pytest.raises(ValueError, match=r"expected two samples .*\(30, 3\) and \(30, 4\)"):
        function(torch.randn(30, 3), torch.randn(30, 4))


def test_energy_distance_is_that_of_all_pairs(monkeypatch):
    a, b = torch.randn(7, 3) + 100, torch.randn(9, 3) + 101
    monkeypatch.setattr(two_sample, "_ENTRIES", 20)  # two rows at a time

    def mean(x, y, pairs):
        return sum((x[i] - y[j]).double().norm().item() for i, j in pairs) / len(pairs)

    cross = mean(a, b, [(i, j) for i in range(7) for j in range(9)])
    within = [mean(x, x, [(i, j) for i in range(len(x)) for j in range(len(x)) if i != j]) for x in (a, b)]
    assert energy_distance(a, b) == pytest.approx(2 * cross - sum(within), rel=1e-5)


def test_energy_distance_of_two_normals_is_the_closed_form():
    # 2 E|N(m, 2)| - 2 E|N(0, 2)|; the estimate's standard error at n = 3000 is about 0.02
    m, sigma = 1.0, math.sqrt(2)
    folded = sigma * math.sqrt(2 / math.pi) * math.exp(-((m / sigma) ** 2) / 2) + m * math.erf(m / 2)
    expected = 2 * (folded - sigma * math.sqrt(2 / math.pi))
    a, b = torch.randn(2, 3000, 1)
    assert energy_distance(a, b + m) == pytest.approx(expected, abs=0.12)
    assert abs(energy_distance(a, b)) < 0.01  # unbiased: about 0, its standard error is 5e-4


def test_copies_are_told_from_new_points_and_from_a_narrow_distribution():
    # standard error of a probability of 0.5 here: 0.013; five of them leave a chance of 6e-7
    train, test, new = torch.randn(3000, 8), torch.randn(1000, 8), torch.randn(1000, 8)
    copies = train[:1000] + 1e-3 * torch.randn(1000, 8)
    found = copying(copies, test, train)
    assert min(found.probability, found.relative_probability) > 0.999
    assert found.z_score == pytest.approx(0.5 / found.standard_error, rel=0.01)
    found = copying(new, test, train)
    assert found.standard_error == pytest.approx((2001 / 12e6) ** 0.5)
    for probability in (found.probability, found.relative_probability):
        assert abs(probability - 0.5) < 5 * found.standard_error
    narrow = copying(0.6 * new, test, train)  # near to training points, as it is where these are dense
    assert narrow.probability > 0.8
    assert abs(narrow.relative_probability - 0.5) < 0.1
    assert copying(new + 3.0, test, train).probability < 0.05
    mixed = copying(torch.cat([copies[:300], new[:700]]), test, train)
    assert mixed.probability == pytest.approx(0.3 + 0.7 * 0.5, abs=5 * 0.013)


def test_moments_of_normal_codes_and_of_others():
    # standard errors at n = 20,000, d = 10: square 0.0032, spread 0.006; mean_norm has mean 0.022
    z = torch.randn(20_000, 10)
    found = moments(z)
    assert found.square == pytest.approx(1, abs=5 * 0.0032)
    assert found.square_spread == pytest.approx(1, abs=0.04)
    assert found.mean_norm < 0.05
    assert found.correlation < 0.045  # each of 45 is above with a chance below 3e-10
    other = z.clone()
    other[:, 1] = 0.6 * z[:, 0] + 0.8 * z[:, 1]
    shifted = moments(other + torch.eye(10)[3] * 2)
    assert shifted.correlation == pytest.approx(0.6, abs=0.03)
    assert shifted.mean_norm == pytest.approx(2, abs=0.05)
    shell = moments(z / z.norm(dim=1, keepdim=True) * 10**0.5)
    assert shell.square == pytest.approx(1)
    assert shell.square_spread < 1e-3


def test_the_jackknife_knows_the_spread_of_a_frechet_distance():
    reference = FeatureStatistics.of([torch.randn(5000, 4)])
    draws = [torch.randn(400, 4) + 0.5 for _ in range(60)]
    spread = torch.tensor([FeatureStatistics.of([x]).distance(reference) for x in draws]).std().item()
    errors = torch.tensor([frechet_error(x, reference) for x in draws])
    assert 0.65 * spread < errors.square().mean().sqrt().item() < 1.5 * spread  # spread itself: 10 % per se


NEW = Copying(0.5, 0.0, 0.5, 0.006)
CHANCE = TwoSample(0.5, (0.486, 0.514), 0.5, 10_000)
TOLD = TwoSample(0.62, (0.606, 0.634), 1e-30, 10_000)


def evidence(samples=None, resampled=None, training=None, error=0.05, **others):
    fd = None
    if samples is not None:
        fd = {"samples": (samples, error), "resampled": (resampled, error), "training": (training, error)}
    given = {"copying": NEW, "c2st": CHANCE, "c2st_training": CHANCE, "nll": None, "dim": 64}
    return Evidence(fd=fd, **(given | others))


@pytest.mark.parametrize(
    ("given", "culprit"),
    [
        (evidence(66, 1.2, 0.66), "prior under-fits"),
        (evidence(82, 60, 0.66), "decoder"),
        (evidence(0.9, 0.8, 0.66), "neither"),  # less than half the floor each
        (evidence(3.5, 1.5, 0.66, error=0.8), "neither"),  # within 3 standard errors
        (evidence(0.5, 0.6, 0.66), "neither"),  # nearer than training images
        (evidence(2.4, 1.2, 0.66, copying=Copying(0.47, -5.0, 0.48, 0.006)), "prior under-fits"),
        (evidence(1.2, 1.2, 0.66, copying=Copying(0.8, 50.0, 0.8, 0.006)), "prior over-fits"),
        (evidence(20, 1.2, 0.66, copying=Copying(0.8, 50.0, 0.52, 0.006)), "prior under-fits"),  # narrow
        (evidence(20, 1.2, 0.66, copying=Copying(0.7, 4.0, 0.7, 0.05)), "prior under-fits"),  # noise
        (evidence(c2st=TOLD), "prior under-fits"),
        (evidence(c2st=TOLD, c2st_training=TOLD), "neither"),
        (evidence(c2st=TwoSample(0.54, (0.526, 0.554), 1e-9, 10_000)), "neither"),
        (evidence(copying=Copying(0.8, 50.0, 0.8, 0.006)), "prior over-fits"),
    ],
)
def test_the_culprit_of_known_figures(given, culprit):
    found = verdict(given)
    assert found.culprit == culprit
    assert (found.share is None) == (given.fd is None)


def test_shares_and_remedies():
    found = verdict(evidence(10.66, 2.66, 0.66))
    assert found.share == pytest.approx(0.8)
    assert "80%" in found.sentence
    assert "prior_epochs" in found.sentence
    assert "prior=flow" in verdict(evidence(10.66, 2.66, 0.66, learned=False)).sentence
    assert "cannot be judged" in verdict(evidence(c2st=TOLD)).sentence
    assert verdict(evidence(0.5, 0.6, 0.66)).share == 0.0
    assert verdict(evidence(5.0, 6.0, 0.66)).share == 0.0  # clipped
    assert "latent_dim" in verdict(evidence(5.0, 6.0, 0.66)).sentence


@pytest.mark.parametrize(("gap", "said"), [((18.0, 1.0), True), ((18.0, 8.0), False), ((2.0, 0.1), False)])
def test_a_density_that_over_fits_is_a_remark_and_no_culprit(gap, said):
    found = verdict(evidence(66, 1.2, 0.66, nll=gap))
    assert found.culprit == "prior under-fits"
    assert ("nats less likely" in found.sentence) == said


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:  # the classifier is trained once for this file
        patch.setenv("PYRO_LRP_CACHE", str(tmp_path_factory.mktemp("cache")))
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
        assert "data=digits has none" in found["prior_gap_in_codes"]["protocol"]["left_out"][-1]


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
