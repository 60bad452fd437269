"""The recorded speed figures in one table, with their goals, and the steps in one plot.

    python tests/benchmarks/speed_report.py runs/recorded/benchmarks

Reads ``step.csv``, which step.py writes, and ``figures.csv``, to which other benchmarks and people add a figure
each. Prints both as Markdown, the goals of steps judged by the upper end of the 95 % interval, and draws
``step.png``.
"""

import argparse
import contextlib
import csv
from pathlib import Path

COLUMNS = ("figure", "value", "unit", "goal", "reached", "command", "note")
GOALS = {"digits": 1.15}  # of our joint steps over the bare loop; of the others:
GOAL = 1.05
SIZES = {
    "digits": "digits 8×8\nflow 8×128",
    "mnist_small": "mnist_small\nflow 8×256",
    "infogan_8x256": "InfoGAN 28×28\nflow 8×256",
    "infogan_16x256": "InfoGAN 28×28\nflow 16×256",
    "infogan_24x1024": "InfoGAN 28×28\nflow 24×1024",
}
STEPS = {  # drawn, with the words of the legend
    "Pyro SVI": "Pyro's SVI, Trace_ELBO",
    "ours, beta = 0": "this library (joint steps: β = 0)",
    "ours": "this library (joint steps: β = 0)",
    "ours, beta = 0, compile=full": "this library, compiled (compile=full)",
    "ours, compile=full": "this library, compiled (compile=full)",
    "pythae VAE, without a flow": "pythae's VAE: N(0, I), no flow to train",
}


def keep(path, **row):
    """Write a figure, in the place of an earlier one of its name."""
    rows = []
    with contextlib.suppress(FileNotFoundError), open(path, newline="", encoding="utf-8") as file:
        rows = [other for other in csv.DictReader(file) if other["figure"] != row["figure"]]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows([*rows, row])


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return [*csv.DictReader(file)]


def judged(row):
    """The goal of a step, and whether it was reached."""
    if not row["step"].startswith("ours") or "full" in row["step"] or "0.5" in row["step"]:
        return "", ""
    goal = GOAL
    if row["phase"] == "joint":
        goal = GOALS.get(row["size"], GOAL)
    return f"{goal}", "yes" if float(row["high"]) <= goal else "no"


def table(rows):
    print("| size | phase | step | ms | × bare loop [95 %] | goal | reached | operations | × floor |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        goal, reached = judged(row)
        ratio = f"{float(row['over_bare']):.2f} [{float(row['low']):.2f}, {float(row['high']):.2f}]"
        cells = [row["size"], row["phase"], row["step"], row["ms"], ratio, goal, reached]
        print(f"| {' | '.join([*cells, row['operations'], row['over_floor']])} |")


def figures(rows):
    print("\n| figure | value | goal | reached | command | |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        cells = [row["figure"], f"{row['value']} {row['unit']}", row["goal"], row["reached"]]
        print(f"| {' | '.join(cells)} | `{row['command']}` | {row['note']} |")


def draw(rows, path):
    import matplotlib.pyplot as plt

    from pyro_lrp.figures.style import PAGE, PALETTE

    names = [*dict.fromkeys(STEPS.values())]
    colours = dict(zip(names, PALETTE, strict=False))
    plot, axes = plt.subplots(1, 2, figsize=(PAGE, 3.4), sharey=True, layout="constrained")
    for axis, phase in zip(axes, ("joint", "prior alone"), strict=True):
        for row in rows:
            words = STEPS.get(row["step"])
            if row["phase"] != phase or words is None:
                continue
            height = [*SIZES].index(row["size"]) + 0.14 * (names.index(words) - 2)
            middle, low, high = (float(row[key]) for key in ("over_bare", "low", "high"))
            errors = [[max(0.0, middle - low)], [max(0.0, high - middle)]]
            axis.errorbar(middle, height, xerr=errors, fmt="o", ms=4, color=colours[words], label=words)
        axis.axvline(1.0, color="0.5", lw=0.8)
        axis.set_title({"joint": "joint step", "prior alone": "step of the prior alone"}[phase], fontsize=9)
        axis.set_xlabel("time in relation to a bare PyTorch loop (bar: 95 %)", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.set_xlim(left=0)
    axes[0].set_yticks(range(len(SIZES)), [*SIZES.values()])
    axes[0].invert_yaxis()
    handles = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
    plot.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=2, fontsize=7, frameon=False
    )
    plot.savefig(path, dpi=160)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    rows = read(folder / "step.csv")
    order = [*SIZES]
    rows.sort(key=lambda row: order.index(row["size"]))
    table(rows)
    with contextlib.suppress(FileNotFoundError):
        figures(read(folder / "figures.csv"))
    draw(rows, folder / "step.png")


if __name__ == "__main__":
    main()
