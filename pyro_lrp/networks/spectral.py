"""Spectral normalization of layers that can be pickled; torch's own refuse it."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils import parametrizations

from pyro_lrp.core.randomness import untouched_generators

__all__ = ["spectral_norm"]

_CONVOLUTION = ("in_channels", "out_channels", "kernel_size", "stride", "padding")
_LINEAR = ("in_features", "out_features")


def spectral_norm(layer: nn.Conv2d | nn.Linear) -> None:
    """Apply torch's spectral normalization to the weight of a layer, with one power iteration.

    Args:
        layer: A convolution or a linear layer with a bias; of a convolution's options only stride and padding
            may differ from torch's defaults.

    References:
        Miyato et al. (2018), Spectral Normalization for Generative Adversarial Networks.
    """
    kind = type(layer)
    parametrizations.spectral_norm(layer)
    # the layer now has a class of its own, which torch forbids to pickle
    type(layer).__reduce__ = lambda changed: _reduced(changed, kind)  # type: ignore[method-assign, assignment]


def _reduced(layer: nn.Module, kind: type[nn.Module]) -> tuple[Any, ...]:
    """What pickle stores of a normalized layer: how to build it, and its tensors."""
    names = _LINEAR
    if issubclass(kind, nn.Conv2d):
        names = _CONVOLUTION
    options = {name: getattr(layer, name) for name in names}
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
