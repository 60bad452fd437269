"""The READMEs: their examples run as they stand, their commands compose, their links lead somewhere."""

import re
import shlex
from pathlib import Path

import pyro
import pytest
import torch
from builders import small_autoencoder
from commands import ROOT, composed, in_process

from pyro_lrp import data, export, fit, metrics, reproduce
from pyro_lrp.report import parsed
from pyro_lrp.reports.experiments import load

SHORT = ("epochs=1", "prior_epochs=1", "device=cpu", "progress=false", "data.flow.layers=2")
EPOCHS = re.compile(r'"epochs=\d+"')  # of a training in Python
READMES = [ROOT / "README.md", ROOT / "conf/README.md", ROOT / "tests/README.md"]
READMES += sorted((ROOT / "pyro_lrp").rglob("README.md"))
RECORDED = sorted((ROOT / "runs" / "recorded").rglob("README.md"))
OTHERS = [ROOT / "CHANGELOG.md", *(ROOT / ".github").glob("*.md")]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
FILE = re.compile(r"`([\w/]+\.(?:py|yaml))`")  # the name of the file that the block after it is
EXAMPLES = [  # sections with blocks of Python or YAML
    "README.md#Your own prior",
    "README.md#From Python",
    "conf/README.md#A model preset",
    "conf/README.md#A data set",
    "pyro_lrp/data/README.md#Your own images",
    "pyro_lrp/data/README.md#A new kind of condition",
    "pyro_lrp/fitting/README.md#Codes in a file",
    "pyro_lrp/fitting/README.md#Codes in an array",
    "pyro_lrp/fitting/README.md#In scikit-learn",
    "pyro_lrp/fitting/README.md#Outliers",
    "pyro_lrp/fitting/README.md#A VAE of diffusers",
    "pyro_lrp/fitting/README.md#A model of pythae",
    "pyro_lrp/fitting/README.md#A model of scvi-tools",
    "pyro_lrp/fitting/README.md#A prior for sbi",
    "pyro_lrp/metrics/README.md#Add a metric",
    "pyro_lrp/models/README.md#Your own PyTorch VAE",
    "pyro_lrp/objectives/README.md#With Pyro",
    "pyro_lrp/priors/README.md#In YAML",
    "pyro_lrp/priors/README.md#In Python",
    "pyro_lrp/priors/README.md#A new transform, and its law test",
]


def sections(path):
    """The text under each heading, up to the next one, by heading."""
    text = path.read_text(encoding="utf-8")
    prose = FENCE.sub(lambda m: re.sub(r"^#", "\0", m[0], flags=re.MULTILINE), text)  # no comment is a heading
    parts = re.split(r"^#+ (.*)$", prose, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], (body.replace("\0", "#") for body in parts[1::2]), strict=True))


def blocks(text):
    """``(language, file or None, content)`` of each block; the file is the last one named in front of it."""
    end = 0
    for fence in FENCE.finditer(text):
        named = FILE.findall(text[end : fence.start()].strip().rpartition("\n\n")[2])
        yield fence[1], named[-1] if named else None, fence[2]
        end = fence.end()


def commands(text):
    """The commands of this library in the blocks of a text, as ``(name, arguments)``."""
    for language, _, content in blocks(text):
        for line in content.replace("\\\n", " ").splitlines() if not language else ():
            words = shlex.split(line, comments=True)
            if words[:2] == ["python", "-m"] and words[2].startswith("pyro_lrp."):
                yield words[2].removeprefix("pyro_lrp."), words[3:]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs an example in an empty folder: what its Python defines, and what each command printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def example(name):
        path, _, heading = name.partition("#")
        text, names, outputs = sections(ROOT / path)[heading], {}, {}
        for language, file, content in blocks(text):
            if file is not None and language:
                Path(file).parent.mkdir(parents=True, exist_ok=True)
                Path(file).write_text(content)
            elif language == "python":
                exec(compile(EPOCHS.sub('"epochs=1"', content), path, "exec"), names)
        for command, arguments in commands(text):
            short = SHORT if command == "train" else ()
            code, out, err = in_process(command, *arguments, *short, capsys=capsys, monkeypatch=monkeypatch)
            assert code == 0, err
            outputs[command] = out
        return names, outputs

    return example


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name.endswith(("In YAML", "own prior"))])
def test_a_prior_in_yaml(run, name):
    _, outputs = run(name)
    assert "all laws hold" in outputs["check"]
    assert "samples of the prior" in outputs["train"]


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name.endswith("Python")])
def test_in_python(run, name):
    names, _ = run(name)
    assert names["images"].shape[1:] == (1, 8, 8)
    assert torch.isfinite(names["images"]).all()


def test_a_new_transform(run, capsys):
    _, outputs = run("pyro_lrp/priors/README.md#A new transform, and its law test")
    assert list(outputs) == ["train"]
    code = pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "my_transforms.py"])
    out, err = capsys.readouterr()
    assert (code, "2 passed" in out) == (0, True), out + err


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name.startswith("conf/")])
def test_files_of_ones_own(run, name):
    _, outputs = run(name)
    assert "samples of the prior" in outputs["train"]


def test_a_new_kind_of_condition(run):
    names, _ = run("pyro_lrp/data/README.md#A new kind of condition")
    context = names["digits"].test.context
    assert context.shape == (len(names["digits"].test), 1)
    assert 0 < context.mean() < 1


def test_codes_from_elsewhere(run):
    names, _ = run("pyro_lrp/fitting/README.md#Codes in an array")
    assert names["z"].shape == (16, 8)
    assert torch.isfinite(names["scores"]).all()
    _, outputs = run("pyro_lrp/fitting/README.md#Codes in a file")
    assert outputs["fit"].rstrip().endswith("runs/mine/samples.npy")
    names, _ = run("pyro_lrp/fitting/README.md#In scikit-learn")
    assert (names["labels"] == -1).sum() == 25
    assert names["samples"].shape == (10, 4)


def test_outliers(run):
    names, _ = run("pyro_lrp/fitting/README.md#Outliers")
    too_likely, unlikely = names["nats"]
    assert too_likely < 8 * 1.4189 < unlikely  # the entropy of N(0, 1) in 8 dimensions
    assert (names["distance"] > 2).all()
    assert names["margin"][1] < 0
    assert names["most_outlying"].shape == (10,)
    assert torch.isfinite(names["bounds"]["bound"]).all()


def test_a_vae_of_diffusers(run):
    pytest.importorskip("diffusers", reason="diffusers is an extra: pip install 'pyro_lrp[diffusers]'")
    names, _ = run("pyro_lrp/fitting/README.md#A VAE of diffusers")
    assert names["latents"].shape == (60, 4, 8, 8)
    assert names["pictures"].shape == (16, 3, 8, 8)
    assert torch.isfinite(names["scores"]).all()


def test_a_model_of_pythae(run):
    pytest.importorskip("pythae", reason="pythae is an extra: pip install 'pyro_lrp[pythae]'")
    names, _ = run("pyro_lrp/fitting/README.md#A model of pythae")
    assert names["pictures"].shape == (16, 1, 8, 8)


def test_sharing_a_run(run):
    _, outputs = run("pyro_lrp/sharing/README.md#Sharing a run")
    assert "programs/sampler.pt2: images within" in outputs["export"]
    assert Path("shared/README.md").is_file()


@pytest.mark.filterwarnings("ignore")  # of scvi-tools and lightning
def test_a_model_of_scvi_tools(run):
    pytest.importorskip("scvi", reason="scvi-tools is an extra: pip install 'pyro_lrp[scvi]'")
    names, _ = run("pyro_lrp/fitting/README.md#A model of scvi-tools")
    assert names["counts"].shape == names["more"].shape == (100, 100)
    assert torch.isfinite(names["bound"])
    assert Path("learned/model.pt").exists()


def test_a_prior_for_sbi(run):
    pytest.importorskip("sbi", reason="sbi is an extra: pip install 'pyro_lrp[sbi]'")
    names, _ = run("pyro_lrp/fitting/README.md#A prior for sbi")
    assert names["samples"].shape == (100, 2)


def test_svi(run):
    names, _ = run("pyro_lrp/objectives/README.md#With Pyro")
    assert torch.isfinite(torch.tensor(names["losses"])).all()
    trained = {id(parameter) for parameter in pyro.get_param_store().values()}
    assert {id(parameter) for parameter in names["ae"].parameters()} <= trained


def test_a_metric(run):
    names, _ = run("pyro_lrp/metrics/README.md#Add a metric")
    (metric,) = names["METRICS"].values()
    found = metric.compute(metrics.Subject(small_autoencoder(), data.digits(), n=50))
    assert {name: result["n"] for name, result in found.items()} == {"brightness": 50, "brightness_test": 50}


def test_parts_trained_elsewhere(run):
    names, _ = run("pyro_lrp/models/README.md#Your own PyTorch VAE")
    assert names["images"].shape == (64, 1, 8, 8)
    found = {name: result["value"] for name, result in names["results"].items()}
    assert found["reconstruction_mse"] < 0.5 * found["constant_image_mse"]


def test_every_example_is_run():
    found = [
        f"{path.relative_to(ROOT).as_posix()}#{heading}"
        for path in READMES
        for heading, text in sections(path).items()
        if any(language in ("python", "yaml") for language, _, _ in blocks(text))
    ]
    assert sorted(found) == sorted(EXAMPLES)


def members(arguments):
    """The arguments of each member of a sweep."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    keys = [argument for argument in arguments if argument != "-m"]
    (expanded,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(keys), None)
    return expanded


@pytest.mark.parametrize("path", [*READMES, *RECORDED], ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_compose(path):
    """Every group, file and key that a command of a README names is there."""
    from hydra import compose, initialize_config_dir

    from pyro_lrp.config.folders import conf_dir

    for command, arguments in commands(path.read_text(encoding="utf-8")):
        if "--config-dir" in arguments:  # an example, which is run
            continue
        if command == "train" and "-m" in arguments:
            first, *_, last = members(arguments)
            composed(*first)
            composed(*last)
            continue
        if command == "train":
            composed(*arguments)
            continue
        if command == "fit":
            fit.parse(arguments)
            continue
        if command == "export":
            export.parse(arguments)
            continue
        if command == "report":  # has no configuration
            parsed(arguments)
            continue
        if command == "reproduce":
            typed = reproduce.parse(arguments)
            assert all(load(name, typed.scale) for name in typed.names)
            continue
        with initialize_config_dir(conf_dir(), version_base="1.3"):
            compose(command, arguments)


def anchors(path):
    """What GitHub makes of the headings of a file."""
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in sections(path)}


def test_links_lead_somewhere():
    if not RECORDED:
        pytest.skip("recorded runs are not part of a source distribution")
    for path in (*READMES, *RECORDED, *OTHERS):
        for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
            if "://" in target:
                continue
            file, _, anchor = target.partition("#")
            aim = path.parent / file if file else path
            assert aim.exists(), f"{path.relative_to(ROOT)}: {target}"
            assert not anchor or anchor in anchors(aim), f"{path.relative_to(ROOT)}: {target}"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200
