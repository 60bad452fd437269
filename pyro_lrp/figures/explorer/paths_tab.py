"""The tab of interpolation: paths between two images in z_0 and z_T."""

from __future__ import annotations

from typing import Any

import gradio as gr

from pyro_lrp.core.errors import UserError
from pyro_lrp.figures.explorer import markup
from pyro_lrp.figures.explorer.answers import Point, Walk
from pyro_lrp.figures.explorer.desk import Desk

__all__ = ["PathsTab"]

_EVEN = "even steps"
_SPACES = {"z_0": "z_0: spherical in the base of the prior", "z_T": "z_T: straight between the codes"}


class PathsTab:
    """Interpolation between two images.

    Args:
        desk: The desk.

    Attributes:
        begin: The function that shows the first path, its inputs and its outputs.
    """

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        explorer = desk.explorer
        self.spaces = explorer.spaces
        self.speeds: dict[str, str | None] = {_EVEN: None}
        for distance in explorer.distances:
            name = f"constant speed in LPIPS ({distance})"
            if distance == "classifier":
                name = "constant speed in features of a classifier of the data set"
            self.speeds[name] = distance
        by_example = explorer.given.by_example
        ends: list[Any] = []
        with gr.Row():
            for name, number in (("From", 0), ("To", 1)):
                with gr.Column(min_width=280):
                    ends.append(desk.test_image(f"{name} test image", number))
                    with gr.Accordion(f"{name} an image of your own", open=False, visible=not by_example):
                        ends.append(
                            gr.Image(type="filepath", sources=["upload"], height=140, label="Image file")
                        )
            with gr.Column(min_width=280):
                given = [] if by_example else desk.given(every=False)
                for component in given:
                    component.label = f"{component.label} of an image of your own"
                labels = list(self.spaces)
                spaces = gr.CheckboxGroup(labels, value=labels, label="Spaces", visible=len(labels) > 1)
                speed = gr.Dropdown(list(self.speeds), value=_EVEN, label="Speed")
                steps = gr.Slider(3, 12, value=8, step=1, label="Images of a path")
        picture = gr.HTML(elem_id="paths")
        inputs = [*ends, spaces, speed, steps, *given]
        walk = desk.answering(self._walk)
        for component in inputs:
            component.change(walk, inputs, picture, queue=False, show_progress="minimal")
        self.begin = (walk, inputs, picture)

    def _walk(
        self,
        a: int | None,
        a_file: str | None,
        b: int | None,
        b_file: str | None,
        spaces: list[str],
        speed: str,
        steps: int,
        *given: Any,
    ) -> str:
        explorer = self.desk.explorer
        start = self._end(a, a_file, given)
        end = self._end(b, b_file, given)
        if not spaces:
            raise UserError("choose a space")
        chosen = [self.spaces[label] for label in spaces]
        walks = explorer.walks(start, end, chosen, int(steps), self.speeds[speed])
        parts = [self._row(walk, start, end) for walk in walks]
        if explorer.has_density:
            parts.append("<p>Below each image: the share of test codes that are less likely than its code.</p>")
        if not (a_file or b_file):
            options: dict[str, Any] = {"mode": "interpolate", "indices": [int(a or 0), int(b or 0)]}
            options["space"] = "both"
            if len(chosen) == 1:
                options["space"] = chosen[0]
            if self.speeds[speed]:
                options |= {"speed": "constant", "distance": self.speeds[speed]}
            parts.append(self.desk.command(**options, steps=int(steps)))
        return "".join(parts)

    def _end(self, index: int | None, file: str | None, given: tuple[Any, ...]) -> Point:
        if file:
            return self.desk.explorer.own_image(file, self.desk.wanted(given))
        return self.desk.explorer.test_image(int(index or 0))

    def _row(self, walk: Walk, start: Point, end: Point) -> str:
        captions = [""] * len(walk.images)
        if walk.readings:
            captions = [f"{100 * reading.codes:.0f} %" for reading in walk.readings]
        figures = [markup.figure(start.image, start.name)]
        figures += [markup.figure(*pair) for pair in zip(walk.images, captions, strict=True)]
        figures.append(markup.figure(end.image, end.name))
        return f"<h3>{_SPACES[walk.label]}</h3>{markup.row(figures, 'path')}"
