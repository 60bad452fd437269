"""The adversarial autoencoder with a fixed or a learned prior, in three turns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_lrp.core.gradients import frozen, full_precision
from pyro_lrp.models import Autoencoder
from pyro_lrp.objectives.elbo import Losses
from pyro_lrp.objectives.game import Turn
from pyro_lrp.objectives.games import AutoencoderGame
from pyro_lrp.schedules import Schedule

__all__ = ["Adversarial"]


class Adversarial(AutoencoderGame):
    r"""The bilevel AAE (Morrow and Chiu, Eq. 14-16), in three turns.

    With D the probability that a code came from the prior, each turn descends the negative of

    - :math:`F = E_q[\log p(x|z) - \beta \log(1 - D(z))]`, for encoder and decoder;
    - :math:`g = E_{p_\theta}[\log D(z)] + E_q[\log(1 - D(z))]`, for the discriminator;
    - :math:`f = E_{p_\theta}[-\log D(z)]`, for the prior, if it learns.

    In a prior-only phase the last two go on with the encoder's codes frozen.

    Args:
        autoencoder: With any prior whose samples are differentiable (``rsample``); no density is needed.
        discriminator: Maps codes ``(B, *event_shape)`` to one logit of D, ``(B, 1)``.
        beta: Weight of the adversarial term for the encoder, at least 0; a constant 0.0 leaves it out.
        gan_loss: ``"minimax"``, which is what the equations say; or ``"nonsaturating"``, which gives encoder
            and prior the usual stand-ins -log D(z) and -log(1 - D(z)).
        beta_schedule: Factor of β over the joint phase.

    Raises:
        TypeError: If the prior's samples are not differentiable.
        ValueError: If ``beta`` is negative or not finite, or ``gan_loss`` is unknown.

    References:
        Makhzani et al. (2015), Adversarial Autoencoders; Goodfellow et al. (2014) for the two losses.

    >>> from pyro_lrp import likelihoods, networks, priors
    >>> encoder, decoder = networks.mlp((1, 8, 8), latent_dim=2, hidden_dims=(16,), stochastic=False)
    >>> ae = Autoencoder(encoder, decoder, priors.NeuralSampler(2, width=8), likelihoods.Gaussian())
    >>> game = Adversarial(ae, networks.discriminator(2, width=8), beta=0.0)
    >>> [turn.name for turn in game.turns("joint")]
    ['autoencoder', 'discriminator', 'prior']
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        discriminator: nn.Module,
        beta: float = 0.0,
        gan_loss: str = "minimax",
        beta_schedule: Schedule | None = None,
    ) -> None:
        if not (isinstance(beta, (int, float)) and math.isfinite(beta) and beta >= 0):
            raise ValueError(f"expected beta to be a finite number of at least 0, got {beta!r}")
        if gan_loss not in ("minimax", "nonsaturating"):
            raise ValueError(f"expected gan_loss to be minimax or nonsaturating, got {gan_loss!r}")
        super().__init__(autoencoder, float(beta), beta_schedule)
        kind = type(autoencoder.prior).__name__
        if self.prior_learns() and not autoencoder.prior.has_rsample:
            raise TypeError(f"Adversarial needs differentiable samples, and those of the prior {kind} are not")
        if autoencoder.prior.context_dim:
            raise TypeError(f"Adversarial compares codes without a context, which the prior {kind} needs")
        self.discriminator = discriminator
        self.gan_loss = gan_loss

    def players(self) -> dict[str, nn.ModuleList]:
        players = super().players()
        players["discriminator"] = nn.ModuleList([self.discriminator])
        return players

    def turns(self, phase: str) -> tuple[Turn, ...]:
        autoencoder = Turn("autoencoder", ("autoencoder",))
        discriminator = Turn("discriminator", ("discriminator",))
        prior = Turn("prior", ("prior",))
        learns = self.prior_learns()
        if phase == "decoder_only":
            return self.decoder_turns()
        if phase == "prior_only":
            return (discriminator, prior) if learns else ()
        if phase == "joint" and learns:
            return (autoencoder, discriminator, prior)
        return (autoencoder, discriminator)

    def score(self, batch: Any) -> dict[str, Tensor]:
        z, log_likelihood = self._reconstruct(batch.x)
        recognised = self._logits(z) < 0
        return {
            "log_likelihood": log_likelihood,
            "codes_recognised": recognised.float().mean(),
        }

    def forward(self, turn: str, batches: Sequence[Any], memo: dict[str, Any]) -> Losses:
        if turn == "decoder":
            return self.decoder_alone(batches[0])
        if turn == "autoencoder":
            return self._autoencode(batches[0].x, memo)
        if turn == "discriminator":
            if "z" not in memo:  # a prior-only phase: no turn of the autoencoder drew them
                memo["z"] = batches[0].sample()
            return self._discriminate(memo["z"], memo)
        return self._move_prior(memo)

    def _autoencode(self, x: Tensor, memo: dict[str, Any]) -> Losses:
        z, log_likelihood = self._reconstruct(x)
        memo["z"] = z.detach()
        terms = {
            "log_likelihood": log_likelihood.detach(),
            **self.gamma(),
            **self.beta.terms("beta"),
        }
        beta = self.beta()
        if not isinstance(beta, Tensor) and beta == 0.0:
            return Losses(-log_likelihood, terms)
        with frozen(self.discriminator):
            logits = self._logits(z)
        adversarial = self._deception(logits, of_codes=True)
        terms["adversarial"] = adversarial.detach()
        return Losses(-log_likelihood + beta * adversarial, terms)

    def _discriminate(self, z: Tensor, memo: dict[str, Any]) -> Losses:
        prior = self.in_force().prior()
        samples = prior.rsample((len(z),))
        memo["prior_samples"] = samples
        of_codes = self._logits(z)
        of_prior = self._logits(samples.detach())
        # -g: -log D(prior) - log(1 - D(codes))
        loss = softplus(-of_prior).mean() + softplus(of_codes).mean()
        right = torch.cat([of_codes < 0, of_prior > 0])
        return Losses(loss, {"discriminator_accuracy": right.float().mean()})

    def _move_prior(self, memo: dict[str, Any]) -> Losses:
        with frozen(self.discriminator):
            logits = self._logits(memo["prior_samples"])
        return Losses(self._deception(logits, of_codes=False), {})

    def _deception(self, logits: Tensor, *, of_codes: bool) -> Tensor:
        """The loss of those who mislead the discriminator: the encoder, and the prior."""
        if self.gan_loss == "minimax":
            # log(1 - D) for codes, log D for the prior's samples
            loss = -softplus(logits if of_codes else -logits)
        else:
            # their stand-ins -log D and -log(1 - D)
            loss = softplus(-logits if of_codes else logits)
        return loss.mean()

    def _logits(self, z: Tensor) -> Tensor:
        return full_precision(self.discriminator(z))

    def _reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Codes of a batch, and the mean of log p(x|z) over it."""
        autoencoder = self.in_force()
        guide = poutine.trace(autoencoder.guide).get_trace(x)
        model = poutine.trace(poutine.replay(autoencoder.model, guide)).get_trace(x)
        model.compute_log_prob(lambda name, site: site["is_observed"])
        z: Any = guide.nodes["z"]["value"]
        return z, model.nodes["x"]["log_prob_sum"] / len(x)
