"""Train every preset on MNIST at small steps, and hold each against no model at all.

    python tests/benchmarks/every_model.py [--root DIR] [--models vae aae ...] [--seed 0] [weights.vgg19=FILE]

Prints, for each: mean squared error of reconstructions, and of the best constant image; Frechet distance of
10,000 samples in the features of a small classifier trained here (a surrogate: not comparable with published
FIDs), trained and untrained; KL; seconds of training. `vae_perceptual` trains on the first 20,000 images.
"""

import argparse
import contextlib
import io
import json
import sys
from pathlib import Path
from unittest import mock

from pyro_lrp import config, evaluate, rundir, train
from pyro_lrp.metrics import METRICS

MODELS = (
    "vae", "beta_vae", "factor_vae", "vae_flow", "vae_flow_learned_gamma", "aae", "aae_learned",
    "vae_perceptual",
)  # fmt: skip
EXTRA = {
    "vae_flow_learned_gamma": ["likelihood.lr=1e-2"],
    "vae_perceptual": ["data.limit=20000", "epochs=3", "prior_epochs=12", "batch_size=50"],
}
HEADER = (
    f"{'model':<24}{'MSE':>9}{'const.':>9}{'ratio':>7}{'FD':>9}{'untrained':>11}{'ratio':>7}{'KL':>8}{'s':>7}"
)


def command(main, *arguments):
    """Run a command of the library in this process, quietly."""
    with (
        mock.patch.object(sys, "argv", ["x", *arguments, "progress=false"]),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        main()


def judge(model, root, seed, more):
    """Train and evaluate one preset: a line of the table."""
    name = f"every_model/{model}"
    where = [] if root is None else [f"data.root={root}"]
    options = [
        "experiment=mnist_small",
        f"model={model}",
        f"name={name}",
        f"seed={seed}",
        *EXTRA.get(model, []),
        *more,
    ]
    command(train.main, *options, *where)
    run = Path("runs") / name / f"seed_{seed}"
    command(evaluate.main, f"run={run}", "metrics=[fd_classifier,reconstruction_mse]", *where)
    results = {key: found["value"] for key, found in json.loads((run / "evaluation.json").read_text()).items()}
    summary = json.loads((run / "summary.json").read_text())
    identity = rundir.read_identity(run)
    data = config.build_data(identity, root or config.default_data_root(identity))
    untrained = config.build_autoencoder(identity, identity["image_shape"]).eval()
    start = METRICS["fd_classifier"](untrained, data, n=10_000)["fd_classifier"]["value"]
    mse, constant, distance = (
        results[k] for k in ("reconstruction_mse", "constant_image_mse", "fd_classifier")
    )
    kl = summary["final"].get("test/kl")
    return (
        f"{model:<24}{mse:>9.4f}{constant:>9.4f}{mse / constant:>7.2f}{distance:>9.1f}{start:>11.1f}"
        f"{start / distance:>7.1f}{'-' if kl is None else f'{kl:.1f}':>8}{summary['seconds']:>7.0f}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root")
    parser.add_argument("--models", nargs="*", default=MODELS)
    parser.add_argument("--seed", type=int, default=0)
    arguments, more = parser.parse_known_args()
    print(HEADER, flush=True)
    for model in arguments.models:
        print(judge(model, arguments.root, arguments.seed, more), flush=True)
