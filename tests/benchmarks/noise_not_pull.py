"""What does beta buy: noise on the codes, or the prior's pull? Settings by data set, latent size and prior.

    OMP_NUM_THREADS=1 python tests/benchmarks/noise_not_pull.py DATA_ROOT --data mnist --out FILE.jsonl
    python tests/benchmarks/noise_not_pull_report.py FILE.jsonl ... --out DIR

An autoencoder of each setting, size and seed is trained as experiment=mnist_small trains it, with a learned
variance gamma, kept below runs/noise_not_pull. At beta = 0 the prior does not reach it, and N(0, I) stands
in (with the flow it is the same autoencoder, bit for bit); at beta = 1 it is trained with the paper's flow.
Each prior is then fitted afresh to its frozen codes: for the steps of mnist_small's prior-only phase, or by ten
iterations of EM (the mixture). All distances are Frechet distances to the test images in the features of a
small classifier trained here: a surrogate, to compare rows with each other and never with published FIDs.

A cell that stands in FILE already is left out, so the command can be stopped and typed again. Several processes
may share the work, each with a FILE of its own; they share the autoencoders.
"""

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import NamedTuple

import torch
from own_noise import relative_noise

import pyro_lrp
from pyro_lrp import config, metrics
from pyro_lrp.core.files import plain
from pyro_lrp.core.randomness import seeded
from pyro_lrp.objectives import BilevelELBO, LatentGame
from pyro_lrp.trainer import Phase, PriorPhase, Trainer

IMAGES = 5000  # of each set that is judged
EXPERIMENTS = {"mnist": "mnist_small", "fashion_mnist": "fashion_small"}


class Setting(NamedTuple):
    """How an autoencoder is trained, and on what of its codes priors are fitted.

    Attributes:
        beta: Weight of the regularization.
        k: Deviations of fixed noise; 0: the encoder's own noise; "mean" and "each": the noise that the encoder
            of beta = 1 gives itself, its geometric mean or dimension by dimension.
        options: Further arguments of its training.
        means: The setting whose autoencoders are taken, priors being fitted to the means of their codes alone.
    """

    beta: float
    k: float | str
    options: tuple[str, ...] = ()
    means: str | None = None


SETTINGS = {
    "beta_0": Setting(0, 0.0),
    "beta_0_k_0.1": Setting(0, 0.1),
    "beta_1": Setting(1, 0.0),
    "beta_1_k_0.1": Setting(1, 0.1),
    "beta_0_k_0.2": Setting(0, 0.2),
    "beta_0_k_0.3": Setting(0, 0.3),
}
REMEDIES = {
    # as much noise as beta = 1 has, at every size; and where it has it
    "beta_0_as_beta_1": Setting(0, "mean"),
    "beta_0_as_beta_1_each": Setting(0, "each"),
    # a scale of the codes that cannot run away, upwards at beta = 0 and downwards at beta = 1
    "beta_0_k_0.1_norm": Setting(0, 0.1, ("network.latent_norm=batch",)),
    "beta_1_k_0.1_norm": Setting(1, 0.1, ("network.latent_norm=batch",)),
    # the KL's reward of noise without its pull: each dimension learns its own noise
    "entropy": Setting(0, 0.0, ("objective.elbo.beta_entropy=1", "network.latent_norm=batch")),
    # noise in the joint phase alone, which the decoder has seen
    "means_k_0.1": Setting(0, 0.1, means="beta_0_k_0.1"),
    "means_k_0.2": Setting(0, 0.2, means="beta_0_k_0.2"),
}
EVERY = {**SETTINGS, **REMEDIES}
PRIORS = {  # each standardises the codes first; a mixture is fitted by EM alone
    "flow": ["prior=flow", "prior.whiten=standardize"],
    "flow_matching": ["prior=flow_matching"],
    "mixture": ["prior=mixture", "prior.components=100", "prior.em_iterations=10"],
}
SCORES = {  # names in a row, and in the results of the metrics
    "fd": "prior_gap_fd_samples",
    "fd_error": ("prior_gap_fd_samples", "standard_error"),
    "limit": "prior_gap_fd_resampled",
    "fd_reconstructions": "prior_gap_fd_reconstructions",
    "fd_training": "prior_gap_fd_training",
    "distortion": "prior_gap_distortion",
    "rate": "prior_gap_rate",
    "nll_training": "prior_gap_nll_training",
    "nll_test": "prior_gap_nll_test",
    "c2st": "prior_gap_c2st",
    "energy_distance": "prior_gap_energy_distance",
    "copying": "prior_gap_copying",
    "active_units": "active_units_scale_free",
    "precision": "precision_classifier",
    "recall": "recall_classifier",
    "density": "density_classifier",
    "coverage": "coverage_classifier",
}


def floor_of(k, data, latent_dim, seed, root):
    """A number, or one for each dimension."""
    if not isinstance(k, str):
        return k
    own = relative_noise(pyro_lrp.train(*arguments_of(data, latent_dim, "beta_1", seed, root)))
    if k == "mean":
        return own.log().mean().exp().item()
    return own.sort().values.tolist()


def arguments_of(data, latent_dim, setting, seed, root):
    """The command line that trains an autoencoder."""
    setting = EVERY[setting].means or setting
    beta, k, options, _ = EVERY[setting]
    floor = floor_of(k, data, latent_dim, seed, root)
    noise = [f"network.noise_floor={floor}".replace(" ", ""), "network.noise=fixed"] if floor else []
    prior = ["prior=flow"] if beta else ["prior=standard_normal"]
    return [
        f"experiment={EXPERIMENTS[data]}", "model=vae_flow_learned_gamma", "likelihood.lr=1e-2",
        f"latent_dim={latent_dim}", f"beta={beta}", *noise, *options, *prior, f"seed={seed}",
        "prior_epochs=0", "trainer.evaluations=1", "device=cpu", "threads=1", "progress=false",
        f"data.root={root}", f"name=noise_not_pull/{data}_z{latent_dim}_{setting}",
    ]  # fmt: skip


def with_prior(run, arguments, prior):
    """The run's autoencoder with a fresh prior, and the whole configuration that builds it."""
    planned = config.compose_train(*arguments, *PRIORS[prior]).identity
    identity, _ = config.settle(planned, run.data)
    autoencoder = config.build_autoencoder(identity, identity["image_shape"])
    for part in ("encoder", "decoder", "likelihood"):
        trained = getattr(run.autoencoder, part)
        getattr(autoencoder, part).load_state_dict(trained.state_dict())
    return autoencoder, identity


class OnMeans(LatentGame):
    """A game whose prior is fitted to the means of the codes."""

    def codes(self, images):
        codes = super().codes(images)
        return codes._replace(scale=torch.zeros_like(codes.scale))


def fitted(autoencoder, identity, run, epochs, seed, kind=LatentGame):
    """The autoencoder with its prior fitted to its codes; the CPU seconds and the steps that it took."""
    game = kind(autoencoder, BilevelELBO(0.0)).eval()
    start = time.process_time()
    steps = 0
    if not epochs:
        with torch.no_grad(), seeded(seed, "codes"):
            codes = game.codes(run.seen)
        with seeded(seed, "fit"):
            game.fit(codes)
    else:
        trainer = Trainer(
            game, run.data, phases=[Phase("prior_only", epochs)], prior_phase=PriorPhase(),
            prior_batch_size=identity["prior_batch_size"], lr=identity["lr"],
            schedule=config.schedule(identity), validation=identity["data"]["validation"], seed=seed,
            device="cpu", threads=1, evaluations=1, evaluation_images=1, report_every=10**9, progress=False,
        )  # fmt: skip
        trainer.fit()
        steps = trainer.total_steps
    return autoencoder.eval(), time.process_time() - start, steps


def scores_of(results):
    """The numbers of a row."""
    scores = {}
    for name, place in SCORES.items():
        key, entry = place if isinstance(place, tuple) else (place, "value")
        scores[name] = results[key][entry]
    return scores


def interpolations(run):
    """The interpolation distance of an autoencoder, which no prior changes; kept beside the run."""
    kept = run.directory / "interpolation.json"
    if not kept.is_file():
        names = ("interpolation_distance", "interpolation_distance_codes")
        results = metrics.evaluate(run.autoencoder, run.data, names[0], seen=run.seen, n=IMAGES)
        kept.write_text(json.dumps({name: results[name]["value"] for name in names}))
    return json.loads(kept.read_text())


def cell(data, latent_dim, setting, seed, prior, root):
    """One row: an autoencoder, trained now if it was not before, under one prior."""
    arguments = arguments_of(data, latent_dim, setting, seed, root)
    run = pyro_lrp.train(*arguments)
    autoencoder, identity = with_prior(run, arguments, prior)
    epochs = 0
    if prior != "mixture":
        epochs = config.compose_train(*arguments, "prior_epochs=null").identity["prior_epochs"]
    kind = OnMeans if EVERY[setting].means else LatentGame
    autoencoder, seconds, steps = fitted(autoencoder, identity, run, epochs, seed, kind)
    results = metrics.evaluate(
        autoencoder, run.data, ["prior_gap", "precision_recall_classifier"], seen=run.seen, seed=seed, n=IMAGES
    )
    gamma = autoencoder.likelihood.gamma.item()
    prior_parameters = sum(p.numel() for p in autoencoder.prior.parameters())
    return {
        **scores_of(results), **interpolations(run), "gamma": gamma, "culprit": results["prior_gap"]["culprit"],
        "seconds": seconds, "steps": steps, "parameters": prior_parameters,
    }  # fmt: skip


def rows_of(files):
    """The rows of some files, those that do not exist left out."""
    lines = [line for file in files if Path(file).is_file() for line in Path(file).read_text().splitlines()]
    return [json.loads(line) for line in lines]


def main(options):
    keys = ("seed", "latent_dim", "setting", "prior")
    done = {(row["data"], *(row[key] for key in keys)) for row in rows_of([options.out])}
    for cells in itertools.product(options.seed, options.latent, options.setting, options.prior):
        seed, latent_dim, setting, prior = cells
        if (options.data, *cells) in done:
            continue
        start = time.process_time()
        row = {"data": options.data, **dict(zip(keys, cells, strict=True))}
        row["beta"], row["k"], *_ = EVERY[setting]  # k as a word, where it is taken from other runs
        row |= cell(options.data, latent_dim, setting, seed, prior, options.data_root)
        row["seconds_of_the_cell"] = time.process_time() - start
        with open(options.out, "a") as file:
            file.write(json.dumps(plain(row)) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_root")
    parser.add_argument("--data", choices=EXPERIMENTS, default="mnist")
    parser.add_argument("--out", default="noise_not_pull.jsonl")
    parser.add_argument("--seed", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--latent", type=int, nargs="*", default=[64, 16, 8])
    parser.add_argument("--setting", nargs="*", choices=EVERY, default=[*SETTINGS])
    parser.add_argument("--prior", nargs="*", choices=PRIORS, default=[*PRIORS])
    main(parser.parse_args())
