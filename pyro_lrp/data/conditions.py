"""Conditions: properties of an image, such as its class, as the context vector of a conditional prior.

A new kind of condition is one class: a subclass of :class:`Condition` registers itself under its ``kind``, and
``context=KIND`` then selects it in every command.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_lrp.core.arguments import typed
from pyro_lrp.core.errors import UserError
from pyro_lrp.data.batch import no_context
from pyro_lrp.data.dataset import ImageData, Split
from pyro_lrp.data.tables import composed

__all__ = [
    "Attributes",
    "Condition",
    "Labels",
    "NoCondition",
    "as_typed",
    "condition_for",
    "condition_kinds",
    "condition_of",
    "with_context",
]

_KINDS: dict[str, type[Condition]] = {}


class Condition:
    """The meaning of the entries of a context.

    Attributes:
        kind: Its name in ``context=``.
        by_example: Whether users specify contexts by images that have them, not in words.

    Args:
        names: Name of each entry of a context.
    """

    kind: ClassVar[str] = ""
    by_example: ClassVar[bool] = False

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        _KINDS[cls.kind] = cls

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Condition) and self.record() == other.record()

    def __hash__(self) -> int:
        return hash((self.kind, self.names))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self.names)})"

    def __len__(self) -> int:
        """The length of a context."""
        return len(self.names)

    @classmethod
    def asked_for(cls, wanted: Any) -> bool:
        """Whether ``context=wanted`` selects a condition of this kind."""
        return wanted == cls.kind

    @classmethod
    def for_data(cls, data: ImageData, wanted: Any) -> Condition:
        """The condition that ``context=wanted`` selects, for a data set.

        Raises:
            UserError: If the data set lacks the property.
        """
        raise NotImplementedError

    @classmethod
    def again(cls, data: ImageData, names: Sequence[str]) -> Condition:
        """The condition of a trained run with these names of entries, for the run's data set."""
        return cls.for_data(data, cls.kind)

    def of(self, split: Split) -> Tensor:
        """The contexts of a split's images, float32 of shape ``(N, len(names))``."""
        raise NotImplementedError

    def parse(self, wanted: Any, n: int) -> Tensor:
        """``n`` contexts from the user's value of ``context=``, ``(n, len(names))``.

        Raises:
            UserError: If the value is no context of this kind.
        """
        raise NotImplementedError

    def classes(self, wanted: Any) -> list[str]:
        """The classes that ``context=wanted`` names, of which a picture shows a labelled row each.

        Args:
            wanted: The user's value of ``context=``; None for all.

        Returns:
            Their names; none if contexts of this kind are no classes.

        Raises:
            UserError: If there is no such class.
        """
        return []

    def example(self) -> dict[str, Any]:
        """Options of the command ``sample`` that ask for contexts of this kind; by default none."""
        return {}

    def of_files(self, paths: Sequence[str | Path], wanted: Any, n: int) -> Tensor:
        """The contexts of ``n`` images in files of the user; by default those that ``wanted`` specifies."""
        if wanted is None:
            such = "".join(f", such as {option}" for option in typed(self.example()))
            raise UserError(f"context must say what the images are{such}: this prior is conditional")
        return self.parse(wanted, n)

    def picture(self, context: Tensor, image_size: int) -> Tensor | None:
        """Pictures of contexts, ``(n, 3, image_size, image_size)``; None if there are none of this kind."""
        return None

    def record(self) -> dict[str, Any] | None:
        """The condition as plain values, to be read by :func:`condition_of`."""
        return {"kind": self.kind, "names": list(self.names)}


class NoCondition(Condition):
    """No condition: contexts have length 0."""

    kind = "none"

    def __init__(self, names: Sequence[str] = ()) -> None:
        super().__init__(names)

    def of(self, split: Split) -> Tensor:
        return no_context(split.images)

    def parse(self, wanted: Any, n: int) -> Tensor:
        if wanted is not None:
            raise UserError("context has no effect: this run's prior takes none")
        return torch.zeros(n, 0)

    def of_files(self, paths: Sequence[str | Path], wanted: Any, n: int) -> Tensor:
        return self.parse(wanted, n)

    def record(self) -> None:
        return None


class Labels(Condition):
    """The class of an image, one-hot; zero for every class if the image has none.

    >>> Labels(("bird", "cat", "dog")).parse(["dog", "bird"], n=3)
    tensor([[0., 0., 1.],
            [1., 0., 0.],
            [0., 0., 1.]])
    """

    kind = "label"

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names)
        self._classes: tuple[str, ...] = self.names  # those of the data set, which its labels number

    @classmethod
    def for_data(cls, data: ImageData, wanted: Any) -> Labels:
        for noun, split in (("training", data.train), ("test", data.test), ("validation", data.validation)):
            if split is not None and len(split) and not len(split.labelled()):
                raise UserError(
                    f"context=label needs class labels, and the data set {data.name} has none for its {noun} "
                    "images"
                )
        return cls(data.classes)

    @classmethod
    def again(cls, data: ImageData, names: Sequence[str]) -> Labels:
        condition = cls.for_data(data, cls.kind)
        unknown = [name for name in condition.names if name not in names]
        if unknown:
            raise UserError(
                f"context: {unknown[0]} is no class of this run, and the data set {data.name} has it; the run "
                f"knows {', '.join(names)}"
            )
        condition.names = tuple(names)
        return condition

    def of(self, split: Split) -> Tensor:
        assert split.labels is not None, "checked when the condition was made"
        columns = _positions(self._classes, self.names).to(split.labels.device)
        context = torch.zeros(len(split), len(self.names), device=split.labels.device)
        rows = (split.labels >= 0).nonzero().flatten()
        context[rows, columns[split.labels[rows]]] = 1.0
        return context

    def classes(self, wanted: Any) -> list[str]:
        if wanted is None:
            wanted = self.names
        classes = _known(_as_list(wanted), self.names, "class")
        if not classes:
            (example,) = typed(self.example())
            raise UserError(f"context must name a class, such as {example}")
        return classes

    def example(self) -> dict[str, Any]:
        return {"context": as_typed(self.names[0])}

    def parse(self, wanted: Any, n: int) -> Tensor:
        """The given classes in turn; all classes if ``wanted`` is None."""
        classes = self.classes(wanted)
        index = _positions(classes, self.names)
        one_hot = F.one_hot(index, len(self.names)).float()
        in_turn = torch.arange(n) % len(classes)
        return one_hot[in_turn]


class Attributes(Condition):
    """Binary attributes of an image: 1 if it has the attribute, -1 otherwise.

    >>> Attributes(("Male", "Smiling")).parse(["Smiling"], n=1)
    tensor([[-1.,  1.]])
    """

    kind = "attributes"

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names)
        self._columns: tuple[str, ...] = self.names  # all attributes of the data set, in its order

    @classmethod
    def asked_for(cls, wanted: Any) -> bool:
        return wanted == cls.kind or isinstance(wanted, (list, tuple))

    @classmethod
    def for_data(cls, data: ImageData, wanted: Any) -> Attributes:
        columns = data.attributes
        if not columns:
            raise UserError(f"context={wanted} needs attributes, and the data set {data.name} has none")
        names = columns
        if wanted != cls.kind:
            names = tuple(_name_in(columns, name) or str(name) for name in wanted)
        available = ", ".join(columns)
        if not names:
            raise UserError(f"context: names no attribute; there are {available}")
        for name in names:
            if name not in columns:
                raise UserError(
                    f"context: {name} is no attribute of the data set {data.name}; there are {available}"
                )
        condition = cls(names)
        condition._columns = columns
        return condition

    @classmethod
    def again(cls, data: ImageData, names: Sequence[str]) -> Attributes:
        return cls.for_data(data, names)

    def of(self, split: Split) -> Tensor:
        assert split.attributes is not None, "a data set has attributes in all splits or in none"
        columns = _positions(self.names, self._columns)
        flags = split.attributes[:, columns]
        return flags.float() * 2.0 - 1.0

    def example(self) -> dict[str, Any]:
        return {"context": [as_typed(self.names[0])]}

    def parse(self, wanted: Any, n: int) -> Tensor:
        """The given attributes present, all others absent."""
        if wanted is None:
            (example,) = typed(self.example())
            raise UserError(f"context must say which attributes, such as {example}, or []")
        present = _known(_as_list(wanted), self.names, "attribute")
        signs = -torch.ones(len(self.names))
        signs[_positions(present, self.names)] = 1.0
        return signs.expand(n, -1)


def condition_kinds() -> dict[str, type[Condition]]:
    """The kinds of condition that ``context=`` can name, by name."""
    return {name: kind for name, kind in _KINDS.items() if kind is not NoCondition}


def condition_for(data: ImageData, wanted: Any) -> Condition:
    """The condition that ``context=wanted`` selects, for a data set.

    Args:
        data: A data set with the labels, attributes or extras that the kind needs.
        wanted: A kind, such as ``"label"``; ``"attributes"`` for all or a list of their names; None for none.

    Raises:
        UserError: If there is no such kind, or the data set lacks the property.
    """
    if wanted is None:
        return NoCondition()
    kinds = condition_kinds()
    for kind in kinds.values():
        if kind.asked_for(wanted):
            return kind.for_data(data, wanted)
    known = ", ".join(kinds)
    raise UserError(f"context must be one of {known}, a list of attributes, or null, got {wanted!r}")


def with_context(data: ImageData, wanted: Any) -> tuple[ImageData, Condition]:
    """The data set with the contexts that ``context=wanted`` selects, and their condition.

    Raises:
        UserError: As for :func:`condition_for`.
    """
    condition = condition_for(data, wanted)
    return data.with_contexts(condition.of), condition


def condition_of(record: dict[str, Any] | None, data: ImageData | None = None) -> Condition:
    """The condition of a trained run, from :meth:`Condition.record`.

    Args:
        record: Record of the run; None if its prior is not conditional.
        data: The data set for whose images contexts will be computed; needed by kinds that read its columns.

    Raises:
        UserError: If there is no such kind.
    """
    if record is None:
        return NoCondition()
    name = record["kind"]
    kind = _KINDS.get(name)
    if kind is None:
        raise UserError(f"context: this run's kind of condition, {name}, is not known here")
    if data is None:
        return kind(record["names"])
    return kind.again(data, record["names"])


def _as_list(wanted: Any) -> list[Any]:
    if isinstance(wanted, (list, tuple)):
        return list(wanted)
    return [wanted]


def _positions(items: Sequence[str], names: Sequence[str]) -> Tensor:
    positions = [names.index(item) for item in items]
    return torch.tensor(positions, dtype=torch.long)


def _known(items: Sequence[Any], names: Sequence[str], noun: str) -> list[str]:
    """The names that items of ``context=`` mean.

    Raises:
        UserError: On the first item that means none.
    """
    known = []
    for item in items:
        name = _name_in(names, item)
        if name is None:
            available = ", ".join(names)
            raise UserError(f"context={item} is no {noun} of this run; there are {available}")
        known.append(name)
    return known


def as_typed(name: str) -> str | int:
    """A name as it is typed without quotes: 3 for the class ``"3"``."""
    if name.isdecimal() and str(int(name)) == name:
        return int(name)
    return name


def _name_in(names: Sequence[str], item: Any) -> str | None:
    """The name that an item means; the command line turns 007 and true into other types than text.

    >>> _name_in(("001", "True", "Café"), 1), _name_in(("true", "false"), True), _name_in(("cat",), "Dog")
    ('001', 'true', None)
    """
    text = composed(str(item))
    if text in names:
        return text
    alike = []
    for name in names:
        same_number = isinstance(item, int) and name.isdecimal() and int(name) == item
        if same_number or name.casefold() == text.casefold():
            alike.append(name)
    if len(alike) == 1:
        return alike[0]
    return None
