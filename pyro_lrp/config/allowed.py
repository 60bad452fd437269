"""The names that a configuration may call, so that an untrusted run can build nothing but model parts.

Every object of a run is built from a ``_target_`` of its configuration. Allowed targets are the public names of
this library's building packages, the classes of torch, Pyro and zuko that are modules, distributions or
transforms, and Pyro's factories of transforms, each by exactly one path. Functions, methods and attributes of
such objects are refused, and so is everything else that the caller does not trust explicitly.
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
from pyro_lrp.core.trees import nodes

__all__ = ["DATA_SETS", "allowed_targets", "check_node", "find"]

DATA_SETS = (
    "celeba",
    "cifar10",
    "deepfashion",
    "digits",
    "fake",
    "fashion_mnist",
    "folder",
    "mnist",
    "npz",
    "posed_figures",
)
"""The functions of :mod:`pyro_lrp.data` that load a data set; allowed in ``data`` only."""

_BUILDING_PACKAGES = (
    "likelihoods",
    "models",
    "networks",
    "objectives",
    "priors",
    "schedules",
    "transforms",
)
_KINDS = (
    nn.Module,
    Distribution,
    Transform,
    ConditionalDistribution,
    ConditionalTransform,
)
_CLASSES = {  # by module in which classes are public: the packages that may define them
    "torch.nn": ("torch.nn.modules.",),
    "torch.distributions": ("torch.distributions.",),
    "torch.distributions.transforms": ("torch.distributions.",),
    "pyro.nn": ("pyro.nn.",),
    "pyro.distributions": ("pyro.distributions.",),
    "pyro.distributions.transforms": ("pyro.distributions.", "torch.distributions."),
    "zuko.flows": ("zuko.",),
}
_EXCLUDED = {
    "torch.nn.ModuleDict",  # the containers accept attributes of any name
    "torch.nn.ParameterDict",
    "torch.nn.ParameterList",
    "pyro.distributions.SpanningTree",  # may compile its own code
    "pyro_lrp.models.from_parts",  # calls its arguments
}
_FACTORIES = (
    "affine_autoregressive",
    "affine_coupling",
    "batchnorm",
    "block_autoregressive",
    "conditional_affine_autoregressive",
    "conditional_affine_coupling",
    "conditional_generalized_channel_permute",
    "conditional_householder",
    "conditional_matrix_exponential",
    "conditional_neural_autoregressive",
    "conditional_planar",
    "conditional_radial",
    "conditional_spline",
    "conditional_spline_autoregressive",
    "elu",
    "generalized_channel_permute",
    "householder",
    "iterated",
    "leaky_relu",
    "matrix_exponential",
    "neural_autoregressive",
    "permute",
    "planar",
    "polynomial",
    "radial",
    "spline",
    "spline_autoregressive",
    "spline_coupling",
    "sylvester",
)
_POSITIONAL = "torch.nn.Sequential"  # the only target whose arguments have no names


def check_node(node: Any, name: str, allow_targets: Sequence[str] = ()) -> None:
    """Refuse a node of a configuration that names a target which is not allowed, before anything is built.

    Args:
        node: A node of plain dicts, lists and scalars.
        name: Its key, such as ``"prior"``, for errors.
        allow_targets: Modules, or prefixes of dotted names, that the caller trusts.

    Raises:
        UserError: On the first refused target or directive, with the way to allow it.
    """
    for path, part in nodes(node):
        place = ".".join([name, *map(str, path)])
        for text in (*path[-1:], part):
            _refuse_interpolation(text, place)
        if isinstance(part, dict) and "_target_" in part:
            _check_directives(part, place, allow_targets)


def _refuse_interpolation(text: Any, name: str) -> None:
    """Refuse text that Hydra would resolve: it could read environment variables."""
    if isinstance(text, str) and "${" in text:
        raise UserError(f"{name}: {text!r} is an interpolation, which a run's configuration must not hold")


def find(target: str, name: str, allow_targets: Sequence[str] = ()) -> Any:
    """The object that an allowed target names.

    Raises:
        UserError: If the target is not allowed, or does not exist.
    """
    if not isinstance(target, str):
        raise UserError(f"{name}: _target_ must be a dotted name, got {target!r}")
    home, _, leaf = target.rpartition(".")
    if any(_covers(prefix, target) for prefix in allow_targets):
        return _trusted(target, name, allow_targets)
    if leaf in _names(home) and (home != "pyro_lrp.data" or name == "data"):
        return getattr(importlib.import_module(home), leaf)
    known = home in _CLASSES or home.removeprefix("pyro_lrp.") in _BUILDING_PACKAGES
    public = leaf and not leaf.startswith("_")
    if known and public and not hasattr(_module(home, target, name), leaf):
        raise UserError(f"{name}: _target_ {target} cannot be imported ({home} has no {leaf})")
    raise _refusal(target, name)


def allowed_targets() -> set[str]:
    """All targets that are allowed without ``allow_targets``; those of zuko only if it is installed."""
    homes = list(_CLASSES)
    for package in (*_BUILDING_PACKAGES, "data"):
        homes.append(f"pyro_lrp.{package}")
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
    may_have_args = trusted or target == _POSITIONAL
    if not may_have_args or not isinstance(node["_args_"], list):
        raise UserError(f"{name}: _args_ is not allowed for {target}: give its arguments by name")


@cache
def _names(home: str) -> frozenset[str]:
    """The allowed names of a module."""
    if home == "pyro_lrp.data":
        return frozenset(DATA_SETS)
    package = home.removeprefix("pyro_lrp.")
    if package != home and package in _BUILDING_PACKAGES:
        return _library_names(home)
    if home in _CLASSES:
        return _class_names(home)
    return frozenset()


def _library_names(home: str) -> frozenset[str]:
    """The public classes and functions of one of this library's packages."""
    module = importlib.import_module(home)
    names = set()
    for name in module.__all__:
        allowed = _is_of_library(getattr(module, name))
        if allowed and f"{home}.{name}" not in _EXCLUDED:
            names.add(name)
    return frozenset(names)


def _class_names(home: str) -> frozenset[str]:
    """The allowed classes, and factories of transforms, of a module of torch, Pyro or zuko."""
    try:
        module = importlib.import_module(home)
    except ImportError:
        return frozenset()
    names = set()
    for name, value in vars(module).items():
        allowed = _is_class_of(value, name, _CLASSES[home])
        if allowed and f"{home}.{name}" not in _EXCLUDED:
            names.add(name)
    if home == "pyro.distributions.transforms":
        names |= set(_FACTORIES)
    return frozenset(names)


def _is_of_library(value: Any) -> bool:
    """Whether the value is a class or function that this library defines, and not the alias of a type."""
    if inspect.isclass(value) or inspect.isfunction(value):
        return value.__module__.startswith("pyro_lrp.")
    return False


def _is_class_of(value: Any, name: str, origins: Sequence[str]) -> bool:
    """Whether the value is a public class of an allowed kind, under its own name, from one of the origins."""
    if not inspect.isclass(value) or name.startswith("_") or value.__name__ != name:
        return False
    return issubclass(value, _KINDS) and f"{value.__module__}.".startswith(tuple(origins))


def _trusted(target: str, name: str, allow_targets: Sequence[str]) -> Any:
    """The object of a target in a module that the caller trusts; objects it imports are not trusted."""
    if any(part.startswith("_") for part in target.split(".")):
        raise UserError(f"{name}: _target_ {target} is not allowed: names that begin with _ are private")
    try:
        value = pkgutil.resolve_name(target)
    except Exception as error:  # importing a user's module may fail in any way
        message = " ".join(str(error).split())
        raise UserError(f"{name}: _target_ {target} cannot be imported ({message})") from error
    home = getattr(value, "__module__", None) or type(value).__module__
    qualified = getattr(value, "__qualname__", "")
    trusted = any(prefix == target or _covers(prefix, f"{home}.") for prefix in allow_targets)
    listed = f"{home}.{qualified}" in allowed_targets()
    if not callable(value):
        raise UserError(f"{name}: _target_ {target} is not allowed: it is no class and no function")
    if not (trusted or listed):
        raise UserError(
            f"{name}: _target_ {target} is not allowed: its module imports it from {home}, which allow_targets "
            "does not name"
        )
    return value


def _module(home: str, target: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(home)
    except ImportError as error:
        message = f"{name}: _target_ {target} cannot be imported ({error})"
        if home.startswith("zuko."):
            message += "; pip install 'pyro_lrp[zuko]'"
        raise UserError(message) from error


def _covers(prefix: str, target: str) -> bool:
    """Whether the target is the named object, or lies in the named module."""
    package = prefix.removesuffix(".") + "."
    return target == prefix or target.startswith(package)


def _refusal(target: str, name: str) -> UserError:
    home = target.rpartition(".")[0] or target
    return UserError(
        f"{name}: _target_ {target} is not allowed; if you trust that code, say allow_targets=[{home}.]"
    )
