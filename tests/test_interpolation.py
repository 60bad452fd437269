"""`interpolation_distance`: decoded midpoints of neighbours."""

import pytest
import torch
from builders import small_autoencoder
from test_prior_gap import Decoder, Encoder, digits  # noqa: F401

from pyro_lrp import likelihoods, models, priors
from pyro_lrp.metrics import METRICS, Subject
from pyro_lrp.metrics.interpolation import interpolation_distance, nearest_neighbours


def test_neighbours_are_those_of_a_full_table():
    points = torch.randn(2500, 3)
    table = torch.cdist(points, points)
    table.fill_diagonal_(torch.inf)
    assert torch.equal(nearest_neighbours(points), table.argmin(1))
    assert nearest_neighbours(torch.zeros(3, 2)).tolist() == [1, 0, 0]  # never itself


class Holes(Decoder):
    """Decodes what is not close to a known code as noise."""

    codes = None

    def forward(self, z):
        images = super().forward(z)
        far = torch.cdist(z, self.codes).amin(1) > 0.1
        images[far] = torch.rand_like(images[far])
        return images


def test_it_sees_holes_between_codes_which_the_codes_themselves_do_not(digits):  # noqa: F811
    found = {}
    for kind in (Decoder, Holes):
        encoder = Encoder(digits.train)
        decoder = kind(digits.train)
        decoder.codes = encoder(digits.train.batch(slice(None)).x)[0]
        prior = priors.StandardNormal(decoder.codes.shape[1])
        ae = models.Autoencoder(encoder, decoder, prior, likelihoods.Gaussian()).eval()
        results = interpolation_distance(Subject(ae, digits, n=500))
        found[kind] = {name: one["value"] for name, one in results.items()}
    smooth = found[Decoder]
    holes = found[Holes]
    assert holes["interpolation_distance_codes"] == pytest.approx(
        smooth["interpolation_distance_codes"], rel=1e-4
    )
    assert holes["interpolation_distance"] > 10 * smooth["interpolation_distance"]
    assert smooth["interpolation_distance"] > 0


def test_it_belongs_to_the_metrics_and_needs_labels(digits):  # noqa: F811
    ae = small_autoencoder().eval()
    metric = METRICS["interpolation_distance"]
    assert metric.lacks(Subject(ae, digits)) is None
    assert "needs" in metric.lacks(Subject(ae, digits, n=1))
