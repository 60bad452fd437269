"""A decoder-only phase: decoder and likelihood are trained on codes of a frozen encoder, with noise on them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.randomness import derive_seed, seeded
from pyro_lrp.data import Batches, Split
from pyro_lrp.models import CodedImages, Codes
from pyro_lrp.objectives import Game
from pyro_lrp.trainer.phases import Span

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["check_code_noise", "decoder_batches"]


def check_code_noise(noise: float) -> float:
    """The noise, if it can be that of codes.

    Raises:
        UserError: If it is negative or not finite.
    """
    if not (math.isfinite(noise) and noise >= 0):
        raise UserError(f"decoder_code_noise must be a number of at least 0, got {noise}")
    return noise


def decoder_batches(
    game: Game,
    span: Span,
    train: Split,
    *,
    code_noise: float,
    seed: int,
    fabric: Fabric,
    log: Callable[[str], None],
) -> Batches:
    """Set a game up for a decoder-only phase; minibatches of images with their codes.

    Codes are computed once, in eval mode, because the encoder does not move. A decoder that has seen noisy
    codes also decodes samples of a prior that fits imperfectly (Gu et al., 2025, STARFlow; Zheng et al., 2025,
    Diffusion Transformers with Representation Autoencoders).

    Args:
        game: Has stored codes of the images.
        span: The phase.
        train: The training images.
        code_noise: Noise on the codes, in units of each dimension's own standard deviation.
        seed: Of the order of the images.
        fabric: Device and precision.
        log: Receives a line of text.
    """
    if code_noise:
        log(f"{span.name}: noise of {code_noise:g} deviations on the codes")
    game.eval()
    with torch.no_grad(), fabric.autocast(), seeded(seed, "codes"):
        codes = game.codes(train)
    assert isinstance(codes, Codes), "the game has refused the phase otherwise"
    coded = CodedImages(train, codes.noised(code_noise))
    game.train()
    return Batches(
        coded,
        span.batch_size,
        seed=derive_seed(seed, span.name),
        fetch=CodedImages.rows,
        length=len(train),
        device=train.rows_on(fabric.device),
    )
