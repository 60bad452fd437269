"""Which score tells the images of one class from those of the others? A cell for each class and seed.

    OMP_NUM_THREADS=1 python tests/benchmarks/outliers.py DATA_ROOT --data mnist --out FILE.jsonl
    python tests/benchmarks/outliers_report.py FILE.jsonl ...

An autoencoder (fully connected, 16 dimensions, beta = 0, learned gamma) is trained on the training images of
one class alone and then frozen. Priors are fitted to the codes of these images, the means of q(z|x): a mixture
by EM, the paper's flow for a fixed number of steps; N(0, I) is left as it is. All test images are scored, the
larger the more outlying, and a score is judged by its AUROC: the chance that an image of another class has a
larger score than one of this class. Detectors of scikit-learn and pyod see the same codes, standardised, with
their default options where nothing else is written. No score sees a label of another class.

The bound on -log p(x) takes a hundredth of a second for each image and is computed for 40 test images of each
class, without the flow; on these 400 every score is judged a second time, so that the bound is compared with
others on equal images.

pyod is no dependency: without it (pip install pyod) its rows are missing. A cell that stands in FILE already is
left out, so the command can be stopped and typed again.
"""

import argparse
import importlib.util
import itertools
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.covariance import EllipticEnvelope
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import LocalOutlierFactor
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from pyro_lrp import data, likelihoods, metrics, models, networks, objectives, priors, trainer
from pyro_lrp.core.randomness import seeded
from pyro_lrp.fitting import fit_one
from pyro_lrp.latents.codes import posterior_means
from pyro_lrp.schedules import ConstantThenLinear

DATA = {"mnist": data.mnist, "fashion_mnist": data.fashion_mnist}
DIM = 16
EPOCHS = 20
FLOW_EPOCHS = 15
BOUNDED = 40  # test images of each class
WITH_BOUND = ("N(0, I)", "mixture")
WITH_CODES = ("prior", "typicality")
HAS_PYOD = importlib.util.find_spec("pyod") is not None


def of_class(split, number):
    return split[(split.labels == number).nonzero().flatten()]


def some_of_each(labels, n):
    """The numbers of the first ``n`` images of each class, in order."""
    rows = [(labels == number).nonzero().flatten()[:n] for number in labels.unique()]
    return torch.cat(rows).sort().values


# --------------------------------------------------------------------- our models


def train(game, images, seed, phase, **options):
    trainer.Trainer(
        game, images, phases=[phase], lr=1e-3, lr_of={"autoencoder.likelihood": 1e-2}, seed=seed,
        schedule=ConstantThenLinear(start=0.5, final=0.02), device="cpu", threads=1, progress=False,
        evaluations=1, evaluation_images=100, report_every=10**9, **options,
    ).fit()  # fmt: skip


def trained(images, seed):
    """An autoencoder of some images, whose prior plays no part."""
    with seeded(seed, "outliers", "autoencoder"):
        encoder, decoder = networks.mlp(images.image_shape, DIM, hidden_dims=(256, 256))
    likelihood = likelihoods.Gaussian(learn=True)
    autoencoder = models.Autoencoder(encoder, decoder, priors.StandardNormal(DIM), likelihood)
    game = objectives.LatentGame(autoencoder, objectives.BilevelELBO(beta=0.0))
    train(game, images, seed, trainer.Phase("joint", EPOCHS))
    return autoencoder.eval()


def mixture(autoencoder, images, seed):
    codes = posterior_means(autoencoder, images.train)
    components = max(1, min(100, len(codes) // 50))  # as LearnedPrior has them
    prior = ["prior=mixture", f"prior.components={components}"]
    fitted = fit_one(codes, prior, 600.0, context=codes[:, :0], seed=seed)
    return autoencoder.with_prior(fitted.prior)


def flow(autoencoder, images, seed):
    with seeded(seed, "outliers", "flow"):
        prior = priors.paper_flow(DIM, layers=8, width=256, whiten="standardize")
    other = autoencoder.with_prior(prior)
    game = objectives.LatentGame(other, objectives.BilevelELBO(beta=0.0))
    train(game, images, seed, trainer.Phase("prior_only", FLOW_EPOCHS), prior_batch_size=200)
    return other.eval()


def ours(autoencoder, images, rows, seed):
    """Scores by name: those of all test images, and the bounds of some."""
    few = images.test[rows]
    every = {}
    bounds = {}
    for name, make in (("N(0, I)", None), ("mixture", mixture), ("flow", flow)):
        model = autoencoder if make is None else make(autoencoder, images, seed)
        found = metrics.outlier_scores(model, images.test, images.train, WITH_CODES, seed=seed)
        every |= {f"{name}: {score}": values for score, values in found.items()}
        if name in WITH_BOUND:
            found = metrics.outlier_scores(model, few, images.train, "bound", seed=seed)
            bounds[f"{name}: bound"] = found["bound"]
    found = metrics.outlier_scores(autoencoder, images.test, images.train, "reconstruction", seed=seed)
    return every | found, bounds


# --------------------------------------------------------------------- detectors of others


def scikit_learns(seed):
    return {
        "scikit-learn: IsolationForest": IsolationForest(random_state=seed),
        "scikit-learn: LocalOutlierFactor": LocalOutlierFactor(novelty=True),
        "scikit-learn: OneClassSVM": OneClassSVM(),
        "scikit-learn: EllipticEnvelope": EllipticEnvelope(random_state=seed),
        "scikit-learn: GaussianMixture, 10 components": GaussianMixture(10, random_state=seed),
    }


def pyods():
    if not HAS_PYOD:
        return {}
    from pyod.models.copod import COPOD
    from pyod.models.ecod import ECOD
    from pyod.models.knn import KNN

    return {"pyod: ECOD": ECOD(), "pyod: COPOD": COPOD(), "pyod: KNN": KNN()}


def others(autoencoder, images, seed):
    """Scores of detectors that are fitted to the standardised codes."""
    scaler = StandardScaler()
    train_codes = scaler.fit_transform(posterior_means(autoencoder, images.train).double().numpy())
    test_codes = scaler.transform(posterior_means(autoencoder, images.test).double().numpy())
    scores = {}
    for name, detector in scikit_learns(seed).items():
        detector.fit(train_codes)
        scores[name] = -detector.score_samples(test_codes)
    for name, detector in pyods().items():
        detector.fit(train_codes)
        scores[name] = detector.decision_function(test_codes)
    return scores


# --------------------------------------------------------------------- cells


def auroc(scores, outlying):
    """The area under the ROC curve; a score that is infinite counts as the largest."""
    finite = np.nan_to_num(np.asarray(scores, dtype=np.float64), nan=np.inf)
    ranks = np.unique(finite, return_inverse=True)[1]
    return roc_auc_score(outlying, ranks)


def cell(options, images, number, seed):
    """The AUROC of every score where one class is the inlying one."""
    one = data.ImageData(options.data, of_class(images.train, number), images.test)
    if options.limit:
        one = data.ImageData(options.data, one.train[: options.limit], images.test)
    rows = some_of_each(images.test.labels, options.bounded)
    outlying = (images.test.labels != number).numpy()
    autoencoder = trained(one, seed)
    every, bounds = ours(autoencoder, one, rows, seed)
    every |= others(autoencoder, one, seed)
    few = {name: np.asarray(scores)[rows.numpy()] for name, scores in every.items()} | bounds
    return {
        "data": options.data, "class": number, "seed": seed, "n_train": len(one.train),
        "n_test": len(outlying), "n_bounded": len(rows), "gamma": autoencoder.likelihood.gamma.item(),
        "auroc": {name: auroc(scores, outlying) for name, scores in every.items()},
        "auroc_bounded": {name: auroc(scores, outlying[rows.numpy()]) for name, scores in few.items()},
    }  # fmt: skip


def main(options):
    torch.set_num_threads(1)
    if not HAS_PYOD:
        print("pyod is missing: its detectors are left out (pip install pyod)", file=sys.stderr)
    out = Path(options.out)
    lines = out.read_text().splitlines() if out.is_file() else []
    rows = [json.loads(line) for line in lines]
    done = {(row["data"], row["class"], row["seed"]) for row in rows}
    images = DATA[options.data](options.data_root)
    for seed, number in itertools.product(options.seed, options.classes):
        if (options.data, number, seed) in done:
            continue
        start = time.process_time()
        row = cell(options, images, number, seed)
        row["seconds"] = round(time.process_time() - start, 1)
        with out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        best = max(row["auroc"], key=row["auroc"].get)
        print(f"{options.data} class {number} seed {seed}: {row['seconds']} s, best {best}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_root")
    parser.add_argument("--data", choices=DATA, default="mnist")
    parser.add_argument("--out", default="outliers.jsonl")
    parser.add_argument("--seed", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--classes", type=int, nargs="*", default=[*range(10)])
    parser.add_argument("--limit", type=int, help="training images of the class, for a short try")
    parser.add_argument("--bounded", type=int, default=BOUNDED, help="images of each class with a bound")
    main(parser.parse_args())
