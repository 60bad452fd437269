"""One Adam for each player, in groups of parameters that share a rate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from pyro_lrp.core.errors import UserError

__all__ = ["check_options", "make_optimizers", "set_rate"]

_OPTIONS = ("lr", "betas", "eps", "weight_decay")


def check_options(options: Mapping[str, Mapping[str, Any]], players: Iterable[str]) -> None:
    """Refuse options of a player that is not there, and options that are none.

    Raises:
        UserError: Names the key.
    """
    names = list(players)
    for player, given in options.items():
        if player not in names:
            raise UserError(
                f"trainer.optimizers.{player}: there is no such player; there are {', '.join(names)}"
            )
        unknown = [key for key in given if key not in _OPTIONS]
        if unknown:
            raise UserError(
                f"trainer.optimizers.{player}.{unknown[0]} is unknown; known are {', '.join(_OPTIONS)}"
            )
        try:
            _adam([nn.Parameter(torch.zeros(()))], **given)
        except (TypeError, ValueError) as error:
            raise UserError(f"trainer.optimizers.{player}: {error}") from error


def make_optimizers(
    module: nn.Module, players: Mapping[str, nn.Module], *, lr: float, fused: bool = False,
    lr_of: Mapping[str, float] | None = None, options: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, torch.optim.Optimizer]:  # fmt: skip
    """An Adam for each player.

    Args:
        module: Whose parameter names ``lr_of`` speaks of; it owns all players.
        players: By name.
        lr: Of every parameter that is not told otherwise.
        fused: Use the fused kernels.
        lr_of: Rates by prefix of a parameter's name.
        options: ``lr``, ``betas``, ``eps`` and ``weight_decay`` (decoupled: Loshchilov and Hutter, 2019) of
            single players.
    """
    optimizers = {}
    for player, part in players.items():
        own = {id(p) for p in part.parameters() if p.requires_grad}
        given = {"lr": lr, **(options or {}).get(player, {})}
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in module.named_parameters():
            if id(parameter) in own:
                rates = (rate for prefix, rate in (lr_of or {}).items() if name.startswith(prefix))
                groups.setdefault(next(rates, given["lr"]), []).append(parameter)
        params: list[Any] = [{"params": ps, "lr": rate, "base_lr": rate} for rate, ps in groups.items()]
        # a player without parameters (a fixed prior) still has a name; it gets an idle optimizer
        optimizers[player] = _adam(params or [nn.Parameter(torch.zeros(()))], fused=fused, **given)
    return optimizers


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each group to ``factor`` times its own rate."""
    for group in optimizer.param_groups:
        group["lr"] = group.get("base_lr", 0.0) * factor


def _adam(params: list[Any], *, fused: bool = False, **options: Any) -> torch.optim.Optimizer:
    if "betas" in options:
        options["betas"] = tuple(options["betas"])
    # AdamW decays parameters by itself; Adam's own weight_decay would go through the moments
    kind = torch.optim.AdamW if options.get("weight_decay") else torch.optim.Adam
    return kind(params, fused=fused, **options)
