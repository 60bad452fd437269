"""Spectral normalization of layers that can be pickled; torch's own refuse it."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils import parametrizations

from pyro_lrp.core.randomness import untouched_generators

__all__ = ["spectral_norm"]

_OPTIONS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Conv2d: ("in_channels", "out_channels", "kernel_size", "stride", "padding"),
    nn.Linear: ("in_features", "out_features"),
}
"""What a layer is built with, by the names of its attributes."""


def spectral_norm(layer: nn.Conv2d | nn.Linear) -> None:
    """Apply torch's spectral normalization to the weight of a layer, with one power iteration.

    Args:
        layer: A convolution or a linear layer with a bias; of a convolution's options only stride and padding
            may differ from torch's defaults.

    References:
        Miyato et al. (2018), Spectral Normalization for Generative Adversarial Networks.
    """
    parametrizations.spectral_norm(layer)
    # the layer now has a class of its own, which torch forbids to pickle
    own_class: Any = type(layer)
    own_class.__reduce__ = _reduced


def _reduced(layer: nn.Module) -> tuple[Any, ...]:
    """What pickle stores of a normalized layer: how to build it, and its tensors."""
    kind = next(kind for kind in _OPTIONS if isinstance(layer, kind))
    options = {name: getattr(layer, name) for name in _OPTIONS[kind]}
    state = layer.state_dict(keep_vars=True)
    return _rebuilt, (kind, options, dict(state), layer.training)


def _rebuilt(
    kind: type[nn.Module],
    options: dict[str, Any],
    state: dict[str, Any],
    training: bool,  # noqa: FBT001
) -> nn.Module:
    with untouched_generators():
        layer: Any = kind(**options)
        spectral_norm(layer)
    layer.load_state_dict(state, assign=True)
    return layer.train(training)
