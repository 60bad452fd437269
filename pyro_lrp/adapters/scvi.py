"""Learned priors in scvi-tools: trained inside a model, or fitted to the codes of one that is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from pyro_lrp import priors
from pyro_lrp.config.build import build_prior
from pyro_lrp.config.compose import compose_train
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.gradients import scale_grad
from pyro_lrp.core.modules import eval_mode

if find_spec("scvi") is None:
    raise ImportError("pyro_lrp.adapters.scvi needs a package: pip install 'pyro_lrp[scvi]'")

from scvi.model import SCVI
from scvi.module import VAE
from scvi.module.base import LossOutput, auto_move_data

__all__ = ["LearnedPrior", "LearnedPriorSCVI", "LearnedPriorVAE", "decode", "encode"]

_MIXTURE = ("prior=mixture", "prior.components=20", "prior.covariance=diag")


class LearnedPrior(nn.Module):
    """A prior for modules of scvi-tools that call ``prior.kl(qz=..., z=...)``, as that of ``SysVI`` does.

    The encoder receives the gradient of the KL times ``beta``, the prior that of -log p(z), whatever ``beta``.

    Args:
        prior: An unconditional prior over vectors, with a density.
        beta: At least 0; at 0 the prior follows the codes and does not move them.

    Raises:
        UserError: If the prior learns by a loss other than -log p(z), or needs an encoder or a context.
    """

    def __init__(self, prior: priors.Prior, beta: float = 1.0) -> None:
        super().__init__()
        kind = type(prior).__name__
        if not prior.has_log_prob or prior.context_dim or type(prior).bind is not priors.Prior.bind:
            raise UserError(f"prior: expected a density of codes alone, got {kind}")
        if hasattr(prior(), "fit_loss"):
            raise UserError(f"prior: {kind} does not learn by its density; fit it to codes of a trained model")
        self.prior = prior
        self.beta = beta

    def get_prior(self, *ignored: Any, **options: Any) -> torch.distributions.Distribution:
        """The distribution p(z)."""
        return self.prior()

    def kl(self, qz: Any, z: Tensor, beta: float | None = None, **ignored: Any) -> Tensor:
        """Log q(z|x) - log p(z) at a code that was drawn, in nats; its mean is the KL divergence.

        Args:
            qz: Diagonal normals, of batch shape ``(B, n_latent)``.
            z: Codes drawn from them with gradients, ``(..., B, n_latent)``.
            beta: In place of that of the prior.
            **ignored: Of other priors.

        Returns:
            Shape ``(..., B)``.
        """
        weight = self.beta if beta is None else beta
        log_q = scale_grad(qz.log_prob(z).sum(-1), weight)
        return log_q - self.prior().log_prob(scale_grad(z, weight))


class LearnedPriorVAE(VAE):
    """The module of :class:`LearnedPriorSCVI`: ``scvi.module.VAE`` with another argument, ``prior``."""

    def __init__(self, *args: Any, prior: str | Sequence[str] = _MIXTURE, **kwargs: Any) -> None:
        if kwargs.get("latent_distribution", "normal") != "normal":
            raise UserError(
                "latent_distribution: expected normal, since a learned prior is a density of vectors"
            )
        super().__init__(*args, **kwargs)
        names = [f"prior={prior}"] if isinstance(prior, str) else [*prior]
        seed = int(torch.randint(2**31 - 1, ()))  # by scvi's seed, as all weights
        composed = compose_train(*names, f"latent_dim={self.n_latent}", f"seed={seed}")
        self.prior = LearnedPrior(build_prior(composed.identity))

    def loss(
        self,
        tensors: dict[str, Tensor],
        inference_outputs: dict[str, Any],
        generative_outputs: dict[str, Any],
        kl_weight: Any = 1.0,
    ) -> LossOutput:
        """The negative bound, whose gradient is the bilevel one for β = ``kl_weight``."""
        plain = super().loss(tensors, inference_outputs, generative_outputs, kl_weight=0.0)
        kl = self.prior.kl(inference_outputs["qz"], inference_outputs["z"], beta=float(kl_weight))
        kl_local = {**plain.kl_local, "kl_divergence_z": kl}
        return replace(plain, loss=plain.loss + kl.mean(), kl_local=kl_local)

    @torch.inference_mode()
    @auto_move_data
    def marginal_ll(
        self,
        tensors: dict[str, Tensor],
        n_mc_samples: int,
        return_mean: bool = False,  # noqa: FBT001, FBT002
        n_mc_samples_per_pass: int = 1,
    ) -> Any:
        """Log p(x) of each cell by importance sampling, one sample per pass, or the mean over cells."""
        if not self.use_observed_lib_size:
            raise UserError("get_marginal_ll with a learned prior needs use_observed_lib_size=True")
        bounds = []
        for _ in range(n_mc_samples):
            _, _, losses = self(tensors, get_inference_input_kwargs={"full_forward_pass": True})
            bounds.append(-losses.dict_sum(losses.reconstruction_loss) - losses.kl_local["kl_divergence_z"])
        log_p = torch.stack(bounds).logsumexp(0) - torch.tensor(n_mc_samples).log()
        return log_p.mean().item() if return_mean else log_p.cpu()


class LearnedPriorSCVI(SCVI):
    """``scvi.model.SCVI`` whose prior of the codes is learned.

    Everything else is SCVI's: ``setup_anndata``, ``train``, ``get_elbo``, ``save`` and ``load``. The weight of
    the KL, ``plan_kwargs={"max_kl_weight": ...}`` of ``train`` with its warm-up, is β: it weighs what reaches
    the encoder, while the prior learns -log p(z) from the first step, also at 0.

    Args:
        adata: As for SCVI, like all arguments but ``prior``.
        prior: A prior of ``conf/prior``, or a list as it would be typed, such as the default,
            ``["prior=mixture", "prior.components=20", "prior.covariance=diag"]``.
    """

    _module_cls = LearnedPriorVAE


def encode(model: Any, adata: Any = None, indices: Any = None) -> Tensor:
    """Codes of cells, a draw of q(z|x) for each, ``(N, n_latent)``.

    Args:
        model: A trained model of scvi-tools with ``get_latent_representation(return_dist=True)``.
        adata: The cells; those of the model if None.
        indices: Some of them; all if None.
    """
    moments = model.get_latent_representation(adata, indices, return_dist=True)
    mean, variance = map(torch.as_tensor, moments)
    return torch.normal(mean, variance.sqrt())


@torch.no_grad()
def decode(model: Any, codes: Tensor, indices: Any = None) -> Tensor:
    """Counts ``(N, n_genes)`` drawn from p(x|z) for codes ``(N, n_latent)``.

    Batch, other covariates and library size of a count are those of a cell of the model's data.

    Args:
        model: A trained SCVI, or another model whose module returns a distribution ``px``.
        codes: The codes, such as samples of a prior that was fitted to :func:`encode`.
        indices: The cells, one for each code; drawn at random if None.
    """
    if indices is None:
        indices = torch.randint(model.adata.n_obs, (len(codes),)).numpy()
    if len(indices) != len(codes):
        raise UserError(f"indices: expected one cell for each of {len(codes)} codes, got {len(indices)}")
    module = model.module
    counts = []
    with eval_mode(module):
        for tensors in model._make_data_loader(adata=model.adata, indices=indices, shuffle=False):
            outputs = module.inference(**module._get_inference_input(tensors))
            part, codes = codes.tensor_split([len(outputs["z"])])
            outputs["z"] = part.to(module.device)
            generated = module.generative(**module._get_generative_input(tensors, outputs))
            counts.append(generated["px"].sample().cpu())
    return torch.cat(counts)
