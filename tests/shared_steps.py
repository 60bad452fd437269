"""Two processes: every game takes steps shared by both, and alone with the whole minibatch.

They return the largest relative difference of parameters and statistics, by game; those of games with batch
norm also where its statistics are synchronised.
"""

import copy
import os

import torch
from builders import GAMES, difference, jiggle, small_autoencoder
from commands import run_forked
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from pyro_lrp import data, likelihoods, models, networks, objectives, priors, transforms
from pyro_lrp.data import Split
from pyro_lrp.data.batches import Batches
from pyro_lrp.schedules import Progress
from pyro_lrp.trainer import Step
from pyro_lrp.trainer.devices import make_fabric
from pyro_lrp.trainer.optimizers import make_optimizers
from pyro_lrp.trainer.processes import Processes, SharedStep

STEPS = 3


def adversarial():
    """An adversarial game without batch norm, whose statistics are those of each process's rows."""
    prior = priors.Flow(4, transforms.paper_flow(4, layers=2, width=8))
    return objectives.Adversarial(small_autoencoder(prior=prior), networks.discriminator(4, 1, 8), 1.0)


def convolutional():
    """Batch norms of images and of vectors, in the encoder and in the decoder."""
    encoder, decoder = networks.infogan((1, 8, 8), 4, channels=(4, 4), hidden=8)
    prior = priors.paper_flow(4, layers=2, width=8)
    autoencoder = models.Autoencoder(encoder, decoder, prior, likelihoods.Gaussian())
    return objectives.LatentGame(autoencoder, objectives.BilevelELBO(0.5))


EVERY = {**GAMES, "adversarial, of a flow": adversarial, "convolutional": convolutional}
NORMALIZED = ("adversarial", "adversarial, beta on a ramp", "convolutional")


def taken(game, fabric, kind, share, **options):
    """The parameters after some steps."""
    torch.set_default_dtype(torch.float64)
    optimizers = make_optimizers(game, game.players(), lr=1e-3)
    step = kind(game, game.turns("joint"), optimizers, fabric, **options)
    batches = Batches(data.fake(60, (1, 8, 8)).train, 12, fetch=Split.batch)
    batches.share = share
    for number in range(STEPS):
        step.prepare(number, Progress(epoch=0, fraction=number / STEPS))
        step([batches.at(number, stream) for stream in range(step.streams)])
    torch.set_default_dtype(torch.float32)
    return game.state_dict()


def apart(build, processes):
    """The largest relative difference between steps that are shared and steps taken alone."""
    torch.manual_seed(0)
    alone = jiggle(build()).double().train()
    together = copy.deepcopy(alone)
    expected = taken(alone, processes.fabric, Step, slice(None))
    found = taken(together, processes.fabric, SharedStep, processes.own, processes=processes)
    return difference(expected, found, least=1e-3)


def compared():
    """The largest differences by game, of one process that ``torchrun`` would start."""
    torch.set_num_threads(1)
    fabric = make_fabric("cpu", "32")
    alone = Processes(fabric)
    synchronised = Processes(fabric, sync_batch_norm=True)
    differences = {name: apart(build, alone) for name, build in EVERY.items()}
    for name in NORMALIZED:
        differences[f"{name}, synchronised"] = apart(EVERY[name], synchronised)
    return differences


def train(folder, arguments, environment):
    """Run the command as one process of ``torchrun``; ``output_<rank>.txt`` has what it prints."""
    output = f"output_{os.environ['RANK']}.txt"
    run_forked("train", arguments, folder, environment, output=output)


def launched(function, *arguments):
    """What a function returns in each of two processes of ``torchrun``, forked as commands are."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id="pair",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="forkserver",
    )
    return elastic_launch(config, function)(*arguments)
