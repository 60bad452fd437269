"""The names that a configuration may call: a stranger's run can build networks and distributions, nothing else.

Every object of a run is built from a ``_target_`` of its configuration. A target is accepted if it is a public
name of one of this library's building packages, a class of torch, Pyro or zuko that is a module, a distribution
or a transform, or one of Pyro's factories of transforms; always by one exact path. Functions, methods and
attributes of such objects are refused, and so is everything else that the caller does not trust explicitly.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Any

from pyro.distributions.conditional import ConditionalDistribution, ConditionalTransform
from torch import nn
from torch.distributions import Distribution, Transform

from pyro_lrp.core.errors import UserError

__all__ = ["DATA_SETS", "allowed_targets", "check_node", "find"]

DATA_SETS = (
    "celeba", "cifar10", "deepfashion", "digits", "fake", "fashion_mnist", "folder", "mnist", "npz",
    "posed_figures",
)  # fmt: skip
"""The functions of :mod:`pyro_lrp.data` that make a data set; allowed as ``data``, and nowhere else."""

_OWN = ("likelihoods", "models", "networks", "objectives", "priors", "schedules", "transforms")
_KINDS = (nn.Module, Distribution, Transform, ConditionalDistribution, ConditionalTransform)
_CLASSES = {  # where classes are public: the packages that they may come from
    "torch.nn": ("torch.nn.modules.",),
    "torch.distributions": ("torch.distributions.",),
    "torch.distributions.transforms": ("torch.distributions.",),
    "pyro.nn": ("pyro.nn.",),
    "pyro.distributions": ("pyro.distributions.",),
    "pyro.distributions.transforms": ("pyro.distributions.", "torch.distributions."),
    "zuko.flows": ("zuko.",),
}
_LEFT_OUT = {  # holders that take attributes of any name; a distribution that may compile code of its own
    "torch.nn.ModuleDict", "torch.nn.ParameterDict", "torch.nn.ParameterList",
    "pyro.distributions.SpanningTree",
}  # fmt: skip
_FACTORIES = (
    "affine_autoregressive", "affine_coupling", "batchnorm", "block_autoregressive",
    "conditional_affine_autoregressive", "conditional_affine_coupling",
    "conditional_generalized_channel_permute", "conditional_householder", "conditional_matrix_exponential",
    "conditional_neural_autoregressive", "conditional_planar", "conditional_radial", "conditional_spline",
    "conditional_spline_autoregressive", "elu", "generalized_channel_permute", "householder", "iterated",
    "leaky_relu", "matrix_exponential",
    "neural_autoregressive", "permute", "planar", "polynomial", "radial", "spline", "spline_autoregressive",
    "spline_coupling", "sylvester",
)  # fmt: skip
_POSITIONAL = "torch.nn.Sequential"  # the one target whose parts have no names


def check_node(node: Any, name: str, allow_targets: Sequence[str] = ()) -> None:
    """Refuse a node of a configuration that names anything which is not allowed, before anything is built.

    Args:
        node: The node, of plain dicts, lists and scalars.
        name: Its key, such as ``"prior"``, for errors.
        allow_targets: Modules, or prefixes of dotted names, that the caller trusts.

    Raises:
        UserError: On the first target or directive that is refused, with the way to allow it.
    """
    if isinstance(node, str) and "${" in node:  # Hydra would resolve it: it could read the environment
        raise UserError(f"{name}: {node!r} is an interpolation, which a run's configuration must not hold")
    if isinstance(node, dict):
        if "_target_" in node:
            _check_directives(node, name, allow_targets)
        for key, value in node.items():
            check_node(str(key), f"{name}.{key}", allow_targets)
            check_node(value, f"{name}.{key}", allow_targets)
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            check_node(value, f"{name}.{index}", allow_targets)


def find(target: str, name: str, allow_targets: Sequence[str] = ()) -> Any:
    """The object of an allowed target.

    Raises:
        UserError: If it is not allowed, or does not exist.
    """
    if not isinstance(target, str):
        raise UserError(f"{name}: _target_ must be a dotted name, got {target!r}")
    home, _, leaf = target.rpartition(".")
    if any(_covers(prefix, target) for prefix in allow_targets):
        return _trusted(target, name, allow_targets)
    if leaf in _names(home) and (home != "pyro_lrp.data" or name == "data"):
        return getattr(importlib.import_module(home), leaf)
    known = home in _CLASSES or home.removeprefix("pyro_lrp.") in _OWN
    if known and leaf and not leaf.startswith("_") and not hasattr(_module(home, target, name), leaf):
        raise UserError(f"{name}: _target_ {target} cannot be imported ({home} has no {leaf})")
    raise _refusal(target, name)


def allowed_targets() -> set[str]:
    """All targets that are allowed without ``allow_targets``; those of zuko only if it is installed."""
    homes = [*_CLASSES, *(f"pyro_lrp.{package}" for package in (*_OWN, "data"))]
    return {f"{home}.{leaf}" for home in homes for leaf in _names(home)}


def _check_directives(node: dict[str, Any], name: str, allow_targets: Sequence[str]) -> None:
    target = node["_target_"]
    find(target, name, allow_targets)
    if "self" in node:
        raise UserError(f"{name}: a configuration must not give self")
    for key in ("_recursive_", "_convert_"):
        if key in node:
            raise UserError(f"{name}: {key} is not allowed in a run's configuration")
    if not isinstance(node.get("_partial_", False), bool):
        raise UserError(f"{name}: _partial_ must be true or false, got {node['_partial_']!r}")
    if "_args_" not in node:
        return
    trusted = any(_covers(prefix, target) for prefix in allow_targets)
    if not isinstance(node["_args_"], list) or not (trusted or target == _POSITIONAL):
        raise UserError(f"{name}: _args_ is not allowed for {target}: give its arguments by name")


@cache
def _names(home: str) -> frozenset[str]:
    """The names of a module that are allowed."""
    if home == "pyro_lrp.data":
        return frozenset(DATA_SETS)
    if home.removeprefix("pyro_lrp.") in _OWN and home.startswith("pyro_lrp."):
        module = importlib.import_module(home)
        return frozenset(name for name in module.__all__ if _is_own(getattr(module, name)))
    if home not in _CLASSES:
        return frozenset()
    try:
        module = importlib.import_module(home)
    except ImportError:
        return frozenset()
    names = {name for name, value in vars(module).items() if _is_class_of(value, name, _CLASSES[home])}
    names -= {path.rpartition(".")[2] for path in _LEFT_OUT if path.rpartition(".")[0] == home}
    if home == "pyro.distributions.transforms":
        names |= set(_FACTORIES)
    return frozenset(names)


def _is_own(value: Any) -> bool:
    """Whether the value is a class or function of this library, and not the name of a type."""
    return (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__.startswith("pyro_lrp.")


def _is_class_of(value: Any, name: str, origins: Sequence[str]) -> bool:
    """Whether the value is a public class of a harmless kind, under its own name."""
    if not inspect.isclass(value) or name.startswith("_") or value.__name__ != name:
        return False
    return issubclass(value, _KINDS) and f"{value.__module__}.".startswith(tuple(origins))


def _trusted(target: str, name: str, allow_targets: Sequence[str]) -> Any:
    """The object of a target in a module that the caller trusts; what that module imported is not trusted."""
    if any(part.startswith("_") for part in target.split(".")):
        raise _refusal(target, name)
    try:
        found = pkgutil.resolve_name(target)
    except Exception as error:  # importing a user's module may fail in any way
        message = " ".join(str(error).split())
        raise UserError(f"{name}: _target_ {target} cannot be imported ({message})") from error
    home = getattr(found, "__module__", None) or type(found).__module__
    inside = any(prefix == target or _covers(prefix, f"{home}.") for prefix in allow_targets)
    listed = f"{home}.{getattr(found, '__qualname__', '')}" in allowed_targets()
    if not callable(found) or not (inside or listed):
        raise _refusal(target, name)
    return found


def _module(home: str, target: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(home)
    except ImportError as error:
        hint = "; pip install 'pyro_lrp[zuko]'" if home.startswith("zuko.") else ""
        raise UserError(f"{name}: _target_ {target} cannot be imported ({error}){hint}") from error


def _covers(prefix: str, target: str) -> bool:
    return target == prefix or target.startswith(prefix if prefix.endswith(".") else f"{prefix}.")


def _refusal(target: str, name: str) -> UserError:
    home = target.rpartition(".")[0] or target
    return UserError(
        f"{name}: _target_ {target} is not allowed; if you trust that code, say allow_targets=[{home}.]"
    )
