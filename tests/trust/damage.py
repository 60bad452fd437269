"""Bits that flip and files that are cut off, in every kind of file of a run and of the cache.

The readers are called in this process: what they return is what was written, or they raise a UserError, or, of
the cache, make the file again.
"""

import logging
import os
import random
import shutil
from pathlib import Path

import pyro_lrp
from pyro_lrp import data
from pyro_lrp.config import rundir
from pyro_lrp.core.errors import UserError
from pyro_lrp.metrics.classifiers import classifier_for
from pyro_lrp.metrics.evaluation import read_evaluation
from pyro_lrp.trainer.history import read_rows

RUN_FILES = {
    "config.yaml": lambda run: rundir.read_identity(run),
    "summary.json": lambda run: rundir.read_summary(run),
    "evaluation.json": lambda run: read_evaluation(run / "evaluation.json"),
    "metrics.jsonl": lambda run: read_rows(run / "metrics.jsonl"),
    "trained_on.npz": lambda run: read_arrays(run),
    "checkpoints/last.safetensors": lambda run: weights(run),
}


def read_arrays(run):
    read = rundir.read_trained_on(run)
    return read.seen.tolist(), read.held_out.tolist()


def weights(run):
    state = pyro_lrp.Run(run).checkpoint
    return {name: tensor.tolist() for name, tensor in state["game"].items()}, state["step"]


def damaged(content, rng):
    """A content with one bit flipped, or cut off."""
    if rng.random() < 0.3:
        return content[: rng.randrange(len(content))]
    changed = bytearray(content)
    changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def a_run(place, number):
    rng = random.Random(number)
    name = list(RUN_FILES)[number % len(RUN_FILES)]
    read = RUN_FILES[name]
    expected = read(place.whole)
    work = place.folder / "damaged"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(place.whole, work)
    content = damaged((work / name).read_bytes(), rng)
    (work / name).write_bytes(content)
    try:
        found = read(work)
    except UserError as error:
        return None if Path(name).name in str(error) else f"{name}: the error names no file: {error}"
    except Exception as error:
        return f"{name}: {type(error).__name__}: {error}"
    if name == "metrics.jsonl":
        lost = len(expected.rows) - len(found.rows)
        cut = len(content) < (place.whole / name).stat().st_size
        fine = all(row in expected.rows for row in found.rows) and (cut or lost <= 2)
        return None if fine else f"{name}: other rows"
    return None if found == expected else f"{name}: a silent change"


def the_cache(place, number):
    rng = random.Random(number)
    root = place.folder / "damaged_cache"
    before = os.environ.get("PYRO_LRP_CACHE")
    os.environ["PYRO_LRP_CACHE"] = str(root)
    logging.disable(logging.CRITICAL)
    try:
        return _the_cache(place, rng, root, number)
    finally:
        logging.disable(logging.NOTSET)
        os.environ.pop("PYRO_LRP_CACHE")
        if before is not None:
            os.environ["PYRO_LRP_CACHE"] = before


def _the_cache(place, rng, root, number):
    images = data.fake(20, (1, 8, 8), classes=2)
    uses = (
        lambda: data.folder(place.pictures, image_size=8).train.fingerprint(),
        lambda: data.posed_figures(2, image_size=32, test=1).train.fingerprint(),
        lambda: [tensor.tolist() for tensor in classifier_for(images).state_dict().values()],
    )
    use = uses[number % 3]
    expected = use()
    folder = root / ("classifiers" if number % 3 == 2 else "images")
    prefix = ("pictures", "posed", "")[number % 3]
    files = sorted(path for path in folder.iterdir() if path.name.startswith(prefix))
    file = files[rng.randrange(len(files))]
    file.write_bytes(damaged(file.read_bytes(), rng))
    try:
        found = use()
    except Exception as error:
        return f"{file.name}: {type(error).__name__}: {error}"
    return None if found == expected else f"{file.name}: a silent change"


ATTACKS = {
    "bits and ends of the files of a run": (a_run, 1200),
    "bits and ends of the files of the cache": (the_cache, 300),
}
