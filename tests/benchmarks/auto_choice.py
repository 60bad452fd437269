"""How good is the prior that ``pyro_lrp.fit`` chooses by itself, beside the best of those that it tried?

    OMP_NUM_THREADS=1 python tests/benchmarks/auto_choice.py RUN... --data-root DIR [--out FILE.jsonl]
    OMP_NUM_THREADS=1 python tests/benchmarks/auto_choice.py --tables [--out FILE.jsonl]

A case is the codes of a trained run, or with ``--tables`` a table of scikit-learn, standardised. Each prior
that took part in the contest is judged by what the contest did not see: for a run by the Frechet distance of
5,000 decoded samples to the test images (``fd_classifier``, a surrogate), for a table by the accuracy of a
classifier that tells samples from a third of the rows, which was kept aside (0.5 at best). A line for each case
is added to FILE.
"""

import argparse
import json

import torch
from sklearn import datasets

from pyro_lrp import Run, fitting, metrics
from pyro_lrp.core.randomness import seeded
from pyro_lrp.fitting.contenders import candidates
from pyro_lrp.fitting.contest import Contest
from pyro_lrp.fitting.judge import Judge
from pyro_lrp.metrics.functional import classifier_two_sample_test
from pyro_lrp.models import Autoencoder
from pyro_lrp.trainer.devices import make_fabric

TABLES = {"breast_cancer": datasets.load_breast_cancer, "diabetes": datasets.load_diabetes}


def contested(codes, seconds):
    """The contenders after the contest, the winner first."""
    checked = fitting.checked_codes(codes)
    fabric = make_fabric("cpu", "32")
    contest = Contest(checked, Judge(checked, fabric.device, 0), seconds, print)
    contenders = contest.admitted(candidates(checked), fabric, 0, {})
    winner = contest.winner(contenders)
    others = [c for c in contenders if c is not winner and c.best is not None]
    return [winner, *others]


def of_run(run):
    """The codes of a run, and the distance of samples of a prior."""
    with torch.no_grad(), seeded(0, "codes"):
        codes = run.codes("seen").sample()
    ae = run.autoencoder

    def distance(prior):
        model = Autoencoder(ae.encoder, ae.decoder, prior, ae.likelihood).eval()
        results = metrics.evaluate(model, run.data, ["fd_classifier"], seen=run.seen, n=5000)
        return results["fd_classifier"]["value"]

    return codes, distance


def of_table(load):
    """Two thirds of a table, and a classifier's accuracy on samples of a prior and the rest."""
    rows = torch.from_numpy(load().data).float()
    rows = (rows - rows.mean(0)) / rows.std(0)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    aside = rows[order[: len(rows) // 3]]

    def distance(prior):
        with torch.no_grad(), seeded(0, "samples"):
            samples = prior.eval()().sample((len(aside),))
        return classifier_two_sample_test(samples, aside).accuracy

    return rows[order[len(rows) // 3 :]], distance


def case(name, codes, distance, options):
    contenders = contested(codes, options.seconds)
    values = {}
    for contender in contenders:
        values[contender.name] = distance(contender.prior)
        print(f"  {contender.name}: {values[contender.name]:.4g}", flush=True)
    chosen = values[contenders[0].name]
    row = {
        "case": name, "n": len(codes), "dim": codes.shape[1], "chosen": contenders[0].name,
        "distance": chosen, "best": min(values.values()), "ratio": chosen / min(values.values()),
        "distances": values, "criterion": {c.name: c.distance for c in contenders},
    }  # fmt: skip
    print(f"{name}: {row['chosen']} at {row['ratio']:.2f} times the best", flush=True)
    if options.out:
        with open(options.out, "a") as file:
            file.write(json.dumps(row) + "\n")


def main(options):
    torch.set_num_threads(1)
    for directory in options.runs:
        run = Run(directory, data_root=options.data_root)
        name = f"{run.settings.preset('data')} z={run.settings.latent_dim} beta={run.settings.beta:g}"
        case(name, *of_run(run), options)
    for name in TABLES if options.tables else ():
        case(name, *of_table(TABLES[name]), options)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*")
    parser.add_argument("--tables", action="store_true")
    parser.add_argument("--data-root")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--out")
    options = parser.parse_args()
    if not options.runs and not options.tables:
        parser.error("name runs, or say --tables")
    main(options)
