"""The modes of ``sample`` and the paper's figures, typed as a user types them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import Unread, in_process
from PIL import Image

QUICK = ("epochs=1", "prior_epochs=1", "device=cpu", "progress=false", "trainer.evaluations=1",
         "data.flow.layers=2", "data.flow.width=8")  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory, lend_cache):
    """Runs of digits by name, trained once: with a flow, a mixture, given the class, in two dimensions."""
    folder = tmp_path_factory.mktemp("runs")
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    patch.setenv("PYRO_LRP_CACHE", str(lend_cache(folder / "cache")))

    for name, more in {
        "flow": (),
        "mixture": ("prior=mixture", "prior.components=3"),
        "conditional": ("prior=conditional_flow", "context=label"),
        "two": ("latent_dim=2",),
        "two_fixed": ("latent_dim=2", "model=vae"),
    }.items():
        in_process("train", *QUICK, f"name={name}", *more, capsys=Unread(), monkeypatch=patch)
    patch.undo()
    return folder / "runs"


@pytest.fixture
def command(trained, train, tmp_path):
    """Runs ``sample`` or ``figure`` beside copies of these runs."""
    shutil.copytree(trained, tmp_path / "runs")

    def run(*arguments, name="sample"):
        return train(*arguments, "device=cpu", command=name)

    return run


@pytest.mark.parametrize(
    ("arguments", "rows"),
    [
        ("mode=reconstruct indices=[3,1,4]", 2 * 3),
        ("mode=interpolate indices=[0,1,2,3] steps=4", 2 * 6),
        ("mode=interpolate indices=[0,1] steps=4 space=both", 2 * 6),
        ("mode=interpolate indices=[0,1] steps=3 speed=constant distance=classifier", 5),
        ("mode=traverse components=[0,2] steps=5", 2 * 6),
        ("mode=traverse components=[1] steps=5 space=latent indices=[7]", 6),
        ("mode=edit attribute=7 indices=[0,1] steps=3 strength=2", 2 * 4),
    ],
)
def test_every_mode_writes_arrays(command, arguments, rows):
    for name in ("flow", "conditional"):
        code, out, err = command(f"run=runs/{name}/seed_0", *arguments.split(), "out=a.npz")
        assert code == 0, err
        assert out == "a.npz\n"
        arrays = np.load("a.npz")
        assert arrays["images"].shape == (rows, 1, 8, 8)
        assert arrays["images"].dtype == np.float32
        assert len(arrays["latents"]) == rows
        if "edit" in arguments:
            assert err.count("the edited code is less likely than") == 2


def test_the_same_images_stand_at_the_ends_of_both_spaces(command):
    command("run=runs/flow/seed_0", "mode=interpolate", "indices=[0,1]", "space=both", "steps=5", "out=a.npz")
    images = np.load("a.npz")["images"].reshape(2, 7, 8, 8)
    assert np.array_equal(images[0, [0, -1]], images[1, [0, -1]])
    np.testing.assert_allclose(images[0, [1, -2]], images[1, [1, -2]], atol=1e-5)


def test_pictures_animations_and_defaults(command):
    code, out, _ = command("run=runs/flow/seed_0", "mode=interpolate")
    assert code == 0
    assert out.split() == [f"runs/flow/seed_0/figures/interpolate.{end}" for end in ("png", "pdf")]
    code, out, _ = command("run=runs/mixture/seed_0", "mode=interpolate", "out=deep/a.gif")
    assert code == 0
    with Image.open("deep/a.gif") as animation:
        assert animation.n_frames > 1  # equal images in a row are one frame


def test_images_of_ones_own(command, tmp_path):
    for name in ("a b.png", "c.png"):
        Image.new("L", (20, 30), 128).save(tmp_path / name)
    code, out, err = command(
        "run=runs/flow/seed_0", "mode=reconstruct", f"images={tmp_path / 'a b.png'}", "out=a.npz"
    )
    assert code == 0, err
    assert "a b.png is among images that are cut to their centre\n" in err
    assert np.load("a.npz")["images"].shape == (2, 1, 8, 8)
    code, _, err = command("run=runs/flow/seed_0", "mode=interpolate", "images=['a b.png',c.png]", "out=a.npz")
    assert code == 0, err
    code, _, err = command("run=runs/conditional/seed_0", "mode=reconstruct", "images=c.png")
    assert err == "error: context must say what the images are, such as context=0: this prior is conditional\n"
    code, _, err = command("run=runs/conditional/seed_0", "mode=reconstruct", "images=c.png", "context=3")
    assert code == 0, err
    code, _, err = command("run=runs/flow/seed_0", "mode=reconstruct", "images=c.png", "context=3")
    assert err == "error: context has no effect: this run's prior takes none\n"


SMALLEST = {  # options for few images
    "prior": ("n=4",),
    "reconstruct": ("indices=[0,1]",),
    "interpolate": ("indices=[0,1]", "steps=2"),
    "traverse": ("indices=[0]", "steps=2", "components=[0]"),
    "edit": ("indices=[0,1]", "steps=2", "attribute=3"),
}


@pytest.mark.parametrize("mode", SMALLEST)
def test_every_mode_has_every_ending(command, mode):
    """Those that the help lists; each is a file of its kind."""
    run = "run=runs/flow/seed_0"
    if mode == "prior":
        run = "run=runs/conditional/seed_0"
    endings = [".png", ".jpg", ".pdf", ".gif", ".npz"]
    if mode == "prior":  # they are read before the mode is
        endings += [".JPG"]
    for ending in endings:
        out = Path(f"a{ending}")
        code, _, err = command(run, f"mode={mode}", *SMALLEST[mode], f"out={out}")
        assert code == 0, err
        if ending == ".pdf":
            assert out.read_bytes().startswith(b"%PDF")
        elif ending == ".npz":
            assert np.load(out)["images"].ndim == 4
        else:
            with Image.open(out) as picture:
                kinds = {".png": "PNG", ".gif": "GIF"}
                assert picture.format == kinds.get(ending, "JPEG")
    for ending in (".tiff", "", ".png.txt") if mode == "prior" else (".tiff",):
        code, _, err = command(run, f"mode={mode}", f"out=a{ending}")
        assert code == 1
        assert f"out must end in .png, .jpg, .jpeg, .pdf, .gif or .npz, got a{ending}" in err


def test_pictures_of_other_options_have_other_names(command):
    run = "run=runs/flow/seed_0"
    made = {}
    for options in ("", "temperature=0.5", "seed=1", "n=4 seed=1", "temperature=0.5", "out=null"):
        code, out, err = command(run, *options.split())
        assert code == 0, err
        made.setdefault(out, set()).add(Path(out.strip()).read_bytes())
    folder = "runs/flow/seed_0/figures"
    names = ("prior", "prior-temperature=0.5", "prior-seed=1", "prior-n=4-seed=1")
    assert set(made) == {f"{folder}/{name}.png\n" for name in names}
    assert all(len(pictures) == 1 for pictures in made.values())
    code, out, err = command(run, "out=prior.png")
    assert (out, err) == ("prior.png\n", "")
    code, out, err = command(run, "out=prior.png", "seed=3")
    assert err == "prior.png is replaced\n"


def test_names_of_pictures_differ_where_the_options_do():
    from pyro_lrp.figures.output import file_name

    options = [
        {}, {"images": "a b.png"}, {"images": "a_b.png"}, {"images": "ä/b.png"}, {"images": ["x" * 300]},
        {"images": ["x" * 300 + "y"]}, {"n": 1, "seed": 2}, {"n": 12}, {"n": "\udce9"},
    ]  # fmt: skip
    names = {file_name("prior", changed) for changed in options}
    assert len(names) == len(options)
    assert all("/" not in name and len(name) < 110 for name in names)


def test_figures_are_never_replaced_unless_they_are_named(command, monkeypatch):
    """What is drawn is no matter here, so a blank one is."""
    from matplotlib.figure import Figure

    from pyro_lrp.figures.paper import FIGURES

    monkeypatch.setitem(FIGURES, 2, lambda requests: Figure((1, 1)))
    first = command("number=2", "runs=runs/two/seed_0", name="figure")[1]
    second = command("number=2", "runs=runs/two/seed_0", name="figure")[1]
    assert first.split() == ["figure_2.png", "figure_2.pdf"]
    assert second.split() == ["figure_2_2.png", "figure_2_2.pdf"]
    _, out, err = command("number=2", "runs=runs/two/seed_0", "out=figure_2.png", name="figure")
    assert out == first
    assert err == "figure_2.png is replaced\nfigure_2.pdf is replaced\n"
    _, out, _ = command("number=2", "runs=runs/two/seed_0", "out=a.jpg", name="figure")
    assert out == "a.jpg\n"


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(command, monkeypatch):
    Path("file").write_text("")

    def reached(*arguments, **options):
        raise AssertionError("computed")

    monkeypatch.setattr("pyro_lrp.models.Autoencoder.draw", reached)
    code, _, err = command("run=runs/flow/seed_0", "out=file/a.png")
    assert code == 1
    assert err.startswith("error: file/a.png cannot be written (")
    assert err.endswith("): choose another file by out=FILE\n")


def test_a_prior_of_classes_has_a_labelled_row_for_each(command):
    """The grid stands to the right of the labels; its rows are the samples of that class."""
    for context, classes in ((None, 10), ("[3,7]", 2), ("3", 1)):
        more = () if context is None else (f"context={context}",)
        code, _, err = command("run=runs/conditional/seed_0", "n=20", *more, "out=a.png")
        assert code == 0, err
        with Image.open("a.png") as picture:
            pixels = np.asarray(picture.convert("L"))
        rows = {10: 10, 2: 2, 1: 2}[classes]
        columns = 20 // rows
        side = 6 * 8 + 2
        assert pixels.shape[0] == rows * side + 2
        left = pixels.shape[1] - columns * side - 2
        assert left > 0
        labels = pixels[1:-1, :left].reshape(rows, side, left)
        dark = (labels < 128).any((1, 2))
        assert dark.tolist() == [True] * classes + [False] * (rows - classes)
        assert pixels[:, left:].std() > 10


MISTAKES = {
    "outside": ("mode=reconstruct indices=[9999]", "indices: 9999 is outside the test images of digits, 0 to "),
    "no index": ("mode=reconstruct indices=[]", "indices must be a list of numbers of test images"),
    "odd": (
        "mode=interpolate indices=[0,1,2]",
        "mode=interpolate needs pairs of images, an even number of them, got 3",
    ),
    "both": ("mode=reconstruct indices=[0] images=a.png", "indices and images: give one of the two"),
    "missing": ("mode=reconstruct images=a.png", "images: there is no file or folder a.png"),
    "no attribute": ("mode=edit", "mode=edit needs attribute=NAME"),
    "attribute": (
        "mode=edit attribute=Joy",
        "attribute=Joy is unknown; the known ones are: 0, 1, 2, 3, 4, 5, 6",
    ),
    "component": ("mode=traverse components=[77]", "components: 77 is outside 0 to "),
    "space": ("mode=interpolate space=outer", "space must be base, latent, both, or null, got 'outer'"),
    "steps": ("mode=interpolate steps=1", "steps must be a whole number of at least 2, got 1"),
    "speed": ("mode=interpolate speed=fast", "speed must be even or constant, got 'fast'"),
    "weights": (
        "mode=interpolate speed=constant weights.vgg16=none.npz",
        "weights.vgg16: there is no file none.npz",
    ),
    "of another mode": (
        "mode=prior indices=[0]",
        "indices has no effect with mode=prior; n, context, pose, temperature, seed have",
    ),
    "of an even path": (
        "mode=interpolate distance=classifier",
        "distance has no effect with speed=even: it needs speed=constant",
    ),
    "of test images": ("mode=edit attribute=3 context=1", "context has no effect on test images"),
    "ending": ("mode=interpolate out=a.tiff", "out must end in .png, .jpg, .jpeg, .pdf, .gif or .npz, got a."),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_sentence(command, name):
    arguments, message = MISTAKES[name]
    code, out, err = command("run=runs/flow/seed_0", *arguments.split())
    assert code == 1
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert out == ""


def test_a_prior_without_a_base_has_no_base_to_walk_in(command):
    code, _, err = command("run=runs/mixture/seed_0", "mode=interpolate", "space=base")
    assert code == 1
    assert err == "error: space=base: this run's prior, Mixture, has no base; use space=latent\n"


@pytest.mark.parametrize(
    ("number", "arguments"),
    [
        (1, "runs=[runs/two_fixed/seed_0,runs/two/seed_0]"),
        (2, "runs=runs/two/seed_0"),
        (4, "runs=[runs/flow/seed_0] indices=[0,1]"),
        (6, "runs=[runs/flow/seed_0] indices=[0,1] attributes=[3]"),
        (7, "runs=[runs/flow/seed_0,runs/mixture/seed_0]"),
        (8, "runs=[runs/flow/seed_0] attributes=[1,2] n=20 distance=classifier"),
    ],
)
def test_the_papers_figures(command, number, arguments):
    code, out, err = command(f"number={number}", *arguments.split(), name="figure")
    assert code == 0, err
    assert out.split() == [f"figure_{number}.png", f"figure_{number}.pdf"]
    with Image.open(f"figure_{number}.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10
    assert Path(f"figure_{number}.pdf").read_bytes().startswith(b"%PDF")


FIGURE_MISTAKES = {
    "number": ("number=3 runs=runs/two/seed_0", "number=3 is unknown; the known ones are: 1, 2, 4, 6, 7, 8"),
    "not two-dimensional": (
        "number=2 runs=runs/flow/seed_0",
        "this figure needs latent_dim=2, and the codes of",
    ),
    "too many": ("number=4 runs=[runs/flow/seed_0,runs/two/seed_0]", "runs: this figure is of 1 run, got 2"),
    "attributes": (
        "number=6 runs=runs/flow/seed_0 attributes=[3,7]",
        "attributes: this figure is of 1 attribute, got 2",
    ),
    "an attribute": ("number=6 runs=runs/flow/seed_0 attributes=cat", "attribute=cat is unknown"),
    "attributes in a band": (
        "number=8 runs=runs/flow/seed_0 attributes=cat n=5 distance=classifier",
        "attribute=cat",
    ),
    "no run": ("number=4 runs=nowhere", "run=nowhere is not a run directory"),
    "no base": (
        "number=8 runs=runs/mixture/seed_0",
        "figure 8 compares z_0 with z_T, and this run's prior has no",
    ),
}


@pytest.mark.parametrize("name", FIGURE_MISTAKES)
def test_mistakes_of_figures(command, name):
    arguments, message = FIGURE_MISTAKES[name]
    code, _, err = command(*arguments.split(), name="figure")
    assert code == 1
    assert message in err
    assert err.count("\n") == 1
