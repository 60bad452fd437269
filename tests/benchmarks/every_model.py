"""Train every preset at small steps, and hold each against no model at all.

    python tests/benchmarks/every_model.py mnist_small [KEY=VALUE ...] [--only LABEL ...]
    python tests/benchmarks/every_model.py faces_small data.split=[9000,1000] weights.vgg19=FILE

Prints, for each: mean squared error of reconstructions, and of the best constant image; where there are
classes, Frechet distance of 10,000 samples to the test images in the features of a small classifier trained
here, trained and untrained (a surrogate, not comparable with published FIDs); KL; seconds of training.
KEY=VALUE go to every training (data.root, weights.vgg19). A run that was finished before is only judged.
"""

import argparse
import contextlib
import io
import json
import sys
from pathlib import Path
from unittest import mock

from pyro_lrp import config, evaluate, train
from pyro_lrp.config import rundir
from pyro_lrp.metrics import METRICS, Subject

MODELS = {
    "mnist_small": {
        "vae": ["model=vae"],
        "beta_vae": ["model=beta_vae"],
        "factor_vae": ["model=factor_vae"],
        "vae_flow": ["model=vae_flow"],
        "vae_flow_learned_gamma": ["model=vae_flow_learned_gamma", "likelihood.lr=1e-2"],
        "aae": ["model=aae"],
        "aae_learned": ["model=aae_learned"],
        "vae_perceptual": [
            "model=vae_perceptual", "data.limit=20000", "batch_size=50", "epochs=2", "prior_epochs=12",
            "trainer.evaluations=1",
        ],
    },
    "faces_small": {
        "vae": ["model=vae"],
        "beta_vae": ["model=beta_vae"],
        "factor_vae": ["model=factor_vae"],
        "vae_flow_beta_1": ["model=vae_flow", "beta=1"],
        "vae_flow_beta_0": ["model=vae_flow", "beta=0"],
        "vae_perceptual": ["model=vae_perceptual", "epochs=16", "prior_epochs=20", "trainer.evaluations=1"],
    },
}  # fmt: skip
HEADER = (
    f"{'model':<24}{'MSE':>9}{'const.':>9}{'ratio':>7}{'FD':>9}{'untrained':>11}{'ratio':>7}{'KL':>8}{'s':>7}"
)


def command(main, *arguments):
    """Run a command of the library in this process, quietly."""
    quiet = contextlib.redirect_stdout(io.StringIO())
    with mock.patch.object(sys, "argv", ["x", *arguments, "progress=false"]), quiet:
        main()


def judge(experiment, label, more):
    """Train and evaluate one preset: a line of the table."""
    name = f"every_model/{experiment}/{label}"
    command(train.main, f"experiment={experiment}", f"name={name}", *MODELS[experiment][label], *more)
    run = Path("runs") / name / "seed_0"
    identity = rundir.read_identity(run)
    root = next(
        (m.partition("=")[2] for m in more if m.startswith("data.root=")), config.default_data_root(identity)
    )
    data = config.build_data(identity, {"root": root})
    metrics = ["reconstruction_mse", *(["fd_classifier"] if data.train.labels is not None else [])]
    command(evaluate.main, f"run={run}", f"metrics=[{','.join(metrics)}]", f"data.root={root}")
    found = {key: result["value"] for key, result in json.loads((run / "evaluation.json").read_text()).items()}
    mse, constant = found["reconstruction_mse"], found["constant_image_mse"]
    distances = f"{'-':>9}{'-':>11}{'-':>7}"
    if "fd_classifier" in found:
        untrained = config.build_autoencoder(identity, identity["image_shape"]).eval()
        start = METRICS["fd_classifier"].compute(Subject(untrained, data))["fd_classifier"]["value"]
        distance = found["fd_classifier"]
        distances = f"{distance:>9.1f}{start:>11.1f}{start / distance:>7.1f}"
    summary = json.loads((run / "summary.json").read_text())
    kl = summary["final"].get("test/kl")
    return (
        f"{label:<24}{mse:>9.4f}{constant:>9.4f}{mse / constant:>7.2f}{distances}"
        f"{'-' if kl is None else f'{kl:.1f}':>8}{summary['seconds']:>7.0f}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=MODELS)
    parser.add_argument("more", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--only", nargs="*", metavar="LABEL")
    arguments = parser.parse_args()
    print(HEADER, flush=True)
    for label in arguments.only or MODELS[arguments.experiment]:
        print(judge(arguments.experiment, label, arguments.more), flush=True)
