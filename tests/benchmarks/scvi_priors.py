"""Priors of SCVI side by side: N(0, I), scvi-tools' own mixture and VampPrior, and those of this library.

    OMP_NUM_THREADS=1 python tests/benchmarks/scvi_priors.py [--data iid|types] [--out FILE] [--report FILE...]

needs scvi-tools: pip install 'pyro_lrp[scvi]'. ``iid`` is ``scvi.data.synthetic_iid``, whose genes are
independent; ``types`` has the same genes and batches, eight types of cells of unequal size, three of them on a
continuum. Every row is SCVI with its defaults but the prior, on the same cells and split for each seed. Held
out are a fifth of the cells: ``bound`` is the mean evidence lower bound of 50 draws, ``log p(x)`` that of
importance sampling with 200, in nats per cell; ``energy`` the energy distance of as many generated cells from
them, in log(1 + counts), the mean of five, the smaller the better.
"""

import argparse
import json
import logging
import time
import warnings
from pathlib import Path

import anndata
import numpy as np
import scvi
import torch
from scvi.module.base import MogPrior, VampPrior
from torch import nn

import pyro_lrp
from pyro_lrp.adapters.scvi import LearnedPriorSCVI, decode, encode

CELLS = 2000
GENES = 100
LATENT = 10
COMPONENTS = 20
PLAN = {"n_epochs_kl_warmup": 20, "lr": 4e-3}
MIXTURE = ["prior=mixture", f"prior.components={COMPONENTS}"]
ROWS = {
    "N(0, I)": "standard_normal",
    "MogPrior": "standard_normal",
    "VampPrior": "standard_normal",
    "mixture": MIXTURE,
    "mixture, diagonal": [*MIXTURE, "prior.covariance=diag"],
    "spline": "spline",
    "N(0, I), then a fit": "standard_normal",
    "mixture, then a fit": MIXTURE,
}
COLUMNS = {  # and their digits
    "bound": ("gain of the bound", 2),
    "log_p": ("gain of log p(x)", 2),
    "energy": ("energy", 3),
    "reconstructed": ("energy of reconstructions", 3),
    "seconds": ("seconds", 0),
}


class Theirs(nn.Module):
    """A prior of scvi-tools: trained as theirs, and evaluated at one draw, as ours."""

    def __init__(self, prior):
        super().__init__()
        self.own = prior

    def kl(self, qz, z, beta):
        if self.training:
            return beta * self.own.kl(qz=qz, z=z)
        return qz.log_prob(z).sum(-1) - self.own.get_prior(z=z).log_prob(z)

    def get_prior(self):
        return self.own.get_prior(z=torch.zeros(1, LATENT))


def iid(seed):
    scvi.settings.seed = seed
    return scvi.data.synthetic_iid(batch_size=CELLS // 2, n_genes=GENES)


def types(seed):
    """Negative binomial counts whose log means are linear in a code: types, and a continuum between three."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(8, 5))
    kind = rng.choice(8, size=CELLS, p=[0.3, 0.2, 0.15, 0.1, 0.1, 0.05, 0.05, 0.05])
    code = centres[kind]
    between = rng.dirichlet([1.0, 1.0, 1.0], size=CELLS) @ centres[:3]
    code = np.where(kind[:, None] < 3, between, code) + 0.1 * rng.normal(size=(CELLS, 5))
    batch = rng.integers(2, size=CELLS)
    logits = code @ rng.normal(size=(5, GENES)) * 0.7 + batch[:, None] * rng.normal(size=GENES) * 0.3
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    mean = share * rng.lognormal(np.log(800), 0.3, size=(CELLS, 1))
    counts = rng.negative_binomial(5, 5 / (5 + mean)).astype(np.float32)
    obs = {"batch": np.array(["a", "b"])[batch]}
    return anndata.AnnData(counts, obs=obs)


def with_prior(model, row):
    """The model with a prior of scvi-tools, where the row says so."""
    module = model.module
    if row == "MogPrior":
        module.prior = Theirs(MogPrior(COMPONENTS, LATENT))
    if row == "VampPrior":
        indices = np.random.default_rng(0).choice(model.adata.n_obs, COMPONENTS, replace=False)
        (tensors,) = model._make_data_loader(adata=model.adata, indices=indices, batch_size=COMPONENTS)
        inputs = module._get_inference_input(tensors)
        vamp = VampPrior(COMPONENTS, [2], module._regular_inference, module.z_encoder, inputs)
        module.prior = Theirs(vamp)
    return model


def energy(a, b):
    """The energy distance of two sets of rows."""
    a = torch.as_tensor(a).float().log1p()
    b = torch.as_tensor(b).float().log1p()
    within = torch.cdist(a, a).sum() / (len(a) * (len(a) - 1)) + torch.cdist(b, b).sum() / (
        len(b) * (len(b) - 1)
    )
    return (2 * torch.cdist(a, b).mean() - within).item()


def trained(row, cells, seed, epochs):
    scvi.settings.seed = seed
    LearnedPriorSCVI.setup_anndata(cells, batch_key="batch")
    model = with_prior(LearnedPriorSCVI(cells, n_latent=LATENT, prior=ROWS[row]), row)
    model.train(
        max_epochs=epochs,
        plan_kwargs=PLAN,
        train_size=0.8,
        shuffle_set_split=True,
        accelerator="cpu",
        enable_progress_bar=False,
        logger=False,
    )
    if row.endswith("then a fit"):
        codes = encode(model, indices=model.train_indices)
        model.module.prior.prior = pyro_lrp.fit(codes, prior=MIXTURE, seconds=20, seed=seed).prior
    return model


def measured(row, data, seed, epochs):
    start = time.perf_counter()
    cells = {"iid": iid, "types": types}[data](seed)
    model = trained(row, cells, seed, epochs)
    seconds = time.perf_counter() - start
    held_out = model.validation_indices
    bound = np.mean([model.get_elbo(indices=held_out).item() for _ in range(50)])
    log_p = model.get_marginal_ll(indices=held_out, n_mc_samples=200, return_mean=False).mean()
    generated = []
    reconstructed = []
    for _ in range(5):
        with torch.no_grad():
            z = model.module.prior.get_prior().sample((len(held_out),))
        generated.append(energy(decode(model, z, held_out), cells.X[held_out]))
        codes = encode(model, indices=held_out)
        reconstructed.append(energy(decode(model, codes, held_out), cells.X[held_out]))
    return {
        "data": data,
        "prior": row,
        "seed": seed,
        "bound": round(float(bound), 3),
        "log_p": round(float(log_p), 3),
        "energy": round(float(np.mean(generated)), 4),
        "reconstructed": round(float(np.mean(reconstructed)), 4),
        "seconds": round(seconds, 1),
    }


def report(files):
    """The table of recorded rows: means and deviations over seeds, of bounds those of the gain over N(0, I)."""
    rows = [json.loads(line) for file in files for line in Path(file).read_text().splitlines()]
    value = {(row["data"], row["prior"], row["seed"], key): row[key] for row in rows for key in COLUMNS}
    print("| data | prior | " + " | ".join(name for name, _ in COLUMNS.values()) + " |")
    print("|---|---|" + "---|" * len(COLUMNS))
    for data in dict.fromkeys(row["data"] for row in rows):
        seeds = sorted({row["seed"] for row in rows if row["data"] == data})
        for prior in ROWS:
            cells = []
            for key, (_, digits) in COLUMNS.items():
                found = np.array([value[data, prior, seed, key] for seed in seeds])
                if key in ("bound", "log_p"):
                    found = found - [value[data, "N(0, I)", seed, key] for seed in seeds]
                cells.append(f"{found.mean():.{digits}f} ± {found.std(ddof=1):.{digits}f}")
            print(f"| `{data}` | {prior} | {' | '.join(cells)} |")


def main(options):
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if options.report:
        report(options.report)
        return
    torch.set_num_threads(1)
    for seed in options.seeds:
        for row in options.rows:
            line = json.dumps(measured(row, options.data, seed, options.epochs))
            print(line, flush=True)
            if options.out:
                with Path(options.out).open("a") as file:
                    file.write(line + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("iid", "types"), default="iid")
    parser.add_argument("--rows", nargs="+", default=[*ROWS], choices=[*ROWS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--out")
    parser.add_argument("--report", nargs="+")
    main(parser.parse_args())
