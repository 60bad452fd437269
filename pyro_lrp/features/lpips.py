"""LPIPS, a perceptual distance of images: the network of the lpips package, with weights from any file."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_lrp.core.errors import UserError
from pyro_lrp.features.weights import Frozen, Weights, read, unpickled

if TYPE_CHECKING:
    import lpips

__all__ = ["LPIPS"]

_NAMES = {"vgg16": "vgg", "alexnet": "alex", "squeezenet": "squeeze"}  # in the lpips package
_SMALLEST = 32  # pixels of the shorter side: AlexNet and VGG have too many strides for less
_ENLARGED = 64


class LPIPS(Frozen):
    """LPIPS v0.1 as a distance of images in [0, 1].

    The network and its linear heads are those of the lpips package. Images with fewer than 32 pixels on a side
    are first enlarged, bilinearly, to 64 pixels on the shorter side.

    Args:
        network: The trunk, a network of torchvision: ``"vgg16"``, ``"alexnet"`` or ``"squeezenet"``.
        weights: The file of the trunk: torchvision's own ``.pth``, whose hash is checked; or a ``.npz`` or
            ``.safetensors`` with its ``features.*``. None: the official file, downloaded if torch's cache does
            not have it.

    Raises:
        UserError: If the file is missing, damaged, belongs to another network or has a wrong hash.

    References:
        Zhang et al. (2018), The Unreasonable Effectiveness of Deep Features as a Perceptual Metric,
        arXiv:1801.03924.
    """

    def __init__(self, network: str, weights: str | Path | None = None) -> None:
        if network not in _NAMES:
            raise UserError(f"network: expected one of {', '.join(_NAMES)}, got {network!r}")
        loaded = read(network, weights)
        super().__init__(loaded)
        self.network = _without_weights(_NAMES[network])
        tensors = dict(self.network.scaling_layer.state_dict(prefix="scaling_layer."))
        tensors |= _trunk(self.network.net, loaded)
        tensors |= _heads(_NAMES[network])
        self.network.load_state_dict(tensors, assign=True)
        self.record |= {
            "network": f"LPIPS v0.1, {network} trunk",
            "small_images": f"of fewer than {_SMALLEST} pixels on a side: enlarged to {_ENLARGED}, bilinear",
        }
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances of pairs of images.

        Args:
            x: Shape ``(B, 1 or 3, H, W)``; grey is repeated to RGB.
            y: As ``x``.

        Returns:
            Shape ``(B,)``, in the dtype of ``x``.
        """
        first = _enlarged(self.rgb(x))
        second = _enlarged(self.rgb(y))
        distances = self.network(first, second, normalize=True)
        return distances.flatten().to(x.dtype)


def _without_weights(name: str) -> lpips.LPIPS:
    """The network of the package, on the meta device so that no random weights are drawn."""
    import lpips

    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package gives torchvision a deprecated argument
        network = lpips.LPIPS(net=name, pretrained=False, pnet_rand=True, verbose=False)
    network.scaling_layer = lpips.ScalingLayer()
    return network


def _heads(name: str) -> Iterator[tuple[str, Tensor]]:
    """The linear heads that the package contains; it registers each under two names."""
    import lpips

    path = Path(lpips.__file__).parent / f"weights/v0.1/{name}.pth"
    for key, tensor in unpickled(path).items():
        yield key, tensor
        yield f"lins.{key.removeprefix('lin')}", tensor


def _trunk(net: nn.Module, weights: Weights) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the file by the names of the package, whose slices keep torchvision's layer numbers."""
    for key, expected in net.state_dict().items():
        name = f"features.{key.partition('.')[2]}"
        yield f"net.{key}", weights.tensor(name, expected)


def _enlarged(images: Tensor) -> Tensor:
    """The images, enlarged if they are too small for the trunk."""
    height, width = images.shape[-2:]
    shorter = min(height, width)
    if shorter >= _SMALLEST:
        return images
    size = [round(side * _ENLARGED / shorter) for side in (height, width)]
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)
