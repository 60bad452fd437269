"""Training: one loop that hands out turns to the players of a game, phase after phase."""

from pyro_lrp.schedules import Phase
from pyro_lrp.trainer.loop import Trainer
from pyro_lrp.trainer.prior_phase import PriorPhase
from pyro_lrp.trainer.scoring import Report
from pyro_lrp.trainer.step import Step

__all__ = ["Phase", "PriorPhase", "Report", "Step", "Trainer"]
