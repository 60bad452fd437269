"""The page of a trained run, by gradio, for browsers on this machine."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any, NamedTuple

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import gradio as gr
from starlette.middleware import Middleware

from pyro_lrp.core.errors import UserError
from pyro_lrp.figures.explorer import markup
from pyro_lrp.figures.explorer.desk import LIVE, Desk, script
from pyro_lrp.figures.explorer.explorer import Explorer
from pyro_lrp.figures.explorer.map_tab import MapTab
from pyro_lrp.figures.explorer.moves_tab import MovesTab
from pyro_lrp.figures.explorer.paths_tab import PathsTab
from pyro_lrp.figures.explorer.samples_tab import SamplesTab

__all__ = ["build", "serve"]

HOST = "127.0.0.1"
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; connect-src 'self' data: blob:; frame-ancestors 'none'"
)
_FONT = ["system-ui", "sans-serif"]
_MONO = ["ui-monospace", "monospace"]

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Served(NamedTuple):
    """A page that is served.

    Attributes:
        address: Its address.
        prepare: Computes what the first questions need.
        close: Ends it.
    """

    address: str
    prepare: Callable[[], None]
    close: Callable[[], None]


class OwnSourcesOnly:
    """Tells browsers to load nothing from other machines, whatever a page names.

    Args:
        app: The application.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        async def send_with_policy(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", _POLICY.encode())
                message = {**message, "headers": [*message["headers"], policy]}
            await send(message)

        await self.app(scope, receive, send_with_policy)


def build(desk: Desk) -> gr.Blocks:
    """The page; its first samples are part of it."""
    explorer = desk.explorer
    settings = explorer.run.settings
    name = f"{settings.preset('model')} on {settings.preset('data')}"
    with gr.Blocks(title=name, analytics_enabled=False, fill_width=False) as page:
        gr.HTML(markup.heading(name, facts(explorer)))
        with gr.Tabs() as tabs:
            with gr.Tab("Samples", id="samples"):
                samples = SamplesTab(desk)
            if explorer.without_data:
                with gr.Tab("Without images", id="none"):
                    gr.HTML(markup.note(explorer.without_data))
                samples.move.visible = False
                return page
            with gr.Tab("Map", id="map") as map_opened:
                place = MapTab(desk)
            with gr.Tab("Directions", id="directions"):
                moves = MovesTab(desk)
            with gr.Tab("Interpolation", id="paths") as paths_opened:
                paths = PathsTab(desk)
        for source in (samples, place):
            chosen = source.move.click(
                lambda point: (gr.Tabs(selected="directions"), point),
                source.chosen,
                [tabs, moves.start],
                **LIVE,
            )
            chosen.then(*moves.show, **LIVE)
        map_opened.select(*place.begin, **LIVE)
        page.load(*moves.begin, **LIVE).then(*moves.show, **LIVE)
        paths_opened.select(*paths.begin, **LIVE)
    return page


def facts(explorer: Explorer) -> list[str]:
    """What the run is, in a few words each."""
    run = explorer.run
    settings = run.settings
    found = [
        f"{explorer.dimensions} latent dimensions",
        f"prior {settings.preset('prior') or type(explorer.autoencoder.prior).__name__}",
        f"β = {settings.beta:g}",
        f"{run.step:,} training steps",
        f"seed {settings.seed}",
    ]
    if not run.finished:
        found.append("training is not finished")
    return found


def serve(explorer: Explorer, port: int | None = None) -> Served:
    """Serve the page to browsers on this machine.

    Args:
        explorer: The explorer.
        port: The port; None for a free one.

    Returns:
        The page, which is served already.

    Raises:
        UserError: If the port is taken.
    """
    desk = Desk(explorer)
    page = build(desk)
    theme = gr.themes.Base(font=_FONT, font_mono=_MONO)
    try:
        _, address, _ = page.launch(
            server_name=HOST,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            footer_links=[],
            ssr_mode=False,
            pwa=False,
            theme=theme,
            css=script("page.css"),
            app_kwargs={"middleware": [Middleware(OwnSourcesOnly)]},
        )
    except OSError as error:
        raise UserError(f"port={port} is taken: choose another, or leave it out for a free one") from error
    return Served(address, desk.prepare, partial(page.close, verbose=False))
