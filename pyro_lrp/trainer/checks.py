"""What a training cannot be made of, refused before it begins."""

from __future__ import annotations

from torch import nn

from pyro_lrp.core.errors import UserError
from pyro_lrp.data import Split
from pyro_lrp.trainer.prior_phase import PriorPhase

__all__ = ["check_batches", "check_data"]


def check_data(train: Split, held_out: Split, test: Split, prior_phase: PriorPhase) -> None:
    """Refuse splits that are empty and needed.

    Raises:
        UserError: If there are no training or test images, or none that an early stop can score.
    """
    if not len(train) or not len(test):
        raise UserError("there must be training images, besides the held-out ones, and test images")
    if prior_phase.patience is not None and not len(held_out):
        raise UserError("prior_patience needs held-out codes: validation must be above 0")


def check_batches(game: nn.Module, batch_size: int, prior_batch_size: int, images: int) -> None:
    """Refuse minibatches that are too small or too large.

    Raises:
        UserError: If a batch normalization would see one image, or there are fewer images than codes asked for.
    """
    norm = nn.modules.batchnorm._BatchNorm
    normalized = any(isinstance(module, norm) for module in game.modules())
    if batch_size == 1 and normalized:
        raise UserError("batch_size must be at least 2 for a network with batch normalization")
    if prior_batch_size > images:
        raise UserError(f"prior_batch_size must be at most the {images} images there are")
