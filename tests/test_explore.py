"""Directions and paths of a latent space, and what a trained model shows of them."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from builders import jiggle, small_autoencoder
from PIL import Image
from torch import nn

from pyro_lrp import figures, likelihoods, models, priors
from pyro_lrp.core.errors import UserError
from pyro_lrp.data import ImageData, Split, pictures
from pyro_lrp.figures import requests
from pyro_lrp.figures.requests import Request
from pyro_lrp.figures.training import SamplePictures
from pyro_lrp.latents import along, attribute_direction, even_speed, principal_directions, slerp, typicality
from pyro_lrp.latents import views as explore
from pyro_lrp.latents.views import Space, means


def test_the_direction_of_an_attribute_is_where_its_codes_are_moved():
    v = torch.tensor([1.0, -2.0, 0.5, 0.0])
    labels = torch.arange(20_000) % 2 == 0
    z = torch.randn(20_000, 4) + labels[:, None] * v  # spec 15.34; the standard error is 0.014
    torch.testing.assert_close(attribute_direction(z, labels), v, atol=0.1, rtol=0)
    for everybody, whose in ((True, "every"), (False, "no")):
        with pytest.raises(ValueError, match=f"{whose} code has this attribute"):
            attribute_direction(z, torch.full((20_000,), everybody))


def test_principal_directions_are_those_of_the_covariance():
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    z = (
        torch.randn(5000, 3, dtype=torch.float64)
        @ torch.diag(torch.tensor([3.0, 1.0, 0.2]).double())
        @ rotation
        + 5
    )
    found = principal_directions(z)
    eigenvalues = torch.linalg.eigvalsh(z.T.cov()).flip(0)
    torch.testing.assert_close(found.deviations.square(), eigenvalues)
    torch.testing.assert_close(found.directions @ found.directions.T, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(found.coefficients(z).std(0), torch.ones(3, dtype=torch.float64))
    moved = found.replace(z, 1, -1.5)
    expected = found.coefficients(z)
    expected[:, 1] = -1.5
    torch.testing.assert_close(found.coefficients(moved), expected)
    assert principal_directions(z, 2).directions.shape == (2, 3)
    with pytest.raises(ValueError, match="expected 1 to 3 components of 5000 codes, got 4"):
        principal_directions(z, 4)


def test_even_speed_divides_the_change_equally():
    changes = torch.rand(7, 50) + 0.01
    times = even_speed(changes, 11)
    done = torch.nn.functional.pad(changes.cumsum(1), (1, 0))
    for row, t in enumerate(times):
        reached = np.interp(t.numpy(), np.linspace(0, 1, 51), done[row].numpy())
        assert np.diff(reached) == pytest.approx(changes[row].sum().item() / 10, rel=1e-3)
    assert torch.equal(times[:, 0], torch.zeros(7))
    assert torch.equal(times[:, -1], torch.ones(7))
    torch.testing.assert_close(even_speed(torch.zeros(4), 5), torch.linspace(0, 1, 5))


def test_typicality_is_a_rank():
    reference = torch.linspace(-10, 0, 101)
    shares = typicality(torch.tensor([-11.0, -5.05, 1.0]), reference)
    assert shares.tolist() == pytest.approx([0, 50 / 101, 1])


# --------------------------------------------------------------------- of a model


@pytest.fixture
def ae():
    torch.manual_seed(0)
    return jiggle(small_autoencoder(), 0.3).eval()


@pytest.mark.parametrize("name", explore.SPACES)
def test_paths_of_both_spaces_share_their_ends(ae, name):
    a, b = torch.randn(2, 6, 4)
    path = Space(ae, name).path(a, b, torch.linspace(0, 1, 5))
    assert path.shape == (6, 5, 4)
    torch.testing.assert_close(path[:, 0], a, atol=1e-5, rtol=0)  # spec 15.35
    torch.testing.assert_close(path[:, -1], b, atol=1e-5, rtol=0)


def test_a_path_in_the_base_is_round_there(ae):
    a, b = torch.randn(2, 6, 4)
    t = torch.rand(6, 3)
    with torch.no_grad():
        expected = along(ae.prior.to_base(a), ae.prior.to_base(b), t, slerp)
        torch.testing.assert_close(
            ae.prior.to_base(Space(ae, "base").path(a, b, t)), expected, atol=1e-4, rtol=1e-4
        )


def test_a_conditional_path_is_in_its_own_context():
    prior = jiggle(priors.conditional_paper_flow(4, 3, 2, 8), 0.3)
    ae = small_autoencoder(prior=prior).eval()
    a, b, context = torch.randn(2, 4), torch.randn(2, 4), torch.eye(3)[[0, 2]]
    path = Space(ae, "base", context).path(a, b, torch.linspace(0, 1, 4))
    alone = Space(ae, "base", context[1:]).path(a[1:], b[1:], torch.linspace(0, 1, 4))
    torch.testing.assert_close(path[1:], alone)
    torch.testing.assert_close(path[:, 0], a, atol=1e-5, rtol=0)
    other = Space(ae, "base", context.flip(0)).path(a, b, torch.linspace(0, 1, 4))
    assert (other - path).abs().max() > 1e-3


def test_spaces_that_there_are_not():
    sampler = small_autoencoder(prior=priors.NeuralSampler(4, 1, 8))
    with pytest.raises(UserError, match="space=base: this run's prior, NeuralSampler, has no base"):
        Space(sampler, "base")
    with pytest.raises(UserError, match="space=outer is unknown; the known ones are: base, latent"):
        Space(sampler, "outer")


class Bent(nn.Module):
    """Decodes a code to a point whose speed along a straight path is very uneven."""

    def forward(self, z):
        return (torch.sign(z) * z.abs() ** 4).reshape(-1, 1, 1, 2)


def test_constant_speed_is_constant():
    ae = models.Autoencoder(nn.Identity(), Bent(), priors.StandardNormal(2), likelihoods.Gaussian())
    a, b = torch.tensor([[0.0, 0.1], [-1.0, 0.3]]), torch.tensor([[2.0, 1.0], [1.5, 2.0]])

    def distance(x, y):
        return (x - y).square().flatten(1).sum(1)

    def variation(codes):
        images = explore.decode(ae, codes)
        changes = (images[:, 1:] - images[:, :-1]).square().flatten(2).sum(-1)
        return changes.std(1) / changes.mean(1)

    space = Space(ae, "latent")
    plain = space.path(a, b, torch.linspace(0, 1, 9))
    even = space.at_even_speed(a, b, 9, distance)
    torch.testing.assert_close(even[:, [0, -1]], plain[:, [0, -1]])
    assert (variation(plain) > 0.5).all()
    assert (variation(even) < 0.25 * variation(plain)).all()


def test_strips_hold_the_images_they_are_about(ae):
    a, b = torch.rand(2, 3, 1, 8, 8)
    strip = explore.interpolations(a, b, ["x", "y", "z"], [Space(ae, "base"), Space(ae, "latent")], 5)
    assert strip.images.shape == (6, 7, 1, 8, 8)
    assert strip.latents.shape == (6, 7, 4)
    assert strip.rows == ["x\nz_0", "x\nz_T", "y\nz_0", "y\nz_T", "z\nz_0", "z\nz_T"]
    for row in range(6):
        assert torch.equal(strip.images[row, 0], a[row // 2])
        assert torch.equal(strip.images[row, -1], b[row // 2])
    with torch.no_grad():
        torch.testing.assert_close(strip.images[0, 1], ae.decode(means(ae, a[:1]))[0], atol=1e-5, rtol=0)
    moved = explore.edits(
        a,
        torch.ones(4),
        ["x", "y", "z"],
        "joy",
        [Space(ae, "latent")],
        3,
        reference=torch.linspace(-50, 50, 100),
    )
    torch.testing.assert_close(moved.latents[:, -1], means(ae, a) + 1)
    assert moved.columns == ("image", "", "", "+ joy")
    assert len(moved.notes) == 3
    assert moved.notes[0].startswith("x: the edited code is less likely than ")
    principal = principal_directions(torch.randn(50, 4))
    values = torch.tensor([-1.5, 0.0, 1.5])
    walk = explore.traversals(ae, a[:1], principal, [0, 2], values, Space(ae, "latent"))
    assert walk.images.shape == (2, 4, 1, 8, 8)
    torch.testing.assert_close(principal.coefficients(walk.latents[1, 1:])[:, 2], values)
    in_base = explore.traversals(ae, a[:1], principal, [1], values, Space(ae, "base"))
    with torch.no_grad():
        coefficients = principal.coefficients(ae.prior.to_base(in_base.latents[0, 1:]))
    torch.testing.assert_close(coefficients[:, 1], values, atol=1e-4, rtol=1e-4)


def test_an_attribute_that_nobody_has_is_no_direction(ae):
    images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    has = torch.tensor([[True, False], [False, False], [True, False], [False, False]])
    known = ImageData(
        "faces", Split(images, attributes=has), Split(images, attributes=has), attributes=("Hat", "Halo")
    )
    run = SimpleNamespace(autoencoder=ae, data=known, device=torch.device("cpu"))
    request = Request(run, {"strength": 2.0})
    codes = torch.tensor([[1.0], [0.0], [3.0], [0.0]]).expand(-1, 4)
    torch.testing.assert_close(request.direction("Hat", codes), torch.full((4,), 4.0))
    with pytest.raises(UserError, match="attribute=Halo: no code has this attribute, so it defines"):
        request.direction("Halo", codes)
    with pytest.raises(UserError, match="attribute=Hut is unknown; the known ones are: Hat, Halo"):
        request.direction("Hut", codes)
    without, context = request.without("Hat", 5)
    assert len(without) == 2
    assert context.shape == (2, 0)


# --------------------------------------------------------------------- pictures


def test_pictures_of_ones_own_become_a_models_images(tmp_path):
    exact = (torch.rand(8, 8) * 255).byte().numpy()
    Image.fromarray(exact).save(tmp_path / "a.png")
    Image.new("RGB", (30, 20), (255, 0, 0)).save(tmp_path / "b.png")
    names, images, notes = pictures([tmp_path], (1, 8, 8))
    assert names == ["a.png", "b.png"]
    assert np.array_equal(images[0, 0].numpy(), exact)
    assert (images[1] == 76).all()  # red as grey
    assert notes == [
        "b.png is among images that are cut to their centre", "b.png is among images that are resized to 8x8"
    ]  # fmt: skip
    Image.new("L", (20, 20)).save(tmp_path / "bb.png")
    assert pictures([tmp_path], (1, 8, 8))[2][1:] == ["2 of 3 images are resized to 8x8"]
    (tmp_path / "bb.png").unlink()
    assert pictures([tmp_path / "b.png"], (3, 8, 8))[1][0, :, 0, 0].tolist() == [255, 0, 0]
    (tmp_path / "c.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"images: .*c.png is no image that can be read"):
        pictures([tmp_path], (1, 8, 8))
    with pytest.raises(UserError, match="images: there is no file or folder nowhere.png"):
        pictures(["nowhere.png"], (1, 8, 8))


def test_figures_are_written_for_screen_and_print(tmp_path):
    images = torch.rand(2, 3, 1, 8, 8)
    figure = figures.strips(images, ["a\nb", "c"], ["1", "2", "3"], "title", groups=1)
    first = figures.save_figure(figure, tmp_path / "strip.png")
    assert [p.suffix for p in first] == [".png", ".pdf"]
    with Image.open(first[0]) as picture:
        width, height = picture.size
        assert width > height > 200
        assert np.asarray(picture.convert("RGB")).std() > 20  # something is drawn
    content = [p.read_bytes() for p in first]
    figures.save_figure(
        figures.strips(images, ["a\nb", "c"], ["1", "2", "3"], "title", groups=1), tmp_path / "strip.png"
    )
    assert [p.read_bytes() for p in first] == content
    figures.save_gif(tmp_path / "strip.gif", images)
    with Image.open(tmp_path / "strip.gif") as animation:
        assert animation.n_frames == 4  # there and back


def test_contours_hold_their_shares_of_the_mass():
    x = np.linspace(-5, 5, 201)
    density = np.exp(-0.5 * (x[:, None] ** 2 + x[None] ** 2)) / (2 * math.pi)
    levels = figures.plots._levels(density, (0.9, 0.3))
    cell = (x[1] - x[0]) ** 2
    for level, share in zip(levels, (0.9, 0.3), strict=True):
        assert density[density >= level].sum() * cell == pytest.approx(share, abs=0.01)


# ------------------------------------------------------------- what is shown does not depend on the order


def in_order(n=600):
    """Ten classes of images, one after another, whose brightness is the class."""
    labels = torch.arange(n) * 10 // n
    images = labels.byte().reshape(n, 1, 1, 1).expand(n, 1, 4, 4)
    split = Split(images, labels, context=torch.eye(10)[labels])
    return ImageData("ordered", split, split)


def classes_in(labels):
    return len(labels.unique())


def test_images_that_nobody_chose_are_of_many_classes_and_always_the_same():
    images = in_order()
    request = Request(
        SimpleNamespace(data=images, device=torch.device("cpu")), {"indices": None, "images": None}
    )
    names, x, context, _ = request.images(12)
    shown = context.argmax(1)
    assert classes_in(shown) >= 5
    assert names == request.images(12)[0]
    assert torch.equal((x * 255).round()[:, 0, 0, 0].long(), shown)
    assert [int(name.split()[1]) * 10 // 600 for name in names] == shown.tolist()
    _, lacking = request.without("3", 30)
    assert classes_in(lacking.argmax(1)) >= 7
    assert 3 not in lacking.argmax(1)


def test_directions_come_from_training_images_of_all_classes(monkeypatch):
    monkeypatch.setattr(requests, "_CODES", 100)
    request = Request(SimpleNamespace(data=in_order(), device=torch.device("cpu"), autoencoder=None), {})
    assert classes_in(request.training.labels) == 10
    assert torch.equal(request.has("3"), request.training.labels == 3)
    assert len(request.training) == 100


def test_pictures_while_training_are_of_all_classes(tmp_path):
    contexts = in_order(6000).train.context
    drawn = [SamplePictures(tmp_path, seed, contexts).contexts for seed in (0, 1)]
    assert classes_in(drawn[0][:64].argmax(1)) >= 9
    assert len(drawn[0]) == 1000
    assert torch.equal(*drawn)


def test_an_unlabelled_image_is_on_neither_side_of_a_direction(ae):
    """Classes 1, 0, unlabelled: the direction of class 1 is code 0 minus code 1, whatever the third is."""
    images = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    split = Split(images, labels=torch.tensor([1, 0, -1]))
    run = SimpleNamespace(
        autoencoder=ae, data=ImageData("two", split, split, classes=("cat", "dog")), device=torch.device("cpu")
    )
    request = Request(run, {"strength": 1.0})
    codes = torch.tensor([[3.0], [1.0], [1000.0]]).expand(-1, 4)
    torch.testing.assert_close(request.direction("dog", codes), torch.full((4,), 2.0))
    assert len(request.without("dog", 5)[0]) == 1
