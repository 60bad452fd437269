"""Which number of codes alone tells which prior has the better samples?

    python tests/benchmarks/criteria_for_priors.py runs/recorded/noise/cells_*.jsonl

Each row of the files is a prior that was fitted to the frozen codes of an autoencoder, with the Frechet
distance of its samples in a classifier's features, which needs images, and numbers that need codes alone. For
each autoencoder the priors are compared: a criterion chooses the prior with its smallest value. Printed: in how
many autoencoders the distance of the chosen one is within 20 % of the smallest, and the chosen distance as a
multiple of the smallest, as geometric mean and at worst.
"""

import argparse
import json
import math
from collections import defaultdict
from pathlib import Path

CRITERIA = {
    "energy_distance": "energy distance of samples and held-out codes",
    "c2st": "accuracy of a classifier of samples and held-out codes",
    "nll_test": "-log p(z) of held-out codes",
    "nll_training": "-log p(z) of training codes",
}


def groups_of(files):
    """The rows of each autoencoder that have every prior."""
    groups = defaultdict(list)
    for file in files:
        for line in Path(file).read_text().splitlines():
            row = json.loads(line)
            groups[row["data"], row["latent_dim"], row["setting"], row["seed"]].append(row)
    most = max(len(rows) for rows in groups.values())
    return [rows for rows in groups.values() if len(rows) == most]


def main(files):
    groups = groups_of(files)
    priors = sorted(row["prior"] for row in groups[0])
    print(f"{len(groups)} autoencoders, priors: {', '.join(priors)}")
    print(f"{'criterion':<58}{'within 20 %':>12}{'mean':>8}{'worst':>8}")
    for criterion, meaning in CRITERIA.items():
        ratios = []
        for rows in groups:
            chosen = min(rows, key=lambda row: row[criterion])
            ratios.append(chosen["fd"] / min(row["fd"] for row in rows))
        near = sum(ratio <= 1.2 for ratio in ratios)
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        print(f"{meaning:<58}{near:>6} of {len(ratios):<3}{mean:>7.2f}{max(ratios):>8.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    main(parser.parse_args().files)
