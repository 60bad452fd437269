"""What one asks of a trained run in the browser, asked without a browser: of every kind of run."""

import shutil

import numpy as np
import pytest
import torch
from commands import QUICK, Unread, in_process
from PIL import Image

import pyro_lrp
from pyro_lrp.core.errors import UserError
from pyro_lrp.figures.explorer import Explorer, map_markup, markup
from pyro_lrp.figures.explorer.gauge import Gauge
from pyro_lrp.latents import views

SMALL = ("data=digits", "data.limit=200", *QUICK[1:])
PEOPLE = (
    "data=posed_figures", "data.n=48", "data.test=16", "data.image_size=32", "data.flow.layers=2",
    "data.flow.width=4", "likelihood=gaussian", "network.first=1", "network.most=2", "latent_dim=160",
    "batch_size=16", *QUICK[1:],
)  # fmt: skip
FLOW = ("prior.layers=2", "prior.width=8")
RUNS = {
    "flow": (*SMALL, *FLOW),
    "two": (*SMALL, *FLOW, "latent_dim=2"),
    "one": (*SMALL, "model=vae", "latent_dim=1"),
    "mixture": (*SMALL, "prior=mixture", "prior.components=3"),
    "matching": (*SMALL, "prior=flow_matching", "latent_dim=2", "prior.width=8"),
    "label": (*SMALL, "prior=conditional_flow", "context=label", *FLOW),
    "adversarial": (*SMALL, "model=aae_learned"),
    "attributes": (
        "data=folder", "data.path=faces", "data.image_size=8", "network=mlp", "latent_dim=4",
        "prior=conditional_flow", "context=attributes", *FLOW, *QUICK[1:],
    ),
    "pose": (*PEOPLE, "model=vunet_flow"),
}  # fmt: skip


def write_faces(folder):
    """Images with two attributes: every second one has a hat, every third one smiles."""
    folder.mkdir()
    rows = ["file,Hat,Smiling"]
    for number in range(60):
        pixels = torch.randint(0, 255, (8, 8), dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
        rows.append(f"{number:02}.png,{number % 2},{int(number % 3 == 0)}")
    (folder / "attributes.csv").write_text("\n".join(rows))


@pytest.fixture(scope="module")
def runs(tmp_path_factory, lend_cache):
    """The folder of these runs, each trained once."""
    folder = tmp_path_factory.mktemp("explored")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYRO_LRP_CACHE", str(lend_cache(folder / "cache")))
        write_faces(folder / "faces")
        for name, arguments in RUNS.items():
            code, _, _ = in_process("train", *arguments, f"name={name}", capsys=Unread(), monkeypatch=patch)
            assert code == 0
    return folder / "runs"


@pytest.fixture
def open_run(runs, monkeypatch):
    monkeypatch.setenv("PYRO_LRP_CACHE", str(runs.parent / "cache"))
    return lambda name: Explorer(pyro_lrp.Run(runs / name / "seed_0"))


@pytest.mark.parametrize("name", RUNS)
def test_every_kind_of_run_answers_every_question(open_run, name):
    explorer = open_run(name)
    shape = explorer.image_shape
    length = explorer.dimensions
    assert explorer.without_data is None
    samples = explorer.samples(4, 0.7)
    assert samples.images.shape == (4, *shape)
    assert samples.codes.shape == (4, length)
    point = samples.point(2)
    readings = explorer.readings(samples.codes, samples.context)
    assert len(readings) == (4 if explorer.has_density else 0)
    assert all(0 <= share <= 1 for reading in readings for share in (reading.codes, reading.samples))
    assert (explorer.gauge is None) == (name == "adversarial")
    assert explorer.nearest(point.image, 3).images.shape == (3, *shape)
    start = explorer.test_image(1)
    assert start.code.shape == (length,)
    for space in explorer.spaces.values():
        attribute = explorer.directions[0]
        moved = explorer.moved(start, {0: 1.5}, {attribute: 0.5}, space)
        assert moved.shape == (length,)
        assert explorer.decoded(moved, start.context).shape == shape
    walks = explorer.walks(start, explorer.test_image(2), list(explorer.spaces.values()), 4)
    assert [walk.label for walk in walks] == list(explorer.spaces)
    for walk in walks:
        assert walk.images.shape == (4, *shape)
        assert len(walk.readings) == (4 if explorer.has_density else 0)
    if name == "one":
        with pytest.raises(UserError, match="codes of one dimension have no map"):
            _ = explorer.map
        return
    place = explorer.map.at(0.4, 0.6)
    here, near = explorer.on_map(place)
    assert here.image.shape == near.image.shape == shape
    assert torch.equal(here.context, near.context)


@pytest.mark.parametrize("name", ["flow", "label", "pose"])
def test_samples_are_those_of_the_command(open_run, train, runs, name):
    """The page shows a command for its samples, and the command draws these samples."""
    more = {"flow": (), "label": ("context=[0,1,2,3,4,5,6,7,8,9]",), "pose": ("pose=3",)}[name]
    wanted = {"flow": None, "label": None, "pose": 3}[name]
    samples = open_run(name).samples(20, 0.8, wanted, 5)
    run = runs / name / "seed_0"
    arguments = (f"run={run}", "n=20", "temperature=0.8", "seed=5", "out=a.npz", "device=cpu", *more)
    code, _, err = train(*arguments, command="sample")
    assert code == 0, err
    images = np.load("a.npz")["images"]
    np.testing.assert_allclose(images, samples.images.numpy(), atol=1e-5)


def test_a_class_is_what_is_drawn(open_run):
    explorer = open_run("label")
    assert explorer.given.classes == [str(digit) for digit in range(10)]
    assert explorer.contexts(["7"], 2).argmax(1).tolist() == [7, 7]
    assert explorer.contexts(None, 12).argmax(1).tolist() == [*range(10), 0, 1]
    assert explorer.samples(3, wanted=["7"]).context.argmax(1).tolist() == [7, 7, 7]


def test_a_pose_is_that_of_a_test_image(open_run, tmp_path):
    explorer = open_run("pose")
    given = explorer.given
    assert given.by_example
    assert not given.classes
    context = explorer.contexts(3, 2)
    assert torch.equal(context, explorer.run.data.test.context[[3, 3]])
    assert given.picture(context[0], 32).shape == (3, 32, 32)
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="given the pose of an image, which a file alone does not hold"):
        explorer.own_image(tmp_path / "a.png")


def test_attributes_that_are_named_are_present_and_others_absent(open_run):
    explorer = open_run("attributes")
    assert explorer.given.attributes == ["Hat", "Smiling"]
    assert not explorer.given.classes
    assert explorer.contexts(["Smiling"], 2).tolist() == [[-1, 1], [-1, 1]]
    assert explorer.contexts(None, 1).tolist() == [[-1, -1]]
    assert explorer.directions == ["Hat", "Smiling"]


def test_moves_are_what_the_sliders_say(open_run):
    explorer = open_run("flow")
    start = explorer.test_image(0)
    assert torch.equal(explorer.moved(start, {0: 0.0}, {"3": 0.0}), start.code)
    for name, space in explorer.spaces.items():
        moved = explorer.moved(start, {1: -2.0}, {}, space)
        principal = explorer.principal(space)
        codes = torch.stack([start.code, moved])
        if name == "z_0":
            codes = explorer.autoencoder.prior.to_base(codes)
        before, after = principal.coefficients(codes)
        change = torch.zeros_like(before)
        change[1] = -2.0
        torch.testing.assert_close(after - before, change, atol=1e-3, rtol=1e-3)
    direction = explorer.moved(start, {}, {"3": 1.0}) - start.code
    training = explorer.run.seen
    codes = explorer.training_codes
    three = training.labels[: len(codes)] == 3
    assert len(training) == len(codes)
    torch.testing.assert_close(direction, codes[three].mean(0) - codes[~three].mean(0), atol=1e-5, rtol=1e-4)


def test_paths_end_at_the_codes_of_both_images(open_run):
    explorer = open_run("flow")
    a, b = (explorer.test_image(index) for index in (0, 1))
    for walk in explorer.walks(a, b, ["base", "latent"], 5):
        torch.testing.assert_close(walk.images[0], explorer.decoded(a.code, a.context), atol=1e-4, rtol=0)
        torch.testing.assert_close(walk.images[-1], explorer.decoded(b.code, b.context), atol=1e-4, rtol=0)
    assert explorer.distances == ["classifier"]
    (walk,) = explorer.walks(a, b, ["latent"], 5, "classifier")
    assert walk.images.shape == (5, 1, 8, 8)
    mixture = open_run("mixture")
    start = mixture.test_image(0)
    with pytest.raises(UserError, match="this run's prior, Mixture, has no base"):
        mixture.walks(start, start, ["base"], 3)


def test_a_training_image_is_its_own_neighbour(open_run):
    explorer = open_run("flow")
    image = explorer.run.seen.batch(slice(5, 6)).x[0]
    found = explorer.nearest(image, 2)
    assert found.distances[0] == 0
    torch.testing.assert_close(found.images[0], image)
    assert found.searched == found.total == len(explorer.run.seen)


def test_the_map_leads_back_to_its_points(open_run):
    for name in ("flow", "two"):
        explorer = open_run(name)
        plane = explorer.map
        for index in (0, 7):
            right, down = plane.shares()[index].tolist()
            torch.testing.assert_close(plane.at(right, down), plane.points[index], atol=1e-4, rtol=1e-4)
            place = plane.points[index]
            assert torch.equal(plane.points[plane.nearest(place)], place)
    torch.testing.assert_close(plane.code(plane.points[3]), explorer.training_codes[3])


def test_the_gauge_ranks_as_edits_do(open_run):
    """A code that leaves the data is told from one that does not."""
    explorer = open_run("flow")
    start = explorer.test_image(0)
    far = start.code * 100
    near, away = explorer.readings(torch.stack([start.code, far]), start.context.expand(2, -1))
    assert away.codes == 0
    assert away.verdict == "less likely than 99 % of test codes: outside the data"
    assert near.codes > 0
    strips = views._typical(views.Space(explorer.autoencoder, "latent"), far[None], ["a"], explorer.gauge.codes)
    assert strips == ["a: the edited code is less likely than 100 % of real codes: it has left the data"]


def test_a_run_without_its_data_still_draws(trained_by, tmp_path):
    """As of a run that somebody shares: samples need no images."""
    images = torch.randint(0, 255, (60, 8, 8), dtype=torch.uint8).numpy()
    np.savez("mine.npz", images=images)
    run = trained_by("data=npz", f"data.path={tmp_path / 'mine.npz'}", *QUICK[1:])
    shutil.move("mine.npz", "gone.npz")
    explorer = Explorer(pyro_lrp.Run(run))
    assert "mine.npz" in explorer.without_data
    assert explorer.samples(2).images.shape == (2, 1, 8, 8)
    assert explorer.gauge is None
    assert explorer.directions == []


def test_an_image_of_ones_own_is_encoded(open_run, tmp_path):
    explorer = open_run("label")
    Image.new("L", (30, 20), 128).save(tmp_path / "a.png")
    point = explorer.own_image(tmp_path / "a.png", ["4"])
    assert point.image.shape == (1, 8, 8)
    assert point.context.argmax() == 4
    (tmp_path / "b.png").write_text("no image")
    with pytest.raises(UserError, match=r"b\.png is no image that can be read"):
        explorer.own_image(tmp_path / "b.png", ["4"])


# --------------------------------------------------------------------- as HTML


def test_names_of_others_are_text(open_run):
    """Names of classes come from strangers' runs."""
    name = "<script>alert(1)</script>"
    explorer = open_run("two")
    labels = torch.zeros(len(explorer.map.points), dtype=torch.long)
    shown = [
        markup.note(name),
        markup.heading(name, [name]),
        markup.command(name),
        markup.grid(torch.zeros(2, 1, 4, 4), [name, name], [name]),
        markup.figure(torch.zeros(1, 4, 4), name),
        map_markup.by_class(explorer.map, labels, [name], (0.5, 0.5)),
    ]
    for content in shown:
        assert "<script" not in content
        assert "&lt;script&gt;" in content


def test_a_gauge_draws_codes_that_are_not_finite_nowhere():
    gauge = Gauge(torch.tensor([-1.0, -2.0, -torch.inf]), torch.tensor([-1.5, torch.nan]))
    assert len(gauge.codes) == 2
    (reading,) = gauge.read(torch.tensor([-1.2]))
    assert "nan" not in markup.gauge(gauge, reading)
    assert "no density" in markup.gauge(None, None)


@pytest.mark.parametrize("side", [8, 100])
def test_images_are_part_of_the_page(side):
    content = markup.img(torch.rand(3, side, side), "a")
    kind = "png" if side == 8 else "jpeg"
    assert f"data:image/{kind};base64," in content


# --------------------------------------------------------------------- the command


def test_what_cannot_be_explored_is_one_sentence(train, monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, err = train("run=nowhere", command="explore")
    assert (code, err) == (1, "error: the page needs gradio: pip install 'pyro_lrp[explore]'\n")


def test_a_prior_of_codes_has_no_page(train, tmp_path):
    pytest.importorskip("gradio")
    (tmp_path / "fitted").mkdir()
    (tmp_path / "fitted" / "prior.safetensors").write_bytes(b"")
    code, _, err = train("run=fitted", command="explore")
    assert code == 1
    assert err.startswith("error: run=fitted is a prior of codes, without networks: there are no images")
    code, _, err = train("run=nowhere", "port=0", command="explore")
    assert err.startswith("error: port must be a whole number of at least 1")


def test_the_module_still_has_what_it_had_under_this_name():
    from pyro_lrp.explore import Space, decode

    assert (Space, decode) == (views.Space, views.decode)
    assert pyro_lrp.explore.traversals is views.traversals
    with pytest.raises(AttributeError):
        _ = pyro_lrp.explore.__path__
