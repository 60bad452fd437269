"""A learned prior as a sampler of pythae, for the models that are trained there."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from pyro_lrp import fitting
from pyro_lrp.core.errors import UserError

if find_spec("pythae") is None:
    raise ImportError("pyro_lrp.adapters.pythae needs a package: pip install 'pyro_lrp[pythae]'")

from pydantic.dataclasses import dataclass
from pythae.data.preprocessors import DataProcessor
from pythae.models import BaseAE
from pythae.samplers import BaseSampler, BaseSamplerConfig

__all__ = ["LearnedPriorSampler", "LearnedPriorSamplerConfig"]

_AT_ONCE = 100  # images that are encoded


@dataclass
class LearnedPriorSamplerConfig(BaseSamplerConfig):
    """Options of :class:`LearnedPriorSampler`.

    Attributes:
        prior: ``"auto"``, a prior of ``conf/prior``, or a list as it would be typed.
        seconds: The time of the fit, in seconds.
        seed: Of the fit.
    """

    prior: str | list[str] = "auto"
    seconds: float = 60.0
    seed: int = 0


class LearnedPriorSampler(BaseSampler):
    """Draws images of a model of pythae, whose codes are vectors, by a prior that is fitted to its codes.

    Args:
        model: The model. Like all samplers of pythae, this one moves it to the GPU if there is one, and sets
            its eval mode.
        sampler_config: The options; the defaults if None.

    Attributes:
        fitted: The :class:`~pyro_lrp.fitting.Fitted` prior, after :meth:`fit`.
    """

    def __init__(self, model: BaseAE, sampler_config: LearnedPriorSamplerConfig | None = None) -> None:
        super().__init__(model, sampler_config or LearnedPriorSamplerConfig())

    def fit(self, train_data: Any, eval_data: Any = None, **ignored: Any) -> None:
        """Fit the prior to the codes of images, which are drawn where the model draws them.

        Args:
            train_data: A tensor or array of images in [0, 1], ``(N, C, ...)``.
            eval_data: Images whose codes priors are judged by; a tenth of the training images if None.
            **ignored: Of other samplers, such as ``training_config``.

        Raises:
            UserError: If the codes are none that a density can be fitted to.
        """
        config = self.sampler_config
        self.fitted = fitting.fit(
            self._codes(train_data),
            held_out=None if eval_data is None else self._codes(eval_data),
            prior=config.prior,
            seconds=config.seconds,
            seed=config.seed,
            device=self.device,
        )
        self.is_fitted = True

    def _codes(self, data: Any) -> Tensor:
        x = DataProcessor().process_data(data)
        parts = []
        for part in x.chunk(1 + len(x) // _AT_ONCE):  # of equal size: FactorVAE refuses a single image
            # not under no_grad: some models compute codes from gradients
            parts.append(self.model.embed(part.to(self.device)).detach())
        return torch.cat(parts)

    @torch.no_grad()
    def sample(
        self,
        num_samples: int = 1,
        batch_size: int = 500,
        output_dir: str | None = None,
        return_gen: bool = True,  # noqa: FBT001, FBT002
        save_sampler_config: bool = False,  # noqa: FBT001, FBT002
    ) -> Tensor | None:
        """Draw images ``(num_samples, C, ...)``, and write them to ``output_dir`` if it is given."""
        if not self.is_fitted:
            raise UserError("sampler: call fit(train_data) before sample")
        parts = []
        for z in self.fitted.sample(num_samples).to(self.device).split(batch_size):
            parts.append(self.model.decoder(z)["reconstruction"])
        images = torch.cat(parts)
        if output_dir is not None:
            for number, image in enumerate(images):
                self.save_img(image, output_dir, f"{number:08d}.png")
        if output_dir is not None and save_sampler_config:
            self.save(output_dir)
        return images if return_gen else None
