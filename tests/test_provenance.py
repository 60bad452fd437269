"""What a run was trained on: told apart by content, found again, and never tested on."""

import dataclasses
import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from commands import QUICK
from PIL import Image

import pyro_lrp
from pyro_lrp import data
from pyro_lrp.config import memory
from pyro_lrp.core.errors import UserError
from pyro_lrp.data.fingerprint import TrainedOn, digests, fingerprint

SMALL = (
    "data=folder", "data.image_size=8", "network=mlp", "latent_dim=4", "batch_size=10", "data.flow.layers=2",
    "data.flow.width=8", "likelihood=gaussian", *QUICK[1:],
)  # fmt: skip


def draw(folder, numbers):
    """Images that differ by their number alone."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for number in numbers:
        pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"{folder}/{number:04}.png")


def pixels_of(split):
    return {image.numpy().tobytes() for image in split.images}


@pytest.fixture
def trained(train):
    """A run on 60 images in ``pics``, and its command."""
    draw("pics", range(100, 160))
    code, _, err = train(*SMALL, "data.path=pics", "name=a", "data.validation=0.1")
    assert code == 0, err
    return train


RUN = "runs/a/seed_0"
MORE = (*SMALL, "name=a", "data.validation=0.1")


CHANGES = {
    "an image": lambda d: _train(d, images=d.train.images ^ 1),
    "the order": lambda d: _train(d, images=d.train.images.flip(0)),
    "a label": lambda d: _train(d, labels=9 - d.train.labels),
    "the number": lambda d: dataclasses.replace(d, train=d.train[:-1]),
    "the split": lambda d: dataclasses.replace(d, train=d.test, test=d.train),
    "a validation split": lambda d: dataclasses.replace(d, validation=d.test),
    "the name of a class": lambda d: dataclasses.replace(d, classes=("zero", *d.classes[1:])),
    "attributes": lambda d: _train(d, attributes=torch.ones(len(d.train), 2, dtype=torch.bool)),
    "extras": lambda d: _train(d, extras={"joints": torch.zeros(len(d.train), 2)}),
}


def _train(d, **changes):
    return dataclasses.replace(d, train=dataclasses.replace(d.train, **changes))


@pytest.mark.parametrize("change", CHANGES)
def test_a_fingerprint_depends_on_all_that_a_data_set_holds(change):
    digits = data.digits()
    assert fingerprint(CHANGES[change](digits)) != fingerprint(digits)


def test_a_fingerprint_depends_on_nothing_else():
    digits = data.digits()
    with_contexts = digits.with_contexts(lambda split: torch.ones(len(split), 3))
    assert fingerprint(dataclasses.replace(with_contexts, name="another")) == fingerprint(digits)


def test_images_are_divided_by_whether_they_were_trained_on():
    digits = data.digits()
    seen, held_out = digits.hold_out(0.2)
    record = TrainedOn.of(seen, held_out)
    shuffled = dataclasses.replace(digits, train=digits.test, validation=seen[:7], test=digits.train[5:])
    divided = record.divide(shuffled)
    known = pixels_of(seen) | pixels_of(held_out)
    assert pixels_of(divided.train) <= known
    assert not pixels_of(divided.test) & known
    assert divided.validation is None
    assert len(digests(seen)) == len(seen)
    assert pixels_of(record.select(digits)) >= pixels_of(seen)


def test_a_moved_folder_is_the_same_data_and_resumes(trained):
    Path("pics").rename("elsewhere")
    code, _, err = trained(*MORE, "data.path=elsewhere")
    assert code == 0, err
    assert "already trained" in err


def test_other_images_at_the_same_path_are_another_run(trained):
    shutil.rmtree("pics")
    draw("pics", range(500, 560))
    code, _, err = trained(*MORE, "data.path=pics")
    assert code == 1
    assert "runs/a/seed_0 was trained on other images than the data set holds now" in err
    code, _, err = trained(f"run={RUN}", "metrics=[reconstruction_mse]", command="evaluate")
    assert code == 1
    assert "pics holds none of the images that runs/a/seed_0 was trained on" in err
    code, _, err = trained(f"run={RUN}", "metrics=[reconstruction_mse]", "other_data=true", command="evaluate")
    assert code == 0, err


def test_results_on_other_images_are_not_taken_for_the_runs_own(trained):
    """And the other way round: stored results are kept for the images that they were computed on."""
    draw("other", range(500, 560))
    asked = (f"run={RUN}", "metrics=[reconstruction_mse]")
    errors = {}
    for folder in ("pics", "other", "pics", "other"):
        places = (f"data.path={folder}", f"other_data={str(folder == 'other').lower()}")
        code, _, err = trained(*asked, *places, command="evaluate")
        assert code == 0, err
        stored = json.loads((Path(RUN) / "evaluation.json").read_text())["reconstruction_mse"]
        images = data.folder(folder, image_size=8)
        assert stored["request"].get("data") == {"pics": None, "other": fingerprint(images)}[folder]
        errors.setdefault(folder, set()).add(stored["value"])
    assert len(errors["pics"]) == len(errors["other"]) == 1
    assert errors["pics"] != errors["other"]


def test_a_run_on_other_images_is_told_so_in_words(trained):
    draw("other", range(500, 530))
    code, _, err = trained(*MORE, "data.path=other", "beta=1")
    assert code == 1
    assert "differs in beta (there 0, here 1), the images of the data set" in err


def test_a_folders_own_validation_images_are_scored_and_all_others_trained_on(train):
    """Unless a share of the training images is asked for."""
    for part, numbers in {"train": range(40), "val": range(50, 57), "test": range(60, 65)}.items():
        draw(f"pics/{part}", numbers)
    for options, expected in {(): (40, 7, 5), ("data.validation=0.1",): (36, 4, 5)}.items():
        name = f"name=a{len(options)}"
        code, _, err = train(*SMALL, "data.path=pics", name, *options)
        assert code == 0, err
        summary = json.loads(Path(f"runs/a{len(options)}/seed_0/summary.json").read_text())
        assert tuple(summary["scored_images"].values()) == expected


OWN_PRIOR = """
from pyro_lrp.priors import paper_flow


def mine(**options):
    return paper_flow(**options)
"""
GIVEN = {  # the options of a training, and what is typed to get samples of it
    "nothing": ((), ""),
    "a class": (("prior=conditional_flow", "context=label"), "context=cat"),
    "attributes": (("prior=conditional_flow", "context=[Big,Old]"), "context=[Big]"),
    "a class of the user's": (("prior._target_=own_priors.mine", "allow_targets=[own_priors.]"), "own_priors"),
}


@pytest.mark.parametrize("kind", GIVEN)
def test_the_printed_command_draws_samples(train, monkeypatch, kind):
    """Of every kind of prior, and where nothing is remembered for the user."""
    options, typed = GIVEN[kind]
    draw("pics/cat", range(30))
    draw("pics/dog", range(30, 60))
    names = sorted(path.relative_to("pics") for path in Path("pics").glob("*/*"))
    rows = [f"{name},{i % 2},{i % 3 % 2}" for i, name in enumerate(names)]
    Path("pics/attributes.csv").write_text("\n".join(["file,Big,Old", *rows]))
    Path("own_priors.py").write_text(OWN_PRIOR)
    Path("file").write_text("")
    monkeypatch.syspath_prepend(".")
    monkeypatch.setattr(memory, "cache_dir", lambda name: Path("file") / name)
    code, out, err = train(*SMALL, "data.path=pics", "name=a", *options)
    assert code == 0, err
    (line,) = [line for line in out.splitlines() if "pyro_lrp.sample" in line]
    assert typed in line
    code, _, err = train(*shlex.split(line)[3:], command="sample")
    assert code == 0, err


def test_a_folder_that_grew_is_never_tested_on_training_images(trained):
    seen = pixels_of(pyro_lrp.Run(RUN).seen)
    draw("pics", range(30))  # before the others, so that each tenth is another one
    code, _, err = trained(f"run={RUN}", "metrics=[reconstruction_mse]", command="evaluate")
    assert code == 0, err
    assert "pics changed since the run was trained" in err
    run = pyro_lrp.Run(RUN)
    assert pixels_of(run.seen) == seen
    assert run.changed
    assert len(run.data.test)
    fresh = pixels_of(data.folder("pics", image_size=8).train) | pixels_of(
        data.folder("pics", image_size=8).test
    )
    assert pixels_of(run.data.test) <= fresh - seen
    shutil.rmtree("pics")
    draw("pics", range(100, 120))
    for path in Path("pics").glob("*"):
        pixels = np.asarray(Image.open(path)).transpose(2, 0, 1).tobytes()
        if pixels not in seen:
            path.unlink()
    with pytest.raises(UserError, match="the run was trained on each of its test images"):
        _ = pyro_lrp.Run(RUN).data


def test_the_users_own_run_needs_nothing_typed_and_a_strangers_does(trained, monkeypatch):
    """The record lies in the user's cache: without it, as for anybody else, the place must be typed."""
    options = (f"run={RUN}", "metrics=[reconstruction_mse]")
    assert trained(*options, command="evaluate")[0] == 0
    monkeypatch.setenv("PYRO_LRP_CACHE", str(Path("another").resolve()))
    code, _, err = trained(*options, command="evaluate")
    assert code == 1
    assert "say data.path=..." in err
    assert trained(*options, "data.path=pics", command="evaluate")[0] == 0


def test_data_that_moved_are_asked_for(trained):
    shutil.move("pics", "moved")
    asked = (f"run={RUN}", "metrics=[reconstruction_mse]")
    code, _, err = trained(*asked, command="evaluate")
    assert code == 1
    assert f"it was there when {RUN} was trained: say where it is now, data.path=...\n" in err
    code, _, err = trained(*asked, "data.path=nowhere", command="evaluate")
    assert err == "error: data.path: there is no folder or .zip nowhere\n"
    assert trained(*asked, "data.path=moved", command="evaluate")[0] == 0


def test_a_run_that_names_other_targets_or_data_is_not_the_users_own(trained):
    identity = pyro_lrp.Run(RUN).identity
    assert memory.recall(identity).places == {"path": str(Path("pics").resolve())}
    for key, value in {"seed": 1, "prior": {"_target_": "os.system"}, "latent_dim": 5}.items():
        assert memory.recall({**identity, key: value}) == memory.Memory()
    moved = {**identity, "data": {**identity["data"], "path": "/etc"}}
    assert memory.recall(moved).places == {
        "path": str(Path("pics").resolve())
    }  # the user's place, not the run's


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"places": 3, "allow_targets": []}', '{"places": {}}', "\x00"]
)
def test_a_damaged_record_is_no_record(trained, text):
    identity = pyro_lrp.Run(RUN).identity
    (record,) = Path("cache/runs").glob("*.json")
    record.write_text(text)
    assert memory.recall(identity) == memory.Memory()


def test_a_cache_that_cannot_be_written_is_no_obstacle(train, monkeypatch):
    draw("it's mine", range(60))
    Path("file").write_text("")
    monkeypatch.setattr(memory, "cache_dir", lambda name: Path("file") / name)
    code, out, err = train(*SMALL, "data.path=it's mine", "name=a")
    assert code == 0, err
    assert """evaluate run=runs/a/seed_0 'data.path=it'"'"'s mine'""" in out  # pasted, it works


def test_a_model_is_used_on_own_images_without_its_data_set(trained):
    shutil.rmtree("pics")
    shutil.rmtree("cache")
    draw("mine", range(2))
    for mode in ("reconstruct", "interpolate"):
        options = (f"mode={mode}", "images=[mine/0000.png,mine/0001.png]")
        code, _, err = trained(f"run={RUN}", *options, command="sample")
        assert code == 0, err


def test_a_run_from_before_fingerprints_loads_and_is_not_refused(trained):
    path = Path(RUN) / "config.yaml"
    identity = yaml.safe_load(path.read_text())
    del identity["data"]["fingerprint"]
    path.write_text(yaml.safe_dump(identity))
    (Path(RUN) / "trained_on.npz").unlink()
    assert trained(*MORE, "data.path=pics")[0] == 0
    assert json.loads((Path(RUN) / "summary.json").read_text())["final"]["step"] == 8
    assert not pyro_lrp.Run(RUN, data_path="pics").changed
