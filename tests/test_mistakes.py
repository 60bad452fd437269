"""Mistakes are one line that names the key."""

from pathlib import Path

import pytest
from commands import QUICK

MISTAKES = {
    "a data set that is none": (("+data={_partial_:true}",), "data: its _target_ must return an ImageData"),
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
    "no batch": (("batch_size=0",), "batch_size must be a whole number of at least 1, or null, got 0"),
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
    "no hidden layer": (("network.hidden_dims=[]",), "network: expected hidden_dims to hold the width of one"),
    "negative layer": (("network.hidden_dims=[-3]",), "network: "),
    "no schedule": (("~trainer.schedule",), "trainer.schedule must be a schedule"),
    "schedule": (("trainer=small", "trainer.schedule.start=x"), "expected start to be a share"),
    "trainer key": (("+trainer.colour=1",), "colour"),
    "no elbo": (("objective.elbo=null",), "expected elbo to be a BilevelELBO"),
    "allow_targets": (("allow_targets=3",), "allow_targets must be a list of prefixes"),
    "epochs in words": (("epochs=ten",), "epochs must be a whole number of at least 0, or null, got 'ten'"),
    "components": (
        ("prior=mixture", "prior.components=231"),
        "a mixture of 231 components needs as many codes, got 230: say fewer components",
    ),
    "components of a base": (
        ("prior=flow_on_mixture", "prior.base.components=300", "order=two_stage"),
        "a mixture of 300 components needs as many codes, got 230",
    ),
    "optimizers": (("trainer.optimizers=3",), "trainer.optimizers must be options by player"),
    "no lr": (("lr=0",), "lr must be a number above 0, got 0"),
    "limit": (("data.limit=1000",), "data.limit must be between 1 and 256, got 1000"),
    "image size": (("network=infogan", "data.image_shape=[1,30,30]"), "multiple of 4, got 30x30"),
    "gamma": (("likelihood.gamma=-1",), "likelihood: expected gamma"),
    "device": (("device=tpu",), "device must be auto, cpu, cuda or mps, got 'tpu'"),
    "logger": (("logger=paper",), "logger must be none, tensorboard, wandb or trackio, got 'paper'"),
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


@pytest.mark.parametrize("seed", [2**32, 2**64, 10**30])
def test_any_seed_serves(train, seed):
    """scikit-learn takes 32 bits: a larger one is derived, where the prior is fitted."""
    code, _, err = train(*QUICK, "prior=mixture", "prior.components=3", f"seed={seed}")
    assert code == 0, err


SAMPLE_MISTAKES = {
    "no number": (("sample", "run=RUN", "n=null"), "n must be a whole number of at least 1, got None"),
    "no run": (("sample",), "run= is missing: python -m pyro_lrp.sample needs it; see --help"),
    "nothing to judge": (("evaluate",), "run= is missing: python -m pyro_lrp.evaluate needs it"),
    "no figure": (("figure", "runs=RUN"), "number= is missing: python -m pyro_lrp.figure needs it"),
    "no runs": (("figure", "number=4"), "runs= is missing: python -m pyro_lrp.figure needs it"),
    "not a run": (("sample", "run=nowhere"), "run=nowhere is not a run directory: there is no such folder"),
    "the folder of runs": (
        ("sample", "run=RUN/.."),
        "it has no config.yaml; runs/vae_flow-flow-fake-beta_0/seed_0/../seed_0 has one",
    ),
    "mode": (("sample", "run=RUN", "mode=dream"), "mode=dream is unknown; the known ones are: prior, rec"),
    "ending": (
        ("sample", "run=RUN", "out=x.tiff"),
        "out must end in .png, .jpg, .jpeg, .pdf, .gif or .npz, got x",
    ),
    "number": (("sample", "run=RUN", "n=0"), "n must be a whole number of at least 1"),
}


@pytest.mark.parametrize("name", SAMPLE_MISTAKES)
def test_mistakes_of_the_other_commands(train, trained_by, name):
    (command, *arguments), message = SAMPLE_MISTAKES[name]
    if any("RUN" in argument for argument in arguments):
        run = trained_by(*QUICK)
        arguments = [a.replace("RUN", str(run)) for a in arguments]
    code, _, err = train(*arguments, command=command)
    assert code == 1
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
