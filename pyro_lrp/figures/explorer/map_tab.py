"""The tab of the map: the codes of training images in two dimensions; a place on it is decoded."""

from __future__ import annotations

import gradio as gr

from pyro_lrp.figures.explorer import map_markup, markup
from pyro_lrp.figures.explorer.answers import Point
from pyro_lrp.figures.explorer.desk import LIVE, Desk, script

__all__ = ["MapTab"]

_BY_CLASS = "class"
_BY_DENSITY = "log p(z)"
_CENTRE = (0.5, 0.5)
_MARKED = """() => {
    const svg = document.querySelector("#map svg");
    const place = svg.querySelector(".lrp-mark").transform.baseVal.consolidate().matrix;
    return [place.e / svg.dataset.side, place.f / svg.dataset.side];
}"""  # read when a question is sent: of several events in a row, gradio would send the data of the first


class MapTab:
    """The map of the codes.

    Args:
        desk: The desk.

    Attributes:
        chosen: The code at the mark.
        move: The button that sends it to the sliders.
    """

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        explorer = desk.explorer
        colours = []
        if explorer.map_labels is not None:
            colours.append(_BY_CLASS)
        if explorer.has_density:
            colours.append(_BY_DENSITY)
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                colour = gr.Radio(colours, value=colours[0] if colours else None, label="Colour of the codes")
                colour.visible = len(colours) > 1
                picture = gr.HTML(js_on_load=script("map.js"), elem_id="map")
            with gr.Column(scale=2, min_width=320):
                detail = gr.HTML(elem_id="place")
                self.move = gr.Button("Move the code at the mark", size="sm")
        self.place = gr.State(_CENTRE)
        self.chosen = gr.State(None)
        self.begin = (desk.answering(self._begin, 3), [colour, self.place], [picture, detail, self.chosen])
        colour.change(desk.answering(self._draw), [colour, self.place], picture, **LIVE)
        marked = [gr.Number(0.5, visible=False), gr.Number(0.5, visible=False)]
        select = desk.answering(self._select, 3)
        picture.select(select, marked, [detail, self.chosen, self.place], js=_MARKED, **LIVE)

    def _begin(self, colour: str | None, place: tuple[float, float]) -> tuple[str, str, Point]:
        content, point = self._decode(place)
        return self._draw(colour, place), content, point

    def _draw(self, colour: str | None, place: tuple[float, float]) -> str:
        explorer = self.desk.explorer
        labels = explorer.map_labels
        if colour == _BY_DENSITY:
            return map_markup.by_density(explorer.map, explorer.map_densities, place)
        classes = explorer.run.data.classes
        if labels is None:
            labels = explorer.map.points.new_full((len(explorer.map.points),), -1)
        return map_markup.by_class(explorer.map, labels, classes, place)

    def _select(self, right: float, down: float) -> tuple[str, Point, tuple[float, float]]:
        place = (right, down)
        return (*self._decode(place), place)

    def _decode(self, place: tuple[float, float]) -> tuple[str, Point]:
        explorer = self.desk.explorer
        point, near = explorer.on_map(explorer.map.at(*place))
        figures = [markup.figure(point.image, point.name), markup.figure(near.image, near.name)]
        content = markup.row([*figures, *self.desk.given_figure(point)], "large") + self.desk.gauge(point)
        if explorer.dimensions > 2:
            content += (
                "<p>The mark is in the plane of two components; the others are those of the mean code.</p>"
            )
        return content, point
