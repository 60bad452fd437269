"""Experiments: the sweeps, results and claims of a figure or a table of the paper, from ``conf/reproduce``.

An experiment is a YAML file with a ``title``, a set of ``scales`` and ``claims``. A scale has ``sweeps``, the
arguments that could be typed after ``train -m``; ``metrics``, which are computed for each member; ``names``,
which stand for results that differ by scale; and ``minutes``, what a member takes on one core. What is shown is
a ``figure`` of the command of that name, ``lines`` (a result against a setting), or a ``table`` beside the
paper's.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pyro_lrp.config import conf_dir
from pyro_lrp.config.compose import members_of
from pyro_lrp.config.folders import EXPERIMENTS
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.trees import map_leaves
from pyro_lrp.reports.claims import CLAIMS, Claim

__all__ = ["SCALES", "Experiment", "load", "names"]

SCALES = ("paper", "small", "smoke")


@dataclass(frozen=True)
class Experiment:
    """An experiment at one scale.

    Attributes:
        name: The name of its file.
        scale: One of :data:`SCALES`.
        title: What it is about.
        sweeps: Arguments of ``train -m``, sweep by sweep.
        metrics: Names of the metrics that each member is evaluated with.
        minutes: What a member takes on one core; None if nobody has measured it.
        show: What is drawn or tabulated: at most one of ``figure``, ``lines`` and ``table``.
        claims: What is to be decided.
    """

    name: str
    scale: str
    title: str
    sweeps: Sequence[Sequence[str]]
    metrics: Sequence[str]
    minutes: float | None
    show: Mapping[str, Any]
    claims: Sequence[Claim]

    @property
    def members(self) -> list[tuple[str, ...]]:
        """The arguments of every member, in order."""
        return [member for sweep in self.sweeps for member in members_of(sweep)]

    @property
    def directory(self) -> Path:
        """The folder of its figure, its table and its report."""
        return Path("runs") / "reproduce" / f"{self.name}_{self.scale}"


def names() -> list[str]:
    """The names of all experiments."""
    return sorted(path.stem for path in (Path(conf_dir()) / EXPERIMENTS).glob("*.yaml"))


def load(name: str, scale: str) -> Experiment:
    """An experiment from its file.

    Raises:
        UserError: If there is no such experiment or scale.
    """
    if name not in names():
        raise UserError(f"{name} is no experiment; the known ones are: {', '.join(names())}")
    if scale not in SCALES:
        raise UserError(f"scale={scale} is unknown; the known ones are: {', '.join(SCALES)}")
    path = Path(conf_dir()) / EXPERIMENTS / f"{name}.yaml"
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    chosen = tree["scales"][scale]
    words = chosen.get("names", {})
    claims = [_claim(node, words) for node in tree["claims"]]
    show = {}
    for kind in ("figure", "lines", "table"):
        if kind in tree:
            show[kind] = _in_words(tree[kind], words)
    if "lines" in show:
        show["lines"] = {"result": words.get("result"), **show["lines"]}
    return Experiment(
        name=name,
        scale=scale,
        title=tree["title"],
        sweeps=[shlex.split(sweep) for sweep in chosen["sweeps"]],
        metrics=chosen["metrics"],
        minutes=chosen.get("minutes"),
        show=show,
        claims=claims,
    )


def _claim(node: Mapping[str, Any], words: Mapping[str, str]) -> Claim:
    """A claim from its entry, whose metric is by default the experiment's one result."""
    entries = {"metric": "{result}", **node}
    kind = CLAIMS[entries.pop("kind")]
    return kind(**_in_words(entries, words))


def _in_words(tree: Any, words: Mapping[str, str]) -> Any:
    """The tree with the names that this scale gives in place of those in braces; a column is such a name."""

    def fill(path: Any, leaf: Any) -> Any:
        if not isinstance(leaf, str):
            return leaf
        if "columns" in path:
            return words.get(leaf, leaf)
        for word, name in words.items():
            leaf = leaf.replace(f"{{{word}}}", name)
        return leaf

    return map_leaves(fill, tree)
