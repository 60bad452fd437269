"""Figures for a paper: colours that the colour-blind tell apart, styles of matplotlib, words of the field."""

import itertools

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from pyro_lrp.core.errors import UserError
from pyro_lrp.figures import save_figure
from pyro_lrp.figures.lines import lines_against
from pyro_lrp.figures.plots import change_bands
from pyro_lrp.figures.style import PALETTE, palette, style, with_styles
from pyro_lrp.metrics import METRICS
from pyro_lrp.metrics.meanings import GROUPS, better, group, title

# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB
VISION = {
    "usual": np.eye(3),
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


def lab(colour, matrix):
    """CIE L*a*b* of a colour as it is seen."""
    rgb = np.array(mpl.colors.to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(matrix) @ linear, 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ seen
    f = np.cbrt(np.maximum(xyz / [0.9505, 1.0, 1.089], 216 / 24389))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", VISION)
def test_colours_of_lines_are_told_apart(vision):
    """The first five, which lines take: a difference of 10 is seen at a glance."""
    seen = [lab(colour, VISION[vision]) for colour in PALETTE[:5]]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 10


def test_a_palette_of_red_and_green_would_be_noticed():
    seen = [lab(colour, VISION["deuteranopia"]) for colour in ("#b22222", "#6b6b00")]
    assert (
        np.linalg.norm(seen[0] - seen[1])
        < 30
        < np.linalg.norm(lab("#b22222", VISION["usual"]) - lab("#6b6b00", VISION["usual"]))
    )


PANELS = {"MNIST": {name: {0: [5.0, 6.0], 1: [80.0, 90.0]} for name in ("VAE", "VAE, flow prior", "AAE")}}


def test_lines_differ_by_more_than_colour(tmp_path):
    figure = lines_against(PANELS, "β", title("fd_classifier"))
    (panel,) = figure.axes
    looks = {(line.get_linestyle(), line.get_marker()) for line in panel.lines}
    assert len(looks) == len(panel.lines) == 3
    assert panel.get_ylabel() == "FID (classifier features)"
    paths = save_figure(figure, tmp_path / "lines.png")
    assert [path.suffix for path in paths] == [".png", ".pdf"]
    assert b"/Subtype /Image" not in paths[1].read_bytes()  # vectors alone


def test_codes_are_set_as_formulas():
    changes = {"Smiling": {"z_0": np.ones((3, 4)), "z_T": np.ones((3, 4))}}
    (legend,) = change_bands(changes).legends
    assert [text.get_text() for text in legend.get_texts()] == ["$z_0$", "$z_T$"]


def test_styles_of_matplotlib_lie_over_the_own_one(tmp_path):
    own = tmp_path / "mine.mplstyle"
    own.write_text("axes.prop_cycle: cycler('color', ['123456', '654321'])\nfont.size: 20\n")
    before = dict(mpl.rcParams)
    with with_styles([str(own)]), style():
        assert [mpl.colors.to_hex(colour) for colour in palette()] == ["#123456", "#654321"]
        assert mpl.rcParams["font.size"] == 20
    with with_styles("dark_background"), style():
        assert mpl.rcParams["axes.facecolor"] == "black"
        assert mpl.rcParams["font.size"] == 8  # letters of a column of a paper
        dark = save_figure(lines_against(PANELS, "β", "FID"), tmp_path / "dark.png")[0]
    with Image.open(dark) as picture:
        assert np.asarray(picture.convert("L"))[2, 2] == 0
    with style():
        assert palette() == list(PALETTE)
    assert dict(mpl.rcParams) == before


def test_a_style_that_there_is_not_is_a_sentence(train):
    with pytest.raises(UserError, match="there is no style and no file pretty; matplotlib has "):
        with_styles("pretty").__enter__()
    code, _, err = train("number=2", "runs=nowhere", "style=my own=style", command="figure")
    assert code == 1
    assert err.startswith("error: style: there is no style and no file my own=style; matplotlib has ")


def test_every_metric_has_words_and_most_a_group():
    results = {
        "precision_recall": "precision",
        "precision_recall_classifier": "precision_classifier",
        "likelihood": "log_likelihood_bound",
    }
    names = [results.get(name, name) for name in METRICS]
    assert [name for name in names if "_" in title(name).replace("z_", "")] == []
    assert [name for name in names if group(name) not in GROUPS[:-1]] == []
    assert [better(name) for name in ("fid", "recall", "fid_training")] == ["smaller", "larger", None]
