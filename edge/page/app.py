"""The page as an ASGI application: its addresses, and what is said where something is wrong."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from edge.errors import EdgeError
from edge.page.answers import html
from edge.page.engines_routes import engines_routes
from edge.page.files import file_routes
from edge.page.guard import Guard
from edge.page.image_view import image_routes
from edge.page.live import Changed, live_route
from edge.page.now_view import now_of
from edge.page.pixels import Pixels
from edge.page.render import render
from edge.page.sources import Sources
from edge.page.static_files import static_route
from edge.page.trends_routes import trends_routes
from edge.service.page_doors import Doors

ORDER = r"[0-9]{1,18}"  # SQLite's integers have 63 bits
WORDS = {404: "Not here", 503: "Not just now"}


def page_app(sources: Sources, doors: Doors) -> ASGIApp:
    """Return the application; it closes the sources when it ends."""
    changed = Changed(lambda: anyio.to_thread.run_sync(sources.data_version))
    pixels = Pixels(sources.config)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        looking = asyncio.create_task(changed.run())
        try:
            yield
        finally:
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking
            await anyio.to_thread.run_sync(pixels.close)
            sources.close()

    app = Starlette(
        routes=[
            *_now_routes(sources),
            live_route(changed),
            *image_routes(sources, pixels),
            *trends_routes(sources),
            *engines_routes(sources),
            *file_routes(sources),
            static_route(),
            Route("/healthz", _healthz),
        ],
        middleware=[Middleware(GZipMiddleware, compresslevel=5)],
        exception_handlers={HTTPException: _http_error, EdgeError: _our_error, Exception: _mistake},
        lifespan=lifespan,
    )
    return Guard(app, doors)  # outermost: what Starlette says of a mistake carries the same headers


def _now_routes(sources: Sources) -> list[Route]:
    async def now(request: Request) -> Response:
        return await _now(request, "now.html")

    async def fragment(request: Request) -> Response:
        return await _now(request, "now_parts.html")

    async def _now(request: Request, template: str) -> Response:
        found = await anyio.to_thread.run_sync(now_of, sources, order_of(request, "before"))
        as_of = found.status.when
        here, aged = "Now" if found.newest else "", template == "now.html"
        answer = html(request, render(template, now=found, here=here, as_of=as_of, aged=aged))
        answer.headers["X-As-Of"] = as_of.isoformat(timespec="seconds")
        answer.headers["X-Now"] = found.time.isoformat(timespec="seconds")
        return answer

    return [Route("/", now), Route("/now/fragment", fragment)]


def order_of(request: Request, name: str) -> int | None:
    """Return an order that the address carries, None where it carries none; anything else is no address of ours."""
    given = request.query_params.get(name)
    if given is None:
        return None
    if re.fullmatch(ORDER, given) is None:
        raise HTTPException(404, "There is no such place in the list.")
    return int(given)


async def _healthz(_: Request) -> Response:
    return PlainTextResponse("ok\n", headers={"Cache-Control": "no-store"})


async def _http_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    return _said(request, exc.status_code, exc.detail, exc.headers)


async def _our_error(request: Request, exc: Exception) -> Response:
    return _said(request, 503, str(exc))


async def _mistake(request: Request, _: Exception) -> Response:
    return _said(request, 500, "This page made a mistake; the log of the service has more. Nothing else is affected.")


def _said(request: Request, status: int, why: str, headers: Any = None) -> Response:
    word = WORDS.get(status, "This did not work")
    answer = html(request, render("error.html", word=word, why=why), status)
    answer.headers.update(headers or {})
    return answer
