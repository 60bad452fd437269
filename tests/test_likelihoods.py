import math

import pytest
import torch

from pyro_lrp.likelihoods import Gaussian


@pytest.mark.parametrize(("pixels", "nll"), [(784, 720.44781), (3072, 2822.97917), (12288, 11291.91670)])
def test_known_values_at_a_perfect_reconstruction(pixels, nll):
    """Spec 15.1."""
    x = torch.rand(1, 1, 1, pixels, dtype=torch.float64)
    assert Gaussian().double()(x).log_prob(x).item() == pytest.approx(-nll, abs=1e-5)


def test_gamma_is_the_variance():
    gaussian = Gaussian(gamma=0.25)
    assert gaussian.gamma.item() == pytest.approx(0.25)
    assert gaussian(torch.zeros(1, 1, 2, 2)).stddev.flatten()[0].item() == pytest.approx(0.5)
    assert not list(gaussian.parameters())


def test_the_best_learned_gamma_is_the_mean_squared_residual():
    """Spec 15.3: the gradient with respect to log s is zero there."""
    x, mean = torch.rand(8, 1, 4, 4, dtype=torch.float64), torch.rand(8, 1, 4, 4, dtype=torch.float64)
    gaussian = Gaussian(gamma=(x - mean).square().mean().item(), learn=True).double()
    gaussian(mean).log_prob(x).sum().backward()
    assert abs(gaussian.log_scale.grad.item()) < 1e-4
    assert gaussian.log_scale.item() == pytest.approx(0.5 * math.log(gaussian.gamma.item()))


@pytest.mark.parametrize("gamma", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_gamma_is_refused(gamma):
    with pytest.raises(ValueError, match="gamma"):
        Gaussian(gamma=gamma)
