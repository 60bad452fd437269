"""Activations of torchvision's VGG networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from pyro_lrp.core.errors import UserError
from pyro_lrp.features.weights import Frozen, Weights, read

__all__ = ["Features", "layer_names"]

_NETWORKS = ("vgg16", "vgg19")
_MEAN = (0.485, 0.456, 0.406)  # of ImageNet, for RGB in [0, 1]
_DEVIATION = (0.229, 0.224, 0.225)
_CAFFE = 255 * sum(_DEVIATION) / 3  # 57.6: a step of Caffe's input for one of torchvision's
_LARGE = 1.0  # mean size of first kernels: 0.2 of weights for torchvision's input, 9 of Caffe's made to fit it


def layer_names(network: str) -> dict[str, int]:
    """The activations of a network: from ``relu_<block>_<number>`` to the index in its trunk.

    >>> names = layer_names("vgg19")
    >>> [names[name] for name in ("relu_1_1", "relu_2_1", "relu_3_1", "relu_4_1")]
    [1, 6, 11, 20]
    """
    names = {}
    block = 1
    number = 0
    for index, module in enumerate(_trunk(network)):
        if isinstance(module, nn.MaxPool2d):
            block += 1
            number = 0
        elif isinstance(module, nn.ReLU):
            number += 1
            names[f"relu_{block}_{number}"] = index
    return names


class Features(Frozen):
    """Activations of a frozen network, for images in [0, 1].

    Args:
        network: ``"vgg16"`` or ``"vgg19"`` of torchvision.
        layers: Names from :func:`layer_names`.
        weights: A file: torchvision's own ``.pth``, whose hash is checked; or a ``.npz`` or ``.safetensors``
            with its ``features.<n>.weight`` and ``.bias``, which may lack the upper layers. None: the official
            file, downloaded if torch's cache does not have it.

    Attributes:
        layers: The requested layers that the file has, in the order of the request.
        caffe_scale: What brings the activations to the scale of Caffe's VGG, which sees pixels from 0 to 255:
            57.6 for weights that were trained on torchvision's input, whose deviation is about 1; 1 for Caffe's
            weights, whose first kernels were multiplied by 57.6 to fit that input. A VGG's activations grow in
            proportion with its input and biases.

    Raises:
        UserError: If the file is missing, damaged, belongs to another network, has a wrong hash or none of the
            layers.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: str, layers: Sequence[str], weights: str | Path | None = None) -> None:
        places = layer_names(network)
        _check(layers, list(places))
        loaded = read(network, weights)
        super().__init__(loaded)
        trunk = _trunk(network)
        depth = _depth(trunk, loaded)
        self.layers = tuple(name for name in layers if places[name] < depth)
        if not self.layers:
            raise UserError(
                f"{loaded.origin} has none of the layers {', '.join(layers)}: its convolutions end "
                f"before number {depth} of the trunk"
            )
        self.places = [places[name] for name in self.layers]
        self.trunk = trunk[: max(self.places) + 1]
        names = self.trunk.state_dict()
        state = {name: loaded.state[f"features.{name}"] for name in names}
        self.trunk.load_state_dict(state, assign=True)
        kernels = loaded.state["features.0.weight"].abs().mean()
        self.caffe_scale = _CAFFE
        if kernels > _LARGE:
            self.caffe_scale = 1.0
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None])
        self.register_buffer("deviation", torch.tensor(_DEVIATION)[:, None, None])
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> list[Tensor]:
        """The activation of each layer, in the order of :attr:`layers`.

        Args:
            x: Images in [0, 1], shape ``(B, 1 or 3, H, W)``; grey is repeated to RGB.

        Returns:
            Tensors of shape ``(B, C, h, w)``.
        """
        x = (self.rgb(x) - self.mean) / self.deviation
        wanted = set(self.places)
        found = {}
        for index, module in enumerate(self.trunk):
            if isinstance(module, nn.ReLU):
                # not in place, which would overwrite what the layer before needs for its gradient
                x = nn.functional.relu(x)
            else:
                x = module(x)
            if index in wanted:
                found[index] = x
        return [found[place] for place in self.places]


def _check(layers: Sequence[str], known: Sequence[str]) -> None:
    for name in layers or ["none"]:
        if name not in known:
            raise UserError(f"layers: expected some of {', '.join(known)}, got {name}")


def _trunk(network: str) -> nn.Sequential:
    """The layers of a network, without weights."""
    if network not in _NETWORKS:
        raise UserError(f"network: expected one of {', '.join(_NETWORKS)}, got {network!r}")
    from torchvision import models

    with torch.device("meta"):
        return getattr(models, network)(weights=None).features


def _depth(trunk: nn.Sequential, weights: Weights) -> int:
    """The index of the first layer whose weights are missing: activations exist up to there."""
    for name, expected in trunk.state_dict().items():
        if f"features.{name}" not in weights.state:
            return int(name.partition(".")[0])
        weights.tensor(f"features.{name}", expected)
    return len(trunk)
