"""Claims about sets of runs, judged by their results: held, did not hold, or undecided.

A claim is of one metric. It compares settings within groups of runs that agree in all else, seed by seed, and
holds if it does so in a stated share of the groups. A group in which fewer seeds can be compared than asked for
leaves the claim undecided, unless the other groups decide it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any, ClassVar, NamedTuple

__all__ = [
    "CLAIMS", "Below", "Claim", "Falls", "Observation", "Rises", "Smaller", "Steadier", "Verdict", "sign_test",
]  # fmt: skip

Settings = Mapping[str, Any]
LEAST_SEEDS = 3


class Observation(NamedTuple):
    """The results of one run.

    Attributes:
        settings: What it was trained with, by key, such as ``{"model": "vae", "beta": 1}``.
        seed: Its seed.
        metrics: Its results, by name.
        protocols: How each was computed, as a text that differs for every protocol.
    """

    settings: Settings
    seed: int
    metrics: Mapping[str, float]
    protocols: Mapping[str, str] = {}


class Verdict(NamedTuple):
    """A claim and what came out.

    Attributes:
        claim: The claim, in words.
        held: Whether it held; None if that is undecided.
        found: The numbers, in a sentence.
    """

    claim: str
    held: bool | None
    found: str

    def __str__(self) -> str:
        words = {True: "held", False: "did not hold", None: "undecided"}
        return f"{self.claim}: {words[self.held]} ({self.found})"


class Group(NamedTuple):
    """The comparisons within one group of runs.

    Attributes:
        name: The settings that its runs share.
        effects: One number for each seed that can be compared; the claim is that they are negative.
        mixed: Whether results of different protocols stand against each other, so that none can be compared.
    """

    name: str
    effects: list[float]
    mixed: bool


@dataclass(frozen=True)
class Claim(ABC):
    """A claim about a metric.

    Args:
        says: The claim, in words.
        metric: The name of the metric.
        within: Keys of settings; runs are compared if they agree in them.
        where: Settings that all runs of the claim have; others are left out.
        share: The share of the groups in which it has to hold.
        seeds: The fewest seeds of a group.
    """

    says: str
    metric: str
    within: Sequence[str] = ()
    where: Settings = field(default_factory=dict)
    share: float = 1.0
    seeds: int = LEAST_SEEDS

    words: ClassVar[str]  # of the effect, in a verdict

    @abstractmethod
    def effects(self, runs: Sequence[Observation]) -> list[float]:
        """One number for each seed of a group, negative if the claim holds there."""

    def judge(self, runs: Sequence[Observation]) -> Verdict:
        """Whether the claim held in these runs."""
        groups = self._groups(runs)
        counted = [group for group in groups if len(group.effects) >= self.seeds]
        good = [group for group in counted if mean(group.effects) < 0]
        needed = math.ceil(self.share * len(groups) - 1e-9)
        missing = len(groups) - len(counted)
        held: bool | None = None
        if groups and len(good) >= needed:
            held = True
        elif groups and len(good) + missing < needed:
            held = False
        return Verdict(self.says, held, self._found(groups, counted, good))

    def _groups(self, runs: Sequence[Observation]) -> list[Group]:
        """The groups of the runs that the claim is about, in the order in which they come."""
        found: dict[tuple[Any, ...], list[Observation]] = {}
        for run in runs:
            if _agrees(run.settings, self.where):
                key = tuple(run.settings.get(name) for name in self.within)
                found.setdefault(key, []).append(run)
        groups = []
        for key, members in found.items():
            mixed = self._mixed(members)
            effects = [] if mixed else self.effects(members)
            groups.append(Group(" ".join(map(str, key)), effects, mixed))
        return groups

    def _mixed(self, runs: Sequence[Observation]) -> bool:
        """Whether results of the metric in these runs have different protocols."""
        protocols = {run.protocols.get(self.metric) for run in runs if self.metric in run.metrics}
        return len(protocols) > 1

    def _found(self, groups: Sequence[Group], counted: Sequence[Group], good: Sequence[Group]) -> str:
        if not groups:
            return "no such runs"
        effects = [effect for group in counted for effect in group.effects]
        below, n, p = sign_test(effects)
        parts = [f"in {len(good)} of {len(counted)} groups", f"{self.words} in {below} of {n} seeds"]
        if n:
            parts[-1] += f", sign test p = {p:.2g}"
        failing = [group.name for group in counted if group not in good]
        if failing and len(counted) > 1:
            parts.append(f"not in {', '.join(failing)}")
        mixed = sum(group.mixed for group in groups)
        lacking = len(groups) - len(counted) - mixed
        if lacking:
            parts.append(f"{lacking} with fewer than {self.seeds} seeds")
        if mixed:
            parts.append(f"{mixed} with results of different protocols")
        return "; ".join(parts)

    def _values(
        self, runs: Sequence[Observation], settings: Settings, metric: str | None = None
    ) -> dict[int, float]:
        """A metric, by default that of the claim, of the runs with these settings, by seed."""
        values = {}
        for run in runs:
            value = run.metrics.get(metric or self.metric)
            if value is not None and _agrees(run.settings, settings):
                values[run.seed] = value
        return values


@dataclass(frozen=True)
class Smaller(Claim):
    """The metric is smaller with some settings than with others.

    Args:
        this: Settings of the runs that are said to be smaller.
        than: Settings of those that they are compared with.
        than_metric: The metric that is compared with; the same if None.
        at_least: Only a difference of this share of the larger value counts.

    >>> runs = [Observation({"beta": b}, seed, {"fid": 10.0 + b}) for b in (0, 1) for seed in range(3)]
    >>> print(Smaller("β = 0 is better", "fid", this={"beta": 0}, than={"beta": 1}).judge(runs))
    β = 0 is better: held (in 1 of 1 groups; smaller in 3 of 3 seeds, sign test p = 0.12)
    """

    this: Settings = field(default_factory=dict)
    than: Settings = field(default_factory=dict)
    than_metric: str | None = None
    at_least: float = 0.0

    words = "smaller"

    def effects(self, runs: Sequence[Observation]) -> list[float]:
        ours = self._values(runs, self.this)
        theirs = self._values(runs, self.than, self.than_metric)
        shared = sorted(ours.keys() & theirs.keys())
        return [ours[seed] - (1 - self.at_least) * theirs[seed] for seed in shared]


@dataclass(frozen=True)
class Below(Claim):
    """The metric is below a number.

    Args:
        limit: The number.
    """

    limit: float = 0.0

    words = "below"

    def effects(self, runs: Sequence[Observation]) -> list[float]:
        values = self._values(runs, {})
        return [value - self.limit for _, value in sorted(values.items())]


@dataclass(frozen=True)
class Rises(Claim):
    """The metric rises with a setting: their rank correlation is positive, seed by seed.

    Args:
        along: The key of the setting; its values are numbers.
    """

    along: str = "beta"

    words = "rising"

    def effects(self, runs: Sequence[Observation]) -> list[float]:
        by_seed: dict[int, list[tuple[float, float]]] = {}
        for run in runs:
            if self.along in run.settings and self.metric in run.metrics:
                point = (float(run.settings[self.along]), run.metrics[self.metric])
                by_seed.setdefault(run.seed, []).append(point)
        effects = []
        for _, points in sorted(by_seed.items()):
            if len({x for x, _ in points}) > 2:
                effects.append(-self.sign() * _spearman(points))
        return effects

    def sign(self) -> int:
        """1 if the metric is said to rise."""
        return 1


@dataclass(frozen=True)
class Falls(Rises):
    """The metric falls with a setting; see :class:`Rises`."""

    words = "falling"

    def sign(self) -> int:
        return -1


@dataclass(frozen=True)
class Steadier(Claim):
    """The metric varies less over a setting with some settings than with others.

    Its variation is the logarithm of the largest over the smallest value.

    Args:
        along: The key of the setting over which it varies.
        this: Settings of the runs that are said to vary less.
        than: Settings of those that they are compared with.
    """

    along: str = "beta"
    this: Settings = field(default_factory=dict)
    than: Settings = field(default_factory=dict)

    words = "steadier"

    def effects(self, runs: Sequence[Observation]) -> list[float]:
        ours = self._variations(runs, self.this)
        theirs = self._variations(runs, self.than)
        return [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]

    def _variations(self, runs: Sequence[Observation], settings: Settings) -> dict[int, float]:
        by_seed: dict[int, dict[Any, float]] = {}
        for run in runs:
            value = run.metrics.get(self.metric)
            if value is not None and _agrees(run.settings, settings):
                by_seed.setdefault(run.seed, {})[run.settings.get(self.along)] = value
        return {
            seed: math.log(max(values.values()) / min(values.values()))
            for seed, values in by_seed.items()
            if len(values) > 1 and min(values.values()) > 0
        }


CLAIMS: dict[str, type[Claim]] = {
    "smaller": Smaller,
    "below": Below,
    "rises": Rises,
    "falls": Falls,
    "steadier": Steadier,
}
"""The kinds of claims by the name that a configuration gives them."""


def sign_test(effects: Sequence[float]) -> tuple[int, int, float]:
    """How many effects are negative, of how many that are not 0, and the chance of as many or more.

    >>> sign_test([-1.0, -2.0, 0.0, 3.0])
    (2, 3, 0.5)
    """
    below = sum(effect < 0 for effect in effects)
    n = sum(effect != 0 for effect in effects)
    as_many = sum(math.comb(n, count) for count in range(below, n + 1))
    return below, n, as_many / 2**n


def _agrees(settings: Settings, wanted: Settings) -> bool:
    return all(settings.get(key) == value for key, value in wanted.items())


def _spearman(points: Sequence[tuple[float, float]]) -> float:
    """The rank correlation of pairs; 0 if one side is constant."""
    from scipy.stats import spearmanr  # here: a report without claims does not wait for SciPy

    first = [x for x, _ in points]
    second = [y for _, y in points]
    if len(set(first)) < 2 or len(set(second)) < 2:
        return 0.0
    return float(spearmanr(first, second).statistic)
