"""Every YAML composes, builds and trains; mistakes are one line that names the key."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from builders import random_vgg19
from commands import ROOT, only_run
from omegaconf import open_dict

import pyro_lrp
from pyro_lrp import config
from pyro_lrp.config import command as cli
from pyro_lrp.core import checkpoint
from pyro_lrp.schedules import Progress

QUICK = ("data=fake", "epochs=1", "prior_epochs=1", "device=cpu", "progress=false", "trainer.evaluations=1")
GROUPS = {
    folder.name: sorted(p.stem for p in folder.iterdir())
    for folder in (ROOT / "conf").iterdir()
    if folder.is_dir()
}


SWAPS = [
    f"{g}={n}"
    for g in ("network", "likelihood", "objective", "trainer", "model", "beta_schedule")
    for n in GROUPS[g]
]


def composed(*arguments):
    """The identity of a run, without training it."""
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig

    with initialize_config_dir(cli.conf_dir(), version_base="1.3"):
        cfg = compose("train", list(arguments), return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg.hydra
        return config.plan(cfg).identity


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
    "aae_learned": 0, "vae_perceptual": 0, "vunet": 1, "vunet_flow": 0,
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
        assert identity["epochs"] + identity["prior_epochs"] == 16
        assert identity["likelihood"].items() >= {"weight": 5.0, "power": 1, "pixels": 255.0}.items()
        assert identity["network"].items() >= {"first": 32, "most": 128, "dropout": 0.1}.items()
    assert original["network"] == learned["network"]


@pytest.mark.parametrize("model", [model for model in GROUPS["model"] if "vunet" not in model])
def test_every_preset_has_the_papers_weights(model):
    """Contract; spec, sections 6 and 8."""
    identity = composed(f"model={model}", "data=mnist")
    assert identity["beta"] == BETAS[model]
    encoder, prior = identity["network"], identity["prior"]
    assert encoder["stochastic"] == (not model.startswith("aae"))
    assert ("layers" in prior) == (
        model in ("vae_flow", "vae_flow_learned_gamma", "aae_learned", "vae_perceptual")
    )
    if model == "aae_learned":
        assert (prior["layers"], prior["width"]) == (3, 1024)
        assert identity["objective"]["gan_loss"] == "minimax"
    if model == "factor_vae":
        assert identity["objective"]["weight"] == 40
        assert identity["trainer"]["optimizers"]["discriminator"] == {"lr": 1e-5, "betas": [0.5, 0.9]}


NEEDS = {  # what a choice needs beside it
    "model=vae_perceptual": ("weights.vgg19=random vgg19.npz",),
    "likelihood=perceptual": ("weights.vgg19=random vgg19.npz",),
    "likelihood=vunet": ("weights.vgg19=random vgg19.npz",),
    "model=vunet": POSED,
    "model=vunet_flow": POSED,
    "network=vunet": ("model=vunet_flow", *POSED),
    "network=resnet": ("data.image_shape=[3,16,16]", "network.base=4"),
    "model=aae_learned": ("prior.width=16", "objective.discriminator.width=16"),
    "model=factor_vae": ("objective.discriminator.width=16",),
}


@pytest.mark.parametrize("choice", SWAPS)
def test_every_choice_trains_and_loads(train, choice):
    if "perceptual" in choice or choice == "likelihood=vunet":
        random_vgg19("random vgg19.npz")
    code, out, err = train(*QUICK, choice, *NEEDS.get(choice, ()))
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
        few = ("data.n=16", "data.test=4", "epochs=1", "device=cpu", "progress=false", f"name={model}")
        code, _, err = train("experiment=posed_small", f"model={model}", "prior_epochs=1", *few)
        assert code == 0, err
        identity = yaml.safe_load(Path("runs", model, "seed_0", "config.yaml").read_text())
        assert (identity["latent_dim"], identity["network"]["most"]) == (5120, 64)
    plans = [composed("experiment=posed_small", f"model={model}") for model in ("vunet", "vunet_flow")]
    assert [plan["epochs"] + plan["prior_epochs"] for plan in plans] == [9, 9]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_trains_two_steps_on_its_real_data(train, real_data, experiment):
    short = ("epochs=1", "prior_epochs=1", "data.limit=250", "device=cpu", "progress=false")
    if EXPERIMENTS[experiment][0] == "celeba":
        split = "data.split=[250,50]"
        short = (
            "epochs=1",
            "prior_epochs=1",
            "data.limit=20",
            "batch_size=10",
            "prior_batch_size=10",
            split,
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


def test_the_run_directory_holds_what_is_promised(train):
    code, _, _ = train(*QUICK, "likelihood=gaussian_learned", "likelihood.lr=0.01", "logger=tensorboard")
    assert code == 0
    run = only_run()
    assert str(run) == "runs/vae_flow-flow-fake-beta_0/seed_0"
    names = {p.name for p in run.iterdir()}
    assert names >= {
        "config.yaml",
        "metrics.jsonl",
        "checkpoints",
        "samples",
        "figures",
        "summary.json",
        "train.log",
    }
    assert list((run / "tensorboard").glob("events*"))
    assert not Path("outputs").exists()
    summary = json.loads((run / "summary.json").read_text())
    assert summary["final"]["step"] == 4
    assert summary["parameters"].keys() == {"autoencoder", "prior"}
    assert summary["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["phase"] for row in rows] == ["joint", "prior_only"]
    identity = yaml.safe_load((run / "config.yaml").read_text())
    assert not {"device", "logger", "progress", "overwrite", "name"} & identity.keys()


def test_a_finished_run_says_so_and_a_moved_one_loads(train):
    train(*QUICK)
    code, out, err = train(*QUICK)
    assert code == 0
    assert "already trained" in err
    assert "samples of the prior" in out
    run = only_run()
    before = pyro_lrp.load(run)
    moved = run.rename("a name, with = and umlauts äö")
    z = torch.randn(5, 8)
    assert torch.equal(pyro_lrp.load(moved).prior().log_prob(z), before.prior().log_prob(z))
    code, out, err = train(
        f"run={moved}", f"out={moved}/x, y=1.npz", "n=7", "temperature=0.5", command="sample"
    )
    assert code == 0, err
    arrays = np.load(moved / "x, y=1.npz")
    assert arrays["images"].shape == (7, 1, 28, 28)
    assert arrays["images"].dtype == np.float32
    assert 0 <= arrays["images"].min() <= arrays["images"].max() <= 1
    assert arrays["latents"].shape == (7, 8)
    train(f"run={moved}", "out=again.npz", "n=7", "temperature=0.5", command="sample")
    assert np.array_equal(np.load("again.npz")["images"], arrays["images"])
    code, out, _ = train(f"run={moved}", command="sample")
    assert out.strip() == f"{moved}/figures/prior.png"
    assert Path(out.strip()).is_file()


def test_circumstances_may_change_between_resumes(train):
    train(*QUICK)
    code, _, err = train(*QUICK, "logger=tensorboard", "progress=true")
    assert code == 0
    assert "already trained" in err


def test_another_identity_is_refused_and_nothing_is_touched(train):
    train(*QUICK)
    run = only_run()
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in run.rglob("*")}
    code, _, err = train(*QUICK, "lr=0.5", "batch_size=7")
    assert code == 1
    assert "batch_size (there 100, here 7), lr (there 0.001, here 0.5)" in err
    assert "name=" in err
    assert "overwrite=true" in err
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in run.rglob("*")} == before
    code, _, _ = train(*QUICK, "lr=0.5", "overwrite=true")
    assert code == 0
    assert yaml.safe_load((run / "config.yaml").read_text())["lr"] == 0.5


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
    code, _, err = train(*QUICK, *choice.split(" "))
    assert code == 0, err
    rows = [json.loads(line) for line in (only_run() / "metrics.jsonl").read_text().splitlines()]
    assert ("prior_only" in {row["phase"] for row in rows}) == ("model=vae free" not in choice)
    assert pyro_lrp.load(only_run()).sample(3).shape == (3, 1, 28, 28)


def test_perceptual_weights_are_recorded_and_checked(train):
    random_vgg19("a.npz", convolutions=3)
    random_vgg19("b.npz", convolutions=3, seed=1)
    code, _, err = train(*QUICK, "model=vae_perceptual", "weights.vgg19=a.npz")
    assert code == 0
    assert "likelihood: layers ['relu_1_1', 'relu_2_1'], sha256 " in err
    run = only_run()
    likelihood = yaml.safe_load((run / "config.yaml").read_text())["likelihood"]
    assert likelihood["layers"] == ["relu_1_1", "relu_2_1"]
    assert json.loads((run / "summary.json").read_text())["log_likelihood_unit"].startswith("(no density")
    Path("a.npz").rename("moved.npz")  # where they lie may change
    code, _, err = train(*QUICK, "model=vae_perceptual", "weights.vgg19=moved.npz")
    assert (code, "already trained" in err) == (0, True)
    code, _, err = train(*QUICK, "model=vae_perceptual", "weights.vgg19=b.npz")
    assert code == 1
    assert "which differs in likelihood.sha256" in err
    Path("moved.npz").unlink()  # a trained run needs them no longer
    assert train(f"run={run}", "n=4", command="sample")[0] == 0


def test_a_folder_of_somebodys_files_is_refused(train):
    Path("runs/mine/seed_0").mkdir(parents=True)
    Path("runs/mine/seed_0/thesis.tex").write_text("x")
    for more in ((), ("overwrite=true",)):
        code, _, err = train(*QUICK, "name=mine", *more)
        assert code == 1
        assert "holds files but no run" in err
    assert [p.name for p in Path("runs/mine/seed_0").iterdir()] == ["thesis.tex"]


def test_a_start_that_was_killed_does_not_block_the_next(train):
    Path("runs/mine/seed_0").mkdir(parents=True)
    Path("runs/mine/seed_0/.config.yaml.tmp").write_text("presets: {mod")
    assert train(*QUICK, "name=mine")[0] == 0
    assert train(*QUICK, "name=mine", "overwrite=true")[0] == 0
    names = {path.name for path in Path("runs/mine/seed_0").iterdir()}
    assert {"config.yaml", "summary.json"} <= names
    assert ".config.yaml.tmp" not in names


def test_a_run_directory_that_cannot_be_written_is_named(train):
    Path("runs").write_text("a file")
    code, _, err = train(*QUICK)
    assert code == 1
    assert err.startswith("error: run directory runs/vae_flow-flow-fake-beta_0/seed_0 cannot be written")


MISTAKES = {
    "unknown model": (("model=vae_flaw",), "model=vae_flaw is unknown; the known ones are: aae, aae_learned"),
    "unknown prior": (
        ("prior=banana",),
        "prior=banana is unknown; the known ones are: conditional_flow, flow, flow_matching",
    ),
    "unknown data set": (
        ("data=mnits",),
        "data=mnits is unknown; the known ones are: celeba, cifar10, deepfashion, digits, fake",
    ),
    "unknown key": (("betaa=1",), "unknown key betaa (did you mean beta?)"),
    "unknown nested key": (("prior.depth=3",), "unknown key prior.depth"),
    "added key": (("+colour=red",), "unknown key colour"),
    "added argument": (("+prior.depth=3",), "unexpected keyword argument 'depth'"),
    "not key=value": (("beta",), "beta"),
    "negative beta": (("beta=-1",), "beta must be a finite number of at least 0, got -1"),
    "nan beta": (("beta=nan",), "beta must be a finite number of at least 0, got nan"),
    "beta in words": (("beta=much",), "beta must be a finite number of at least 0, got 'much'"),
    "odd latent": (
        ("latent_dim=3",),
        "prior: the paper's flow splits a code into halves: expected an even latent_dim",
    ),
    "no latent": (("latent_dim=0",), "latent_dim must be a whole number of at least 1, got 0"),
    "no batch": (("batch_size=0",), "batch_size must be a whole number of at least 1, got 0"),
    "batch too large": (
        ("batch_size=1000",),
        "batch_size must be between 1 and the 230 images there are, got 1000",
    ),
    "prior batch too large": (("prior_batch_size=999",), "prior_batch_size must be at most the 230 images"),
    "nothing to train": (("epochs=0", "prior_epochs=0"), "epochs and prior_epochs leave nothing to train"),
    "no prior": (
        ("prior=null",),
        "prior=null names nothing; the known ones are: conditional_flow, flow, flow_matching",
    ),
    "removed prior": (("~prior",), "prior must be one of its files"),
    "no target": (("~prior._target_",), "prior: its configuration has no _target_"),
    "not a prior": (
        ("prior=standard_normal", "prior._target_=pyro_lrp.transforms.elementwise_affine"),
        "prior: expected a Prior over codes of shape",
    ),
    "another length": (("prior.dim=6",), "of shape (8,) (latent_dim), got (6,)"),
    "unknown flag": (("--bogus",), "unknown flag --bogus"),
    "no key": (("=3",), "=3 has no key"),
    "batch of one": (("network=infogan_small", "batch_size=1"), "batch_size must be at least 2 for a network"),
    "nothing left": (("data.limit=3", "data.validation=0.9", "batch_size=1"), "there must be training images"),
    "no hidden layer": (("network.hidden_dims=[]",), "network: "),
    "negative layer": (("network.hidden_dims=[-3]",), "network: "),
    "no schedule": (("~trainer.schedule",), "trainer.schedule must be a schedule"),
    "schedule": (("trainer=small", "trainer.schedule.start=x"), "expected start to be a share"),
    "trainer key": (("+trainer.colour=1",), "colour"),
    "no elbo": (("objective.elbo=null",), "expected elbo to be a BilevelELBO"),
    "allow_targets": (("allow_targets=3",), "allow_targets must be a list of prefixes"),
    "epochs in words": (("epochs=ten",), "epochs must be a whole number of at least 0, or null, got 'ten'"),
    "no lr": (("lr=0",), "lr must be a number above 0, got 0"),
    "limit": (("data.limit=1000",), "data.limit must be between 1 and 256, got 1000"),
    "image size": (("network=infogan", "data.image_shape=[1,30,30]"), "multiple of 4, got 30x30"),
    "gamma": (("likelihood.gamma=-1",), "likelihood: expected gamma"),
    "device": (("device=tpu",), "device must be auto, cpu, cuda or mps, got 'tpu'"),
    "logger": (("logger=paper",), "logger must be none or tensorboard, got 'paper'"),
    "missing data": (("data=npz", "data.path=a=b, c.npz"), "data.path: there is no file a=b, c.npz"),
    "no folder": (("data=folder",), "data=folder needs data.path=DIR"),
    "no cifar": (
        ("data=cifar10", "data.variant=jpg"),
        "data.variant must be one of official, lossless_subset, jp",
    ),
    "no celeba": (
        ("data=celeba", "data.root=none here"),
        "data=celeba needs img_align_celeba (a folder or .zip)",
    ),
    "missing mnist": (("data=mnist", "data.root=none here"), "data=mnist needs train-images-idx3-ubyte.gz"),
    "foreign target": (("prior._target_=os.system",), "prior: _target_ os.system is not allowed"),
    "a sampler under an ELBO": (
        ("prior=neural_sampler",),
        "objective: BilevelELBO needs log p(z), and the prior NeuralSampler can only be sampled",
    ),
    "free bits without an ELBO": (("model=aae", "free_bits=1"), "free_bits has no effect here: pyro_lrp.obj"),
    "gan_loss without a game": (("gan_loss=nonsaturating",), "gan_loss has no effect here"),
    "gan_loss": (("model=aae", "gan_loss=hinge"), "gan_loss must be minimax or nonsaturating, got 'hinge'"),
    "no weights": (
        ("model=vae_perceptual", "weights.vgg19=none.npz"),
        "weights.vgg19: there is no file none.npz",
    ),
    "layer": (("model=vae_perceptual", "likelihood.layers=[conv_1]"), "layers: expected some of relu_1_1, rel"),
    "free bits": (("free_bits=-1",), "free_bits must be a finite number of at least 0, got -1"),
    "kl": (("objective.elbo.kl=exact",), "expected kl to be sampled, analytic or auto, got 'exact'"),
    "no closed form": (
        ("objective.elbo.kl=analytic",),
        "kl=analytic needs a diagonal normal p(z), which Flow is not",
    ),
    "ramp": (("beta_schedule=warmup", "beta_schedule.stop=0"), "expected shares start < stop"),
    "milestones": (("trainer.schedule.milestones=[2]",), "expected milestones to be shares"),
    "tc weight": (("model=factor_vae", "objective.weight=-1"), "expected weight to be a finite number"),
    "player": (
        ("+trainer.optimizers.critic.lr=1",),
        "trainer.optimizers.critic: there is no such player; there are autoencoder, prior",
    ),
    "option of a player": (
        ("+trainer.optimizers.prior.momentum=1",),
        "trainer.optimizers.prior.momentum is unknown; known are lr, betas, eps, weight_decay",
    ),
    "value of an option": (
        ("+trainer.optimizers.prior.lr=-1",),
        "trainer.optimizers.prior: Invalid learning rate",
    ),
    "resnet": (("network=resnet",), "network: network resnet needs square images whose side is a power of two"),
    "unknown target": (("prior._target_=pyro_lrp.priors.Flaw",), "pyro_lrp.priors.Flaw cannot be imported"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line_and_leave_nothing_behind(train, monkeypatch, name):
    arguments, message = MISTAKES[name]
    monkeypatch.setattr("pyro_lrp.core.downloads.OFFLINE_AFTER", 0.2)
    given = {a.partition("=")[0] for a in arguments}
    code, out, err = train(*(a for a in QUICK if a.partition("=")[0] not in given), *arguments)
    assert code == 1
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert out == ""
    assert not Path("runs").exists()


SAMPLE_MISTAKES = {
    "no number": (("sample", "run=RUN", "n=null"), "n must be a whole number of at least 1, got None"),
    "no run": (("sample",), "run"),
    "not a run": (("sample", "run=nowhere"), "run=nowhere is not a run directory"),
    "mode": (("sample", "run=RUN", "mode=dream"), "mode=dream is unknown; the known ones are: prior, rec"),
    "ending": (("sample", "run=RUN", "out=x.jpg"), "out must end in .png or .npz, got x.jpg"),
    "number": (("sample", "run=RUN", "n=0"), "n must be a whole number of at least 1"),
}


@pytest.mark.parametrize("name", SAMPLE_MISTAKES)
def test_mistakes_of_the_other_commands(train, name):
    (command, *arguments), message = SAMPLE_MISTAKES[name]
    if "run=RUN" in arguments:
        train(*QUICK)
        arguments = [a.replace("RUN", str(only_run())) for a in arguments]
    code, _, err = train(*arguments, command=command)
    assert code == 1
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("damage", ["truncated", "another architecture"])
def test_a_bad_checkpoint_is_one_line(train, damage):
    train(*QUICK)
    path = only_run() / "checkpoints" / "last.safetensors"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        state = checkpoint.load(path)
        state["game"] = {k: v for k, v in state["game"].items() if ".prior." not in k}
        checkpoint.save(path, state)
    (only_run() / "summary.json").unlink()
    content = path.read_bytes()
    for arguments, command in ((QUICK, "train"), ((f"run={only_run()}",), "sample")):
        code, _, err = train(*arguments, command=command)
        assert code == 1
        assert damage in err
        assert err.startswith("error: ")
        assert err.count("\n") == 1
    assert path.read_bytes() == content


def test_divergence_is_one_line(train):
    code, _, err = train("data=fake", "lr=1e30", "device=cpu", "progress=false")
    assert code == 1
    assert "at step " in err.splitlines()[-1]
    assert "no checkpoint was written yet" in err.splitlines()[-1]


MINE = """
_target_: pyro_lrp.priors.Flow
dim: ${latent_dim}
transforms:
  - _target_: pyro.distributions.transforms.affine_coupling
    input_dim: ${latent_dim}
    hidden_dims: [16]
  - _target_: pyro.distributions.transforms.permute
    input_dim: ${latent_dim}
  - _target_: pyro.distributions.transforms.spline_coupling
    input_dim: ${latent_dim}
    hidden_dims: [16]
  - _target_: pyro.distributions.transforms.affine_autoregressive
    input_dim: ${latent_dim}
    hidden_dims: [16]
"""


def test_a_users_own_prior_in_yaml(train):
    """Coupling, permutation, spline coupling, autoregressive: no Python, and one density after reloads."""
    folder = Path("my conf/prior")
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(MINE)
    code, _, err = train("prior=mine", "--config-dir", "my conf", *QUICK)
    assert code == 0, err
    run = Path("runs/vae_flow-mine-fake-beta_0/seed_0")
    first, second = pyro_lrp.load(run), pyro_lrp.load(run)
    z = torch.randn(4, 8)
    final = json.loads((run / "summary.json").read_text())["final"]
    assert np.isfinite(final["test/log_prior"])
    assert torch.equal(first.prior().log_prob(z), second.prior().log_prob(z))
    saved = checkpoint.load(run / "checkpoints" / "last.safetensors")["game"]
    permutations = [v for k, v in saved.items() if k.endswith("_permutation")]
    assert any(
        torch.equal(t.permutation, permutations[0]) for t in first.prior.transforms if hasattr(t, "permutation")
    )


@pytest.mark.parametrize(
    "value",
    ["a b", "it's", "ü,ö", "a=b", "~/x", "[1,2]", "{a: 1}", "back\\slash", "tail\\", "q\\'q", "${x}", "null2"],
)
def test_any_path_survives_the_shim(value):
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    override = OverridesParser.create().parse_override(cli._quoted(f"data.root={value}"))
    tree = OmegaConf.create({"root": override.value()})
    assert tree.root == value
    assert cli._quoted("beta=1") == "beta=1"
    assert cli._quoted("out=null") == "out=null"


@pytest.mark.parametrize("command", ["train", "sample", "evaluate", "check", "figure"])
def test_help_fits_a_screen(train, command):
    code, out, _ = train("--help", command=command)
    assert code == 0
    assert len(out.splitlines()) <= 40
    assert max(map(len, out.splitlines())) <= 110
    assert f"python -m pyro_lrp.{command}" in out
