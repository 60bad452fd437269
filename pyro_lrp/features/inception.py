"""Inception as the Fréchet distance uses it: pytorch-fid's network, with weights of our choice."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

from pytorch_fid import inception
from torch import Tensor
from torch.nn import functional as F

from pyro_lrp.core.errors import UserError
from pyro_lrp.features.weights import Frozen, read

__all__ = ["Inception"]


class Inception(Frozen):
    """The network of 2015-12-05 that defines FID, of images in [0, 1]; pytorch-fid resizes them to 299.

    Args:
        weights: A file: pytorch-fid's own ``.pth``, whose hash is checked; or a ``.npz`` or ``.safetensors``
            with its tensors. None: the official file, downloaded if torch's cache does not have it.
        dims: Which features: 2048 (pool_3), or the lower 768, 192 or 64, averaged over the image.

    Raises:
        UserError: If the file is missing, damaged, another network's or has a wrong hash.

    References:
        Heusel et al. (2017), arXiv:1706.08500; Seitzer (2020), pytorch-fid.
    """

    classes: Tensor

    def __init__(self, weights: str | Path | None = None, dims: int = 2048) -> None:
        blocks = inception.InceptionV3.BLOCK_INDEX_BY_DIM
        if dims not in blocks:
            raise ValueError(f"expected dims to be one of {[*blocks]}, got {dims}")
        found = read("inception", weights)
        super().__init__(found)
        # its builder reads the official file itself; here it is given another's tensors
        try:
            with mock.patch.object(inception, "load_state_dict_from_url", return_value=dict(found.state)):
                self.network = inception.InceptionV3([blocks[dims]])
        except RuntimeError as error:
            first = str(error).replace("\n", " ")[:200]
            raise UserError(f"{found.origin} is of another network: {first}") from error
        self.register_buffer("classes", found.state["fc.weight"].float())
        self.dims = dims
        self.record |= {
            "network": "Inception-2015-12-05 of pytorch-fid",
            "features": "pool_3, 2048" if dims == 2048 else f"{dims}, averaged over the image",
            "resized": "299x299, bilinear",
        }
        self.requires_grad_(False).eval()

    def features(self, x: Tensor) -> Tensor:
        """Of images ``(B, 1 or 3, H, W)`` in [0, 1], grey repeated to RGB: ``(B, dims)``."""
        return F.adaptive_avg_pool2d(self.network(self.rgb(x))[0], 1).flatten(1)

    def logits(self, features: Tensor) -> Tensor:
        """Of pool_3 features, ``(B, 2048) -> (B, 1008)``: the last layer without its bias.

        References:
            Salimans et al. (2016), whose code leaves it out.
        """
        if self.dims != 2048:
            raise ValueError(f"expected features of pool_3, and these are the {self.dims} lower ones")
        return features @ self.classes.to(features).T

    def forward(self, x: Tensor) -> Tensor:
        """The same as :meth:`features`."""
        return self.features(x)
