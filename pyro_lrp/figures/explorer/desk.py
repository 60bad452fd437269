"""What the tabs of the page share: one explorer at a time, answers or a sentence, and common inputs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

import gradio as gr

from pyro_lrp.core.arguments import command_line
from pyro_lrp.core.errors import UserError
from pyro_lrp.figures.explorer import markup
from pyro_lrp.figures.explorer.answers import Point
from pyro_lrp.figures.explorer.explorer import Explorer

__all__ = ["ALL", "LIVE", "Desk", "script"]

ALL = "all classes"
LIVE: dict[str, Any] = {"queue": False, "show_progress": "hidden", "trigger_mode": "always_last"}
"""Options of events that answer while a slider is moved: one request each, and of many the last one counts."""


def script(name: str) -> str:
    """The content of a file of this folder."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


class Desk:
    """An explorer for several tabs and windows: their questions are answered one after another.

    Args:
        explorer: The explorer.
    """

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self.lock = threading.Lock()

    def answering(self, answer: Callable[..., Any], outputs: int = 1) -> Callable[..., Any]:
        """A function whose mistakes are a sentence in its first output; the others then stay as they are.

        Args:
            answer: Returns markup, or a tuple that begins with it.
            outputs: The number of outputs.
        """

        @wraps(answer)
        def guarded(*values: Any, **more: Any) -> Any:
            with self.lock:
                try:
                    return answer(*values, **more)
                except UserError as error:
                    sentence = markup.note(str(error))
            if outputs == 1:
                return sentence
            return (sentence, *[gr.skip()] * (outputs - 1))

        return guarded

    def prepare(self) -> None:
        """Compute what the first question about a code needs, step by step: nobody waits for all of it."""
        if self.explorer.without_data:
            return
        steps: list[Callable[[], Any]] = [lambda: self.explorer.gauge]
        for space in self.explorer.spaces.values():
            steps.append(partial(self.explorer.principal, space))
        for step in steps:
            with self.lock:
                step()

    # ----------------------------------------------------------------- inputs

    def given(self, *, every: bool) -> list[Any]:
        """The choice of what a conditional prior is given: one input, or none.

        Args:
            every: Whether all classes can be chosen at once.
        """
        given = self.explorer.given
        if given.classes:
            choices = [*given.classes]
            if every:
                choices = [ALL, *choices]
            return [gr.Dropdown(choices, value=choices[0], label="Class")]
        if given.attributes:
            return [gr.CheckboxGroup(given.attributes, value=[], label="Attributes present")]
        if given.by_example:
            return [self.test_image(f"With the {given.kind} of test image", 0)]
        return []

    def wanted(self, values: tuple[Any, ...]) -> Any:
        """What the input of :meth:`given` chooses, as explorers take it."""
        if not values or values[0] in (None, ALL):
            return None
        if self.explorer.given.classes:
            return [values[0]]
        return values[0]

    def test_image(self, label: str, value: int) -> gr.Number:
        """An input of the number of a test image."""
        if self.explorer.without_data:
            return gr.Number(value, label=label, precision=0, interactive=False)
        last = self.explorer.test_images - 1
        return gr.Number(min(value, last), label=f"{label} (0 to {last})", precision=0)

    # ----------------------------------------------------------------- answers

    def gauge(self, point: Point) -> str:
        """The gauge of a code."""
        explorer = self.explorer
        if explorer.without_data:
            return ""
        readings = explorer.readings(point.code[None], point.context[None])
        reading = readings[0] if readings else None
        return markup.gauge(explorer.gauge, reading)

    def given_figure(self, point: Point) -> list[str]:
        """A picture of what the prior is given, if it has one."""
        explorer = self.explorer
        shown = explorer.given.picture(point.context, explorer.image_shape[-1])
        if shown is None:
            return []
        return [markup.figure(shown, explorer.given.kind)]

    def command(self, **options: Any) -> str:
        """The same by the command ``sample``."""
        line = command_line("sample", {"run": str(self.explorer.run.directory), **options})
        return markup.command(line)
