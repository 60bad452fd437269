"""The tables of the rows of outliers.py: a mean AUROC for each score, and which differences are not chance.

    python tests/benchmarks/outliers_report.py FILE.jsonl ... [--against reconstruction] [--out FILE.md]

Intervals are 95 % ones of Student's t. Scores are compared on the same cell, class by seed. The seeds of a
class share its images, so they are averaged first and the classes are what is counted: ten values. The p-values
of a data set are corrected by Holm's method for the number of its comparisons. A mean that is marked with * is
that of some images of each class, those with a bound, and so are both sides of its difference.
"""

import argparse
import json
import math
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from scipy import stats

LEVEL = 0.05


class Interval(NamedTuple):
    """The mean of some numbers, its 95 % interval, and the p-value of a mean of 0."""

    mean: float
    low: float
    high: float
    p: float


class Line(NamedTuple):
    """A line of the table.

    Attributes:
        score: The name of the score.
        auroc: The mean over classes.
        difference: Minus that of the score compared with; None for that score itself.
        p: Of the difference, corrected.
        bounded: Whether only images with a bound were scored.
    """

    score: str
    auroc: Interval
    difference: Interval | None
    p: float | None
    bounded: bool

    @property
    def significant(self):
        return self.p is not None and self.p < LEVEL

    def __str__(self):
        star = "*" if self.bounded else ""
        cells = [self.score, f"{self.auroc.mean:.3f}{star}", f"{self.auroc.low:.3f} to {self.auroc.high:.3f}"]
        if self.difference is None:
            return f"| {' | '.join(cells)} | | |"
        low, high = self.difference.low, self.difference.high
        cells.append(f"{self.difference.mean:+.3f} ({low:+.3f} to {high:+.3f})")
        cells.append(f"**{self.p:.2g}**" if self.significant else f"{self.p:.2g}")
        return f"| {' | '.join(cells)} |"


def interval(values):
    """The interval of a mean; without bounds for fewer than two values."""
    middle = mean(values)
    if len(values) < 2:
        return Interval(middle, -math.inf, math.inf, 1.0)
    error = stdev(values) / math.sqrt(len(values))
    if error == 0:
        return Interval(middle, middle, middle, float(middle == 0))
    half = stats.t.ppf(0.975, len(values) - 1) * error
    p = 2 * stats.t.sf(abs(middle) / error, len(values) - 1)
    return Interval(middle, middle - half, middle + half, float(p))


def by_class(rows, key, name, minus=None):
    """The mean over seeds of a score's AUROC, or of its excess over another score, for each class."""
    found = defaultdict(list)
    for row in rows:
        values = row[key]
        if name not in values or (minus and minus not in values):
            continue  # pyod was missing
        subtracted = values[minus] if minus else 0.0
        found[row["class"]].append(values[name] - subtracted)
    return [mean(values) for _, values in sorted(found.items())]


def holm(p_values):
    """Corrected p-values, in the same order.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def lines(rows, against):
    """The lines of a data set, the best first."""
    keys = {}
    for row in rows:
        keys |= dict.fromkeys(row["auroc_bounded"], "auroc_bounded")
    for row in rows:
        keys |= dict.fromkeys(row["auroc"], "auroc")
    means = {name: interval(by_class(rows, key, name)) for name, key in keys.items()}
    differences = {}
    for name in keys:
        if name != against:
            key = max(keys[name], keys[against])  # on the images with a bound, if either has one
            differences[name] = interval(by_class(rows, key, name, minus=against))
    corrected = dict(zip(differences, holm([one.p for one in differences.values()]), strict=True))
    found = []
    for name, auroc in means.items():
        bounded = keys[name] == "auroc_bounded"
        found.append(Line(name, auroc, differences.get(name), corrected.get(name), bounded))
    return sorted(found, key=lambda line: -line.auroc.mean)


def sentence(found, against):
    """Which differences are more than chance."""
    parts = []
    for word, sign in (("above", 1), ("below", -1)):
        names = [line.score for line in found if line.significant and sign * line.difference.mean > 0]
        parts.append(f"{word}: {', '.join(names) or 'none'}")
    rest = [line.score for line in found if line.difference is not None and not line.significant]
    parts.append(f"undecided: {', '.join(rest) or 'none'}")
    return f"Against {against} at the level of {LEVEL:.0%}: {'; '.join(parts)}."


def report(rows, against):
    """The table of each data set, and a sentence."""
    texts = []
    for name in dict.fromkeys(row["data"] for row in rows):
        of_data = [row for row in rows if row["data"] == name]
        found = lines(of_data, against)
        classes = len({row["class"] for row in of_data})
        seeds = len({row["seed"] for row in of_data})
        texts += [
            f"### {name}: {len(of_data)} cells of {classes} classes and {seeds} seeds",
            "",
            f"| score | mean AUROC | 95 % interval | minus {against} (95 % interval) | p |",
            "|---|---|---|---|---|",
            *map(str, found),
            "",
            sentence(found, against),
            "",
        ]
    return "\n".join(texts)


def main(options):
    rows = [json.loads(line) for file in options.files for line in Path(file).read_text().splitlines()]
    known = {name for row in rows for name in row["auroc_bounded"]}
    if options.against not in known:
        raise SystemExit(
            f"--against: {options.against} is unknown; the known ones are: {', '.join(sorted(known))}"
        )
    text = report(rows, options.against)
    print(text)
    if options.out:
        Path(options.out).write_text(text + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--against", default="reconstruction")
    parser.add_argument("--out")
    main(parser.parse_args())
