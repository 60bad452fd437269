"""Inception as the Fréchet distance uses it: the network of pytorch-fid, with weights from any file."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from pyro_lrp.core.errors import UserError
from pyro_lrp.features.weights import Frozen, Weights, read

__all__ = ["Inception"]

_BLOCKS = {64: 1, 192: 2, 768: 3, 2048: 4}  # length of the features -> blocks that compute them
_SIDE = 299  # pixels


class Inception(Frozen):
    """The network of 2015-12-05 that defines FID, for images in [0, 1].

    Images are resized to 299x299 pixels.

    Args:
        weights: A file: pytorch-fid's own ``.pth``, whose hash is checked; or a ``.npz`` or ``.safetensors``
            with its tensors. None: the official file, downloaded if torch's cache does not have it.
        dims: Which features: 2048 (pool_3), or the lower 768, 192 or 64, averaged over the image.

    Raises:
        UserError: If the file is missing, damaged, belongs to another network or has a wrong hash.
        ValueError: If ``dims`` is none of the four.

    References:
        Heusel et al. (2017), arXiv:1706.08500; Seitzer (2020), pytorch-fid.
    """

    classes: Tensor

    def __init__(self, weights: str | Path | None = None, dims: int = 2048) -> None:
        if dims not in _BLOCKS:
            raise ValueError(f"expected dims to be one of {[*_BLOCKS]}, got {dims}")
        loaded = read("inception", weights)
        super().__init__(loaded)
        blocks = _blocks(_network(loaded))
        self.network = nn.Sequential(*blocks[: _BLOCKS[dims]])
        self.register_buffer("classes", loaded.state["fc.weight"].float())
        self.dims = dims
        features = f"{dims}, averaged over the image"
        if dims == 2048:
            features = "pool_3, 2048"
        self.record |= {
            "network": "Inception-2015-12-05 of pytorch-fid",
            "features": features,
            "resized": "299x299, bilinear",
        }
        self.requires_grad_(False).eval()

    def features(self, x: Tensor) -> Tensor:
        """Features ``(B, dims)`` of images ``(B, 1 or 3, H, W)`` in [0, 1]; grey is repeated to RGB."""
        x = F.interpolate(
            self.rgb(x),
            size=(_SIDE, _SIDE),
            mode="bilinear",
            align_corners=False,
        )
        activations = self.network(2 * x - 1)
        return F.adaptive_avg_pool2d(activations, 1).flatten(1)

    def logits(self, features: Tensor) -> Tensor:
        """Logits ``(B, 1008)`` of pool_3 features ``(B, 2048)``: the last layer without its bias.

        Raises:
            ValueError: If this network computes lower features.

        References:
            Salimans et al. (2016), whose code leaves the bias out.
        """
        if self.dims != 2048:
            raise ValueError(f"expected features of pool_3; this network computes the {self.dims} lower ones")
        return features @ self.classes.to(features).T

    def forward(self, x: Tensor) -> Tensor:
        """The same as :meth:`features`."""
        return self.features(x)


def _network(weights: Weights) -> nn.Module:
    """Torchvision's Inception with the blocks that pytorch-fid replaces, and the weights of a file.

    pytorch-fid's own builder cannot be used: it always reads the official file.

    Raises:
        UserError: If the file belongs to another network.
    """
    from pytorch_fid import inception as fid
    from torchvision.models import inception_v3

    network = inception_v3(
        weights=None,
        num_classes=1008,
        aux_logits=False,
        init_weights=False,
    )
    network.Mixed_5b = fid.FIDInceptionA(192, pool_features=32)
    network.Mixed_5c = fid.FIDInceptionA(256, pool_features=64)
    network.Mixed_5d = fid.FIDInceptionA(288, pool_features=64)
    network.Mixed_6b = fid.FIDInceptionC(768, channels_7x7=128)
    network.Mixed_6c = fid.FIDInceptionC(768, channels_7x7=160)
    network.Mixed_6d = fid.FIDInceptionC(768, channels_7x7=160)
    network.Mixed_6e = fid.FIDInceptionC(768, channels_7x7=192)
    network.Mixed_7b = fid.FIDInceptionE_1(1280)
    network.Mixed_7c = fid.FIDInceptionE_2(2048)
    try:
        network.load_state_dict(dict(weights.state))
    except RuntimeError as error:
        first = str(error).replace("\n", " ")[:200]
        raise UserError(f"{weights.origin} belongs to another network: {first}") from error
    return network


def _blocks(network: nn.Module) -> list[nn.Sequential]:
    """The four parts of the network, each of which ends in the features of one length."""
    names = (
        ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"),
        ("Conv2d_3b_1x1", "Conv2d_4a_3x3"),
        (
            "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a",
            "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e",
        ),
        ("Mixed_7a", "Mixed_7b", "Mixed_7c"),
    )  # fmt: skip
    ends = (
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Identity(),
        nn.AdaptiveAvgPool2d(1),
    )
    blocks = []
    for block, end in zip(names, ends, strict=True):
        layers = [getattr(network, name) for name in block]
        blocks.append(nn.Sequential(*layers, end))
    return blocks
