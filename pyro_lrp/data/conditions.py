"""Conditions: what a data set knows of an image, as the context vector of a conditional prior.

A new kind of condition is one class: a subclass of :class:`Condition` with a ``kind`` registers itself, and
``context=KIND`` then names it in every command.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_lrp.core.errors import UserError
from pyro_lrp.data.dataset import ImageData, Split, no_context

__all__ = ["Attributes", "Condition", "Labels", "NoCondition", "condition_for", "condition_of", "with_context"]

_KINDS: dict[str, type[Condition]] = {}


class Condition:
    """The meaning of the entries of a context.

    Attributes:
        kind: The name by which ``context=`` asks for it.
        by_example: Whether contexts are given as images that have them, not in words.

    Args:
        names: The name of each entry of a context.
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
        """Whether ``context=wanted`` asks for a condition of this kind."""
        return wanted == cls.kind

    @classmethod
    def for_data(cls, data: ImageData, wanted: Any) -> Condition:
        """The condition of a data set that ``context=wanted`` asks for.

        Raises:
            UserError: If the data set does not know it.
        """
        raise NotImplementedError

    @classmethod
    def again(cls, data: ImageData, names: Sequence[str]) -> Condition:
        """The condition of a trained run, whose entries have these names, for its data set."""
        return cls.for_data(data, cls.kind)

    def of(self, split: Split) -> Tensor:
        """The contexts of a split's images, float32 of shape ``(N, len(names))``."""
        raise NotImplementedError

    def parse(self, wanted: Any, n: int) -> Tensor:
        """``n`` contexts as a user writes them, ``(n, len(names))``.

        Raises:
            UserError: If the words mean no context of this kind.
        """
        raise NotImplementedError

    def of_files(self, paths: Sequence[str | Path], wanted: Any, n: int) -> Tensor:
        """The contexts of ``n`` images from a user's files, by default those that ``wanted`` says."""
        if wanted is None:
            raise UserError(
                "context must say what the images are, such as context=3: this prior is conditional"
            )
        return self.parse(wanted, n)

    def picture(self, context: Tensor, image_size: int) -> Tensor | None:
        """Pictures of contexts, ``(n, 3, image_size, image_size)``; None if words say them."""
        return None

    def record(self) -> dict[str, Any] | None:
        """Plain values that :func:`condition_of` reads."""
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
        return self.parse(None, n)

    def record(self) -> None:
        return None


class Labels(Condition):
    """The class of an image, one-hot.

    >>> Labels(("0", "1", "2")).parse([2, 0], n=3)
    tensor([[0., 0., 1.],
            [1., 0., 0.],
            [0., 0., 1.]])
    """

    kind = "label"

    @classmethod
    def for_data(cls, data: ImageData, wanted: Any) -> Labels:
        labels = data.train.labels
        if labels is None:
            raise UserError(f"context=label needs class labels, and data={data.name} has none")
        known = [split.labels for split in (data.train, data.test, data.validation) if split is not None]
        classes = 1 + max(int(part.max()) for part in known if part is not None and len(part))
        return cls(tuple(str(number) for number in range(classes)))

    def of(self, split: Split) -> Tensor:
        assert split.labels is not None, "a data set has labels in all splits or in none"
        return F.one_hot(split.labels, len(self.names)).float()

    def parse(self, wanted: Any, n: int) -> Tensor:
        """Classes that take turns; all of them if ``wanted`` is None."""
        items = _as_list(self.names if wanted is None else wanted)
        _refuse_unknown(items, self.names, "class")
        if not items:
            raise UserError("context must name a class, such as context=0")
        index = torch.tensor([self.names.index(str(item)) for item in items], dtype=torch.long)
        return F.one_hot(index, len(self.names)).float()[torch.arange(n) % len(items)]


class Attributes(Condition):
    """Binary attributes of an image, 1 where it has one and -1 where it has not.

    >>> Attributes(("Male", "Smiling")).parse(["Smiling"], n=1)
    tensor([[-1.,  1.]])
    """

    kind = "attributes"

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names)
        self._known: tuple[str, ...] = self.names  # all attributes of the data set, in its order

    @classmethod
    def asked_for(cls, wanted: Any) -> bool:
        return wanted == cls.kind or isinstance(wanted, (list, tuple))

    @classmethod
    def for_data(cls, data: ImageData, wanted: Any) -> Attributes:
        if not data.attributes:
            raise UserError(f"context={wanted} needs attributes, and data={data.name} has none")
        names = data.attributes if wanted == cls.kind else tuple(str(name) for name in wanted)
        strange = [name for name in names if name not in data.attributes]
        if strange or not names:
            said = "names no attribute"
            if strange:
                said = f"{strange[0]} is no attribute of data={data.name}"
            raise UserError(f"context: {said}; there are {', '.join(data.attributes)}")
        condition = cls(names)
        condition._known = data.attributes
        return condition

    @classmethod
    def again(cls, data: ImageData, names: Sequence[str]) -> Attributes:
        return cls.for_data(data, names)

    def of(self, split: Split) -> Tensor:
        assert split.attributes is not None, "a data set has attributes in all splits or in none"
        columns = torch.tensor([self._known.index(name) for name in self.names])
        return split.attributes[:, columns].float() * 2.0 - 1.0

    def parse(self, wanted: Any, n: int) -> Tensor:
        """The attributes that are present, all others being absent."""
        if wanted is None:
            raise UserError(f"context must say which attributes, such as context=[{self.names[0]}], or []")
        items = _as_list(wanted)
        _refuse_unknown(items, self.names, "attribute")
        index = torch.tensor([self.names.index(str(item)) for item in items], dtype=torch.long)
        signs = -torch.ones(len(self.names))
        signs[index] = 1.0
        return signs.expand(n, -1)


def condition_for(data: ImageData, wanted: Any) -> Condition:
    """The condition that ``context=wanted`` asks for, of a data set.

    Args:
        data: With labels, attributes, or whatever the kind needs.
        wanted: A kind, such as ``"label"``; ``"attributes"`` for all or a list of their names; None for none.

    Raises:
        UserError: If there is no such kind, or the data set does not know it.
    """
    if wanted is None:
        return NoCondition()
    for kind in _KINDS.values():
        if kind is not NoCondition and kind.asked_for(wanted):
            return kind.for_data(data, wanted)
    known = ", ".join(name for name in _KINDS if name != NoCondition.kind)
    raise UserError(f"context must be one of {known}, a list of attributes, or null, got {wanted!r}")


def with_context(data: ImageData, wanted: Any) -> tuple[ImageData, Condition]:
    """The data set with the contexts that ``context=wanted`` asks for, and their condition.

    Raises:
        UserError: As :func:`condition_for`.
    """
    condition = condition_for(data, wanted)
    return data.with_contexts(condition.of), condition


def condition_of(record: dict[str, Any] | None, data: ImageData | None = None) -> Condition:
    """The condition of a trained run, from :meth:`Condition.record`.

    Args:
        record: Of the run; None if its prior is not conditional.
        data: The data set that contexts are to be made of; needed by kinds that read its columns.

    Raises:
        UserError: If there is no such kind.
    """
    if record is None:
        return NoCondition()
    kind = _KINDS.get(record["kind"])
    if kind is None:
        raise UserError(f"context: this run's kind of condition, {record['kind']}, is not known here")
    return kind(record["names"]) if data is None else kind.again(data, record["names"])


def _as_list(wanted: Any) -> list[Any]:
    return list(wanted) if isinstance(wanted, (list, tuple)) else [wanted]


def _refuse_unknown(items: Sequence[Any], names: Sequence[str], what: str) -> None:
    strange = [item for item in items if str(item) not in names]
    if strange:
        raise UserError(f"context={strange[0]} is no {what} of this run; there are {', '.join(names)}")
