"""Claims about made-up runs whose answer is known: each kind holds, does not hold, and is left undecided."""

import itertools

import pytest

from pyro_lrp.reports.claims import CLAIMS, Observation, sign_test

BETAS = (0, 0.01, 0.1, 1)


def runs_of(metric, models=("fixed", "learned"), data=("mnist", "fashion_mnist"), seeds=3):
    """Runs whose metric is a function of model, data set, β and seed."""
    runs = []
    for model, name, beta, seed in itertools.product(models, data, BETAS, range(seeds)):
        settings = {"model": model, "data": name, "beta": beta}
        fid = metric(model, name, beta, seed)
        runs.append(Observation(settings, seed, {"fid": fid, "twice": 2 * fid}))
    return runs


def rising(model, data, beta, seed):
    strength = {"fixed": 5.0, "learned": 1.0}[model]
    return 10 + strength * beta + 0.1 * seed


def falling(model, data, beta, seed):
    return 30 - rising(model, data, beta, seed)


def rising_on_one(model, data, beta, seed):
    return (rising if data == "mnist" else falling)(model, data, beta, seed)


def flat(model, data, beta, seed):
    return 10.0


EACH = {"within": ["model", "data"]}
SMALLER = {"this": {"beta": 0}, "than": {"beta": 1}, **EACH}
STEADIER = {"this": {"model": "learned"}, "than": {"model": "fixed"}, "within": ["data"]}
CASES = [
    ("smaller", SMALLER, rising, True),
    ("smaller", SMALLER, falling, False),
    ("smaller", SMALLER, flat, False),
    ("smaller", SMALLER, rising_on_one, False),
    ("smaller", {**SMALLER, "share": 0.5}, rising_on_one, True),
    ("smaller", {**SMALLER, "where": {"data": "mnist"}}, rising_on_one, True),
    ("smaller", {**SMALLER, "at_least": 0.2, "where": {"model": "fixed"}}, rising, True),
    ("smaller", {**SMALLER, "at_least": 0.2, "where": {"model": "learned"}}, rising, False),
    ("smaller", {**SMALLER, "than": {"beta": 0}, "than_metric": "twice"}, rising, True),
    ("smaller", {**SMALLER, "metric": "twice", "than": {"beta": 0}, "than_metric": "fid"}, rising, False),
    ("below", {"where": {"model": "learned", "beta": 1}, "within": ["data"], "limit": 11.5}, rising, True),
    ("below", {"where": {"model": "learned", "beta": 1}, "within": ["data"], "limit": 11.05}, rising, False),
    ("rises", EACH, rising, True),
    ("rises", EACH, falling, False),
    ("rises", EACH, flat, False),
    ("falls", EACH, falling, True),
    ("falls", EACH, rising, False),
    ("steadier", STEADIER, rising, True),
    ("steadier", {**STEADIER, "this": {"model": "fixed"}, "than": {"model": "learned"}}, rising, False),
]


@pytest.mark.parametrize(("kind", "options", "metric", "held"), CASES)
def test_known_answers(kind, options, metric, held):
    claim = CLAIMS[kind]("it is so", **{"metric": "fid", **options})
    verdict = claim.judge(runs_of(metric))
    assert verdict.held is held, verdict
    assert str(verdict).startswith(f"it is so: {'held' if held else 'did not hold'} (in ")


@pytest.mark.parametrize(("kind", "options"), [("smaller", SMALLER), ("rises", EACH), ("steadier", STEADIER)])
def test_too_few_seeds_leave_it_undecided(kind, options):
    claim = CLAIMS[kind]("it is so", "fid", **options)
    for runs in ([], runs_of(rising, seeds=2)):
        assert claim.judge(runs).held is None
    assert "fewer than 3 seeds" in claim.judge(runs_of(rising, seeds=2)).found
    assert CLAIMS[kind]("", "fid", seeds=2, **options).judge(runs_of(rising, seeds=2)).held is True


def test_groups_that_are_complete_may_decide():
    """Half of the groups is enough: the complete half holds, or none can any more."""
    complete = runs_of(rising, data=("mnist",))
    begun = runs_of(rising, data=("fashion_mnist",), seeds=1)
    claim = CLAIMS["smaller"]("", "fid", share=0.5, **SMALLER)
    assert claim.judge(complete + begun).held is True
    against = runs_of(falling, data=("mnist",))
    assert claim.judge(against + begun).held is None
    every = CLAIMS["smaller"]("", "fid", **SMALLER)
    assert every.judge(against + begun).held is False


def test_seeds_are_paired():
    """Each seed's own difference counts: here seeds differ by more than settings do."""
    runs = [Observation({"beta": b}, s, {"fid": 100.0 * s + b}) for b in (0, 1) for s in range(5)]
    verdict = CLAIMS["smaller"]("", "fid", this={"beta": 0}, than={"beta": 1}).judge(runs)
    assert verdict.held
    assert "smaller in 5 of 5 seeds, sign test p = 0.031" in verdict.found
    unpaired = [Observation({"beta": b}, 10 * b + s, {"fid": 1.0}) for b in (0, 1) for s in range(5)]
    assert CLAIMS["smaller"]("", "fid", this={"beta": 0}, than={"beta": 1}).judge(unpaired).held is None


def test_a_run_without_the_metric_is_no_evidence():
    runs = [Observation({"beta": b}, s, {"kid": 1.0}) for b in (0, 1) for s in range(5)]
    assert CLAIMS["smaller"]("", "fid", this={"beta": 0}, than={"beta": 1}).judge(runs).held is None


def test_the_groups_against_it_are_named():
    found = CLAIMS["smaller"]("", "fid", **SMALLER).judge(runs_of(rising_on_one)).found
    assert "in 2 of 4 groups" in found
    assert "not in fixed fashion_mnist, learned fashion_mnist" in found


@pytest.mark.parametrize(("below", "n", "p"), [(0, 0, 1.0), (3, 3, 1 / 8), (0, 4, 1.0), (9, 10, 11 / 1024)])
def test_the_sign_test_is_exact(below, n, p):
    assert sign_test([-1.0] * below + [1.0] * (n - below)) == (below, n, pytest.approx(p))


def test_results_of_different_protocols_are_not_compared():
    runs = [
        Observation({"beta": b}, seed, {"fid": 1.0 + b}, {"fid": f"of {b} images"})
        for b in (0, 1)
        for seed in range(3)
    ]
    verdict = CLAIMS["smaller"]("", "fid", this={"beta": 0}, than={"beta": 1}).judge(runs)
    assert verdict.held is None
    assert "1 with results of different protocols" in verdict.found
    same = [run._replace(protocols={"fid": "of all images"}) for run in runs]
    assert CLAIMS["smaller"]("", "fid", this={"beta": 0}, than={"beta": 1}).judge(same).held
