"""Paths between codes, codes of a split, samples of the prior in seeded chunks."""

import math

import pytest
import torch
from builders import small_autoencoder

from pyro_lrp import data
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.randomness import seeded
from pyro_lrp.latents import lerp, slerp
from pyro_lrp.latents.codes import (
    draw_codes,
    encode_split,
    finite_chunks,
    finite_rows,
    posterior_means,
    seeded_chunks,
)
from pyro_lrp.models import Draw

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


# --------------------------------------------------------------------- codes and samples


def test_the_codes_of_a_split_are_those_of_its_images():
    torch.manual_seed(0)
    ae = small_autoencoder().eval()
    split = data.fake(1100, (1, 8, 8)).train
    sizes = []
    drawn = draw_codes(ae, split, 3, "label", on_batch=sizes.append)
    assert sizes == [500, 500, len(split) - 1000]
    whole = encode_split(ae, split)
    torch.testing.assert_close(drawn.posterior.loc, whole.loc)
    torch.testing.assert_close(drawn.posterior.scale, whole.scale)
    torch.testing.assert_close(posterior_means(ae, split), whole.loc)
    deviations = (drawn.z - whole.loc) / whole.scale
    assert abs(deviations.std().item() - 1) < 0.1
    q = torch.distributions.Normal(whole.loc, whole.scale)
    torch.testing.assert_close(drawn.log_q, q.log_prob(drawn.z).sum(1))
    some = drawn.rows(slice(2, 5))
    assert torch.equal(some.z, drawn.z[2:5])
    assert torch.equal(some.posterior.loc, drawn.posterior.loc[2:5])
    assert torch.equal(some.log_q, drawn.log_q[2:5])
    torch.rand(3)
    assert torch.equal(draw_codes(ae, split, 3, "label").z, drawn.z)
    assert not torch.equal(draw_codes(ae, split, 4, "label").z, drawn.z)


@pytest.mark.parametrize("by_number", [False, True])
def test_a_chunk_depends_on_its_label_alone(by_number):
    def draw(rows):
        return torch.rand(rows.stop - rows.start)

    chunks = [*seeded_chunks(draw, 7, 3, 0, "label", by_number=by_number)]
    assert [len(chunk) for chunk in chunks] == [3, 3, 1]
    for label, chunk in zip((0, 1, 2) if by_number else (0, 3, 6), chunks, strict=True):
        with seeded(0, "label", label):
            assert torch.equal(chunk, torch.rand(len(chunk)))


def test_rows_that_are_not_finite_are_found_in_any_tensor():
    images, codes = torch.zeros(3, 1, 2, 2), torch.zeros(3, 4)
    images[0, 0, 1, 1] = torch.nan
    codes[2, 3] = torch.inf
    assert finite_rows(images, codes).tolist() == [False, True, False]


def test_samples_are_refused_only_if_none_is_finite():
    empty, full = (Draw(torch.zeros(n, 1), torch.zeros(n, 1), 2 - n) for n in (0, 2))
    assert len([*finite_chunks(iter([empty, full, empty]), 6)]) == 3
    with pytest.raises(UserError, match="none of 4 prior samples is finite"):
        [*finite_chunks(iter([empty, empty]), 4)]
