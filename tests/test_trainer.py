import json
import math
from types import SimpleNamespace

import pytest
import torch
from builders import GAMES, jiggle, small_autoencoder, small_game
from torch import nn

from pyro_lrp import data, networks
from pyro_lrp.core import checkpoint
from pyro_lrp.core.errors import TrainingDiverged, UserError
from pyro_lrp.figures.training import SamplePictures
from pyro_lrp.objectives import BilevelELBO, Game, LatentGame, Losses, Turn
from pyro_lrp.priors import StandardNormal
from pyro_lrp.schedules import Constant, Halving, Linear, StepDecay
from pyro_lrp.trainer import Phase, Report, Trainer, reporting, saving, scoring
from pyro_lrp.trainer.history import DAMAGED, History, read_rows

FAKE = data.fake(64, (1, 8, 8))
PHASES = (Phase("joint", 4), Phase("prior_only", 3))


def trainer(game=None, directory=None, **options):
    torch.manual_seed(1)
    game = game or small_game()
    defaults = {
        "phases": PHASES,
        "batch_size": 10,
        "lr": 1e-2,
        "report_every": 3,
        "validation": 0.1,
        "save_minutes": 0,
    }
    return Trainer(game, FAKE, directory=directory, device="cpu", progress=False, **{**defaults, **options})


class StopError(Exception):
    pass


@pytest.mark.parametrize("stop_after", [1, 5, 9, 12])
def test_resume_is_bit_for_bit(tmp_path, stop_after):
    """Reports come every 3 steps and at the end of a phase: these stops lie in both phases."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    expected = trainer(directory=whole).fit()
    seen = []

    def stop(row):
        seen.append(row)
        if len(seen) == stop_after:
            raise StopError

    with pytest.raises(StopError):
        trainer(directory=parts, on_row=stop).fit()
    torch.rand(17)  # whatever else uses the global generator must not matter
    actual = trainer(directory=parts).fit()
    last = "checkpoints/last.safetensors"
    assert (parts / last).read_bytes() == (whole / last).read_bytes()
    timing = {"seconds", "images_per_second"}
    assert [{k: v for k, v in row.items() if k not in timing} for row in actual] == [
        {k: v for k, v in row.items() if k not in timing} for row in json.loads(json.dumps(expected))
    ] or _close(actual, expected, timing)
    steps = [row["step"] for row in read_rows(parts / "metrics.jsonl").rows]
    assert steps == sorted(set(steps))
    assert steps[-1] == 5 * 4 + 5 * 3


class Clock:
    """A clock that only steps and saves move, and the steps at which checkpoints were saved."""

    def __init__(self, monkeypatch, a_step, a_save=0.0):
        self.now = 0.0
        self.a_step = a_step
        self.saved = []
        fake = SimpleNamespace(monotonic=lambda: self.now, perf_counter=lambda: self.now)
        for module in (scoring, saving):
            monkeypatch.setattr(module, "time", fake)
        save = checkpoint.rotate_and_save

        def rotate_and_save(folder, state):
            self.now += a_save
            self.saved.append(state["step"])
            save(folder, state)

        monkeypatch.setattr(checkpoint, "rotate_and_save", rotate_and_save)

    def trainer(self, folder, most=100):
        """A trainer that stops before step ``most``."""
        slow = trainer(directory=folder, report_every=100, save_minutes=1)
        advance = slow.game.advance

        def advance_slowly(progress):
            self.now += self.a_step
            if slow.step == most:
                raise StopError
            advance(progress)

        slow.game.advance = advance_slowly
        return slow


def terms(rows):
    """Rows without what depends on the clock."""
    timed = ("seconds", "images_per_second")
    return [{name: value for name, value in row.items() if name not in timed} for row in rows]


@pytest.mark.parametrize(
    ("seconds", "steps"), [(0.0, [20, 35]), (40.0, [1, 3, 5, 7, 9]), (90.0, [1, 2, 3, 4, 5])]
)
def test_where_steps_are_slow_a_save_does_not_wait_for_a_report(tmp_path, monkeypatch, seconds, steps):
    """The first after half a minute, then a minute between saves, and reports every 100 steps."""
    clock = Clock(monkeypatch, seconds)
    whole = clock.trainer(tmp_path / "whole").fit()
    assert clock.saved[:5] == steps
    with pytest.raises(StopError):
        clock.trainer(tmp_path / "parts", most=7).fit()
    rows = clock.trainer(tmp_path / "parts").fit()
    assert [row["step"] for row in rows] == [20, 35]  # a row's means are of all its steps, before and after
    assert terms(rows) == terms(whole)
    last = "checkpoints/last.safetensors"
    assert (tmp_path / "parts" / last).read_bytes() == (tmp_path / "whole" / last).read_bytes()


def test_saves_take_a_tenth_of_the_time_at_most(tmp_path, monkeypatch):
    """A save takes 90 seconds, a step 40: after the first, one is due in 23 steps, and a phase ends before."""
    clock = Clock(monkeypatch, a_step=40.0, a_save=90.0)
    clock.trainer(tmp_path).fit()
    assert clock.saved == [1, 20, 35]  # 20 and 35 are the ends of the phases


@pytest.mark.parametrize("name", GAMES)
def test_every_game_resumes_bit_for_bit(tmp_path, name):
    def run(folder, on_row=lambda row: None):
        folder.mkdir(exist_ok=True)
        torch.manual_seed(3)
        options = {"optimizers": {"prior": {"lr": 1e-3, "betas": (0.5, 0.9)}}, "on_row": on_row}
        return trainer(GAMES[name](), folder, **options)

    def stop(row):
        if row["step"] == 12:
            raise StopError

    run(tmp_path / "whole").fit()
    with pytest.raises(StopError):
        run(tmp_path / "parts", stop).fit()
    rows = run(tmp_path / "parts").fit()
    last = "checkpoints/last.safetensors"
    assert (tmp_path / "parts" / last).read_bytes() == (tmp_path / "whole" / last).read_bytes()
    assert all(math.isfinite(v) for row in rows for v in row.values() if isinstance(v, float))
    if "ramp" in name:
        assert rows[-1].get("beta", rows[-1].get("phase")) == "prior_only"
        assert rows[1]["beta"] < rows[2]["beta"]


@pytest.mark.parametrize("name", GAMES)
def test_every_game_moves_all_it_owns(name):
    game = GAMES[name]()
    before = {k: v.clone() for k, v in game.named_parameters()}
    trainer(game).fit()
    assert [k for k, v in game.named_parameters() if torch.equal(v, before[k])] == []


def test_options_of_one_player_are_its_alone():
    game = GAMES["total correlation"]()
    run = trainer(game, optimizers={"discriminator": {"lr": 1e-5, "betas": [0.5, 0.9]}})
    run.fit()
    own = run.optimizers["discriminator"].param_groups[0]
    assert (own["base_lr"], own["betas"]) == (1e-5, (0.5, 0.9))
    assert run.optimizers["autoencoder"].param_groups[0]["betas"] == (0.9, 0.999)
    with pytest.raises(UserError, match="trainer.optimizers.critic: there is no such player"):
        trainer(GAMES["bilevel"](), optimizers={"critic": {}})


def _close(actual, expected, timing):
    """Rows read back from a file carry eight digits."""
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        assert a.keys() == b.keys()
        for key in a.keys() - timing:
            assert a[key] == b[key] or a[key] == pytest.approx(b[key], rel=1e-7), key
    return True


def test_a_finished_run_stays_as_it_is(tmp_path):
    trainer(directory=tmp_path).fit()
    before = (tmp_path / "checkpoints/last.safetensors").read_bytes()
    rows = trainer(directory=tmp_path).fit()
    assert rows[-1]["step"] == 35
    assert (tmp_path / "checkpoints/last.safetensors").read_bytes() == before


def test_the_prior_only_phase_moves_the_prior_alone():
    torch.manual_seed(0)
    snapshots = {}
    game = small_game()

    def remember(report):
        snapshots[report.phase] = {k: v.clone() for k, v in report.game.state_dict().items()}

    trainer(game, callbacks=[remember]).fit()
    for name, tensor in snapshots["prior_only"].items():
        moved = not torch.equal(tensor, snapshots["joint"][name])
        learns = name in dict(game.named_parameters())
        assert moved == (".prior." in name and learns), name


def test_the_joint_phase_moves_every_parameter():
    game = small_game(beta=0.0, learn_gamma=True)
    before = {k: v.clone() for k, v in game.named_parameters()}
    fitted = Trainer(
        game, FAKE, phases=[Phase("joint", 1)], batch_size=10, lr=1e-2, device="cpu", progress=False
    )
    fitted.fit()
    assert [k for k, v in game.named_parameters() if torch.equal(v, before[k])] == []


def test_a_model_without_a_trainable_prior_skips_its_phase_with_a_note():
    notes = []
    game = LatentGame(small_autoencoder(prior=StandardNormal(4)), BilevelELBO(1.0))
    rows = trainer(game, log=notes.append).fit()
    assert {row["phase"] for row in rows} == {"joint"}
    assert notes[0] == "phase prior_only is skipped: this model has nothing to train in it"


def test_results_do_not_depend_on_the_callers_generator_and_leave_it_alone():
    results = []
    for seed in (5, 6):
        run = trainer()
        torch.manual_seed(seed)
        rows = run.fit()
        after = torch.rand(1)
        torch.manual_seed(seed)
        assert torch.equal(after, torch.rand(1))
        results.append(rows[-1]["log_prior"])
    assert results[0] == results[1]
    assert trainer(seed=1).fit()[-1]["log_prior"] != results[0]


def test_rates_of_their_own_and_schedules(tmp_path):
    game = small_game(learn_gamma=True)
    run = trainer(game, lr_of={"autoencoder.likelihood": 0.5}, schedule=StepDecay([0.5, 1.0]))
    rows = run.fit()
    groups = {group["base_lr"]: group for group in run.optimizers["autoencoder"].param_groups}
    assert set(groups) == {1e-2, 0.5}
    assert [len(groups[rate]["params"]) for rate in (1e-2, 0.5)] == [8, 1]
    rates = {row["epoch"]: row["lr"] for row in rows}  # 4 joint epochs, then 3; a row has its last step's rate
    assert {epoch: round(1e-2 / rate) for epoch, rate in rates.items()} == {
        epoch: 1 if epoch <= 2 else 2 if epoch <= 4 else 4 for epoch in rates
    }
    assert len(set(rates.values())) == 3


def test_with_two_stages_the_rate_of_the_prior_is_halved_by_its_own_stage():
    """Each begins at the full rate; a prior that was trained jointly goes on at the last one."""
    factors = {}
    for first in ("joint", "autoencoder_only"):
        run = Trainer(
            small_game(), FAKE, phases=[Phase(first, 4), Phase("prior_only", 2)], batch_size=16, lr=1e-2,
            report_every=1, schedule=StepDecay([0.5, 1.0]), device="cpu", progress=False,
        )  # fmt: skip
        factors[first] = [round(row["lr"] / 1e-2, 6) for row in run.fit()]
    halves = [1.0] * 8 + [0.5] * 8
    assert factors == {
        "joint": halves + [0.25] * 8,
        "autoencoder_only": halves + [1.0] * 4 + [0.5] * 4,
    }


def test_a_player_may_have_a_schedule_of_its_own():
    rates = {"autoencoder": [], "prior": []}

    def note(row):
        for player, seen in rates.items():
            seen.append(run.optimizers[player].param_groups[0]["lr"].item())

    falling = Linear(0.0, 1.0, initial=1.0, final=0.0)
    run = trainer(report_every=1, schedule=falling, schedules={"prior": Constant()}, on_row=note)
    run.fit()
    assert rates["autoencoder"][:20] == pytest.approx([1e-2 * (1 - step / 20) for step in range(20)])
    assert set(rates["prior"]) == {1e-2}
    with pytest.raises(UserError, match=r"trainer.schedules.critic: there is no such player; there are"):
        trainer(schedules={"critic": Constant()})


def test_rows_hold_what_is_promised():
    rows = trainer(small_game(learn_gamma=True)).fit()
    joint, last = rows[0], rows[-1]
    assert {
        "step",
        "images_seen",
        "epoch",
        "phase",
        "loss",
        "log_likelihood",
        "log_prior",
        "entropy",
    } <= joint.keys()
    assert {"gamma", "images_per_second", "lr"} <= joint.keys()
    assert last["images_seen"] == 350
    for split in ("train", "validation", "test"):
        for term in ("log_likelihood", "log_prior", "entropy", "relative_scale"):
            assert math.isfinite(last[f"{split}/{term}"])
    assert joint["loss"] == pytest.approx(-joint["log_likelihood"] - joint["log_prior"], rel=1e-5)  # beta = 0


def test_a_term_that_is_not_finite_stops_and_keeps_the_last_checkpoint(tmp_path):
    game = small_game()

    def break_the_prior(report):
        if report.step == 24:
            game.autoencoder.prior.transforms[-1].shift.data.fill_(float("inf"))

    run = trainer(game, tmp_path, callbacks=[break_the_prior], evaluations=100, save_minutes=60)
    with pytest.raises(
        TrainingDiverged, match=r"^(loss|log_prior) is -?(inf|nan) at step 25:.*checkpoint is kept"
    ):
        run.fit()
    state = checkpoint.load(tmp_path / "checkpoints/last.safetensors")
    assert state["step"] == 20  # the end of the joint phase
    assert all(torch.isfinite(t).all() for t in state["game"].values())


@pytest.mark.parametrize("phases", [PHASES[:1], PHASES])
def test_the_model_is_in_eval_mode_afterwards_and_learns_again_if_asked(phases):
    game = jiggle(small_game())
    game.autoencoder.encoder.trunk.append(torch.nn.Dropout(0.5))
    run = trainer(game, phases=phases)
    seen = []
    run.on_row = lambda row: seen.append(game.autoencoder.encoder.training)
    run.fit()
    assert seen[0], "it trains in training mode"
    assert not any(part.training for part in game.modules())
    again = trainer(game)
    again.on_row = lambda row: seen.append(game.autoencoder.encoder.training)
    seen.clear()
    again.fit()
    assert seen[0]


def test_the_model_is_in_eval_mode_after_an_interruption():
    def interrupt(row):
        raise StopError

    run = trainer(on_row=interrupt)
    with pytest.raises(StopError):
        run.fit()
    assert not run.game.training


def test_a_report_checks_a_thousand_codes_and_decodes_those_it_shows(tmp_path, monkeypatch):
    game = small_game()
    ae = game.autoencoder
    (tmp_path / "samples").mkdir()
    (tmp_path / "figures").mkdir()
    seen = []
    decode = ae.decode

    def counted(z, context=None):
        seen.append(len(z))
        return decode(z, context)

    monkeypatch.setattr(ae, "decode", counted)
    monkeypatch.setattr(
        ae, "_codes", lambda *options: torch.zeros(1000, 4).index_fill_(0, torch.tensor([3, 900]), math.inf)
    )
    row = {"step": 5, "phase": "joint"}
    entries = SamplePictures(tmp_path, 0, FAKE.train.context)(Report(game, 5, "joint", True, row))
    assert sum(seen) == 64
    assert entries == {"samples/non_finite": 2, "samples/max_abs_z": 0.0}
    assert (tmp_path / "figures" / "samples.png").is_file()


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_a_variance_that_collapses_on_constant_images_is_said(shade):
    images = data.Split(torch.full((40, 1, 8, 8), shade, dtype=torch.uint8))
    constant = data.ImageData("constant", images, images[:20])
    options = {
        "phases": [Phase("joint", 500)],
        "batch_size": 10,
        "lr": 1e-2,
        "device": "cpu",
        "progress": False,
    }
    torch.manual_seed(1)
    learned = Trainer(
        small_game(learn_gamma=True), constant, lr_of={"autoencoder.likelihood": 0.2}, evaluations=1, **options
    )
    with pytest.raises(
        UserError, match=r"stops at step \d+: gamma, .* collapsed to .* a fixed variance"
    ) as caught:
        learned.fit()
    assert "the decoder reproduces the training images exactly" in str(caught.value)
    fixed = Trainer(small_game(), constant, **{**options, "phases": [Phase("joint", 5)]})
    assert math.isfinite(fixed.fit()[-1]["test/log_likelihood"])


def test_a_wrong_network_is_said_before_the_first_step(tmp_path):
    game = small_game()
    head = game.autoencoder.encoder
    head.forward = lambda x: (head.output(head.trunk(x))[:, :4], -torch.ones(len(x), 4))
    with pytest.raises(UserError, match="returned a scale of -1"):
        trainer(game, tmp_path).fit()
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_parameter_that_is_not_finite_is_never_saved(tmp_path):
    game = small_game()

    def poison(report):
        if report.step == 35:
            game.autoencoder.decoder.network[0].bias.data[0] = float("nan")

    with pytest.raises(
        TrainingDiverged, match="autoencoder.decoder.network.0.bias is not finite after step 35"
    ):
        trainer(game, tmp_path, callbacks=[poison]).fit()
    assert checkpoint.load(tmp_path / "checkpoints/last.safetensors")["step"] < 35


def test_a_damaged_checkpoint_is_not_overwritten(tmp_path):
    trainer(directory=tmp_path).fit()
    path = tmp_path / "checkpoints/last.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    content = path.read_bytes()
    with pytest.raises(UserError, match=r"truncated.*previous.safetensors"):
        trainer(directory=tmp_path).fit()
    assert path.read_bytes() == content


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path):
    trainer(directory=tmp_path).fit()
    with pytest.raises(UserError, match="another architecture"):
        trainer(small_game(hidden=8), tmp_path).fit()


def test_bf16_mixed_trains():
    rows = trainer(jiggle(small_game()), precision="bf16-mixed").fit()
    assert math.isfinite(rows[-1]["log_prior"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, "device must be"),
        ({"precision": "8"}, "precision must be"),
        ({"precision": "tf32", "device": "cpu"}, "precision=tf32 needs a CUDA device, and this is cpu"),
        ({"batch_size": 65}, "batch_size"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(UserError, match=message):
        Trainer(small_game(), FAKE, phases=PHASES, progress=False, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a device that is not there")
def test_a_device_that_is_not_there_is_named():
    with pytest.raises(UserError, match="device=cuda cannot be used here"):
        Trainer(small_game(), FAKE, phases=PHASES, progress=False, device="cuda")


def test_history_drops_rows_past_the_checkpoint_and_half_a_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    history = History(path)
    for step in (3, 6, 9):
        history.append({"step": step, "seconds": 0.5 * step, "loss": float("nan")})
    with open(path, "a") as file:
        file.write('{"step": 12, "se')
    again = History(path, step=6)
    assert [row["step"] for row in again.rows] == [3, 6]
    assert again.seconds == 3.0
    assert read_rows(path) == (again.rows, [])
    assert again.rows[0]["loss"] is None
    assert not path.with_name(DAMAGED).exists()


BAD_LINES = {
    "half a row": b'{"step": 6, "se',
    "no object": b"[6]",
    "no step": b'{"seconds": 3.0}',
    "a step in words": b'{"step": "six"}',
    "no text": b"\xff\xfe\x00",
    "nested without end": b"[" * 100_000,
}


@pytest.mark.parametrize("line", BAD_LINES.values(), ids=BAD_LINES)
def test_a_damaged_line_costs_no_other(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    good = [json.dumps({"step": step, "seconds": 0.5 * step}).encode() for step in (3, 9, 12)]
    before = b"\n".join([good[0], line, *good[1:], b""])
    path.write_bytes(before)
    said = []
    history = History(path, step=12, log=said.append)
    assert [row["step"] for row in history.rows] == [3, 9, 12]
    assert path.with_name(DAMAGED).read_bytes() == before
    assert said == [f"{path}: lines 2 cannot be read and are left out; {DAMAGED} keeps them"]
    assert History(path, step=12, log=said.append).rows == history.rows
    assert len(said) == 1


@pytest.mark.parametrize("stochastic", [True, False])
def test_the_closing_words_know_a_kl_only_where_there_is_one(tmp_path, stochastic):
    game = small_game(beta=0.5)
    ae = game.autoencoder
    ae.encoder, _ = networks.mlp((1, 8, 8), 4, hidden_dims=(16,), stochastic=stochastic)
    run = trainer(game)
    rows = run.fit()
    summary = reporting.summarize(run, ae, rows, {})
    words = reporting.closing_words(tmp_path, summary, {})
    assert "log p(z), test codes" in words
    assert ("KL(q(z|x) || p(z))" in words) == stochastic
    named = {key.split("/")[-1] for row in rows for key in row}
    assert named.isdisjoint({"kl", "entropy"}) != stochastic


def test_both_names_of_the_step_decay_are_importable():
    """Stored configurations have the first one."""
    assert Halving is StepDecay


# --------------------------------------------------------------------- the same images, whatever their order


class Brightness(Game):
    """Scores the mean brightness of images, and learns one number."""

    def __init__(self):
        super().__init__()
        self.number = nn.Parameter(torch.zeros(()))
        self.first_images = None

    def players(self):
        return {"only": nn.ModuleList([nn.ParameterList([self.number])])}

    def turns(self, phase):
        return (Turn(phase, ("only",)),)

    def initialize(self, batch):
        self.first_images = batch.x

    def score(self, batch):
        return {"brightness": batch.x.mean()}

    def forward(self, turn, batches, memo):
        return Losses(self.number.square(), {}, None)


def in_order(n=2600, test=600):
    """Images from dark to bright: the first thousand are the darkest."""
    levels = torch.linspace(0, 255, n).byte().reshape(n, 1, 1, 1).expand(n, 1, 2, 2)
    return data.ImageData("ordered", data.Split(levels), data.Split(levels[:: n // test][:test]))


def of_brightness(images, **options):
    game = Brightness()
    run = Trainer(
        game, images, phases=[Phase("joint", 2)], device="cpu", progress=False, report_every=5, **options
    )
    return game, run, run.fit()


@pytest.mark.parametrize("validation", [0.0, 0.2])
def test_scores_are_of_a_random_choice_that_stays_the_same(validation):
    curves = []
    for seed in (0, 1):
        _, run, rows = of_brightness(
            in_order(), batch_size=100, seed=seed, validation=validation, evaluation_images=400
        )
        splits = [name for name in ("train", "validation", "test") if name in run.splits]
        for name in splits:
            scores = [row[f"{name}/brightness"] for row in rows if f"{name}/brightness" in row]
            assert len(scores) > 5
            assert len(set(scores)) == 1  # the last one is of no other images
            assert scores[0] == pytest.approx(0.5, abs=0.06)  # four standard errors
            curves.append((name, scores[0]))
        whole, counts = run.scoring.whole()
        assert counts["train"] == 1000
        assert counts["test"] == 600
        truth = run.splits["test"].batch(slice(None)).x.mean().item()
        assert whole["test/brightness"] == pytest.approx(truth, abs=1e-6)
        assert whole["train/brightness"] == pytest.approx(0.5, abs=0.04)
    assert curves[: len(splits)] == curves[len(splits) :]  # of either seed


@pytest.mark.parametrize(("batch_size", "expected"), [(8, 32), (30, 100)])
def test_initialization_sees_four_minibatches_or_all_images(batch_size, expected):
    game, run, _ = of_brightness(in_order(100, 20), batch_size=batch_size)
    assert len(game.first_images) == expected
    assert torch.equal(game.first_images[:batch_size], run.images.at(0).x)
    distinct = game.first_images.flatten(1)[:, 0].unique()
    assert len(distinct) == len(game.first_images)
