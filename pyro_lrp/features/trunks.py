"""Activations of torchvision's VGG networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from pyro_lrp.core.errors import UserError
from pyro_lrp.features.weights import Frozen, read

__all__ = ["Features", "layer_names"]

_TRUNKS = {"vgg16": torchvision.models.vgg16, "vgg19": torchvision.models.vgg19}
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, for RGB in [0, 1]


def layer_names(network: str) -> dict[str, int]:
    """The activations of a network by name, ``relu_<block>_<number>``, and their place in its trunk.

    >>> names = layer_names("vgg19")
    >>> [names[name] for name in ("relu_1_1", "relu_2_1", "relu_3_1", "relu_4_1")]
    [1, 6, 11, 20]
    """
    names, block, number = {}, 1, 0
    for index, module in enumerate(_trunk(network)):
        if isinstance(module, nn.MaxPool2d):
            block, number = block + 1, 0
        elif isinstance(module, nn.ReLU):
            number += 1
            names[f"relu_{block}_{number}"] = index
    return names


class Features(Frozen):
    """Activations of a frozen network, of images in [0, 1].

    Args:
        network: ``"vgg16"`` or ``"vgg19"``, of torchvision.
        layers: Names of :func:`layer_names`.
        weights: A file: torchvision's own ``.pth``, whose hash is checked; or a ``.npz`` or ``.safetensors``
            with its ``features.<n>.weight`` and ``.bias``, which may lack the upper layers. None: the official
            file, downloaded if torch's cache does not have it.

    Attributes:
        layers: Those asked for that the file has.

    Raises:
        UserError: If the file is missing, damaged, another network's, has a wrong hash or none of the layers.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: str, layers: Sequence[str], weights: str | Path | None = None) -> None:
        places = layer_names(network)
        unknown = [name for name in layers if name not in places]
        if unknown or not layers:
            known = ", ".join(places)
            raise UserError(f"layers: expected some of {known}, got {unknown[0] if unknown else 'none'}")
        found = read(network, weights)
        super().__init__(found)
        trunk = _trunk(network)
        depth = _depth(trunk, found.state, found.origin)
        self.layers = tuple(name for name in layers if places[name] < depth)
        if not self.layers:
            raise UserError(
                f"{found.origin} has none of the layers {', '.join(layers)}: its convolutions end "
                f"before number {depth} of the trunk"
            )
        self.places = [places[name] for name in self.layers]
        self.trunk = trunk[: max(self.places) + 1]
        wanted = self.trunk.state_dict()
        self.trunk.load_state_dict({name: found.state[f"features.{name}"] for name in wanted}, assign=True)
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None])
        self.register_buffer("deviation", torch.tensor(_DEVIATION)[:, None, None])
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> list[Tensor]:
        """Each layer's activation: ``(B, 1 or 3, H, W) -> [(B, C, h, w), ...]``; grey is repeated to RGB."""
        x = (self.rgb(x) - self.mean) / self.deviation
        activations = []
        for index, module in enumerate(self.trunk):
            # in place, a ReLU would overwrite what the layer before it must keep for its gradient
            x = nn.functional.relu(x) if isinstance(module, nn.ReLU) else module(x)
            if index in self.places:
                activations.append(x)
        return activations


def _trunk(network: str) -> nn.Sequential:
    """Its layers, without weights."""
    if network not in _TRUNKS:
        raise UserError(f"network: expected one of {', '.join(_TRUNKS)}, got {network!r}")
    with torch.device("meta"):
        return _TRUNKS[network](weights=None).features


def _depth(trunk: nn.Sequential, state: Mapping[str, Tensor], origin: str) -> int:
    """The place of the first layer whose weights are missing; up to there activations can be computed."""
    for name, wanted in trunk.state_dict().items():
        found = state.get(f"features.{name}")
        if found is None:
            return int(name.partition(".")[0])
        if found.shape != wanted.shape or not found.is_floating_point():
            raise UserError(
                f"{origin} is of another network: features.{name} is {found.dtype} of shape "
                f"{tuple(found.shape)}, expected {tuple(wanted.shape)}"
            )
    return len(trunk)
