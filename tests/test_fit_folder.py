"""The folder that ``fit`` leaves, as other commands use it: sample, evaluate, check and load."""

from pathlib import Path

import numpy as np
import pytest
import torch
from commands import QUICK, in_process, only_run

import pyro_lrp
from pyro_lrp import fitting
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.files import read_json, write_json
from pyro_lrp.fitting import checked_codes

GAUSSIAN = ["prior=mixture", "prior.components=1"]
Z = torch.randn(400, 4, generator=torch.Generator().manual_seed(0)) @ torch.diag(torch.tensor([1.0, 2, 3, 4]))
LABELS = torch.arange(400) % 3


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """A command in an empty folder, where z.npy holds codes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYRO_LRP_CACHE", str(tmp_path / "cache"))
    np.save("z.npy", Z.numpy())

    def run(command, *arguments):
        more = ["device=cpu", "threads=1"]
        if command == "check":
            more = []
        return in_process(command, *arguments, *more, capsys=capsys, monkeypatch=monkeypatch)

    return run


def results(folder):
    """The stored results of a folder."""
    return read_json(Path(folder, "evaluation.json"))


@pytest.fixture
def folder(run):
    """A folder of ``fit`` whose prior is a normal distribution."""
    code, _, err = run("fit", "codes=z.npy", *GAUSSIAN, "seconds=5", "n=0")
    assert (code, err) == (0, "")
    return "runs/fit/z"


@pytest.fixture(scope="module")
def fitted_to_labels():
    """A prior that is conditional on a class."""
    codes = Z + LABELS[:, None]
    return fitting.fit(codes, LABELS, "conditional_flow", seconds=0.5, threads=1)


@pytest.fixture
def labelled(run, fitted_to_labels):
    """The folder of this prior."""
    fitted_to_labels.save("labelled")
    return "labelled"


def test_load_gives_the_prior(folder):
    fitted = pyro_lrp.load(folder)
    assert isinstance(fitted, fitting.Fitted)
    assert torch.equal(fitted.log_prob(Z[:3]), fitting.load(folder).log_prob(Z[:3]))


@pytest.mark.parametrize("out", [None, "here.npy", "here.npz"])
def test_samples_are_the_same_for_a_seed_and_differ_between_seeds(folder, run, out):
    typed = ["n=300"]
    if out is not None:
        typed.append(f"out={out}")

    def draw(*arguments):
        code, printed, _ = run("sample", f"run={folder}", *typed, *arguments)
        assert code == 0
        return fitting.read_codes({"codes": printed.strip()}).codes

    first = draw()
    assert first.shape == (300, 4)
    assert np.array_equal(draw(), first)
    assert not np.array_equal(draw("seed=1"), first)
    assert draw("temperature=0.01").std() < 0.1 * first.std()


@pytest.mark.parametrize(
    ("context", "rows"), [("1", [1, 1, 1, 1]), ("[0,2]", [0, 2, 0, 2]), ("c.npy", [2, 1, 2, 1])]
)
def test_classes_are_drawn_in_turn(labelled, run, monkeypatch, context, rows):
    np.save("c.npy", np.array([2, 1]))
    seen = []
    draw = fitting.Fitted.sample

    def sample(self, n, context=None, temperature=1.0):
        seen.append(context)
        return draw(self, n, context, temperature)

    monkeypatch.setattr(fitting.Fitted, "sample", sample)
    code, _, _ = run("sample", f"run={labelled}", "n=4", f"context={context}")
    assert code == 0
    assert seen[0].argmax(1).tolist() == rows


def test_the_likelihood_of_held_out_codes_is_that_of_the_prior(folder, run):
    code, out, _ = run("evaluate", f"run={folder}")
    assert code == 0
    found = results(folder)
    held_out = checked_codes(Z).held_out
    expected = pyro_lrp.load(folder).log_prob(held_out).mean().item()
    assert found["log_likelihood"]["value"] == pytest.approx(expected, abs=1e-5)
    # the prior is a normal distribution, so it is as good as that of the codes' mean and covariance
    assert found["log_likelihood_normal"]["value"] == pytest.approx(expected, abs=0.02)
    assert found["prior_gap_nll_test"]["value"] == pytest.approx(-expected, abs=1e-5)
    assert found["prior_gap_in_codes"]["culprit"] == "neither"
    assert "no cost of the prior is visible" in out


def test_a_prior_that_does_not_fit_is_named(run):
    np.save("ring.npy", torch.nn.functional.normalize(torch.randn(2000, 2)).numpy())
    run("fit", "codes=ring.npy", *GAUSSIAN, "seconds=5", "n=0")
    _, out, _ = run("evaluate", "run=runs/fit/ring", "metrics=prior_gap")
    assert "the prior under-fits: a classifier separates samples from test codes" in out
    assert "try more seconds, a richer prior" in out


def test_stored_results_are_those_of_the_same_prior_and_the_same_codes(folder, run):

    def value():
        run("evaluate", f"run={folder}", "metrics=likelihood")
        return results(folder)["log_likelihood"]["value"]

    first = value()
    stored = results(folder)
    stored["log_likelihood"]["value"] = 7.0
    del stored["log_likelihood"]["checksum"]  # as if it was computed so
    write_json(Path(folder, "evaluation.json"), stored)
    assert value() == 7.0  # of the same request: kept
    run("fit", "codes=z.npy", "prior=mixture", "prior.components=2", "seconds=5", "n=0")
    assert value() not in (7.0, first)


def test_evaluate_in_python_equals_the_command(folder, run):
    run("evaluate", f"run={folder}")
    stored = results(folder)
    found = fitting.evaluate(pyro_lrp.load(folder), checked_codes(Z))
    assert {name: one["value"] for name, one in found.items()} == pytest.approx(
        {name: one["value"] for name, one in stored.items()}
    )


def test_a_learned_prior_is_held_to_the_laws(folder, run):
    code, out, _ = run("check", f"run={folder}")
    assert code == 0
    assert out.startswith("prior=mixture prior.components=1, of runs/fit/z\n")
    assert "all laws hold" in out


def test_the_prior_of_a_run_is_held_to_the_laws(train):
    train(*QUICK, "prior=mixture", "prior.components=2", "latent_dim=2")
    code, out, _ = train(f"run={only_run()}", command="check")
    assert code == 0
    assert out.startswith("prior=mixture, latent_dim=2\n")


def test_codes_that_moved_are_named(folder, run, tmp_path):
    (tmp_path / "z.npy").rename(tmp_path / "moved (1), here.npy")
    code, _, err = run("evaluate", f"run={folder}", "metrics=likelihood")
    assert code == 1
    assert "z.npy: there is no such file" in err
    code, _, _ = run("evaluate", f"run={folder}", "metrics=likelihood", "codes=moved (1), here.npy")
    assert code == 0


MISTAKES = [
    (("sample", "mode=edit"), "mode has no effect on a prior of codes, without networks; n, context"),
    (("sample", "steps=3"), "steps has no effect on a prior of codes"),
    (("sample", "context=1"), "context has no effect: this prior takes none"),
    (("sample", "out=here.png"), "out must end in .npy or .npz"),
    (("evaluate", "metrics=fid"), "metrics: fid is unknown; the known ones are: auto, or of [prior_gap, likel"),
    (("evaluate", "k=3"), "k has no effect on metrics of codes"),
    (("evaluate", "codes=other.npy"), "other.npy are not those that runs/fit/z was fitted to"),
    (("evaluate", "codes=wide.npy"), "is a prior of codes of shape (4,) with 0 numbers of context, and wide"),
    (("check", "beta=1"), "beta=1 has no effect: run=DIR has its own prior"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=range(len(MISTAKES)))
def test_a_mistake_is_one_line(folder, run, arguments, message):
    np.save("other.npy", Z.numpy() + 1)
    np.save("wide.npy", np.concatenate([Z.numpy()] * 2, 1) + np.arange(8))
    command, *options = arguments
    code, _, err = run(command, f"run={folder}", *options)
    assert (code, err.count("\n")) == (1, 1)
    assert message in err


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ((), "context: this prior is conditional: say a class from 0 to 2, or a list of them, or a file"),
        (("context=7",), "context: expected class labels from 0 to 2"),
        (("context=none.npy",), "none.npy: there is no such file"),
        (("context=[[1.0,2.0]]",), "context: expected 3 numbers for each of 64 codes"),
    ],
)
def test_a_mistake_in_a_context_is_one_line(labelled, run, context, message):
    code, _, err = run("sample", f"run={labelled}", *context)
    assert (code, err.count("\n")) == (1, 1)
    assert message in err


def test_others_are_accepted_when_asked_for(folder, run):
    np.save("other.npy", Z.numpy() + 1)
    code, _, err = run("evaluate", f"run={folder}", "codes=other.npy", "other_data=true", "metrics=likelihood")
    assert code == 0
    assert "other.npy holds other codes than those that the prior was fitted to" in err


def test_codes_are_no_option_of_a_run_on_images(train):
    code, _, err = train("run=any", "codes=z.npy", command="evaluate")
    assert code == 1
    assert "codes is for a folder of fit; data.path= says where the images of a run are" in err


def test_what_was_allowed_is_remembered_for_ones_own_prior_alone(run, monkeypatch, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from pyro_lrp.priors import StandardNormal\n\nclass Mine(StandardNormal): ...\n"
    )
    conf = tmp_path / "conf" / "prior"
    conf.mkdir(parents=True)
    (conf / "mine.yaml").write_text("_target_: mine.Mine\ndim: ${latent_dim}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    arguments = ("codes=z.npy", "prior=mine", "allow_targets=[mine.]", "seconds=1", "n=0")
    code, _, err = run("fit", *arguments, "--config-dir", "conf")
    assert (code, err) == (0, "")
    assert pyro_lrp.load("runs/fit/z").sample(3).shape == (3, 4)
    monkeypatch.setenv("PYRO_LRP_CACHE", str(tmp_path / "of_a_stranger"))
    with pytest.raises(UserError, match=r"mine\.Mine"):
        pyro_lrp.load("runs/fit/z")
