"""The verdicts on noise and pull, on rows whose answer is known: each can say yes, no, and that it is open."""

import itertools
import json

import pytest
from benchmarks import noise_not_pull_report as report

PRIORS = {"mixture": 1.0, "flow_matching": 2.0, "flow": 4.0}
BEST = {"mixture": 0.0, "flow_matching": 0.1, "flow": 0.2}


def noise_helps(prior, beta, k):
    """Distance with a best k that grows as the prior gets worse; the pull is noise of 0.1 and nothing else."""
    own = k or 0.1 * beta
    return PRIORS[prior] * (1 + abs(own - BEST[prior]))


def pull_helps(prior, beta, k):
    return PRIORS[prior] * (0.5 if beta else 1.0)


def good_priors_need_more(prior, beta, k):
    return PRIORS[prior] * (1 + abs(k - (0.3 - BEST[prior])))


def rows_of(distance, interpolation=lambda fd: fd, seeds=3, priors=tuple(PRIORS)):
    settings = {name: (0, k) for k, name in report.BY_NOISE.items()}
    settings |= {report.PULL: (1, 0.0), report.PULL_AND_NOISE: (1, 0.1)}
    rows = []
    for data, z, prior, seed in itertools.product(("mnist", "fashion_mnist"), (8, 64), priors, range(seeds)):
        for name, (beta, k) in settings.items():
            fd = distance(prior, beta, k) * (1 + 0.01 * seed + 0.1 * (data == "mnist"))
            rows.append(
                {
                    "data": data, "latent_dim": z, "prior": prior, "seed": seed, "setting": name, "beta": beta,
                    "k": k, "fd": fd, "limit": 1.0 + k, "distortion": 0.1 + k, "rate": 1 / (0.01 + k),
                    "interpolation_distance": interpolation(fd), "interpolation_distance_codes": 0.0,
                }
            )  # fmt: skip
    return rows


CASES = {  # distance, and what interpolations are of it; whether each claim holds
    "noise": (noise_helps, lambda fd: fd**2, (True, True, True, True)),
    "pull": (pull_helps, lambda fd: -fd, (False, False, None, False)),
    "the reverse": (good_priors_need_more, lambda fd: fd, (True, True, False, True)),
}


@pytest.mark.parametrize("case", CASES)
def test_known_answers(case):
    distance, interpolation, expected = CASES[case]
    found = report.cells(rows_of(distance, interpolation))
    verdicts = [claim(found) for claim in report.CLAIMS]
    assert tuple(v.holds for v in verdicts) == expected, [str(v) for v in verdicts]


def test_numbers_of_a_sentence():
    found = report.cells(rows_of(pull_helps))
    assert (
        "0 of 12 cells, ratio 2.00 [2.00, 2.00], below 1 in 0 of 36 pairs"
        in report.noise_is_enough(found).sentence
    )
    assert "without 0.50 [0.50, 0.50], below 1 in 36 of 36 pairs" in report.pull_does_not_help(found).sentence


def test_rows_that_do_not_suffice_leave_the_claims_open():
    for rows in ([], [row for row in rows_of(noise_helps) if row["setting"] == "beta_0"]):
        found = report.cells(rows)
        assert [claim(found).holds for claim in report.CLAIMS] == [None] * 4
        assert "open" in str(report.noise_is_enough(found))


def test_one_prior_has_no_better_one():
    found = report.cells(rows_of(noise_helps, priors=("flow",)))
    assert report.better_priors_need_less(found).holds is None


def test_files_are_written_from_rows(tmp_path, monkeypatch, capsys):
    file = tmp_path / "cells.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows_of(noise_helps)))
    options = type("Options", (), {"files": [file], "out": tmp_path / "out"})
    report.main(options)
    table = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert len(table) == 2 + 12 + 8
    assert table[2].startswith("| fashion_mnist | 8 | flow | 4.85 ± 0.05 |")
    assert (tmp_path / "out" / "verdicts.md").read_text().count("holds") == 4
    assert (tmp_path / "out" / "distance_against_noise.png").is_file()
    assert table[2] in capsys.readouterr().out
