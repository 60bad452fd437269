"""What a conditional prior is given, as one chooses it on a page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pyro_lrp.data import Condition
from pyro_lrp.data.conditions import Attributes

__all__ = ["Given"]


class Given:
    """The choices of a context.

    Args:
        condition: The meaning of contexts.
        of_test_image: Maps the number of a test image to its context, shape ``(1, context_dim)``.

    Attributes:
        kind: The name of the condition, such as ``"label"``.
        classes: The classes to choose from; none if the prior is not given the class.
        attributes: The attributes to choose from; none if the prior is not given attributes.
        by_example: Whether contexts have no name, such as poses: those of test images are chosen.

    >>> from pyro_lrp.data.conditions import Labels
    >>> given = Given(Labels(("cat", "dog")), lambda index: None)
    >>> given.classes, given.contexts(["dog"], 1).tolist()
    (['cat', 'dog'], [[0.0, 1.0]])
    """

    def __init__(self, condition: Condition, of_test_image: Callable[[int], Tensor]) -> None:
        self.condition = condition
        self.of_test_image = of_test_image
        self.kind = condition.kind
        self.classes = condition.classes(None)
        self.attributes: list[str] = []
        if isinstance(condition, Attributes):
            self.attributes = list(condition.names)
        named = self.classes or self.attributes
        self.by_example = len(condition) > 0 and not named

    def contexts(self, wanted: Any, n: int) -> Tensor:
        """``n`` contexts, shape ``(n, context_dim)``.

        Args:
            wanted: A list of classes or of the attributes present; for other kinds, the number of a test image.
                Without any: every class in turn, no attribute, test image 0.
            n: How many.

        Raises:
            UserError: If there is no such class, attribute or test image.
        """
        if self.by_example:
            return self.of_test_image(int(wanted or 0)).expand(n, -1)
        if self.attributes:
            return self.condition.parse(wanted or [], n)
        return self.condition.parse(wanted or None, n)

    def picture(self, context: Tensor, side: int) -> Tensor | None:
        """A picture of a context ``(context_dim,)``, ``(3, side, side)``; None if this kind has none."""
        shown = self.condition.picture(context[None], side)
        if shown is None:
            return None
        return shown[0]
