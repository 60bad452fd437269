"""The table, the figure and the verdicts of the rows of noise_not_pull.py.

    python tests/benchmarks/noise_not_pull_report.py FILE.jsonl ... --out DIR

Writes DIR/table.md, DIR/verdicts.md and DIR/distance_against_noise.png. Verdicts pair rows by data set, latent
size, prior and seed; a claim that the rows do not reach says so. Differences are of logarithms of distances, so
that a cell counts by its ratio and not by its scale.
"""

import argparse
import itertools
import json
import math
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from scipy import stats

from pyro_lrp.reports.claims import sign_test

BY_NOISE = {0.0: "beta_0", 0.1: "beta_0_k_0.1", 0.2: "beta_0_k_0.2", 0.3: "beta_0_k_0.3"}
PULL = "beta_1"
PULL_AND_NOISE = "beta_1_k_0.1"
SETTINGS = (*BY_NOISE.values(), PULL, PULL_AND_NOISE)
MARGIN = 0.05  # of a distance, by which a setting may be behind and still counts as no worse
SHARE = 0.9  # of the cells, in which one k has to be no worse
AGREEMENT = 0.8  # rank correlation that a substitute for samples has to reach
LEVEL = 0.05
WHOLE = 2 * 3 * 3 * len(SETTINGS) * 3  # data sets, sizes, priors, settings, seeds


class Verdict(NamedTuple):
    """Whether a claim holds in the rows; None if they do not suffice."""

    claim: str
    holds: bool | None
    sentence: str

    def __str__(self):
        word = {True: "holds", False: "does not hold", None: "open"}[self.holds]
        return f"**{self.claim}** {word}: {self.sentence}"


class Interval(NamedTuple):
    """The mean of some numbers and its 95 % confidence interval (Student's t)."""

    mean: float
    low: float
    high: float

    def ratio(self):
        """The numbers being logarithms of ratios."""
        low, middle, high = (math.exp(value) for value in (self.low, self.mean, self.high))
        return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def read(files):
    """The rows of some files."""
    return [json.loads(line) for file in files for line in Path(file).read_text().splitlines()]


def cells(rows):
    """Rows by (data set, latent size, prior), by setting, by seed."""
    found = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        found[row["data"], row["latent_dim"], row["prior"]][row["setting"]][row["seed"]] = row
    return found


def interval(values):
    """The interval of the mean; without bounds for fewer than two values."""
    if len(values) < 2:
        return Interval(mean(values), -math.inf, math.inf)
    half = stats.t.ppf(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Interval(mean(values), mean(values) - half, mean(values) + half)


def log_ratios(by_setting, setting, other):
    """log(distance of a setting / distance of another), seed by seed."""
    seeds = by_setting[setting].keys() & by_setting[other].keys()
    return [math.log(by_setting[setting][s]["fd"] / by_setting[other][s]["fd"]) for s in sorted(seeds)]


# --------------------------------------------------------------------- verdicts


def noise_is_enough(found):
    """H1: with some one k, beta = 0 is no worse than beta = 1 in nine of ten cells."""
    claim = "H1 (some one k makes β = 0 no worse than β = 1 in at least 90 % of the cells)"
    shares = {}
    words = []
    for k, setting in BY_NOISE.items():
        pairs = {cell: log_ratios(by, setting, PULL) for cell, by in found.items()}
        pairs = {cell: ratios for cell, ratios in pairs.items() if ratios}
        if not pairs:
            continue
        good = [cell for cell, ratios in pairs.items() if mean(ratios) <= math.log(1 + MARGIN)]
        shares[k] = len(good) / len(pairs)
        every = [ratio for ratios in pairs.values() for ratio in ratios]
        below, n, p = sign_test(every)
        words.append(
            f"k = {k:g}: {len(good)} of {len(pairs)} cells, ratio {interval(every).ratio()}, below 1 in "
            f"{below} of {n} pairs (sign test p = {p:.2g})"
        )
    if not shares:
        return Verdict(claim, None, "no pairs yet")
    sentence = f"no worse means at most {MARGIN:.0%} above, in the mean of the seeds. " + "; ".join(words)
    return Verdict(claim, max(shares.values()) >= SHARE, sentence)


def pull_does_not_help(found):
    """H2: at equal fixed noise, beta = 1 is not better than beta = 0."""
    claim = "H2 (at equal fixed noise, k = 0.1, the pull does not help)"
    by_prior = defaultdict(list)
    for (_, _, prior), by in found.items():
        by_prior[prior] += log_ratios(by, PULL_AND_NOISE, BY_NOISE[0.1])
    every = [ratio for ratios in by_prior.values() for ratio in ratios]
    if not every:
        return Verdict(claim, None, "no pairs yet")
    whole = interval(every)
    below, n, p = sign_test(every)
    parts = [f"{prior} {interval(ratios).ratio()}" for prior, ratios in by_prior.items() if ratios]
    sentence = (
        f"distance with the pull over that without {whole.ratio()}, below 1 in {below} of {n} pairs "
        f"(sign test p = {p:.2g}); by prior: {', '.join(parts)}"
    )
    return Verdict(claim, not (whole.high < 0 or p < LEVEL), sentence)


def best_noise(found):
    """The best k, and the distance there, by (data set, latent size, seed), by prior; of complete ones only."""
    best = defaultdict(dict)
    for (data, latent_dim, prior), by in found.items():
        seeds = set.intersection(*(set(by[setting]) for setting in BY_NOISE.values()))
        for seed in seeds:
            distances = {k: by[setting][seed]["fd"] for k, setting in BY_NOISE.items()}
            k = min(distances, key=distances.get)
            best[data, latent_dim, seed][prior] = (k, distances[k])
    return best


def better_priors_need_less(found):
    """H3: of two priors on the same codes, the better one is best at a smaller k."""
    claim = "H3 (the best k falls as the prior improves)"
    differences = []
    by_prior = defaultdict(list)
    for priors in best_noise(found).values():
        for prior, (k, _) in priors.items():
            by_prior[prior].append(k)
        for one, other in itertools.combinations(priors.values(), 2):
            (better_k, _), (worse_k, _) = sorted((one, other), key=lambda pair: pair[1])
            differences.append(better_k - worse_k)
    below, n, p = sign_test(differences)
    if not n:
        return Verdict(claim, None, "no two priors with different best k yet")
    means = [f"{prior} {mean(ks):.2f}" for prior, ks in by_prior.items()]
    sentence = (
        f"the better of two priors has the smaller best k in {below} of {n} pairs that differ, of "
        f"{len(differences)} (sign test p = {p:.2g}); mean best k: {', '.join(means)}"
    )
    return Verdict(claim, below > n / 2 and p < LEVEL, sentence)


def correlations(found, of):
    """Rank correlations, over the settings, of a function of a row with the distance of samples."""
    values = []
    for by in found.values():
        for seed in set.intersection(*(set(by[setting]) for setting in SETTINGS)):
            rows = [by[setting][seed] for setting in SETTINGS]
            ranks = stats.spearmanr([of(row) for row in rows], [row["fd"] for row in rows])
            values.append(float(ranks.statistic))
    return values


def interpolations_rank_settings(found):
    """H4: the distance of interpolations ranks the settings as that of samples does."""
    claim = (
        f"H4 (the interpolation distance ranks settings as the samples' distance does, Spearman ≥ {AGREEMENT})"
    )
    measures = {
        "interpolation distance": lambda row: row["interpolation_distance"],
        "what it adds to that of the codes": lambda row: (
            row["interpolation_distance"] - row["interpolation_distance_codes"]
        ),
        "distance of decoded training codes": lambda row: row["limit"],
        "rate": lambda row: row["rate"],
    }
    words = []
    means = []
    for name, of in measures.items():
        values = correlations(found, of)
        if not values:
            return Verdict(claim, None, "no complete set of settings yet")
        one = interval(values)
        means.append(one.mean)
        words.append(f"{name} {one.mean:.2f} [{one.low:.2f}, {one.high:.2f}]")
    return Verdict(claim, means[0] >= AGREEMENT, f"mean Spearman over the settings: {'; '.join(words)}")


CLAIMS = (noise_is_enough, pull_does_not_help, better_priors_need_less, interpolations_rank_settings)


# --------------------------------------------------------------------- table and figure


def table(found):
    """Markdown: a line for each cell, a column for each setting: mean and deviation over the seeds."""
    lines = [
        "| data | z | prior | " + " | ".join(SETTINGS) + " |",
        "|---|---|---|" + "---|" * len(SETTINGS),
    ]
    for data, latent_dim, prior in sorted(found):
        by = found[data, latent_dim, prior]
        texts = [spread([row["fd"] for row in by[setting].values()]) for setting in SETTINGS]
        lines.append(f"| {data} | {latent_dim} | {prior} | " + " | ".join(texts) + " |")
    for data, latent_dim in sorted({cell[:2] for cell in found}):
        for label, key in (("limit", "limit"), ("distortion", "distortion")):
            texts = [spread(of_autoencoders(found, data, latent_dim, s, key)) for s in SETTINGS]
            lines.append(f"| {data} | {latent_dim} | *{label}* | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def of_autoencoders(found, data, latent_dim, setting, key):
    """A number that does not depend on the prior, by seed."""
    by_seed = {}
    for cell, by in found.items():
        if cell[:2] == (data, latent_dim):
            by_seed |= {seed: row[key] for seed, row in by[setting].items()}
    return [*by_seed.values()]


def spread(values):
    """Mean ± standard deviation."""
    if not values:
        return ""
    text = f"{mean(values):.3g}"
    if len(values) > 1:
        text += f" ± {stdev(values):.1g}"
    return text


def draw(found):
    """Distance against k, a panel for each prior and latent size; β = 1 as a line with its seeds' range."""
    from pyro_lrp.figures.style import PAGE, PALETTE, new_figure, style

    priors = [p for p in ("flow", "flow_matching", "mixture") if any(cell[2] == p for cell in found)]
    sizes = sorted({cell[1] for cell in found})
    with style():
        figure = new_figure(PAGE, 0.8 + 1.5 * len(priors))
        axes = figure.subplots(len(priors), len(sizes), squeeze=False, sharex=True, sharey="row")
        for (row, prior), (column, size) in itertools.product(enumerate(priors), enumerate(sizes)):
            panel = axes[row][column]
            for colour, data in zip(PALETTE, ("mnist", "fashion_mnist"), strict=False):
                draw_cell(panel, found.get((data, size, prior), {}), data, colour)
            panel.set_yscale("log")
            if row == 0:
                panel.set_title(f"{size} latent dimensions")
            if row == len(priors) - 1:
                panel.set_xlabel("fixed noise $k$, in deviations of the codes")
            if column == 0:
                panel.set_ylabel(f"{prior.replace('_', ' ')}\nFréchet distance")
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def draw_cell(panel, by, data, colour):
    """The curve of β = 0, the line of β = 1, and the distance of decoded training codes."""
    name = data.replace("_", " ")
    ks = [k for k, setting in BY_NOISE.items() if by.get(setting)]
    if not ks or not by.get(PULL):
        return
    values = [[row["fd"] for row in by[BY_NOISE[k]].values()] for k in ks]
    limits = [mean(row["limit"] for row in by[BY_NOISE[k]].values()) for k in ks]
    lowest = [min(v) for v in values]
    highest = [max(v) for v in values]
    panel.fill_between(ks, lowest, highest, color=colour, alpha=0.15, lw=0)
    panel.plot(ks, [mean(v) for v in values], marker="o", ms=3, color=colour, label=rf"$\beta = 0$, {name}")
    pull = [row["fd"] for row in by[PULL].values()]
    panel.axhspan(min(pull), max(pull), color=colour, alpha=0.15, lw=0)
    panel.axhline(mean(pull), color=colour, ls="--", label=rf"$\beta = 1$, {name}")
    panel.plot(ks, limits, color=colour, ls=":", label=f"decoded training codes, {name}")


def main(options):
    from pyro_lrp.figures.style import save_figure

    found = cells(read(options.files))
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    rows = sum(len(seeds) for by in found.values() for seeds in by.values())
    count = f"Of {rows} rows; all are {WHOLE}."
    verdicts = "\n\n".join([count, *(str(claim(found)) for claim in CLAIMS)])
    (out / "verdicts.md").write_text(verdicts + "\n")
    (out / "table.md").write_text(table(found) + "\n")
    save_figure(draw(found), out / "distance_against_noise.png")
    print(f"{table(found)}\n\n{verdicts}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--out", default=".")
    main(parser.parse_args())
