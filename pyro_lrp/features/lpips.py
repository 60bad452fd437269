"""LPIPS: distances of images as people see them, by the lpips package, with weights of our choice."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import lpips
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_lrp.core.errors import UserError
from pyro_lrp.features.weights import Frozen, Weights, read, unpickled

__all__ = ["LPIPS"]

_NAMES = {"vgg16": "vgg", "alexnet": "alex", "squeezenet": "squeeze"}  # of the lpips package
_LEAST, _ENLARGED = 32, 64  # pixels of the shorter side: AlexNet and VGG have too many strides for less


class LPIPS(Frozen):
    """LPIPS v0.1 with the trunk that is named, as a distance of images in [0, 1].

    Both the network and its linear heads are the lpips package's. Images of fewer than 32 pixels on a side are
    first enlarged, bilinearly, to 64 on the shorter one.

    Args:
        network: The trunk, of torchvision: ``"vgg16"``, ``"alexnet"`` or ``"squeezenet"``.
        weights: Of the trunk, a file: torchvision's own ``.pth``, whose hash is checked; or a ``.npz`` or
            ``.safetensors`` with its ``features.*``. None: the official file, downloaded if torch's cache does
            not have it.

    Raises:
        UserError: If the file is missing, damaged, another network's or has a wrong hash.

    References:
        Zhang et al. (2018), The Unreasonable Effectiveness of Deep Features as a Perceptual Metric,
        arXiv:1801.03924.
    """

    def __init__(self, network: str, weights: str | Path | None = None) -> None:
        if network not in _NAMES:
            raise UserError(f"network: expected one of {', '.join(_NAMES)}, got {network!r}")
        found, name = read(network, weights), _NAMES[network]
        super().__init__(found)
        self.network = _without_weights(name)
        tensors = dict(self.network.scaling_layer.state_dict(prefix="scaling_layer."))
        tensors |= _trunk(self.network.net, found)
        for key, tensor in unpickled(Path(lpips.__file__).parent / f"weights/v0.1/{name}.pth").items():
            tensors |= {key: tensor, f"lins.{key.removeprefix('lin')}": tensor}  # it has each under two names
        self.network.load_state_dict(tensors, assign=True)
        self.record |= {
            "network": f"LPIPS v0.1, {network} trunk",
            "small_images": f"of fewer than {_LEAST} pixels on a side: enlarged to {_ENLARGED}, bilinear",
        }
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances of pairs of images ``(B, 1 or 3, H, W)``, grey repeated to RGB: ``(B,)``, of x's dtype."""
        pair = (_enlarged(self.rgb(images)) for images in (x, y))
        return self.network(*pair, normalize=True).flatten().to(x.dtype)


def _without_weights(name: str) -> lpips.LPIPS:
    """The package's network; on the meta device, so that no random weights are drawn first."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an argument that the package gives torchvision is deprecated
        network = lpips.LPIPS(net=name, pretrained=False, pnet_rand=True, verbose=False)
    network.scaling_layer = lpips.ScalingLayer()
    return network


def _trunk(net: nn.Module, found: Weights) -> Iterator[tuple[str, Tensor]]:
    """The file's tensors by the package's names, whose slices keep torchvision's numbers of the layers."""
    for key, wanted in net.state_dict().items():
        name = f"features.{key.partition('.')[2]}"
        tensor = found.state.get(name)
        if tensor is None:
            raise UserError(f"{found.origin} lacks {name}")
        if tensor.shape != wanted.shape or not tensor.is_floating_point():
            raise UserError(
                f"{found.origin} is of another network: {name} is {tensor.dtype} of shape "
                f"{tuple(tensor.shape)}, expected {tuple(wanted.shape)}"
            )
        yield f"net.{key}", tensor


def _enlarged(images: Tensor) -> Tensor:
    least = min(images.shape[-2:])
    if least >= _LEAST:
        return images
    size = [round(side * _ENLARGED / least) for side in images.shape[-2:]]
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)
