"""Objectives: the bilevel ELBO, and the games of named players that are built on it or stand beside it."""

from pyro_lrp.core.gradients import scale_grad
from pyro_lrp.models import Codes
from pyro_lrp.objectives.adversarial import Adversarial
from pyro_lrp.objectives.elbo import BilevelELBO, Losses
from pyro_lrp.objectives.game import Game, Turn
from pyro_lrp.objectives.games import AutoencoderGame, LatentGame
from pyro_lrp.objectives.prior_game import PriorGame
from pyro_lrp.objectives.total_correlation import TotalCorrelation, permute_dims
from pyro_lrp.objectives.weight import Weight

__all__ = [
    "Adversarial", "AutoencoderGame", "BilevelELBO", "Codes", "Game", "LatentGame", "Losses",
    "PriorGame", "TotalCorrelation", "Turn", "Weight", "permute_dims", "scale_grad",
]  # fmt: skip
