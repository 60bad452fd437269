"""Limits on the sizes in a configuration, so that none exhausts memory."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.limits import refuse_special
from pyro_lrp.core.trees import leaves, nodes

__all__ = ["Budget", "check_sizes", "read_yaml"]

LARGEST = 10_000_000  # the largest whole number
LARGEST_COUNT = 10_000  # the largest number of repetitions
COUNTS = (  # a key with one of these words is a number of repetitions
    "layers",
    "blocks",
    "repeats",
    "depth",
    "scale",
    "components",
    "iterations",
    "count",
)
NUMBERS = 2**30  # numbers in all tensors of a new model; 4 GiB of float32
TENSORS = 10_000  # tensors of a new model
FILE_BYTES = 2**20  # size of a YAML file
NODES = 20_000  # values in a YAML file
DEPTH = 40  # levels of a YAML file


def check_sizes(node: Any, name: str) -> None:
    """Refuse whole numbers in a node that are larger than any model or data set needs.

    Args:
        node: A node of plain dicts, lists and scalars.
        name: Its key, such as ``"prior"``, for errors.

    Raises:
        UserError: On the first number beyond :data:`LARGEST`, or :data:`LARGEST_COUNT` if its key is one of
            the :data:`COUNTS`.
    """
    for path, value in leaves(node):
        if not isinstance(value, int) or path[-1:] == ("seed",):  # a seed is no size
            continue
        keys = [part for part in path if isinstance(part, str)]
        key = ".".join([name, *keys])
        limit = _limit(key)
        if abs(value) > limit:
            raise UserError(f"{key} must be at most {limit:,}, got {value}")


def _limit(key: str) -> int:
    last = key.rpartition(".")[2]
    if any(word in last for word in COUNTS):
        return LARGEST_COUNT
    return LARGEST


class Budget(TorchDispatchMode):
    """Within the block, at most :data:`NUMBERS` numbers and :data:`TENSORS` tensors can be created.

    Sizes are checked before a tensor is allocated.

    Args:
        name: The object that is being built, for the error.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.numbers = 0
        self.tensors = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keep torch from importing its compiler for the first tensor, which takes two seconds."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        sources = [arg for arg in args if isinstance(arg, Tensor)]
        creates = func.__name__.startswith(("repeat", "new_"))
        if creates or not sources:
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
    """The plain values of a YAML file from a source that is not trusted.

    Raises:
        UserError: If the file is not YAML, is too large or too deep, repeats parts by aliases beyond the limit,
            or holds anything but dicts, lists, text, numbers, booleans and null.
    """
    refuse_special(path)
    if path.stat().st_size > FILE_BYTES:
        raise UserError(f"{path} is larger than a configuration can be ({FILE_BYTES:,} bytes)")
    try:
        text = path.read_text(encoding="utf-8")
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not readable YAML") from error
    if root is None:
        return None
    _refuse_explosion(root, path)
    try:
        tree = loader.construct_document(root)
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path} is not readable YAML") from error
    _refuse_other_types(tree, path)
    return tree


def _refuse_explosion(root: yaml.Node, path: Path) -> None:
    """Refuse aliases that turn a small file into a large tree; each node is visited once."""
    measured: dict[int, tuple[int, int]] = {}

    def measure(node: yaml.Node, level: int) -> tuple[int, int]:
        """The number of values below a node, with aliases followed, and their depth."""
        if level > DEPTH:  # an alias to a surrounding node recurses without end
            raise UserError(f"{path} is nested more than {DEPTH} levels deep")
        if isinstance(node, yaml.ScalarNode):
            return 1, 1
        if id(node) not in measured:
            size = 1
            depth = 1
            for child in _yaml_children(node):
                child_size, child_depth = measure(child, level + 1)
                size += child_size
                depth = max(depth, 1 + child_depth)
            measured[id(node)] = (size, depth)
        return measured[id(node)]

    size, depth = measure(root, 0)
    if size > NODES:
        raise UserError(f"{path} holds more than {NODES:,} values")
    if depth > DEPTH:
        raise UserError(f"{path} is nested more than {DEPTH} levels deep")


def _yaml_children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value


def _refuse_other_types(tree: Any, path: Path) -> None:
    for _, node in nodes(tree):
        if not isinstance(node, (dict, list, str, int, float, bool, type(None))):
            raise UserError(f"{path} holds a {type(node).__name__}, which is no part of a configuration")
        if not isinstance(node, dict):
            continue
        for key in node:
            if not isinstance(key, (str, int, float, bool)):
                raise UserError(f"{path} has a key that is not text: {key!r}")


def _size(operation: str, sources: list[Tensor], args: Any) -> int:
    """The size of a tensor that is created from sizes alone, or from a tensor and sizes."""
    lists = [arg for arg in args if isinstance(arg, (list, tuple))]
    candidates = lists[0] if lists else args
    sizes = []
    for size in candidates:
        if isinstance(size, int) and not isinstance(size, bool):
            sizes.append(size)
    if operation.startswith("eye") and len(sizes) == 1:
        sizes = [sizes[0], sizes[0]]
    numbers = math.prod(max(1, abs(int(size))) for size in sizes)
    if operation.startswith("repeat") and sources:
        numbers *= sources[0].numel()
    return numbers
