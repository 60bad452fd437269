"""Half precision for networks, float32 for densities; the layout of images in memory."""

import pytest
import torch
from builders import GAMES
from recorded_graph import RecordedGraph
from test_compile import full
from torch import nn

from pyro_lrp import data, likelihoods, models, networks, objectives, priors
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.randomness import seeded
from pyro_lrp.data import Batch
from pyro_lrp.schedules import Phase, Progress
from pyro_lrp.trainer import PriorPhase, Trainer
from pyro_lrp.trainer.devices import make_fabric

HALF = make_fabric("cpu", "bf16-mixed")


@pytest.mark.parametrize("name", GAMES)
def test_networks_compute_in_half_precision_and_densities_in_float32(name):
    """A neural sampler has no density, and computes as encoders do; VampPrior's density needs the encoder."""
    game = GAMES[name]()
    batch = Batch(torch.rand(6, 1, 8, 8))
    game.initialize(batch)
    seen = {player: set() for player in game.players()}
    for player, part in game.players().items():
        for layer in part.modules():
            if isinstance(layer, nn.Linear):
                note = lambda layer, inputs, output, player=player: seen[player].add(output.dtype)  # noqa: E731
                layer.register_forward_hook(note)
    game.advance(Progress(0, 0.5, "joint"))
    memo = {}
    with HALF.autocast():
        for turn in game.turns("joint"):
            losses = game(turn.name, [batch] * turn.batches, memo)
            assert {losses.loss.dtype, *(term.dtype for term in losses.terms.values())} == {torch.float32}
        q = game.autoencoder.encode(batch.x)
        decoded = game.autoencoder.decode(q.mean)
    assert {q.mean.dtype, q.variance.dtype, decoded.dtype} == {torch.float32}
    assert torch.bfloat16 in seen["autoencoder"]
    assert torch.float32 not in seen["autoencoder"] or name == "vamp"
    if game.autoencoder.prior.has_log_prob:
        assert seen["prior"] <= {torch.float32}


# layout


def game():
    with seeded(0, "game"):
        encoder, decoder = networks.infogan((1, 8, 8), 4, channels=(4, 8), hidden=8)
        prior = priors.paper_flow(4, layers=2, width=8)
        autoencoder = models.Autoencoder(encoder, decoder, prior, likelihoods.Gaussian())
    return objectives.LatentGame(autoencoder, objectives.BilevelELBO(0.5))


def run(layout, directory=None, graph=None, **options):
    """Four joint and four prior-only steps."""
    trainer = Trainer(
        game(), data.fake(64, (1, 8, 8)), phases=[Phase("joint", 1), Phase("prior_only", 1)], batch_size=16,
        prior_phase=PriorPhase(ema=0.9), lr=1e-3, device="cpu", report_every=1, evaluations=2, progress=False,
        memory_format=layout, directory=directory, save_minutes=0, **options,
    )  # fmt: skip
    if graph:
        full(trainer, graph)
    return trainer


def layouts(trainer):
    """Whether kernels, and their moments, are laid out by pixel."""
    found = set()
    for optimizer in trainer.optimizers.values():
        for parameter, state in optimizer.state.items():
            if parameter.dim() == 4 and min(parameter.shape[:2]) > 1:
                tensors = [parameter, state["exp_avg"], state["exp_avg_sq"]]
                found |= {t.is_contiguous(memory_format=torch.channels_last) for t in tensors}
    return found


def close(row):
    return pytest.approx(floats(row), rel=1e-4, abs=1e-4)


def floats(row):
    clock = ("seconds", "images_per_second")
    return {name: value for name, value in row.items() if isinstance(value, float) and name not in clock}


def test_the_layout_of_images_changes_rounding_alone():
    by_channel, by_pixel = run("contiguous"), run("channels_last")
    expected, found = by_channel.fit(), by_pixel.fit()
    assert (layouts(by_channel), layouts(by_pixel)) == ({False}, {True})
    for row, other in zip(expected, found, strict=True):
        assert floats(other) == close(row)
    assert any(floats(row) != floats(other) for row, other in zip(expected, found, strict=True))


def test_a_traced_and_recorded_step_keeps_the_layout():
    eager, recorded = run("channels_last"), run("channels_last", graph=RecordedGraph)
    assert [floats(row) for row in eager.fit()] == [floats(row) for row in recorded.fit()]


def test_a_run_resumes_in_its_layout(tmp_path, interrupt_at):
    run("channels_last", tmp_path / "whole").fit()
    interrupt_at(2)
    with pytest.raises(KeyboardInterrupt):
        run("channels_last", tmp_path / "parts").fit()
    resumed = run("channels_last", tmp_path / "parts")
    resumed.fit()
    assert layouts(resumed) == {True}
    ends = [tmp_path / folder / "checkpoints" / "last.safetensors" for folder in ("whole", "parts")]
    assert ends[0].read_bytes() == ends[1].read_bytes()


def test_an_unknown_layout_is_refused():
    with pytest.raises(UserError, match="memory_format must be contiguous or channels_last, got 'nhwc'"):
        run("nhwc")
