"""The tab of directions: a code is moved along principal components and attributes."""

from __future__ import annotations

import random
from typing import Any

import gradio as gr

from pyro_lrp.figures.explorer import markup
from pyro_lrp.figures.explorer.answers import Point
from pyro_lrp.figures.explorer.desk import LIVE, Desk

__all__ = ["MovesTab"]

_COMPONENTS = 8
_ATTRIBUTES = 3  # that can be moved along together


class MovesTab:
    """Sliders along directions of the latent space.

    Args:
        desk: The desk.

    Attributes:
        start: The code that is moved.
        show: The function that shows it, its inputs and its outputs.
        rest: The components whose values are 0 where the code is not moved.
    """

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        explorer = desk.explorer
        self.spaces = explorer.spaces
        self.components = min(_COMPONENTS, explorer.dimensions)
        with gr.Row():
            with gr.Column(scale=2, min_width=320, elem_classes="lrp-stay"):
                picture = gr.HTML(elem_id="moved")
            with gr.Column(scale=3, min_width=320):
                self._start_inputs()
                self._sliders()
        self.start = gr.State(None)
        values = [self.space, *self.other, *self.rest, *self.names]
        show = desk.answering(self._show)
        self.show = (show, [self.start, *values], picture)
        for component in values:
            event = component.input if isinstance(component, gr.Slider) else component.change
            event(show, [self.start, *values], picture, **LIVE)
        self.reset.click(lambda: [0] * len(self.rest), None, self.rest, **LIVE).then(*self.show, **LIVE)
        starts = [picture, self.start]
        test = desk.answering(self._test, 2)
        own = desk.answering(self._own, 2)
        self.number.change(test, self.number, starts, **LIVE).then(*self.show, **LIVE)
        self.another.click(self._random, None, self.number, **LIVE)
        self.file.upload(own, [self.file, *self.given], starts, **LIVE).then(*self.show, **LIVE)
        self.begin = (test, self.number, starts)

    def _start_inputs(self) -> None:
        desk = self.desk
        self.given: list[Any] = []
        with gr.Row():
            self.number = desk.test_image("Start at test image", 0)
            self.another = gr.Button("Another test image", min_width=120, size="sm")
        by_example = desk.explorer.given.by_example
        with gr.Accordion("Start at an image of your own", open=False, visible=not by_example):
            if not by_example:
                self.given = desk.given(every=False)
            self.file = gr.Image(type="filepath", sources=["upload"], height=140, label="Image file")

    def _sliders(self) -> None:
        explorer = self.desk.explorer
        names = explorer.directions
        spaces = list(self.spaces)
        noun = "Attribute"
        title = "Attributes"
        if not explorer.run.data.attributes:
            noun = "Class"
            title = "Classes"
        self.other = []
        if explorer.given.by_example:
            kind = explorer.given.kind
            self.other = [
                gr.Checkbox(label=f"With another {kind}", value=False),
                self.desk.test_image(f"The {kind} of test image", 0),
            ]
        self.rest: list[Any] = []
        self.names: list[Any] = []
        gr.HTML("<h3>Principal components of the codes, in standard deviations</h3>")
        self.space = gr.Radio(spaces, value=spaces[0], label="Space of the components", visible=len(spaces) > 1)
        with gr.Row(elem_id="moves"):
            for number in range(self.components):
                label = f"Component {number + 1}"
                self.rest.append(gr.Slider(-3, 3, value=0, step=0.05, label=label, min_width=200))
        if names:
            gr.HTML(f"<h3>{title} (1 is the mean code with it less that without)</h3>")
        for number in range(min(_ATTRIBUTES, len(names))):
            with gr.Row():
                self.names.append(gr.Dropdown(names, value=names[number], label=noun, min_width=120))
                self.rest.append(gr.Slider(-2, 2, value=0, step=0.05, label="Amount", min_width=200))
        self.reset = gr.Button("All sliders to 0", size="sm")

    def _random(self) -> int:
        return random.randrange(self.desk.explorer.test_images)

    def _test(self, index: int | None) -> tuple[Any, Point]:
        return gr.skip(), self.desk.explorer.test_image(int(index or 0))

    def _own(self, path: str, *given: Any) -> tuple[Any, Point]:
        return gr.skip(), self.desk.explorer.own_image(path, self.desk.wanted(given))

    def _show(self, point: Point | None, space: str, *values: Any) -> str:
        if point is None:
            return ""
        explorer = self.desk.explorer
        others = len(self.other)
        numbers = values[others : others + len(self.rest)]
        names = values[others + len(self.rest) :]
        components = dict(enumerate(numbers[: self.components]))
        attributes: dict[str, float] = {}
        for name, amount in zip(names, numbers[self.components :], strict=True):
            if amount:
                attributes[name] = attributes.get(name, 0.0) + amount
        code = explorer.moved(point, components, attributes, self.spaces[space])
        context = point.context
        if others and values[0]:
            context = explorer.contexts(values[1], 1)[0]
        moved = Point(code, context, explorer.decoded(code, context), "moved")
        figures = [
            markup.figure(point.image, point.name),
            markup.figure(explorer.decoded(point.code, point.context), "its code, decoded"),
            markup.figure(moved.image, moved.name),
        ]
        return markup.row([*figures, *self.desk.given_figure(moved)], "large") + self.desk.gauge(moved)
