"""Every file of conf/prior: the laws, training under both betas, resuming, reloading, sampling."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from presets import NEEDS, UNETS, ZOO, planned

import pyro_lrp

SMALL = ("data.flow.layers=2", "data.flow.width=16", "device=cpu", "progress=false")
ODD = "expected an even latent_dim, got 5"
EVEN_ONLY = {  # the paper's flow splits a code into halves
    "flow": ODD,
    "flow_on_mixture": ODD,
    "conditional_flow": ODD,
    "spatial_flow": "with an even C, got (5, 1, 1)",
}


@pytest.fixture
def run(train):
    def command(name, *arguments):
        return train(*arguments, command=name)

    return command


def dims():
    """Every preset at the dimension of quadrature, and at a larger one, which is odd where it may be."""
    for name in ZOO:
        yield name, 2
        yield name, 6 if name in EVEN_ONLY else 5


@pytest.mark.parametrize(("name", "dim"), [*dims()])
def test_the_laws_hold(run, name, dim):
    needs = [need for need in NEEDS.get(name, ()) if not need.startswith("objective")]
    code, out, err = run("check", f"prior={name}", f"latent_dim={dim}", *SMALL, *needs)
    assert code == 0, out + err
    assert "all laws hold" in out


@pytest.mark.parametrize("name", EVEN_ONLY)
def test_an_odd_dimension_is_refused(run, name):
    code, _, err = run("check", f"prior={name}", "latent_dim=5", *SMALL)
    assert (code, EVEN_ONLY[name] in err) == (1, True)


POSED = (
    "data=posed_figures", "data.n=40", "data.test=10", "data.image_size=32", "likelihood=gaussian",
    "network.first=1", "network.most=2", "latent_dim=160", *SMALL,
)  # fmt: skip


@pytest.mark.parametrize("name", UNETS)
def test_the_laws_hold_of_two_latents(run, name):
    code, out, err = run("check", f"model={UNETS[name]}", f"prior={name}", *POSED)
    assert code == 0, out + err
    assert "all laws hold" in out


def test_priors_of_latents_are_composed_in_yaml(run):
    """The coarse latent has a flow, the fine one stays N(0, I)."""
    Path("mine/prior").mkdir(parents=True)
    Path("mine/prior/mixed.yaml").write_text(
        "_target_: pyro_lrp.priors.Hierarchy\n"
        "scales:\n"
        "  - {_target_: pyro_lrp.priors.conditional_spatial_flow, shape: [2, 4, 4], layers: 2, width: 4}\n"
        "  - {_target_: pyro_lrp.priors.StandardNormal, dim: 128}\n"
    )
    few = ("epochs=1", "prior_epochs=1", "batch_size=20", "name=mixed", "--config-dir", "mine")
    code, _, err = run("train", "model=vunet_flow", "prior=mixed", *POSED, *few)
    assert code == 0, err
    scales = pyro_lrp.load("runs/mixed/seed_0").prior.scales
    assert [type(prior).__name__ for prior in scales] == ["ConditionalFlow", "StandardNormal"]


@pytest.mark.parametrize("name", ZOO)
def test_it_trains_reloads_and_samples(run, name):
    arguments = (
        f"prior={name}", "latent_dim=4", "epochs=1", "prior_epochs=1", "trainer.evaluations=1",
        "trainer.evaluation_images=20", "data.limit=180", "batch_size=20", *SMALL, *NEEDS.get(name, ()),
    )  # fmt: skip
    code, _, err = run("train", *arguments, "name=x")
    assert code == 0, err
    final = json.loads(Path("runs/x/seed_0/summary.json").read_text())["final"]
    assert final["phase"] == ("joint" if name == "standard_normal" else "prior_only")
    context = torch.eye(10)[:3] if name == "conditional_flow" else None
    assert pyro_lrp.load("runs/x/seed_0").draw(3, context=context).images.shape == (3, 1, 8, 8)
    code, _, err = run("sample", "run=runs/x/seed_0", "n=5", "out=five.npz")
    assert code == 0, err
    assert np.load("five.npz")["images"].shape == (5, 1, 8, 8)


@pytest.mark.parametrize("beta", [0, 1])
@pytest.mark.parametrize("name", ZOO)
def test_it_resumes_bit_for_bit(tmp_path, interrupt_at, name, beta):
    """From the report before, in the joint phase and, at β = 0, in the prior-only one, which knows no β."""
    two_phases = beta == 0 and name != "standard_normal"
    more = ("trainer.report_every=2", "trainer.save_minutes=0", f"prior_epochs={1 - beta}")
    make = planned(name, beta, *more)
    make(directory=tmp_path / "whole").fit()
    said = []
    stops = interrupt_at(4, 8) if two_phases else interrupt_at(4)
    while stops:
        with pytest.raises(KeyboardInterrupt):
            make(said.append, tmp_path / "parts").fit()
    make(said.append, tmp_path / "parts").fit()
    resumed = [line.split(" of ")[0] for line in said if line.startswith("resumes")]
    assert resumed == ["resumes at step 2", "resumes at step 6"][: 1 + two_phases]
    ends = [tmp_path / folder / "checkpoints" / "last.safetensors" for folder in ("whole", "parts")]
    assert ends[0].read_bytes() == ends[1].read_bytes()


CONDITIONAL = ("data=digits", "prior=conditional_flow", "context=label", "epochs=1", "prior_epochs=0", *SMALL)


def test_samples_are_given_the_class_that_is_asked_for(run):
    assert run("train", *CONDITIONAL, "name=c")[0] == 0
    draws = {}
    for asked in ("context=3", "context=[3,4]", "seed=0"):
        code, _, err = run("sample", "run=runs/c/seed_0", asked, "n=20", "out=a.npz")
        assert code == 0, err
        draws[asked] = np.load("a.npz")["latents"]
    assert np.array_equal(draws["context=3"][::2], draws["context=[3,4]"][::2])
    assert not np.array_equal(draws["context=3"][1::2], draws["context=[3,4]"][1::2])
    assert np.array_equal(draws["context=3"][3], draws["seed=0"][3])  # all classes in turn
    code, _, err = run("sample", "run=runs/c/seed_0", "context=12")
    assert (code, err) == (
        1,
        "error: context=12 is no class of this run; there are 0, 1, 2, 3, 4, 5, 6, 7, 8, 9\n",
    )


def test_a_context_network_makes_features_of_a_context_first(run):
    network = "{_target_: pyro_lrp.networks.perceptron, input_dim: 10, hidden_dims: [16], output_dim: 4}"
    code, _, err = run("train", *CONDITIONAL, f"prior.context_network={network}", "name=n")
    assert code == 0, err
    prior = pyro_lrp.load("runs/n/seed_0").prior
    assert prior.mean.in_features == 4
    assert not torch.equal(*prior(torch.eye(10)[:2]).log_prob(torch.zeros(2, 6)))


def test_attributes_as_contexts_on_faces(run, real_data):
    short = ("data.split=[30,10]", "data.limit=20", "batch_size=10", "prior_batch_size=10", *SMALL)
    faces = ("experiment=faces_small", "prior=conditional_flow", "epochs=1", "prior_epochs=1", *short)
    code, _, err = run("train", *faces, "context=[Smiling,Male]", f"data.root={real_data}", "name=f")
    assert code == 0, err
    assert run("sample", "run=runs/f/seed_0", "n=2", "context=[Smiling]")[0] == 0
    code, _, err = run("sample", "run=runs/f/seed_0", "n=2", "context=[Hat]")
    assert (code, "Hat is no attribute of this run; there are Smiling, Male" in err) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("prior=conditional_flow",),
            "prior=conditional_flow is conditional: say on what, such as context=label",
        ),
        (("context=label",), "context has no effect: prior=flow takes none; try prior=conditional_flow"),
        (
            ("prior=conditional_flow", "prior.context_dim=3"),
            "conditional on contexts of length 3, and this run has",
        ),
        (("prior=conditional_flow", "context=label", "prior.context_dim=3"), "expected a context_dim of 10"),
        (
            ("prior=conditional_flow", "context=attributes"),
            "needs attributes, and the data set digits has none",
        ),
        (
            ("prior=conditional_flow", "context=colour"),
            "context must be one of label, attributes, pose, a list of attributes",
        ),
        (
            ("prior=conditional_flow", "context=label", "objective=adversarial"),
            "compares codes without a context",
        ),
        (("order=later",), "order must be joint or two_stage, got 'later'"),
        (("prior_code_noise=-1",), "prior_code_noise must be a finite number of at least 0, got -1"),
        (("prior_ema=1",), "prior_ema must be a number of at least 0 and below 1, got 1"),
        (("prior_patience=0",), "prior_patience must be a whole number of at least 1, or null, got 0"),
        (("prior_patience=1", "data.validation=0"), "prior_patience needs held-out codes"),
        (("prior=mixture", "prior.covariance=tied"), "expected covariance to be 'full' or 'diag', got 'tied'"),
        (("prior=vamp", "network=mlp", "network.stochastic=false"), "VampPrior needs an encoder with noise"),
        (("prior=flow", "prior.dropout=1"), "expected dropout to be a share of at least 0 and below 1, got 1"),
        (("prior=flow", "prior.whiten=zca"), "expected a whitening of 'standardize' or 'pca', got 'zca'"),
        (
            ("prior=realnvp", "prior.transforms.0.input_dim=5"),
            "transform 0 (AffineCoupling) does not accept vectors of length 4",
        ),
    ],
)
def test_mistakes_are_one_line(run, arguments, message):
    latent = () if any(a.startswith("latent") for a in arguments) else ("latent_dim=4",)
    code, out, err = run("train", *arguments, *latent, *SMALL)
    assert (code, out) == (1, "")
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not Path("runs").exists()


def test_an_autoencoder_trained_alone_at_beta_zero_is_the_jointly_trained_one(run):
    """At beta = 0 the prior does not reach the autoencoder, so the two orders differ in the prior alone."""
    short = ("epochs=2", "prior_epochs=1", "data.limit=600", "beta=0", *SMALL)
    assert run("train", *short, "order=joint", "name=joint")[0] == 0
    code, _, err = run("train", *short, "order=two_stage", "name=two")
    assert code == 0, err
    joint, two = (pyro_lrp.load(f"runs/{name}/seed_0") for name in ("joint", "two"))
    for part in ("encoder", "decoder"):
        for key, tensor in getattr(joint, part).state_dict().items():
            assert torch.equal(tensor, getattr(two, part).state_dict()[key]), key
    rows = [json.loads(line) for line in Path("runs/two/seed_0/metrics.jsonl").read_text().splitlines()]
    epochs = {row["phase"]: row["epoch"] for row in rows}
    assert epochs == {
        "autoencoder_only": 2,
        "prior_only": 5,
    }  # the prior sees as many codes as in the joint order


def test_in_the_first_stage_the_autoencoder_is_regularized_by_a_standard_normal(run):
    """Order two_stage at beta = 1 trains the very autoencoder of model=vae, prior=standard_normal."""
    short = ("epochs=1", "prior_epochs=1", "data.limit=600", "beta=1", *SMALL)
    assert run("train", *short, "order=two_stage", "name=two")[0] == 0
    assert run("train", *short, "prior=standard_normal", "name=vae")[0] == 0
    two, vae = (pyro_lrp.load(f"runs/{name}/seed_0") for name in ("two", "vae"))
    for key, tensor in vae.decoder.state_dict().items():
        assert torch.equal(tensor, two.decoder.state_dict()[key]), key
