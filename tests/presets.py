"""The files of ``conf/prior``: what each needs beside its name, and small trainings of them."""

from commands import ROOT

from pyro_lrp import config

UNETS = {  # of two latents
    "unet_flow": "vunet_flow",
    "unet_autoregressive": "vunet",
}
ZOO = sorted({path.stem for path in (ROOT / "conf" / "prior").iterdir()} - set(UNETS))
NEEDS = {  # what a prior needs beside its name
    "conditional_flow": ("context=label",),
    "neural_sampler": ("objective=adversarial", "objective.discriminator.width=16", "prior.width=16"),
    "mixture": ("prior.components=8",),
    "vamp": ("prior.components=20",),
    "flow_matching": ("prior.width=16", "prior.layers=2"),
    "spline": ("prior.layers=2",),
    "zuko": ("prior.flow.hidden_features=[16,16]", "prior.flow.transforms=2"),
}
SMALL = (
    "data.flow.layers=2", "data.flow.width=8", "latent_dim=4", "network=mlp", "data.limit=144", "batch_size=24",
)  # fmt: skip
POSED = (
    "data=posed_figures", "data.n=30", "data.test=6", "data.image_size=32", "likelihood=gaussian",
    "network.first=1", "network.most=2", "latent_dim=160", "data.flow.layers=2", "data.flow.width=4",
    "batch_size=6",
)  # fmt: skip
SHORT = (
    "epochs=1", "prior_epochs=1", "device=cpu", "progress=false", "trainer.evaluations=1",
    "trainer.evaluation_images=6",
)  # fmt: skip


def planned(name, beta, *more):
    """A maker of trainers of a preset, which write nothing unless they are given a directory."""
    chosen = (f"prior={name}", *SMALL, *NEEDS.get(name, ()))
    if name in UNETS:
        chosen = (f"model={UNETS[name]}", f"prior={name}", *POSED)
    plan = config.compose_train(*chosen, *SHORT, f"beta={beta}", *more)
    data = config.planned_data(plan)

    def make(log=lambda line: None, directory=None):
        run = config.Run.planned(plan, data)
        run.directory = directory
        return run.trainer(plan.circumstances, log=log)

    return make
