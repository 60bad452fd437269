"""Earlier names of modules, which stay importable."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["Aliases"]


class Aliases(MetaPathFinder, Loader):
    """Finds modules under their earlier names, so that ``from package.earlier import name`` works.

    Args:
        names: The full names of modules by their full earlier names.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = dict(names)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A specification that is loaded by this object, or None for any other module."""
        if fullname not in self.names:
            return None
        return ModuleSpec(fullname, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """An empty module: the import system writes its attributes, and must not write those of the target."""
        return ModuleType(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Put the module of the present name in the place of the empty one."""
        sys.modules[module.__name__] = importlib.import_module(self.names[module.__name__])
