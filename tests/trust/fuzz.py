"""Fuzzed arguments, by hypothesis, and mutated files, by a loop that coverage guides.

The loop keeps a file that reached a line of the library which no other had reached (``sys.settrace``, on the
modules of the reader alone), and mutates what it kept. Unlike atheris, which :mod:`trust.guided` uses, it runs
on every platform, inside pytest, and again from the number of a trial.
"""

import gzip
import io
import json
import pickle
import random
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save

from pyro_lrp import config
from pyro_lrp.config import rundir
from pyro_lrp.config.folders import conf_dir, groups
from pyro_lrp.config.messages import described
from pyro_lrp.core import checkpoint
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.files import read_json
from pyro_lrp.data.arrays import npz
from pyro_lrp.data.mnist import _parse_idx
from pyro_lrp.data.pictures import pictures
from pyro_lrp.data.source import Source, unreadable_errors
from pyro_lrp.data.tables import decoded_text, flags_of_csv
from pyro_lrp.fitting.files import read_arrays
from pyro_lrp.metrics.evaluation import read_evaluation
from pyro_lrp.people.keypoints import read_keypoints
from pyro_lrp.people.poses import JOINTS
from pyro_lrp.trainer.history import read_rows
from trust import kit

BATCH = 100  # configurations of a trial
FILES = 500  # mutated files of a trial

# --------------------------------------------------------------------- arguments


def flat(tree, prefix=""):
    for key, value in tree.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")


def likely_keys():
    """The keys of a run, which building reads."""
    tree = config.compose_train("data=fake").identity
    skipped = ("presets", "image_shape", "context")
    return sorted(key for key in flat(tree) if key.partition(".")[0] not in skipped)


def keys():
    """The keys that a user may type, and some that he may not."""
    tree = OmegaConf.load(Path(conf_dir(), "train.yaml"))
    known = [str(key) for key in tree if key not in ("defaults", "hydra")]
    for group in groups():
        known.append(group)
        for file in Path(conf_dir(), group).glob("*.yaml"):
            entries = OmegaConf.to_container(OmegaConf.load(file))
            entries = entries.get(group, entries)
            if isinstance(entries, dict):
                known += [f"{group}.{key}" for key in entries]
    odd = [
        "",
        "betaa",
        "prior.",
        ".prior",
        "prior.x.y",
        "a b",
        "é",
        "_target_",
        "prior._args_",
        "0",
        "hydra.run.dir",
    ]
    places = ("data.root", "data.path", "data.images", "data.attributes", "data.index")
    return sorted({*known, *odd} - {*places, "device", "devices", "nodes", "name", "launcher"})


def choices():
    named = [name for choice in groups().values() for name in choice]
    downloads = ("mnist", "fashion_mnist", "cifar10", "celeba", "deepfashion")
    return sorted(name for name in named if name not in downloads)


NUMBERS = "1e9 1000000000000 -1e9 nan inf -inf 1e-300 0.5 -0.0 1e400 0x10 1_0 +1 .5 1."
LITERALS = "null true false '' [] {} [1] [a,b] {a:1} [[[[]]]] {a:{b:{}}} {1:2} [null] [,] {,} [{}]"
SIGNS = "${beta} ${nothing} ${oc.env:HOME} ${ } ' \" \\ a,b a=b = $( \x1b[2J é / .. ~ # @ !"
TARGETS = (
    "{_target_:os.system} {_target_:pyro_lrp.priors.Flwo} {_target_:3} {_target_:} {_partial_:true} "
    "pyro_lrp.priors.Flow torch.nn.Tanh os.system {_target_:torch.nn.Linear} {_target_:pyro_lrp.priors.Flow}"
)
VALUES = st.one_of(
    st.integers(-3, 64).map(str),
    st.sampled_from([*NUMBERS.split(), *LITERALS.split()]),
    st.sampled_from([*SIGNS.split(), *TARGETS.split(), ""]),
    st.sampled_from(choices()),
    st.text(max_size=8),
)
KEYS = st.one_of(st.sampled_from(likely_keys()), st.sampled_from(likely_keys()), st.sampled_from(keys()))
ARGUMENT = st.builds("{}{}={}".format, st.sampled_from(["", "", "", "", "+", "++", "~"]), KEYS, VALUES)
ARGUMENTS = st.lists(st.one_of(ARGUMENT, ARGUMENT, ARGUMENT, st.text(max_size=10)), min_size=1, max_size=3)


def fault_of(arguments):
    """Compose a configuration, plan it, and build its data and its model: what is wrong, or None."""
    try:
        plan = config.compose_train("data=fake", "data.n=20", *arguments)
        config.Run.planned(plan)
    except Exception as error:
        said = described(error, "train")
        if "PYRO_LRP_TRACEBACK" in said:
            return f"{arguments}: {said}"
        if "\n" in said.strip():
            return f"{arguments}: several lines: {said}"
    return None


def overrides(place, number, examples=BATCH):
    """A trial: :data:`BATCH` configurations; hypothesis makes one that fails as small as it can."""

    @seed(number)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(ARGUMENTS)
    def law(arguments):
        fault = fault_of([argument for argument in arguments if not argument.startswith("-")])
        assert fault is None, fault

    try:
        with kit.inside(place.folder):
            law()
    except AssertionError as error:
        return str(error).splitlines()[0]
    return None


def overrides_of_a_process(place, number):
    drawn = []

    @seed(number)
    @settings(max_examples=10, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(ARGUMENTS)
    def draw(arguments):
        drawn.append(arguments)

    draw()
    arguments = [one for one in drawn[-1] if not one.startswith("-") and "\0" not in one]
    arguments = [one.encode(errors="replace").decode() for one in arguments]
    base = (*kit.RUN, "epochs=1", "prior_epochs=1", "name=fuzz")
    end = place.server.run("train", *base, *arguments, cwd=place.empty(), seconds=300)
    return end.fault() and f"{arguments}: {end.fault()}"


# --------------------------------------------------------------------- readers


def png():
    buffer = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


def picture_seeds():
    seeds = []
    grey = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    for name, image in (
        *(("PNG", grey), ("JPEG", grey), ("GIF", grey), ("BMP", grey), ("TIFF", grey), ("WEBP", grey)),
        *(
            ("PPM", grey),
            ("PNG", grey.convert("RGBA")),
            ("PNG", grey.convert("P")),
            ("PNG", grey.convert("I;16")),
        ),
    ):
        buffer = io.BytesIO()
        image.save(buffer, name)
        seeds.append(buffer.getvalue())
    return seeds


def arrays(**named):
    buffer = io.BytesIO()
    np.savez(buffer, **named)
    return buffer.getvalue()


def one_array(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def zipped():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/1.png", png())
        archive.writestr("b/2.png", png())
        archive.writestr("attributes.csv", "file,x\n1.png,1\n2.png,0\n")
    return buffer.getvalue()


def read_zip(path):
    source = Source(path, "data.path")
    for name in source.names:
        try:
            with source.open(name) as image:
                image.load()
        except unreadable_errors():
            continue
    for name in source.others:
        source.read(name)


def index():
    return {
        "joint_order": list(JOINTS),
        "imgs": ["a.jpg"],
        "joints": [np.zeros((len(JOINTS), 2))],
        "train": [True],
    }


def table():
    numbers = json.dumps([5] * 18)
    return f"name:keypoints_y:keypoints_x\na.jpg: {numbers}: {numbers}\n".encode()


def tensors():
    return save({"codes": torch.zeros(4, 2)})


def pt():
    buffer = io.BytesIO()
    torch.save({"codes": torch.zeros(4, 2)}, buffer)
    return buffer.getvalue()


def of_run(name):
    return lambda place: [(place.whole / name).read_bytes()]


def keypoints_npz():
    order = [*"nose neck r_shoulder r_elbow r_wrist l_shoulder l_elbow l_wrist r_hip".split()]
    order += "r_knee r_ankle l_hip l_knee l_ankle r_eye l_eye r_ear l_ear".split()
    pixels = np.zeros((1, 18, 2))
    return arrays(names=np.array(["a.jpg"]), joint_names=np.array(order), keypoints_yx=pixels)


READERS = {  # a file's name, its seeds, its reader
    "pictures": ("x.png", lambda _: picture_seeds(), lambda path: pictures([path], (1, 8, 8))),
    "idx": ("x", lambda _: [bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 7])], lambda path: _parse_idx(path.read_bytes())),
    "npz": (
        "x.npz",
        lambda _: [arrays(images=np.zeros((9, 4, 5), np.uint8), labels=np.array([0, 1, 2] * 3))],
        npz,
    ),
    "npy": ("x.npy", lambda _: [one_array(np.zeros((9, 4, 5), np.uint8))], npz),
    "table of attributes": (
        "x.csv",
        lambda _: [b"file,a,b\n1.png,0,1\n2.png,1,-1\n", "file;é\n1;1\n".encode("utf-16")],
        lambda path: flags_of_csv(decoded_text(path.read_bytes()), path),
    ),
    "keypoints, csv": ("x.csv", lambda _: [table()], read_keypoints),
    "keypoints, csv.gz": ("x.csv.gz", lambda _: [gzip.compress(table())], read_keypoints),
    "keypoints, npz": ("x.npz", lambda _: [keypoints_npz()], read_keypoints),
    "keypoints, pickle": (
        "x.pkl",
        lambda _: [pickle.dumps(index(), protocol) for protocol in (0, 2, 4)],
        read_keypoints,
    ),
    "zip of pictures": ("x.zip", lambda _: [zipped()], read_zip),
    "checkpoint": ("x.safetensors", of_run(kit.LAST), checkpoint.load),
    "codes, npz": ("x.npz", lambda _: [arrays(codes=np.zeros((4, 2)), labels=np.zeros(4, int))], read_arrays),
    "codes, safetensors": ("x.safetensors", lambda _: [tensors()], read_arrays),
    "codes, pt": ("x.pt", lambda _: [pt()], read_arrays),
    "config.yaml": ("config.yaml", of_run("config.yaml"), lambda path: rundir.read_identity(path.parent)),
    "summary.json": ("summary.json", of_run("summary.json"), lambda path: rundir.read_summary(path.parent)),
    "evaluation.json": ("evaluation.json", of_run("evaluation.json"), read_evaluation),
    "other json": ("x.json", lambda _: [b'{"a": [1, {"b": null}]}'], read_json),
    "metrics.jsonl": ("metrics.jsonl", of_run("metrics.jsonl"), read_rows),
    "trained_on.npz": (
        "trained_on.npz",
        of_run("trained_on.npz"),
        lambda path: rundir.read_trained_on(path.parent),
    ),
}
INTERESTING = (
    b"\0",
    b"\xff",
    b"\x7f\xff\xff\xff",
    b"\xff" * 8,
    b"-1",
    b"9" * 30,
    b"[",
    b'"',
    b"\n",
    b"nan",
    b"",
)


def mutated(content, other, rng):
    """A content after one to four changes."""
    changed = bytearray(content)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(changed) + 1)
        kind = rng.randrange(7)
        length = rng.randrange(1, 17)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(changed):
            changed[at] = rng.randrange(256)
        elif kind == 2:
            del changed[at:]
        elif kind == 3:
            del changed[at : at + length]
        elif kind == 4:
            changed[at:at] = rng.choice(INTERESTING)
        elif kind == 5:
            changed[at : at + length] = rng.choice(INTERESTING)
        else:
            start = rng.randrange(len(other) + 1)
            changed[at:at] = other[start : start + 4 * length]
    return bytes(changed)


class Coverage:
    """The lines of the library that a call reaches."""

    def __init__(self):
        self.seen = set()
        self.new = False

    def __call__(self, call, *arguments):
        self.new = False
        sys.settrace(self._enter)
        try:
            return call(*arguments)
        finally:
            sys.settrace(None)

    def _enter(self, frame, event, argument):
        return self._line if "pyro_lrp" in frame.f_code.co_filename else None

    def _line(self, frame, event, argument):
        place = (frame.f_code.co_filename, frame.f_lineno)
        if place not in self.seen:
            self.seen.add(place)
            self.new = True
        return self._line


def mutate_files(place, name, number, files=FILES):
    """A trial: some mutated files into one reader, which returns, or raises a UserError that is one line."""
    file, seeds, read = READERS[name]
    rng = random.Random(f"{name} {number}")
    folder = place.folder / "mutated"
    folder.mkdir(exist_ok=True)
    path = folder / file
    corpus = list(seeds(place))
    coverage = Coverage()
    for _ in range(files):
        content = mutated(rng.choice(corpus), rng.choice(corpus), rng)
        path.write_bytes(content)
        try:
            coverage(read, path)
        except UserError as error:
            if "\n" in str(error):
                return f"{name}: several lines: {error}"
        except Exception as error:
            (place.folder / "fault.bin").write_bytes(content)
            return f"{name}: {type(error).__name__}: {error} ({content[:300]!r})"
        if coverage.new:
            corpus.append(content)
        path.unlink()
    return None


def reader(name):
    return lambda place, number: mutate_files(place, name, number)


def counted(attack):
    """How many configurations or files a trial of an attack is."""
    if attack.startswith("reader: "):
        return {"files": FILES}
    if attack == IN_PROCESS:
        return {"configurations": BATCH}
    return {}


IN_PROCESS = "overrides, in process"
ATTACKS = {
    IN_PROCESS: (overrides, 100),
    "overrides, as processes": (overrides_of_a_process, 200),
    **{f"reader: {name}": (reader(name), 10_000 // FILES) for name in READERS},
}
