"""Limits on what a configuration may ask for, so that none exhausts memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_lrp.core.errors import UserError

__all__ = ["Budget", "check_sizes", "read_yaml"]

LARGEST = 10_000_000  # of a whole number
LARGEST_COUNT = 10_000  # of a whole number that counts repetitions
COUNTS = ("layers", "blocks", "repeats", "depth", "scale", "components", "iterations", "count")
NUMBERS = 2**30  # in all tensors that building a model makes; 4 GiB of float32
TENSORS = 200_000
FILE_BYTES = 2**20
NODES = 20_000
DEPTH = 40


def check_sizes(node: Any, name: str) -> None:
    """Refuse whole numbers of a node that no model or data set needs.

    Raises:
        UserError: On the first number beyond :data:`LARGEST`, or :data:`LARGEST_COUNT` for keys that count.
    """
    for key, value in _numbers(node, name):
        leaf = key.rpartition(".")[2]
        limit = LARGEST_COUNT if any(word in leaf for word in COUNTS) else LARGEST
        if abs(value) > limit:
            raise UserError(f"{key} must be at most {limit:,}, got {value}")


class Budget(TorchDispatchMode):
    """Within the block, building refuses to make more than :data:`NUMBERS` numbers or :data:`TENSORS` tensors.

    Sizes are read before a tensor is allocated.

    Args:
        name: What is built, for the error.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.numbers = 0
        self.tensors = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        sources = [arg for arg in args if isinstance(arg, Tensor)]
        if not sources or func.__name__.startswith(("repeat", "new_")):
            self._spend(_size(func.__name__, sources, args))
        result = func(*args, **(kwargs or {}))
        if sources and isinstance(result, Tensor):
            self._refuse_above(result.numel())
        return result

    def _spend(self, numbers: int) -> None:
        self.numbers += numbers
        self.tensors += 1
        self._refuse_above(self.numbers)
        if self.tensors > TENSORS:
            raise UserError(f"{self.name} asks for more than {TENSORS:,} tensors")

    def _refuse_above(self, numbers: int) -> None:
        if numbers > NUMBERS:
            raise UserError(f"{self.name} asks for {numbers:,} numbers, more than the limit of {NUMBERS:,}")


def read_yaml(path: Path) -> Any:
    """The plain values of a YAML file that may come from a stranger.

    Raises:
        UserError: If it is not YAML, too large, too deep, repeats a part by aliases beyond the limit, or holds
            anything but dicts, lists, text, numbers, booleans and null.
    """
    if path.stat().st_size > FILE_BYTES:
        raise UserError(f"{path} is larger than a configuration can be ({FILE_BYTES:,} bytes)")
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not readable YAML") from error
    _refuse_explosion(root, path)
    try:
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path} is not readable YAML") from error
    _refuse_strange(tree, path)
    return tree


def _refuse_explosion(root: yaml.Node | None, path: Path) -> None:
    """Refuse aliases that make a small file a large tree; each node is visited once."""
    measured: dict[int, tuple[int, int]] = {}

    def measure(node: yaml.Node, level: int) -> tuple[int, int]:
        """The number of values below a node once aliases are followed, and their depth."""
        if level > DEPTH:  # an alias to a node around it would never end
            raise UserError(f"{path} is nested more than {DEPTH} levels deep")
        if isinstance(node, yaml.ScalarNode):
            return 1, 1
        if id(node) not in measured:
            children = node.value
            if isinstance(node, yaml.MappingNode):
                children = [part for pair in node.value for part in pair]
            inner = [measure(child, level + 1) for child in children]
            size = 1 + sum(size for size, _ in inner)
            depth = 1 + max((depth for _, depth in inner), default=0)
            measured[id(node)] = size, depth
        return measured[id(node)]

    size, depth = (1, 1) if root is None else measure(root, 0)
    if size > NODES:
        raise UserError(f"{path} holds more than {NODES:,} values")
    if depth > DEPTH:
        raise UserError(f"{path} is nested more than {DEPTH} levels deep")


def _refuse_strange(node: Any, path: Path) -> None:
    if isinstance(node, dict):
        for key, value in node.items():
            if not isinstance(key, (str, int, float, bool)):
                raise UserError(f"{path} has a key that is not text: {key!r}")
            _refuse_strange(value, path)
    elif isinstance(node, list):
        for value in node:
            _refuse_strange(value, path)
    elif not isinstance(node, (str, int, float, bool, type(None))):
        raise UserError(f"{path} holds a {type(node).__name__}, which is no part of a configuration")


def _numbers(node: Any, name: str) -> Iterator[tuple[str, int]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _numbers(value, f"{name}.{key}")
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _numbers(value, name)
    elif isinstance(node, int):
        yield name, node


def _size(operation: str, sources: list[Tensor], args: Any) -> int:
    """How many numbers a tensor will hold that is made of sizes alone, or of a tensor and sizes."""
    lists = [arg for arg in args if isinstance(arg, (list, tuple))]
    sizes = lists[0] if lists else args
    sizes = [size for size in sizes if isinstance(size, int) and not isinstance(size, bool)]
    if operation.startswith("eye") and len(sizes) == 1:
        sizes = [sizes[0], sizes[0]]
    numbers = math.prod(max(1, abs(int(size))) for size in sizes)
    if operation.startswith("repeat") and sources:
        numbers *= sources[0].numel()
    return numbers
