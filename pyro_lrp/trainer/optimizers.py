"""One Adam for each player, in groups of parameters that share a rate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pyro_lrp.core.errors import UserError

__all__ = ["check_options", "check_players", "make_optimizers", "set_rate"]

_OPTIONS = ("lr", "betas", "eps", "weight_decay")


def check_players(key: str, named: Iterable[str], players: Iterable[str]) -> None:
    """Refuse what is meant for a player that a game does not have.

    Args:
        key: The key of the trainer that names players.
        named: The players that it names.
        players: Those of the game.

    Raises:
        UserError: Names the key.
    """
    names = list(players)
    for player in named:
        if player not in names:
            raise UserError(f"trainer.{key}.{player}: there is no such player; there are {', '.join(names)}")


def check_options(options: Mapping[str, Mapping[str, Any]], players: Iterable[str]) -> None:
    """Refuse options of unknown players, and unknown or impossible options.

    Raises:
        UserError: Names the key.
    """
    check_players("optimizers", options, players)
    for player, own in options.items():
        key = f"trainer.optimizers.{player}"
        if not isinstance(own, Mapping):
            raise UserError(f"{key} must be options of Adam by name, such as {{lr: 1e-4}}, got {own}")
        unknown = [name for name in own if name not in _OPTIONS]
        if unknown:
            raise UserError(f"{key}.{unknown[0]} is unknown; known are {', '.join(_OPTIONS)}")
        try:
            _adam([_idle_group()], **own)
        except (TypeError, ValueError) as error:
            raise UserError(f"{key}: {error}") from error


def make_optimizers(
    module: nn.Module,
    players: Mapping[str, nn.Module],
    *,
    lr: float,
    lr_of: Mapping[str, float] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, torch.optim.Optimizer]:
    """An Adam for each player, on the device of its parameters.

    The rate of each group is a 0-dim tensor, so that kernels which were recorded into a graph read the rate of
    the moment.

    Args:
        module: Owns all players; the keys of ``lr_of`` are prefixes of its parameter names.
        players: By name.
        lr: The rate of every parameter without another one.
        lr_of: Rates by prefix of a parameter's name.
        options: ``lr``, ``betas``, ``eps`` and ``weight_decay`` (decoupled: Loshchilov and Hutter, 2019) of
            single players.
    """
    optimizers = {}
    for player, part in players.items():
        own: dict[str, Any] = {"lr": lr}
        own.update((options or {}).get(player, {}))
        by_rate = _by_rate(module, part, own["lr"], lr_of or {})
        groups = [_group(*pair) for pair in by_rate.items()]
        # a player without parameters (a fixed prior) still has a name
        optimizers[player] = _adam(groups or [_idle_group()], **own)
    return optimizers


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Write ``factor`` times its base rate into each group's rate."""
    for group in optimizer.param_groups:
        if "base_lr" in group:
            rate = group["base_lr"] * factor
            group["lr"].fill_(rate)


def _by_rate(
    module: nn.Module,
    part: nn.Module,
    lr: float,
    lr_of: Mapping[str, float],
) -> dict[float, list[nn.Parameter]]:
    """The parameters of a player that learn, by their base rate."""
    own = {id(p) for p in part.parameters() if p.requires_grad}
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if id(parameter) not in own:
            continue
        prefixes = (p for p in lr_of if name.startswith(p))
        prefix = next(prefixes, None)
        rate = lr if prefix is None else lr_of[prefix]
        groups.setdefault(rate, []).append(parameter)
    return groups


def _group(rate: float, parameters: list[nn.Parameter]) -> dict[str, Any]:
    device = parameters[0].device
    return {"params": parameters, "lr": _tensor(rate, device), "base_lr": rate}


def _tensor(rate: float, device: torch.device) -> Tensor:
    # the CPU's kernel takes the rate as a double, so the steps are those of a Python number;
    # other devices' kernels read a float
    dtype = torch.float64 if device.type == "cpu" else torch.float32
    return torch.tensor(rate, dtype=dtype, device=device)


def _idle_group() -> dict[str, Any]:
    return {"params": [nn.Parameter(torch.zeros(()))]}


def _adam(groups: list[dict[str, Any]], **options: Any) -> torch.optim.Optimizer:
    if "betas" in options:
        options["betas"] = tuple(options["betas"])
    # AdamW decays parameters by itself; Adam's own weight_decay would go through the moments
    decays = options.get("weight_decay")
    kind: Any = torch.optim.AdamW if decays else torch.optim.Adam
    # fused kernels keep the count of steps on the device, as capture needs
    device = groups[0]["params"][0].device
    fused = device.type in ("cpu", "cuda")
    return kind(groups, **options, fused=fused)
