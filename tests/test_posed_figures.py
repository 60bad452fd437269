"""Drawn people: always the same, posed as they are said to be, and with markers that are found."""

import os
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from pyro_lrp.core.errors import UserError
from pyro_lrp.data.posed_figures import posed_figures
from pyro_lrp.people import JOINTS
from pyro_lrp.people.synthetic import MARKERS, PATTERNS


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYRO_LRP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def data(cache):
    return posed_figures(n=300, test=100)


def floats(images):
    return images.float() / 255


def joint(split, name):
    return split.extras["joints"][:, JOINTS.index(name)]


def alone(places, size=64):
    """Which markers touch no other one, (N, M)."""
    radii = torch.tensor([marker.radius * size for marker in MARKERS])
    apart = torch.cdist(places, places) > radii[:, None] + radii
    return (apart | torch.eye(len(MARKERS), dtype=torch.bool)).all(2)


def test_shapes_and_ranges(data):
    assert data.name == "posed_figures"
    assert data.image_shape == (3, 64, 64)
    assert data.truth.markers == ("head", "right hand", "left hand", "right foot", "left foot")
    for split, count in ((data.train, 300), (data.test, 100)):
        assert split.images.shape == (count, 3, 64, 64)
        assert split.images.dtype == torch.uint8
        assert split.labels.dtype == torch.int64
        assert split.extras["joints"].shape == (count, len(JOINTS), 2)
        assert split.extras["joints"].dtype == torch.float32
        assert 0.05 < split.extras["joints"].min()
        assert split.extras["joints"].max() < 0.95
        assert sorted(split.labels.unique().tolist()) == list(range(len(PATTERNS)))


def test_an_image_depends_only_on_its_split_and_number(data, tmp_path, monkeypatch):
    monkeypatch.setenv("PYRO_LRP_CACHE", str(tmp_path))
    torch.manual_seed(5)
    few = posed_figures(n=20, test=10)
    for part in ("train", "test"):
        first, all_of_them = getattr(few, part), getattr(data, part)
        beginning = all_of_them[: len(first)]
        assert torch.equal(first.images, beginning.images)
        assert torch.equal(first.labels, beginning.labels)
        assert torch.equal(first.extras["joints"], beginning.extras["joints"])
    assert not torch.equal(few.train.images[:10], few.test.images)


@pytest.mark.parametrize("size", [32, 128, 256])
def test_other_sizes_show_the_same_people(data, cache, size):
    large = posed_figures(n=12, test=1, image_size=size)
    assert torch.equal(large.train.extras["joints"], data.train.extras["joints"][:12])
    assert torch.equal(large.train.labels, data.train.labels[:12])
    means = [floats(images).mean((2, 3)) for images in (large.train.images, data.train.images[:12])]
    assert (means[0] - means[1]).abs().max() < 0.02
    expected = large.truth.expected(large.train.extras["joints"])
    distance = (large.truth.find(floats(large.train.images)) - expected).norm(dim=-1)
    assert (distance[alone(expected, size)] < 1.5 * size / 64).all()


def test_people_face_the_viewer(data):
    for part in ("hip", "shoulder", "eye"):  # a person's right is on the viewer's left
        assert (joint(data.train, f"r{part}")[:, 0] < joint(data.train, f"l{part}")[:, 0]).all()
    heights = [joint(data.train, name)[:, 1] for name in ("cnose", "rshoulder", "rhip", "rknee", "rankle")]
    assert all((upper < lower).all() for upper, lower in zip(heights, heights[1:], strict=False))


def test_poses_are_diverse(data):
    above_the_shoulder = joint(data.train, "rwrist")[:, 1] < joint(data.train, "rshoulder")[:, 1]
    assert 0.2 < above_the_shoulder.float().mean() < 0.8
    feet = joint(data.train, "lankle")[:, 0] - joint(data.train, "rankle")[:, 0]
    assert feet.std() > 0.05


def test_only_markers_are_saturated(data):
    """Apart from discs around the markers, no pixel is near a marker's colour."""
    images, places = floats(data.train.images), data.truth.expected(data.train.extras["joints"])
    grid = torch.stack(torch.meshgrid(torch.arange(64), torch.arange(64), indexing="xy"), dim=-1) + 0.5
    beside = torch.ones(300, 64, 64, dtype=torch.bool)
    for number, marker in enumerate(MARKERS):
        beside &= (grid - places[:, number, None, None]).norm(dim=-1) > marker.radius * 64 + 1.5
    assert (images.amax(1) - images.amin(1))[beside].max() < 0.4


def test_the_detector_finds_every_marker_where_it_is(data):
    for split in (data.train, data.test):
        found, expected = data.truth.find(floats(split.images)), data.truth.expected(split.extras["joints"])
        distance = (found - expected).norm(dim=-1)
        clear = alone(expected)
        assert clear.float().mean() > 0.9
        assert (~found.isnan().any(-1))[clear].float().mean() >= 0.99
        assert (distance[clear] <= 1.5).float().mean() >= 0.99
        assert distance[clear].nanmean() < 0.5


def test_the_detector_still_finds_markers_in_blurred_and_darker_images(data):
    images, expected = floats(data.test.images), data.truth.expected(data.test.extras["joints"])
    blurred = 0.9 * torch.nn.functional.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    distance = (data.truth.find(blurred) - expected).norm(dim=-1)
    assert (distance[alone(expected)] <= 1.5).float().mean() >= 0.99


def test_the_detector_finds_nothing_where_there_is_nothing(data, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    grey = torch.rand(8, 1, 64, 64, generator=generator)
    muted = 0.3 + 0.35 * torch.rand(8, 3, 64, 64, generator=generator)
    without_markers = tuple(replace(marker, colour=(128, 120, 110)) for marker in MARKERS)
    monkeypatch.setattr("pyro_lrp.people.synthetic.drawing.MARKERS", without_markers)
    unmarked = floats(data.truth.draw(data.test.extras["joints"], 0))
    for images in (grey.expand(-1, 3, -1, -1), muted, unmarked, torch.zeros(2, 3, 64, 64)):
        assert data.truth.find(images).isnan().all()


def test_single_saturated_pixels_mislead_nobody(data):
    images = floats(data.test.images).clone()
    expected = data.truth.expected(data.test.extras["joints"])
    images[:, :, 1, 1] = torch.tensor([1.0, 0.0, 0.0])
    images[:, :, 62, 62] = torch.tensor([0.0, 0.25, 1.0])
    distance = (data.truth.find(images) - expected).norm(dim=-1)
    assert (distance[alone(expected)] <= 1.5).all()


def test_a_missing_marker_is_missed_and_others_are_found(data):
    images, expected = floats(data.test.images).clone(), data.truth.expected(data.test.extras["joints"])
    clear = alone(expected).all(1)
    for image, place in zip(images, expected[:, 1], strict=True):  # paint over the right hands
        x, y = (max(0, int(value) - 4) for value in place)
        image[:, y : y + 9, x : x + 9] = 0.5
    found = data.truth.find(images)
    assert found[clear, 1].isnan().all()
    assert not found[clear][:, 3:].isnan().any()


@pytest.mark.parametrize(("right", "down"), [(3, 0), (0, -2), (-3, 3)])
def test_a_shifted_image_has_shifted_markers(data, right, down):
    images = floats(data.test.images)
    shifted = torch.roll(images, (down, right), dims=(2, 3))
    moved = data.truth.find(shifted) - data.truth.find(images)
    inside = alone(data.truth.expected(data.test.extras["joints"]))
    inside &= (data.truth.find(images) - 32).abs().amax(-1) < 24  # else a disc may come in on the other side
    assert torch.allclose(moved[inside], torch.tensor([float(right), float(down)]), atol=1e-3)


def test_drawing_depends_on_the_seed_and_keeps_the_pose(data):
    joints = data.test.extras["joints"][:40]
    first, again, other = (data.truth.draw(joints, seed) for seed in (1, 1, 2))
    assert first.dtype == torch.uint8
    assert first.shape == (40, 3, 64, 64)
    assert torch.equal(first, again)
    assert (first != other).flatten(1).any(1).all()
    expected = data.truth.expected(joints)
    for images in (first, other):
        distance = (data.truth.find(floats(images)) - expected).norm(dim=-1)
        assert (distance[alone(expected)] <= 1.5).all()


def test_appearance_is_independent_of_the_pose(data):
    """The same seed and row wear the same, whatever the pose: corners show the background alone."""
    one, other = (
        data.truth.draw(joints, 3)
        for joints in (data.test.extras["joints"][:30], data.test.extras["joints"][30:60])
    )
    assert torch.equal(one[:, :, ::63, ::63], other[:, :, ::63, ::63])
    assert (one != other).flatten(1).any(1).all()
    assert len(one[:, :, 0, 0].unique(dim=0)) > 25


def test_images_are_kept_and_damaged_files_made_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("PYRO_LRP_CACHE", str(tmp_path))
    images = posed_figures(n=6, test=2).train.images.clone()
    (file,) = (tmp_path / "images").glob("posed_figures_train_*.npy")
    os.utime(file, (0, 0))
    with monkeypatch.context() as patch:
        patch.setattr(
            sys.modules[posed_figures.__module__], "draw_figure", None
        )  # would fail if it were called
        assert torch.equal(posed_figures(n=6, test=2).train.images, images)
    assert file.stat().st_mtime == 0
    whole = file.read_bytes()
    for damaged in (whole[:-100], b"", b"no array"):
        file.write_bytes(damaged)
        assert torch.equal(posed_figures(n=6, test=2).train.images, images)
        assert file.read_bytes() == whole
    np.save(file, np.zeros(3))
    assert torch.equal(posed_figures(n=6, test=2).train.images, images)
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"n": 0}, "data.n must be a whole number of at least 1, got 0"),
        ({"test": -1}, "data.test must be a whole number of at least 1, got -1"),
        ({"n": 2.5}, "data.n must be a whole number of at least 1, got 2.5"),
        ({"image_size": 60}, "data.image_size must be 32, 64, 128 or 256, got 60"),
    ],
)
def test_bad_numbers_are_refused(bad, message):
    with pytest.raises(UserError) as caught:
        posed_figures(**bad)
    assert str(caught.value) == message
