"""The tab of samples: draw at a temperature, choose one, and see how typical it is and what is like it."""

from __future__ import annotations

from typing import Any

import gradio as gr

from pyro_lrp.data.conditions import as_typed
from pyro_lrp.figures.explorer import markup
from pyro_lrp.figures.explorer.answers import Point, Samples
from pyro_lrp.figures.explorer.desk import LIVE, Desk, script

__all__ = ["SamplesTab"]

_PIXELS = 60 * 32 * 32  # of all samples of a drawing
_MOST = 60
_COLUMNS = 12  # classes that have a column each; more stand in turn
_PRESSED = """(drawn) => {
    const cell = document.querySelector("#samples [aria-pressed=true]");
    return [drawn, Number(cell.dataset.index)];
}"""
_HINT = "Choose a sample to see how typical its code is, and the training images nearest to it."


class SamplesTab:
    """Samples of the prior.

    Args:
        desk: The desk.

    Attributes:
        drawn: The samples that are shown.
        chosen: The one that is chosen.
        move: The button that sends it to the sliders.
    """

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        _, height, width = desk.explorer.image_shape
        self.count = max(8, min(_MOST, _PIXELS // (height * width)))
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                temperature = gr.Slider(
                    0.1,
                    1.5,
                    value=1.0,
                    step=0.05,
                    label="Temperature (times the deviation of the base)",
                    elem_id="temperature",
                )
                given = desk.given(every=True)
                with gr.Row():
                    seed = gr.Number(0, label="Seed", precision=0, minimum=0, scale=1, min_width=90)
                    another = gr.Button("Other samples", scale=1, min_width=120, size="sm")
                first, drawn = self._first([component.value for component in given])
                grid = gr.HTML(first, js_on_load=script("grid.js"), elem_id="samples")
            with gr.Column(scale=2, min_width=320):
                detail = gr.HTML(f"<p>{_HINT}</p>", elem_id="sample")
                self.move = gr.Button("Move the code of this sample", interactive=False, size="sm")
        self.drawn = gr.State(drawn)
        self.chosen = gr.State(None)
        inputs = [temperature, seed, *given]
        draw = desk.answering(self._draw, 2)
        outputs = [grid, self.drawn]
        temperature.input(draw, inputs, outputs, **LIVE)
        for component in inputs[1:]:
            component.change(draw, inputs, outputs, **LIVE)
        another.click(lambda number: int(number or 0) + 1, seed, seed, **LIVE)
        pick = desk.answering(self._pick, 3)
        pressed = gr.Number(0, visible=False)
        more = [detail, self.chosen, self.move]
        grid.select(pick, [self.drawn, pressed], more, js=_PRESSED, **LIVE)

    def _first(self, given: list[Any]) -> tuple[str, Samples | None]:
        """The samples that the page shows at once."""
        draw = self.desk.answering(self._draw, 2)
        content, samples = draw(1.0, 0, *given)
        if not isinstance(samples, Samples):
            samples = None
        return content, samples

    def _draw(self, temperature: float, seed: int | None, *given: Any) -> tuple[str, Samples]:
        explorer = self.desk.explorer
        wanted = self.desk.wanted(given)
        classes = explorer.given.classes
        columns: list[str] = []
        count = self.count
        if classes and wanted is None and len(classes) <= _COLUMNS:
            columns = classes
            count = max(1, count // len(classes)) * len(classes)
        seed = int(seed or 0)
        samples = explorer.samples(count, temperature, wanted, seed)
        names = [f"sample {number + 1}" for number in range(len(samples.images))]
        if columns:
            names = [f"{name}, class {columns[k % len(columns)]}" for k, name in enumerate(names)]
        content = markup.grid(samples.images, names, columns)
        if explorer.given.by_example:
            content = markup.row(self.desk.given_figure(samples.point(0))) + content
        if samples.non_finite:
            content += markup.note(f"{samples.non_finite} further samples were not finite.")
        key = "context"
        if explorer.given.by_example:
            key = explorer.given.kind
        if classes and wanted:
            wanted = [as_typed(name) for name in wanted]
        options = {"n": count, "temperature": temperature, "seed": seed, key: wanted}
        if columns:
            options["out"] = "samples.npz"  # a picture has other samples: it draws class by class
        return content + self.desk.command(**options), samples

    def _pick(self, samples: Samples | None, index: float) -> tuple[str, Point, Any]:
        assert samples is not None, "an image that was chosen is one of the samples"
        explorer = self.desk.explorer
        point = samples.point(int(index))
        parts = [markup.row([markup.figure(point.image, point.name)], "large"), self.desk.gauge(point)]
        if explorer.without_data:
            parts.append(markup.note(explorer.without_data))
        else:
            found = explorer.nearest(point.image)
            searched = f"the {found.total:,} training images"
            if found.searched < found.total:
                searched = f"{found.searched:,} of the {found.total:,} training images, at random"
            captions = [f"{distance:.3f}" for distance in found.distances.tolist()]
            figures = [markup.figure(*pair) for pair in zip(found.images, captions, strict=True)]
            parts.append(f"<h3>Nearest training images</h3>{markup.row(figures, 'small')}")
            parts.append(f"<p>Of {searched}, by the root mean square difference of pixels in [0, 1].</p>")
        return "".join(parts), point, gr.update(interactive=True)
