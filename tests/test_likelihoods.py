import math

import pytest
import torch

from pyro_lrp.likelihoods import Bernoulli, Gaussian


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


def test_gradient_steps_find_the_best_gamma():
    residuals = 0.1 * torch.randn(4, 1, 8, 8, dtype=torch.float64)
    gaussian = Gaussian(gamma=1.0, learn=True).double()
    adam = torch.optim.Adam(gaussian.parameters(), 0.05)
    for _ in range(400):
        adam.zero_grad()
        (-gaussian(torch.zeros_like(residuals)).log_prob(residuals).mean()).backward()
        adam.step()
    assert gaussian.gamma.item() == pytest.approx(residuals.square().mean().item(), rel=1e-3)


def test_bernoulli_is_the_cross_entropy_also_of_grey_pixels():
    x, mean = torch.rand(3, 1, 4, 4), torch.rand(3, 1, 4, 4)
    expected = -torch.nn.functional.binary_cross_entropy(mean, x, reduction="none").sum((1, 2, 3))
    torch.testing.assert_close(Bernoulli()(mean).log_prob(x), expected, rtol=1e-4, atol=1e-4)
    assert torch.isfinite(Bernoulli()(torch.zeros(1, 1, 2, 2)).log_prob(torch.ones(1, 1, 2, 2))).all()
    with torch.no_grad():
        assert torch.equal(Bernoulli()(mean).mean, mean)


@pytest.mark.parametrize("gamma", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_gamma_is_refused(gamma):
    with pytest.raises(ValueError, match="gamma"):
        Gaussian(gamma=gamma)
