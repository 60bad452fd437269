"""Trees of dicts and lists, such as configurations, JSON objects and checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["KeyPath", "leaves", "map_leaves", "nodes"]

KeyPath = tuple[str | int, ...]
"""The keys that lead from the root of a tree to a node: text for a dict's keys, an int for a list's index."""


def nodes(tree: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Yield every node with its path, parents before their children.

    >>> list(nodes({"a": [1]}))
    [((), {'a': [1]}), (('a',), [1]), (('a', 0), 1)]
    """
    yield path, tree
    for key, child in _children(tree):
        yield from nodes(child, (*path, key))


def leaves(tree: Any) -> Iterator[tuple[KeyPath, Any]]:
    """Yield every node that is neither a dict nor a list, with its path.

    >>> list(leaves({"a": [1, 2], "b": {}}))
    [(('a', 0), 1), (('a', 1), 2)]
    """
    for path, node in nodes(tree):
        if not isinstance(node, (dict, list, tuple)):
            yield path, node


def map_leaves(function: Callable[[KeyPath, Any], Any], tree: Any, path: KeyPath = ()) -> Any:
    """The tree with ``function(path, leaf)`` in place of each leaf; keys become text, and tuples lists.

    >>> map_leaves(lambda path, leaf: 10 * leaf, {"a": (1, 2)})
    {'a': [10, 20]}
    """
    if not isinstance(tree, (dict, list, tuple)):
        return function(path, tree)
    mapped = {}
    for key, child in _children(tree):
        mapped[key] = map_leaves(function, child, (*path, key))
    if isinstance(tree, dict):
        return mapped
    return list(mapped.values())


def _children(node: Any) -> Iterator[tuple[str | int, Any]]:
    if isinstance(node, dict):
        for key, child in node.items():
            yield str(key), child
    elif isinstance(node, (list, tuple)):
        yield from enumerate(node)
