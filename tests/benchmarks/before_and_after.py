"""Fingerprints of what the library computes, to show that a change of its structure changes no result.

    python tests/benchmarks/before_and_after.py record FILE.json
    python tests/benchmarks/before_and_after.py compare FILE.json

Trains ten small runs for a few steps (eight presets, a conditional prior, a mixture in two stages), evaluates
three of them and draws their pictures. ``record`` writes hashes of the weights, the values of the metrics and
hashes of the pixels; ``compare`` computes them again and lists what differs. No data set is needed. Results are
those of one machine and one version of torch; a few minutes on one core.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import pyro_lrp

ROOT = Path(__file__).parents[2]
SHORT = (
    "epochs=2",
    "prior_epochs=1",
    "data.limit=300",
    "device=cpu",
    "progress=false",
    "trainer.evaluations=2",
)
PEOPLE = (
    "data=posed_figures", "data.n=48", "data.test=24", "data.image_size=32", "network.first=1",
    "network.most=2", "batch_size=16", "latent_dim=160",
    "data.flow.layers=2", "data.flow.width=4", "likelihood=gaussian", "epochs=2", "prior_epochs=1",
    "device=cpu", "progress=false",
)  # fmt: skip
RUNS = {
    "vae": (*SHORT, "model=vae"),
    "beta_vae": (*SHORT, "model=beta_vae"),
    "factor_vae": (*SHORT, "model=factor_vae", "objective.discriminator.width=16"),
    "vae_flow": (*SHORT, "model=vae_flow"),
    "vae_flow_learned_gamma": (*SHORT, "model=vae_flow_learned_gamma", "beta=0.3"),
    "aae_learned": (*SHORT, "model=aae_learned", "prior.width=16", "objective.discriminator.width=16"),
    "conditional": (*SHORT, "prior=conditional_flow", "context=label"),
    "mixture": (*SHORT, "prior=mixture", "order=two_stage", "prior_code_noise=0.1"),
    "vunet": (*PEOPLE, "model=vunet"),
    "vunet_flow": (*PEOPLE, "model=vunet_flow"),
}
FEW = ("n=60", "k=5", "device=cpu", "progress=false")
EVALUATIONS = {
    "vae_flow": (
        "metrics=[fd_classifier,class_separability,prior_gap,likelihood,reconstruction_mse,ppl_classifier]",
    ),
    "conditional": ("metrics=[class_accuracy,fd_classifier,likelihood]",),
    "vunet_flow": ("metrics=[pose_recovery,diversity_classifier,prior_gap,reconstruction_mse]", "n=24"),
}
PICTURES = {
    "prior": ("vae_flow", "n=9"),
    "reconstruct": ("vae_flow", "mode=reconstruct"),
    "interpolate": ("vae_flow", "mode=interpolate", "space=both"),
    "traverse": ("vae_flow", "mode=traverse"),
    "edit": ("vae_flow", "mode=edit", "attribute=3"),
    "classes": ("conditional", "n=10", "context=[1,2]"),
    "poses": ("vunet_flow", "n=4", "pose=[0,1]"),
    "transfer": ("vunet_flow", "mode=transfer"),
}


def command(name: str, *arguments: str) -> None:
    """Run a command in a process of its own, with one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment["PYRO_LRP_CACHE"] = str(Path.cwd() / "cache")
    subprocess.run(
        [sys.executable, "-m", f"pyro_lrp.{name}", *arguments], check=True, env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def weights(run: Path) -> str:
    """A hash of the parameters and buffers of the last checkpoint, name by name."""
    state = pyro_lrp.checkpoint.load(run / "checkpoints" / "last.safetensors")["game"]
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].numpy().tobytes())
    return digest.hexdigest()[:16]


def pixels(path: Path) -> str:
    """A hash of a picture, or of the arrays in an ``.npz``."""
    digest = hashlib.sha256()
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            for name in sorted(arrays):
                digest.update(arrays[name].tobytes())
    else:
        digest.update(np.asarray(Image.open(path)).tobytes())
    return digest.hexdigest()[:16]


def fingerprints() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, arguments in RUNS.items():
        command("train", *arguments, f"name={name}")
        found[f"weights/{name}"] = weights(Path("runs", name, "seed_0"))
        print(f"trained {name}", file=sys.stderr)
    found["pixels/training"] = pixels(Path("runs/vae_flow/seed_0/figures/samples.png"))
    for name, arguments in EVALUATIONS.items():
        run = Path("runs", name, "seed_0")
        options = {argument.partition("=")[0]: argument for argument in (*FEW, *arguments)}
        command("evaluate", f"run={run}", *options.values())
        results = json.loads((run / "evaluation.json").read_text())
        for key, result in results.items():
            numbers = {
                k: v for k, v in result.items() if isinstance(v, (int, float, dict, list)) and k != "request"
            }
            numbers.pop("protocol", None)
            found[f"metric/{name}/{key}"] = numbers
        print(f"evaluated {name}", file=sys.stderr)
    for name, (run_name, *arguments) in PICTURES.items():
        for ending in ("png", "npz"):
            out = Path(f"{name}.{ending}")
            command("sample", f"run=runs/{run_name}/seed_0", f"out={out}", "device=cpu", *arguments)
            found[f"{'pixels' if ending == 'png' else 'arrays'}/{name}"] = pixels(out)
    return found


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    lines = []
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            lines.append(f"{key}: {before.get(key)} before, {after.get(key)} now")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["record", "compare"])
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    file = options.file.resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        found = fingerprints()
    if options.action == "record":
        file.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
        print(f"{len(found)} fingerprints in {file}")
        return
    lines = differences(json.loads(file.read_text()), json.loads(json.dumps(found)))
    print("\n".join(lines) or f"all {len(found)} fingerprints are the same")
    sys.exit(1 if lines else 0)


if __name__ == "__main__":
    main()
