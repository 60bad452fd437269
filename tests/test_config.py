"""Every YAML composes, builds and trains; mistakes are one line that names the key."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from builders import random_vgg19
from commands import QUICK, ROOT, composed, only_run

import pyro_lrp
from pyro_lrp import config
from pyro_lrp.schedules import Progress

GROUPS = {
    folder.name: sorted(p.stem for p in folder.iterdir())
    for folder in (ROOT / "conf").iterdir()
    if folder.is_dir()
}

DEFAULTS = ("network=mlp", "likelihood=gaussian", "objective=bilevel", "trainer=default",
            "beta_schedule=constant")  # fmt: skip
SWAPS = [
    f"{g}={n}"
    for g in ("network", "likelihood", "objective", "trainer", "model", "beta_schedule")
    for n in GROUPS[g]
    if f"{g}={n}" not in DEFAULTS
]


POSED = (  # what a U-Net needs: people, and sizes of a test
    "data=posed_figures", "data.n=32", "data.test=16", "data.image_size=32", "network.first=1",
    "network.most=2", "latent_dim=160", "data.flow.layers=2", "data.flow.width=4", "likelihood=gaussian",
)  # fmt: skip


@pytest.mark.parametrize("model", GROUPS["model"])
def test_players_of_every_preset_are_disjoint_and_complete(model, tmp_path, monkeypatch):
    monkeypatch.setenv("PYRO_LRP_CACHE", str(tmp_path))
    choices = POSED if "vunet" in model else ("data=fake", "network.hidden_dims=[8]")
    identity = composed(f"model={model}", *choices)
    identity, data = config.settle(identity, config.build_data(identity, {}))
    game = config.build_game(identity, config.build_autoencoder(identity, data.image_shape))
    owned = [p for player in game.players().values() for p in player.parameters()]
    assert len(owned) == len({id(p) for p in owned}) == len(list(game.parameters()))
    movers = {
        player for phase in ("joint", "prior_only") for turn in game.turns(phase) for player in turn.moves
    }
    assert movers == {name for name, player in game.players().items() if [*player.parameters()]}


BETAS = {
    "vae": 1, "beta_vae": 25, "factor_vae": 1, "vae_flow": 0, "vae_flow_learned_gamma": 0, "aae": 1,
    "aae_learned": 0, "vae_perceptual": 0, "rae": 0, "vunet": 1, "vunet_flow": 0,
}  # fmt: skip


def test_the_u_nets_presets_are_the_published_ones():
    """Spec 11.2-11.4: one objective and the ramp, or two levels and none; losses, rates and sizes alike."""
    original, learned = (
        composed(f"model={model}", "data=deepfashion", "data.root=nowhere") for model in ("vunet", "vunet_flow")
    )
    elbos = [identity["objective"]["elbo"] for identity in (original, learned)]
    assert [elbo["single_level"] for elbo in elbos] == [True, False]
    assert [identity["beta"] for identity in (original, learned)] == [1, 0]
    ramp = original["objective"]["beta_schedule"]
    assert [ramp[key] for key in ("start", "stop", "initial", "final")] == [0.5, 0.75, 1e-6, 1.0]
    assert learned["objective"]["beta_schedule"]["_target_"].endswith("Constant")
    assert learned["prior"].items() >= {"channels": 128, "layers": 16, "width": 256}.items()
    for identity in (original, learned):
        assert identity["trainer"]["optimizers"]["autoencoder"]["betas"] == [0.5, 0.9]
        assert identity["trainer"]["schedule"].items() >= {"start": 0.01, "final": 0.0}.items()
        assert (identity["lr"], identity["batch_size"], identity["latent_dim"]) == (1e-3, 8, 10240)
        assert identity["epochs"] == 16
        expected = {"weight": 5.0, "power": 1, "pixels": 255.0, "caffe": True}
        assert identity["likelihood"].items() >= expected.items()
        assert identity["network"].items() >= {"first": 32, "most": 128, "dropout": 0.1}.items()
    assert original["network"] == learned["network"]
    assert [identity["prior_epochs"] for identity in (original, learned)] == [0, 2]  # spec 11.4: an eighth more
    constant = config.schedules(learned)["prior"]
    places = [Progress(0, share, phase) for share in (0.0, 0.9) for phase in ("joint", "prior_only")]
    assert {constant(place) for place in places} == {1.0}
    assert config.schedules(original) == {}


@pytest.mark.parametrize("model", [model for model in GROUPS["model"] if "vunet" not in model])
def test_every_preset_has_the_papers_weights(model):
    """Contract; spec, sections 6 and 8."""
    identity = composed(f"model={model}", "data=mnist")
    assert identity["beta"] == BETAS[model]
    encoder, prior = identity["network"], identity["prior"]
    assert encoder["stochastic"] == (not model.startswith(("aae", "rae")))
    assert ("layers" in prior) == (
        model in ("vae_flow", "vae_flow_learned_gamma", "aae_learned", "vae_perceptual")
    )
    if model == "aae_learned":
        assert (prior["layers"], prior["width"]) == (3, 1024)
        assert identity["objective"]["gan_loss"] == "minimax"
    if model == "factor_vae":
        assert identity["objective"]["weight"] == 40
        assert identity["trainer"]["optimizers"]["discriminator"] == {"lr": 1e-5, "betas": [0.5, 0.9]}


FEW = ("data.n=40", "batch_size=18")  # two steps of each phase
VGG = ("weights.vgg19=random vgg19.npz",)
NEEDS = {  # what a choice needs beside it
    "model=vae_perceptual": VGG,
    "likelihood=perceptual": VGG,
    "likelihood=vunet": VGG,
    "network=infogan": ("network.channels=[8,16]", "network.hidden=64"),
    "model=vunet": POSED,
    "model=vunet_flow": POSED,
    "network=vunet": ("model=vunet_flow", *POSED),
    "network=resnet": ("data.image_shape=[3,16,16]", "network.base=4"),
    "model=aae_learned": ("prior.width=16", "objective.discriminator.width=16"),
    "model=factor_vae": ("objective.discriminator.width=16",),
}


def test_a_choice_that_is_made_anyway_changes_nothing():
    """So that ``model=vae_flow`` below trains all of them."""
    expected = composed("data=fake", "model=vae_flow")
    for choice in DEFAULTS:
        assert composed("data=fake", "model=vae_flow", choice) == expected


@pytest.mark.parametrize("choice", SWAPS)
def test_every_choice_trains_and_loads(train, choice):
    if "perceptual" in choice or choice == "likelihood=vunet":
        random_vgg19("random vgg19.npz")
    code, out, err = train(*QUICK, *FEW, choice, *NEEDS.get(choice, ()))
    assert code == 0, err
    assert "samples of the prior" in out
    run = only_run()
    assert (run / "figures" / "samples.png").is_file()
    posed = choice in ("model=vunet", "model=vunet_flow", "network=vunet")
    shape = (3, 16, 16) if choice == "network=resnet" else (3, 32, 32) if posed else (1, 28, 28)
    context = torch.rand(3, 30) if posed else None
    assert pyro_lrp.load(run).sample(3, context=context).shape == (3, *shape)


EXPERIMENTS = {
    "mnist_small": ("mnist", 16, {"channels": [16, 32]}),
    "fashion_small": ("fashion_mnist", 16, {"channels": [16, 32]}),
    "disentanglement": ("celeba", 64, {"num_scale": 4, "blocks_per_scale": 1, "pool": "average"}),
    "faces_small": ("celeba", 32, {"base": 8}),
}  # and posed_small, whose data set is made: below


def test_posed_small_trains_a_step_of_both_presets(train):
    for model in ("vunet", "vunet_flow"):
        few = ("data.n=16", "data.test=4", "epochs=1", *QUICK[3:], f"name={model}")
        code, _, err = train("experiment=posed_small", f"model={model}", "prior_epochs=1", *few)
        assert code == 0, err
        identity = yaml.safe_load(Path("runs", model, "seed_0", "config.yaml").read_text())
        assert (identity["latent_dim"], identity["network"]["most"]) == (5120, 64)
    plans = [composed("experiment=posed_small", f"model={model}") for model in ("vunet", "vunet_flow")]
    assert [plan["epochs"] for plan in plans] == [9, 9]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_trains_two_steps_on_its_real_data(train, real_data, experiment):
    short = ("epochs=1", "prior_epochs=1", "data.limit=250", "device=cpu", "progress=false")
    if EXPERIMENTS[experiment][0] == "celeba":
        short = (
            "epochs=1",
            "prior_epochs=1",
            "data.images=img_align_celeba_178x218_sample.zip",
            "data.split=[22,10]",
            "data.limit=20",
            "batch_size=10",
            "prior_batch_size=10",
            *short[3:],
        )
        short += () if experiment == "faces_small" else ("network.base=4", "prior.layers=2", "prior.width=8")
    code, out, err = train(f"experiment={experiment}", f"data.root={real_data}", *short)
    assert code == 0, err
    identity = yaml.safe_load((only_run() / "config.yaml").read_text())
    dataset, latent_dim, network = EXPERIMENTS[experiment]
    assert identity["presets"]["data"] == dataset
    assert identity["latent_dim"] == latent_dim
    assert identity["network"].items() >= network.items()


def test_the_data_set_chooses_the_network_and_the_command_line_wins(train):
    train(*QUICK, "network=infogan_small", "name=a")
    identity = yaml.safe_load(Path("runs/a/seed_0/config.yaml").read_text())
    assert identity["network"]["_target_"] == "pyro_lrp.networks.infogan"
    train(*QUICK, "name=b", "prior=standard_normal", "model=vae_flow")
    identity = yaml.safe_load(Path("runs/b/seed_0/config.yaml").read_text())
    assert identity["network"]["_target_"] == "pyro_lrp.networks.mlp"
    assert identity["presets"]["prior"] == "standard_normal"


FAMILIES = ("flow", "adversarial")


def test_paper_scale_sizes_are_the_papers():
    """Spec, section 7: the flow's layers and width; epochs of the VAE, joint and prior-only, and of the AAE."""
    papers = {
        "mnist": (24, 1024, 200, 100, 200),
        "fashion_mnist": (24, 1024, 300, 100, 300),
        "cifar10": (16, 256, 500, 100, 300),
        "celeba": (30, 1024, 200, 50, 200),
    }
    for name, (layers, width, joint, prior, adversarial) in papers.items():
        data = yaml.safe_load((ROOT / "conf" / "data" / f"{name}.yaml").read_text())["data"]
        assert data["flow"] == {"layers": layers, "width": width}
        families = {f: yaml.safe_load((ROOT / "conf" / "family" / f"{f}.yaml").read_text()) for f in FAMILIES}
        flow = families["flow"]["epochs"][name]
        assert (flow["joint"], flow["prior"]) == (joint, prior)
        assert families["adversarial"]["epochs"][name] == {"joint": adversarial, "prior": 0}
        assert (data["latent_dim"], float(data["lr"]), data["validation"]) == (64, 1e-4, 0.0)


@pytest.mark.parametrize(
    ("arguments", "joint", "prior", "halved_at"),
    [
        (("data=cifar10", "model=vae_flow"), 500, 100, (250, 500)),
        (("data=cifar10", "model=aae_learned"), 300, 0, ()),
        (("data=celeba", "model=vae_flow"), 200, 50, ()),
        (("experiment=disentanglement", "model=beta_vae"), 300, 50, (100, 200)),
        (("experiment=disentanglement", "model=vae_flow", "epochs=30"), 30, 5, (10, 20)),
        (("data=mnist", "model=vae"), 200, 100, ()),
    ],
)
def test_rates_are_halved_where_the_paper_says(arguments, joint, prior, halved_at):
    """Spec, section 7; a run made shorter keeps the shape."""
    identity = composed(*arguments)
    assert (identity["epochs"], identity["prior_epochs"]) == (joint, prior)
    schedule = config.schedule(identity)
    rates = [schedule(Progress(epoch, epoch / joint)) for epoch in range(joint)]
    rates += [schedule(Progress(joint + epoch, epoch / prior, "prior_only")) for epoch in range(prior)]
    assert [epoch for epoch in range(1, joint + prior) if rates[epoch] == rates[epoch - 1] / 2] == [*halved_at]
    assert len(set(rates)) == len(halved_at) + 1


def test_given_epochs_keep_the_ratio(train):
    train("data=fake", "epochs=6", "device=cpu", "progress=false")
    assert yaml.safe_load((only_run() / "config.yaml").read_text())["prior_epochs"] == 3


COMBINATIONS = [
    "model=aae_learned order=two_stage prior.width=16 objective.discriminator.width=16",
    "model=factor_vae prior=flow order=two_stage objective.discriminator.width=16",
    "model=vae_flow objective=elbo order=two_stage beta=1",
    "model=aae prior=flow beta=0",
    "model=aae_learned gan_loss=nonsaturating network.stochastic=true likelihood=gaussian_learned",
    "model=aae_learned beta=1 beta_schedule=warmup likelihood=bernoulli prior.width=16",
    "model=factor_vae prior=flow beta=0 objective.discriminator.width=16",
    "model=vae free_bits=0.1 beta_schedule=unet_ramp objective.elbo.kl=sampled",
    "model=beta_vae objective=elbo prior=flow free_bits=0.1",
    "model=vae_flow objective=total_correlation objective.discriminator.width=16",
    "model=vae_flow objective=adversarial objective.discriminator.width=16",
]


@pytest.mark.parametrize("choice", COMBINATIONS)
def test_parts_combine(train, choice):
    code, _, err = train(*QUICK, *FEW, *choice.split(" "))
    assert code == 0, err
    rows = [json.loads(line) for line in (only_run() / "metrics.jsonl").read_text().splitlines()]
    assert ("prior_only" in {row["phase"] for row in rows}) == ("model=vae free" not in choice)
    assert pyro_lrp.load(only_run()).sample(3).shape == (3, 1, 28, 28)
