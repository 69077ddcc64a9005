"""The addresses of the engines: the view, and the picture of a release's gate."""

from __future__ import annotations

import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edge.page.answers import html, kept
from edge.page.engines_view import engines_of, gate_picture
from edge.page.render import render
from edge.page.sources import Sources


def engines_routes(sources: Sources) -> list[Route]:
    """Return ``/engines`` and the pictures of gates."""

    async def engines(request: Request) -> Response:
        found = await anyio.to_thread.run_sync(engines_of, sources)
        return html(request, render("engines.html", engines=found, here="Engines", as_of=found.as_of))

    async def gate(request: Request) -> Response:
        data = await anyio.to_thread.run_sync(gate_picture, sources, request.path_params["name"])
        if data is None:
            raise HTTPException(404, "There is no such picture.")
        return kept(request, data, "image/png")

    return [Route("/engines", engines), Route("/engines/{name:str}/gate.png", gate)]
