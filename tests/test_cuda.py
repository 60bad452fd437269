"""What needs a GPU: ``pytest -m cuda``."""

import pyro
import pytest
import torch
from builders import GAMES, small_autoencoder, small_game

from pyro_lrp import data, models, networks, objectives, priors, testing
from pyro_lrp.core.randomness import seeded
from pyro_lrp.likelihoods import Gaussian
from pyro_lrp.schedules import ConstantThenLinear
from pyro_lrp.trainer import Phase, PriorPhase, Trainer

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def assert_no_step_waits(run):
    """A step of each phase makes the host wait for the device nowhere; an error says where it does."""
    for span in run.spans:
        with pyro.validation_enabled(False):
            batches = run.begin(span)
            step = run.step_of(span)
            step.prepare(span.start, span.progress(span.start))
            inputs = [batches.at(0, stream) for stream in range(step.streams)]
            torch.cuda.set_sync_debug_mode("error")
            try:
                step(inputs)
            finally:
                torch.cuda.set_sync_debug_mode("default")


def trainer(make, **options):
    """Eight joint and eight prior-only steps of a small game, always the same one."""
    with seeded(0, "game"):
        game = make()
    options = {"phases": [Phase("joint", 2), Phase("prior_only", 2)], "report_every": 1, **options}
    return Trainer(
        game, data.fake(64, (1, 8, 8)), batch_size=16, lr=1e-2, device="cuda", progress=False, **options
    )


def assert_equal(run, other):
    """Two trained games have the same bits."""
    values = other.game.state_dict()
    for name, value in run.game.state_dict().items():
        assert torch.equal(value, values[name]), name


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
@pytest.mark.parametrize("name", GAMES)
def test_a_captured_game_is_the_eager_one_bit_for_bit(name, precision):
    options = {
        "precision": precision,
        "prior_phase": PriorPhase(code_noise=0.3, ema=0.9),
        "schedule": ConstantThenLinear(start=0.0, final=0.1),
        "optimizers": {"prior": {"weight_decay": 0.1}},
    }
    runs = [trainer(GAMES[name], compile=compile, **options) for compile in ("off", "auto")]
    rows = [run.fit() for run in runs]
    assert [run.step_factory.used() for run in runs] == [{"compile": "off"}, {"compile": "graph"}]
    for row, other in zip(*rows, strict=True):
        assert without_clock(row) == without_clock(other)
    assert_equal(*runs)


def without_clock(row):
    return {name: value for name, value in row.items() if name not in ("seconds", "images_per_second")}


@pytest.mark.parametrize("kinds", [("graph", "graph"), ("off", "graph"), ("graph", "off")])
def test_a_captured_run_resumes(tmp_path, interrupt_at, kinds):
    """In the middle of a phase, captured or not."""
    whole = trainer(small_game, compile="graph")
    whole.fit()
    first, second = (trainer(small_game, compile=kind, directory=tmp_path, save_minutes=0) for kind in kinds)
    interrupt_at(6)
    with pytest.raises(KeyboardInterrupt):
        first.fit()
    second.fit()
    assert_equal(whole, second)


def mask(x):
    return x + x[x > 0.5].mean()


def read(x):
    return x * x.mean().item()


def listed(x):
    return x * torch.tensor([0.5, 2.0], device=x.device).mean()


def histogram(x):
    """The range of its values is read within the operation."""
    return x + torch.histc(x, 10).mean()


@pytest.mark.parametrize("obstacle", [mask, read, listed, histogram])
def test_what_no_graph_can_hold_runs_eagerly_and_says_so_once(obstacle):
    """The generators are unharmed: the run ends as an eager one."""

    class Hindered(objectives.LatentGame):
        def _losses(self, batch):
            return super()._losses(data.Batch(obstacle(batch.x)))

    def make():
        return Hindered(small_autoencoder(), objectives.BilevelELBO(0.0))

    said = []
    eager = trainer(make, compile="off")
    fallen_back = trainer(make, log=said.append)
    eager.fit()
    fallen_back.fit()
    (line,) = [line for line in said if "without a CUDA graph" in line]
    assert line.startswith("joint runs without a CUDA graph: ")
    assert "test_cuda.py" in line
    assert_equal(eager, fallen_back)


@pytest.mark.parametrize("permute", ["swap", "random"])
def test_laws_and_device_moves(permute):
    testing.check_prior(lambda: priors.paper_flow(2, 4, 16, permute=permute))


def test_log_prob_agrees_with_the_cpu():
    prior = priors.paper_flow(64, 24, 256)
    z = torch.randn(100, 64)
    on_cpu = prior().log_prob(z)
    on_gpu = prior.cuda()().log_prob(z.cuda()).cpu()
    torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
@pytest.mark.parametrize("name", GAMES)
def test_every_game_trains(name, precision):
    run = Trainer(
        GAMES[name](),
        data.fake(64, (1, 8, 8)),
        phases=[Phase("joint", 2), Phase("prior_only", 2)],
        batch_size=16,
        device="cuda",
        precision=precision,
        progress=False,
    )
    row = run.fit()[-1]
    assert all(torch.isfinite(torch.tensor(v)) for v in row.values() if isinstance(v, float))
    assert_no_step_waits(run)


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_training_resumes_and_ends_finite(tmp_path, precision):
    def run():
        return Trainer(
            small_game(),
            data.fake(64, (1, 8, 8)),
            phases=[Phase("joint", 2), Phase("prior_only", 2)],
            batch_size=16,
            directory=tmp_path,
            device="cuda",
            precision=precision,
            progress=False,
        )

    rows = run().fit()
    assert rows[-1]["step"] == 16
    (tmp_path / "checkpoints/last.safetensors").unlink()  # go on from the end of the joint phase
    again = run()
    assert again.fit()[-1]["log_prior"] == pytest.approx(rows[-1]["log_prior"], rel=1e-4)
    assert again.step == 16


def test_a_step_of_the_papers_network_does_not_wait_for_the_device():
    encoder, decoder = networks.infogan((1, 28, 28), 64)
    ae = models.Autoencoder(encoder, decoder, priors.paper_flow(64, 4, 256), Gaussian(learn=True))
    game = objectives.LatentGame(ae, objectives.BilevelELBO(0.5))
    run = Trainer(game, data.fake(300), phases=[Phase("joint", 1)], device="cuda", progress=False)
    run.fit()
    assert_no_step_waits(run)


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
@pytest.mark.parametrize("prior", [priors.unet_flow, priors.unet_autoregressive])
def test_a_step_of_the_published_u_net_fits_and_does_not_wait_for_the_device(prior, precision):
    """At 256x256, batch 8, within 16 GB."""
    encoder, decoder = networks.vunet((3, 256, 256), 10_240)
    ae = models.HierarchicalAutoencoder(encoder, decoder, prior(), Gaussian(0.01))
    images = torch.randint(0, 256, (16, 3, 256, 256), dtype=torch.uint8)
    people = data.Split(images, context=torch.rand(16, 30), extras={"joints": torch.rand(16, 15, 2)})
    run = Trainer(
        objectives.LatentGame(ae, objectives.BilevelELBO(0.5)), data.ImageData("people", people, people),
        phases=[Phase("joint", 1)], batch_size=8, device="cuda", precision=precision, progress=False,
    )  # fmt: skip
    torch.cuda.reset_peak_memory_stats()
    row = run.fit()[-1]
    assert all(torch.isfinite(torch.tensor(v)) for v in row.values() if isinstance(v, float))
    assert torch.cuda.max_memory_allocated() < 16 << 30
    assert_no_step_waits(run)
