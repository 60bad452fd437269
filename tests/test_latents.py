"""Paths between codes: known points and lengths."""

import math

import pytest
import torch

from pyro_lrp.latents import lerp, slerp

E1, E2 = torch.eye(2, dtype=torch.float64)
ROOT = math.sqrt(0.5)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [(E1, E2, (ROOT, ROOT)), (2 * E1, E2, (2 * ROOT, ROOT)), (E1, -3 * E2, (ROOT, -3 * ROOT))],  # spec 15.29
)
def test_halfway_on_a_round_path(a, b, expected):
    torch.testing.assert_close(slerp(a, b, 0.5), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("path", [lerp, slerp])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_paths_begin_and_end_at_their_ends(path, dtype):
    a, b = torch.randn(2, 20, 8, dtype=dtype)
    for t, end in ((0.0, a), (1.0, b)):
        torch.testing.assert_close(path(a, b, t), end)
        torch.testing.assert_close(path(a, b, torch.full((20,), t)), end)
        assert path(a, b, t).dtype == dtype


@pytest.mark.parametrize("factor", [1.0, 2.5, -1.0])
def test_between_parallel_codes_a_round_path_is_straight(factor):
    a = torch.randn(5, 8)
    t = torch.rand(5)
    torch.testing.assert_close(slerp(a, factor * a, t), lerp(a, factor * a, t))
    assert slerp(torch.zeros(3), torch.ones(3), 0.5).isfinite().all()


@pytest.mark.parametrize("path", [lerp, slerp])
def test_each_pair_has_a_time_of_its_own(path):
    a, b = torch.randn(2, 3, 4, 8)
    t = torch.rand(3, 4)
    points = path(a, b, t)
    torch.testing.assert_close(points[1, 2], path(a[1, 2], b[1, 2], t[1, 2].item()))


def test_round_paths_keep_the_length_of_normal_codes():
    """Spec 15.31; over 20,000 pairs the standard errors are 0.005."""
    a, b = torch.randn(2, 20_000, 64)
    assert slerp(a, b, 0.5).norm(dim=1).mean() == pytest.approx(7.98, abs=0.04)
    assert lerp(a, b, 0.5).norm(dim=1).mean() == pytest.approx(5.63, abs=0.04)


def test_a_round_path_is_on_an_arc_of_even_speed():
    a, b = torch.randn(2, 8, dtype=torch.float64)
    a, b = a / a.norm(), b / b.norm()
    points = torch.stack([slerp(a, b, t) for t in torch.linspace(0, 1, 11).tolist()])
    torch.testing.assert_close(points.norm(dim=1), torch.ones(11, dtype=torch.float64))
    steps = (points[1:] - points[:-1]).norm(dim=1)
    torch.testing.assert_close(steps, steps[:1].expand(10))
