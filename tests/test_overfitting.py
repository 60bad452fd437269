"""A prior that over-fits the training codes is named, and an early stop keeps the best parameters."""

import pytest
import torch
from builders import GAMES, small_autoencoder
from test_trainer import FAKE, trainer

from pyro_lrp import data, networks
from pyro_lrp.objectives import BilevelELBO, LatentGame
from pyro_lrp.priors import StandardNormal, paper_flow
from pyro_lrp.trainer import Phase, PriorPhase, Trainer, reporting
from pyro_lrp.trainer.overfitting import advice, overfitting

BOTH = {"joint", "prior_only"}


def curve(phase, train, held_out, split="validation", score="log_prior", start=0):
    """Rows of a phase, one step each; those of training terms alone stand between them."""
    rows = []
    for number, (a, b) in enumerate(zip(train, held_out, strict=True)):
        rows.append({"phase": phase, "step": start + 2 * number, "loss": 1.0})
        row = {"phase": phase, "step": start + 2 * number + 1, f"train/{score}": a, f"test/{score}": -50.0}
        rows.append(row | {f"{split}/{score}": b})
    return rows


JOINT = curve("joint", [-14.0, -13.0, -12.5], [-14.1, -13.2, -12.6])
CURVES = {  # rows, and the phase that is named
    "a fall from the first score on": (
        JOINT + curve("prior_only", [-12.0, -11.0], [-13.0, -14.0], start=10), "prior_only",
    ),
    "a rise": (JOINT + curve("prior_only", [-12.0, -11.0], [-12.5, -12.0], start=10), None),
    "a fall by less than the noise": (
        JOINT + curve("prior_only", [-12.0, -11.0], [-12.7, -12.8], start=10), None,
    ),
    "both fall: no over-fitting, but a rate too high": (
        JOINT + curve("prior_only", [-13.0, -14.0], [-13.0, -14.0], start=10), None,
    ),
    "a rise after a fall": (
        JOINT + curve("prior_only", [-12.0, -11.0], [-14.0, -12.5], start=10), None,
    ),
    "without held-out codes those of test images tell": (
        curve("prior_only", [-12.0, -11.0], [-12.0, -14.0], split="test"), "prior_only",
    ),
    "the prior's own loss": (
        curve("prior_only", [1.0, 0.5], [1.1, 1.3], score="fit_loss"), "prior_only",
    ),
    "codes that spread in joint training lower both": (
        curve("joint", [-12.0, -13.0], [-12.1, -13.6]), None,
    ),
    "joint training": (curve("joint", [-12.0, -11.0], [-12.1, -14.6]), "joint"),
    "numbers that are not finite": (
        curve("prior_only", [-12.0, -11.0, float("nan")], [-12.0, -12.1, float("-inf")]), None,
    ),
    "nothing scored": ([{"phase": "joint", "step": 1, "loss": 2.0}], None),
    "nothing at all": ([], None),
}  # fmt: skip


@pytest.mark.parametrize("name", CURVES)
def test_over_fitting_is_a_held_out_score_that_falls_while_that_of_training_codes_rises(name):
    rows, phase = CURVES[name]
    found = overfitting(rows, BOTH)
    assert (found and found["phase"]) == phase
    assert overfitting(rows, set()) is None  # a prior that learns nothing over-fits nothing


def test_what_is_found_is_told_with_the_numbers_and_the_remedy():
    rows, _ = CURVES["a fall from the first score on"]
    found = overfitting(rows, BOTH)
    assert found == {
        "phase": "prior_only", "split": "validation", "score": "log_prior", "best": -12.6, "at_step": 5,
        "last": -14.0, "train_then": -12.5, "train_last": -11.0,
    }  # fmt: skip
    text = " ".join(advice(found))
    for part in ("prior over-fits", "held-out codes fell from -12.60 at step 5 to -14.00", "prior_patience=2"):
        assert part in text
    rows, _ = CURVES["joint training"]
    assert "fewer epochs" in " ".join(advice(overfitting(rows, BOTH)))
    rows, _ = CURVES["without held-out codes those of test images tell"]
    assert "of test codes fell" in " ".join(advice(overfitting(rows, BOTH)))


def few_images(prior_phase=None, *, game=None, validation=0.3, first="joint", epochs=60):
    """A flow that is far too large for some eighty codes without noise or structure."""
    torch.manual_seed(1)
    if game is None:
        ae = small_autoencoder(prior=paper_flow(4, layers=6, width=64))
        ae.encoder, _ = networks.mlp((1, 8, 8), 4, hidden_dims=(16,), stochastic=False)
        game = LatentGame(ae, BilevelELBO(0.0))
    noise = torch.randint(0, 256, (200, 1, 8, 8), dtype=torch.uint8)
    few = data.ImageData("noise", data.Split(noise[:100]), data.Split(noise[100:]))
    return Trainer(
        game, few, phases=[Phase(first, 5), Phase("prior_only", epochs)], batch_size=10,
        lr=1e-2, report_every=5, device="cpu", progress=False, validation=validation, prior_phase=prior_phase,
    )  # fmt: skip


@pytest.mark.parametrize("validation", [0.3, 0.0])
def test_a_flow_that_is_too_large_is_named_in_summary_and_closing_words(tmp_path, validation):
    run = few_images(validation=validation)
    rows = run.fit()
    summary = reporting.summarize(run, run.game.autoencoder, rows, {})
    found = summary["overfitting"]
    assert found["split"] == ("validation" if validation else "test")
    assert found["best"] > found["last"] + 0.25
    assert "the prior over-fits" in reporting.closing_words(tmp_path, summary, {})


@pytest.mark.parametrize("first", ["joint", "autoencoder_only"])
def test_an_early_stop_ends_that(tmp_path, first):
    run = few_images(PriorPhase(patience=2), first=first)
    rows = run.fit()
    summary = reporting.summarize(run, run.game.autoencoder, rows, {})
    assert summary["overfitting"] is None
    assert "over-fits" not in reporting.closing_words(tmp_path, summary, {})
    scores = [row["validation/log_prior"] for row in rows if row.get("best_held_out_score")]
    assert len(scores) == 1
    assert scores[0] == rows[-1]["best_held_out_score"]


def test_where_nothing_is_better_the_parameters_of_the_start_are_kept():
    """At a rate that only spoils them."""
    kept = {}

    def note(row):
        if row["step"] == 20:
            kept.update({k: v.clone() for k, v in run.game.state_dict().items()})

    run = trainer(
        prior_phase=PriorPhase(patience=2), optimizers={"prior": {"lr": 3.0}}, on_row=note, evaluations=5
    )
    rows = run.fit()
    joint = [row for row in rows if row["phase"] == "joint"][-1]
    assert rows[-1]["best_held_out_score"] == joint["validation/log_prior"] == rows[-1]["validation/log_prior"]
    assert all(torch.equal(v, kept[k]) for k, v in run.game.state_dict().items())


def test_the_start_of_a_second_stage_is_scored_with_the_prior_itself():
    """And not with N(0, I), which stood in for it."""
    run = few_images(PriorPhase(patience=50), first="autoencoder_only", epochs=1)
    torch.manual_seed(1)
    best = run.fit()[-1]["best_held_out_score"]
    assert run.game.alone is False
    assert run.prior_only is None
    assert best >= run.scoring.of("validation")["validation/log_prior"] - 1e-6


@pytest.mark.parametrize("name", [name for name in GAMES if "adversarial" not in name])
def test_every_game_with_scores_of_codes_is_looked_at(name):
    run = trainer(GAMES[name]())
    rows = run.fit()
    summary = reporting.summarize(run, run.game.autoencoder, rows, {})
    assert "overfitting" in summary
    assert summary["scored_images"] == {"train": 58, "validation": 6, "test": len(FAKE.test)}
    assert all(value == summary["final"][key] for key, value in run.scoring.whole()[0].items())


def test_a_fixed_prior_over_fits_nothing():
    run = few_images(game=LatentGame(small_autoencoder(prior=StandardNormal(4)), BilevelELBO(1.0)))
    rows = run.fit()
    assert reporting.summarize(run, run.game.autoencoder, rows, {})["overfitting"] is None
