"""Games over one autoencoder and its prior: their common part, and the game of one ELBO."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.modules import learns
from pyro_lrp.data import Batch, Split
from pyro_lrp.models import Autoencoder, CodedImages, Codes, ImageCodes
from pyro_lrp.objectives.collapse import collapse
from pyro_lrp.objectives.elbo import BilevelELBO, Losses
from pyro_lrp.objectives.game import Game, Turn
from pyro_lrp.objectives.prior_game import check_prior_fit, prior_loss
from pyro_lrp.objectives.regularization import is_diagonal
from pyro_lrp.objectives.weight import Weight
from pyro_lrp.schedules import Progress, Schedule

__all__ = ["AutoencoderGame", "LatentGame"]


class AutoencoderGame(Game):
    """The common part of games over one autoencoder and its prior.

    While the autoencoder is trained alone (``"autoencoder_only"``, the first stage of two), N(0, I) stands in
    for its prior. In ``"decoder_only"`` decoder and likelihood are trained on codes of the frozen encoder.

    Args:
        autoencoder: Its encoder, decoder and likelihood are the player ``autoencoder``; its prior is ``prior``.
        beta: Weight of the latent regularization.
        beta_schedule: Factor of β over the joint phase.
    """

    def __init__(
        self, autoencoder: Autoencoder, beta: float | Tensor, beta_schedule: Schedule | None = None
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.beta = Weight(beta, beta_schedule)
        self.stand_in = autoencoder.prior.stand_in()
        # in a list: its parts are registered once
        self._first_stage = [autoencoder.with_prior(self.stand_in)]
        self.alone = False

    def players(self) -> dict[str, nn.ModuleList]:
        ae = self.autoencoder
        parts = [ae.encoder, ae.decoder, ae.likelihood]
        return {
            "autoencoder": nn.ModuleList(parts),
            "prior": nn.ModuleList([ae.prior]),
        }

    def prior_learns(self) -> bool:
        """Whether the prior has anything to train."""
        return learns(self.autoencoder.prior)

    def autoencoder_learns(self) -> bool:
        """Whether encoder, decoder or likelihood have anything to train; frozen ones have not."""
        ae = self.autoencoder
        return learns(ae.encoder, ae.decoder, ae.likelihood)

    def initialize(self, batch: Any) -> None:
        self.autoencoder.initialize(batch.x, batch.context)

    def advance(self, progress: Progress) -> None:
        self.beta.advance(progress)
        untrained = progress.phase == "decoder_only" and not progress.prior_was_joint
        self.alone = progress.phase == "autoencoder_only" or untrained

    def decoder_turns(self) -> tuple[Turn, ...]:
        """The turns of a decoder-only phase: one, in which no gradient reaches the encoder."""
        if len(self.autoencoder.sites) > 1:
            raise UserError("a decoder-only phase needs codes that can be stored, those of one latent")
        if not self.autoencoder_learns():
            return ()
        return (Turn("decoder", ("autoencoder",)),)

    def decoder_alone(self, coded: CodedImages) -> Losses:
        """-log p(x|z) of images whose codes are given."""
        with torch.no_grad():
            z = coded.codes.sample()
        assert isinstance(coded.images, Batch), "a turn is given a minibatch"
        x = coded.images.x
        with pyro.plate("batch", len(x)):
            trace = poutine.trace(self.autoencoder.observe).get_trace(z, coded.codes.context, x)
        trace.compute_log_prob(lambda name, site: site["is_observed"])
        log_likelihood = trace.nodes["x"]["log_prob_sum"] / len(x)
        return Losses(-log_likelihood, {"log_likelihood": log_likelihood.detach(), **self.gamma()})

    def in_force(self) -> Autoencoder:
        """The autoencoder with the prior of the present phase."""
        if self.alone:
            return self._first_stage[0]
        return self.autoencoder

    def codes(self, images: Split | Batch) -> Codes | ImageCodes:
        return self.autoencoder.codes(images)

    def check_fit(self, codes: int) -> None:
        check_prior_fit(self.autoencoder.prior, codes)

    def fit(self, codes: Codes | ImageCodes) -> dict[str, Any] | None:
        prior = self.autoencoder.prior
        if not prior.estimates:
            return None
        return prior.fit(codes.sample(), codes.context)

    def fault(self, terms: Mapping[str, float]) -> str | None:
        return self.autoencoder.likelihood.fault(terms)

    def gamma(self) -> dict[str, Tensor]:
        """The decoder's variance, for the log, if the likelihood has one."""
        gamma = getattr(self.autoencoder.likelihood, "gamma", None)
        if gamma is None:
            return {}
        return {"gamma": gamma.detach()}


class LatentGame(AutoencoderGame):
    """An autoencoder and its prior under one ELBO: the joint turn moves both, the prior's turn only the prior.

    Args:
        autoencoder: Its encoder, decoder and likelihood are the player ``autoencoder``; its prior is ``prior``.
        elbo: Computes the joint turn, and the autoencoder's alone.
        beta_schedule: Factor of the ELBO's β over the joint phase.
        latent_reconstruction: Weight, for encoder and decoder, of -log q(z | G(z)) of codes z drawn from the
            prior: a remedy against codes that the decoder ignores. 0 for none, as in the paper's own models.

    Raises:
        TypeError: If the prior has no density, or no closed form that the ELBO insists on.
        ValueError: If ``latent_reconstruction`` is negative, or the ELBO weighs the entropy of codes that have
            none to learn, or whose scale would grow without bound.

    References:
        Morrow and Chiu, section 2, which names the remedy; Zhu et al. (2017), Toward Multimodal Image-to-Image
        Translation, section 3.2 (the latent regressor); Chen et al. (2016), InfoGAN, Eq. 5 (this form).
    """

    def __init__(
        self, autoencoder: Autoencoder, elbo: BilevelELBO, beta_schedule: Schedule | None = None,
        latent_reconstruction: float = 0.0,
    ) -> None:  # fmt: skip
        weight = latent_reconstruction
        if not (isinstance(weight, (int, float)) and math.isfinite(weight) and weight >= 0):
            raise ValueError(f"expected latent_reconstruction to be at least 0, got {weight!r}")
        if not isinstance(elbo, BilevelELBO):
            raise TypeError(f"expected elbo to be a BilevelELBO, got {elbo!r}")
        prior = autoencoder.prior
        kind = type(prior).__name__
        if not prior.has_log_prob:
            raise TypeError(f"{type(elbo).__name__} needs log p(z), and the prior {kind} can only be sampled")
        if elbo.kl == "analytic" and (prior.context_dim or not is_diagonal(prior())):
            raise TypeError(
                f"kl=analytic needs a diagonal normal p(z), which {kind} is not: use sampled or auto"
            )
        _check_entropy(elbo, autoencoder.encoder)
        super().__init__(autoencoder, elbo.beta, beta_schedule)
        self.elbo = elbo.weighed_by(self.beta)
        self.latent_reconstruction = latent_reconstruction

    def turns(self, phase: str) -> tuple[Turn, ...]:
        if phase == "decoder_only":
            return self.decoder_turns()
        moves = []
        if phase in ("joint", "autoencoder_only") and self.autoencoder_learns():
            moves.append("autoencoder")
        if phase in ("joint", "prior_only") and self.prior_learns():
            moves.append("prior")
        if not moves:
            return ()
        name = phase.removesuffix("_only")
        return (Turn(name, tuple(moves)),)

    def caution(self, phase: str, images: Split) -> str | None:
        if not learns(self.autoencoder.encoder):  # codes that do not move neither collapse nor shrink
            return None
        prior = self.autoencoder.prior
        if phase == "autoencoder_only":
            prior = self.stand_in
        elbo = self.elbo
        if phase == "joint" and self._scale_shrinks():
            return (
                "with fixed noise in units of the codes' spread, a learned prior that pulls lets the codes "
                "shrink without end: network.latent_norm=batch keeps their scale"
            )
        if phase not in ("joint", "autoencoder_only") or elbo.weighs_halves or elbo.free_bits:
            return None
        return collapse(prior, self.autoencoder.likelihood, self.beta.value, images)

    def _scale_shrinks(self) -> bool:
        """Whether nothing keeps codes from shrinking towards a point of high density."""
        encoder = self.autoencoder.encoder
        noise_follows = not getattr(encoder, "learns_noise", True)
        free = noise_follows and not getattr(encoder, "standardised", False)
        pull = self.elbo.beta_prior
        return free and self.prior_learns() and (isinstance(pull, Tensor) or pull > 0)

    def score(self, batch: Any) -> dict[str, Tensor]:
        return self._losses(batch).terms

    def forward(self, turn: str, batches: Sequence[Any], memo: dict[str, Any]) -> Losses:
        if turn == "prior":
            return self._prior_alone(batches[0])
        if turn == "decoder":
            return self.decoder_alone(batches[0])
        (batch,) = batches
        losses = self._losses(batch)
        loss = losses.loss / len(batch.x)
        terms = {**losses.terms, **self.gamma(), **self.beta.terms("beta")}
        if self.latent_reconstruction:
            error = self._latent_error(batch)
            loss = loss + self.latent_reconstruction * error
            terms["latent_error"] = error.detach()
        return Losses(loss, terms, losses.latents)

    def _latent_error(self, batch: Any) -> Tensor:
        """-log q(z | G(z)) in nats per code, of as many codes of the prior as there are images."""
        autoencoder = self.in_force()
        with torch.no_grad():
            p = autoencoder.prior(batch.context)
            # a normal distribution's sample() makes the host wait, to check the scale
            z = p.rsample() if p.has_rsample else p.sample()
        images = autoencoder.decode(z, batch.context)
        q = autoencoder.encode(images, batch.context)
        return -q.log_prob(z).mean()

    def _prior_alone(self, codes: Codes | ImageCodes | Batch) -> Losses:
        """The lower objective: -log p(z) of codes, or the prior's own loss."""
        with torch.no_grad():
            if isinstance(codes, Batch):
                codes = self.autoencoder.codes(codes)
            z = codes.sample()
        return prior_loss(self.autoencoder.prior, z, codes.context)

    def _losses(self, batch: Any) -> Losses:
        autoencoder = self.in_force()
        model, guide = autoencoder.model, autoencoder.guide
        return self.elbo.losses(model, guide, batch.x, batch.context)


def _check_entropy(elbo: BilevelELBO, encoder: nn.Module) -> None:
    """Refuse a weight of the entropy alone that has no effect or no optimum."""
    if not elbo.weighs_halves or elbo.beta_entropy == 0:
        return
    if not getattr(encoder, "learns_noise", True):
        raise ValueError("beta_entropy has no effect: the noise of the codes does not depend on the encoder")
    if elbo.beta_prior == 0 and not getattr(encoder, "standardised", False):
        raise ValueError(
            "beta_entropy without beta_prior lets the scale of the codes grow without bound: "
            "standardise the means (latent_norm=batch), or give beta_prior a weight too"
        )
