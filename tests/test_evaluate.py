"""The command as a user types it: by name, by itself, interrupted, mistaken."""

import json

import pytest
import torch
from builders import small_autoencoder
from commands import only_run

from pyro_lrp import config, data, metrics
from pyro_lrp.core.errors import UserError
from pyro_lrp.metrics import METRICS, Metric, Subject, evaluation

QUICK = ("epochs=1", "prior_epochs=1", "device=cpu", "progress=false")
NOW = ("device=cpu", "progress=false", "n=60", "k=3")


@pytest.fixture
def run(trained_by):
    """A trained run of digits."""
    return trained_by(*QUICK)


def known(monkeypatch, metrics):
    """Let these be the metrics that there are."""
    for name in [*METRICS]:
        monkeypatch.delitem(METRICS, name)
    for name, metric in metrics.items():
        monkeypatch.setitem(METRICS, name, metric)


def results(run):
    return json.loads((run / "evaluation.json").read_text())


def test_results_join_those_that_are_there_and_are_kept(run, train, monkeypatch):
    (run / "evaluation.json").write_text('{"other": {"value": 1.0}}')
    code, out, err = train(f"run={run}", "metrics=[reconstruction_mse]", *NOW, command="evaluate")
    assert code == 0, err
    first = results(run)
    assert first["other"] == {"value": 1.0}
    found = first["reconstruction_mse"]
    assert found["n"] == 60
    assert found["seed"] == 0
    assert found["request"]["finished"] is True
    assert found["request"]["step"] > 0
    assert "reconstruction_mse" in out
    assert "constant_image_mse" in out

    def refused(subject):
        raise AssertionError("computed again")

    monkeypatch.setitem(METRICS, "reconstruction_mse", Metric(refused))
    code, out, _ = train(f"run={run}", "metrics=reconstruction_mse", *NOW, command="evaluate")
    assert code == 0
    assert "reconstruction_mse" in out  # shown all the same
    assert results(run) == first
    for other in ("n=61", "seed=1", "overwrite=true"):
        given = [a for a in NOW if a.partition("=")[0] != other.partition("=")[0]]
        code, out, _ = train(f"run={run}", "metrics=[reconstruction_mse]", *given, other, command="evaluate")
        assert "computed again" in out
    assert results(run) == first


def test_each_metric_is_written_before_the_next_begins(run, train, monkeypatch):
    def interrupted(subject):
        assert "reconstruction_mse" in results(run)
        raise KeyboardInterrupt

    monkeypatch.setitem(METRICS, "scores", Metric(interrupted))
    code, out, err = train(f"run={run}", "metrics=[reconstruction_mse,scores]", *NOW, command="evaluate")
    assert code == 130
    assert "interrupted" in err
    assert "reconstruction_mse" in out  # what was computed is shown all the same
    assert results(run).keys() == {"reconstruction_mse", "constant_image_mse"}


def test_auto_computes_what_it_can_and_says_what_the_rest_needs(run, train, monkeypatch):
    few = {"reconstruction_mse", "likelihood", "scores", "fid", "separability", "class_accuracy"}
    known(monkeypatch, {name: m for name, m in METRICS.items() if name in few})
    code, out, err = train(f"run={run}", *NOW, command="evaluate")
    assert code == 0, err
    assert {"reconstruction_mse", "log_likelihood_bound", "elbo", "scores"} <= results(run).keys()
    assert "not computed: separability needs binary attributes, and the data set digits has none" in out
    assert "not computed: class_accuracy needs a prior that is conditional on the class" in out
    assert "not computed: fid " in out
    assert "fid" not in results(run)
    assert (run / "scores.csv").read_text().count("\n") == 61


def test_auto_goes_on_when_a_metric_cannot_be_computed(run, train, monkeypatch):
    def impossible(subject):
        raise UserError("has nothing to evaluate")

    known(
        monkeypatch,
        {"broken": Metric(impossible), "reconstruction_mse": METRICS["reconstruction_mse"]},
    )
    code, out, _ = train(f"run={run}", *NOW, command="evaluate")
    assert code == 0
    assert "not computed: broken has nothing to evaluate" in out
    assert results(run).keys() == {"reconstruction_mse", "constant_image_mse"}


FAILURES = {
    "a mistake": (UserError("has nothing to evaluate"), "broken has nothing to evaluate"),
    "a bug": (IndexError("10 is out\nof bounds"), "broken ended with IndexError: 10 is out of bounds"),
    "memory": (MemoryError(), "broken ended with MemoryError: "),
    "a full disk": (OSError(28, "No space left on device"), "broken ended with OSError: [Errno 28] No space"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_metric_that_fails_ends_no_other(run, train, monkeypatch, failure):
    """With ``auto`` it is named; if it was asked for by name, the exit code is 1 after the others."""
    error, reason = FAILURES[failure]

    def broken(subject):
        raise error

    known(monkeypatch, {"broken": Metric(broken), "reconstruction_mse": METRICS["reconstruction_mse"]})
    for names, expected in (("auto", 0), ("[broken,reconstruction_mse]", 1), ("broken", 1)):
        code, out, err = train(f"run={run}", f"metrics={names}", *NOW, "overwrite=true", command="evaluate")
        assert code == expected, err
        assert f"not computed: {reason}" in out
        assert ("reconstruction_mse  " in out) == (names != "broken")
        last = "error: metrics: broken could not be computed: the lines above say why\n"
        assert err.endswith(last) == bool(expected)
    assert results(run).keys() == {"reconstruction_mse", "constant_image_mse"}


def test_a_metric_that_lacks_something_is_left_out_of_those_named(run, train):
    names = "metrics=[separability,reconstruction_mse]"
    code, out, err = train(f"run={run}", names, *NOW, command="evaluate")
    assert code == 1
    assert "not computed: separability needs binary attributes" in err
    assert "reconstruction_mse  " in out


def test_nothing_computed_is_an_error(run, train, monkeypatch):
    known(monkeypatch, {"separability": METRICS["separability"]})
    code, out, err = train(f"run={run}", *NOW, command="evaluate")
    assert code == 1
    assert err == "error: no metric could be computed: the lines above say why\n"
    assert "not computed: separability needs binary attributes" in out


def test_results_that_cannot_be_written_are_shown(run, train, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(evaluation, "write_json", full)
    code, out, err = train(f"run={run}", "metrics=[reconstruction_mse]", *NOW, command="evaluate")
    assert code == 1
    assert "reconstruction_mse  " in out
    assert "evaluation.json cannot be written (No space left on device): the results are in the table" in err
    assert not (run / "evaluation.json").exists()


@pytest.mark.parametrize("count", [1, 2, 3, 5, 19])
def test_too_few_test_images_are_said_beforehand(count):
    """Every metric either says what it needs, or is computed and finite or says that it is not."""
    images = torch.randint(256, (60, 1, 8, 8), dtype=torch.uint8)
    labels = torch.arange(60) % 3
    test = data.Split(images[:count], labels[:count])
    few = data.ImageData("few", data.Split(images, labels), test)
    subject = Subject(small_autoencoder().eval(), few, quick=True, n=None)
    least = {"fd_classifier": 2, "kd_classifier": 2, "precision_recall_classifier": 6, "prior_gap": 20}
    for name, needed in least.items():
        said = METRICS[name].lacks(subject)
        if count < needed:
            assert said == f"needs {needed} training and test images at least, and the data set few has {count}"
        else:
            assert said is None
    assert METRICS["fid"].lacks(subject) == METRICS["fd_classifier"].lacks(subject)
    few_asked = Subject(small_autoencoder(), few, n=1)
    assert METRICS["reconstruction_mse"].lacks(few_asked) is None
    for name in ("precision_recall_classifier", "prior_gap"):
        enough = Subject(small_autoencoder(), data.ImageData("all", few.train, few.train), n=5)
        assert METRICS[name].lacks(enough) == f"needs n={least[name]} at least, and n is 5"


def test_auto_takes_small_numbers_and_a_name_the_full_ones(run, train, monkeypatch):
    asked = []
    counting = Metric(lambda subject: asked.append((subject.count(1000, 10), subject.repeats(7, 2))) or {})
    known(monkeypatch, {"counting": counting})
    for names in ("auto", "[counting]"):
        train(f"run={run}", f"metrics={names}", "device=cpu", "progress=false", command="evaluate")
    assert asked == [(10, 2), (1000, 7)]


def test_an_unfinished_run_is_evaluated_with_a_note(run, train):
    (run / "summary.json").unlink()
    code, _, err = train(f"run={run}", "metrics=[reconstruction_mse]", *NOW, command="evaluate")
    assert code == 0
    assert "is not finished; evaluating last.safetensors (step " in err
    assert results(run)["reconstruction_mse"]["request"]["finished"] is False


def test_training_images_are_those_that_were_seen(train):
    train("data=fake", "data.limit=150", "data.validation=0.2", "batch_size=10", *QUICK)
    subject = config.Run(only_run()).subject()
    assert len(subject.train) == 120
    assert len(subject.data.train) > 150


MISTAKES = {
    "metric": ("metrics=[beauty]", "metrics: beauty is unknown; the known ones are: auto, or of [fid, "),
    "not a list": ("metrics=[[a]]", "metrics must be auto, or a list of names"),
    "one sample": ("n=1", "n must be at least 2"),
    "no repeats": ("k=0", "k must be a whole number of at least 1, or null, got 0"),
    "attributes": (
        "metrics=[separability]",
        "metrics: separability needs binary attributes, and the data set digits has",
    ),
    "weights": ("metrics=[fid] weights.inception=none.pth", "weights.inception: there is no file none.pth"),
    "network": ("metrics=[fid] weights.resnet=a.pth", "unknown key weights.resnet"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_sentence(run, train, name):
    arguments, message = MISTAKES[name]
    code, _, err = train(
        f"run={run}", *arguments.split(), *(a for a in NOW if a[:2] not in arguments), command="evaluate"
    )
    assert code == 1
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not (run / "evaluation.json").exists()


def test_a_likelihood_that_there_is_not(train):
    small = ("data=fake", "objective.discriminator.width=16", *QUICK)
    train("model=aae_learned", "prior.width=16", *small)
    code, _, err = train(f"run={only_run()}", "metrics=[likelihood]", *NOW, command="evaluate")
    assert code == 1
    assert err == "error: metrics: likelihood needs log p(z), and NeuralSampler has no density\n"
    train("model=aae", "name=aae", *small)
    code, _, err = train("run=runs/aae/seed_0", "metrics=[likelihood]", *NOW, command="evaluate")
    assert err == "error: metrics: likelihood needs a stochastic encoder, and this run's is deterministic\n"


def test_every_metric_is_in_the_help(train):
    _, out, _ = train("--help", command="evaluate")
    assert [name for name in METRICS if name not in out.split()] == []


def test_the_table_names_surrogates_warnings_and_verdicts():
    subject = Subject(small_autoencoder(), data.fake(10, (1, 8, 8)))
    shown = evaluation.table(
        {
            "a": metrics.result(subject, 1.25, 5, {"surrogate": "why"}, standard_error=0.5, warning="few"),
            "bcd": metrics.result(subject, float("nan"), 5, {}, verdict="guilty") | {"value": None},
        }
    )
    assert shown.splitlines() == [
        "a              1.25 ± 0.5      n = 5       surrogate; few",
        "bcd      not finite            n = 5",
    ]
