"""Telling browsers that something has changed: one task asks the journal for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

LOOK_EVERY_S = 0.25
ALIVE_EVERY_S = 15.0  # a comment: a connection that is gone shows, and nothing between closes a silent one
LISTENERS_MOST = 16
AGAIN_S = 5  # what a browser is told that comes when all places are taken


class Changed:
    """Those who listen; use it in one event loop. ``version`` is asked, ``sleep`` waits between two looks."""

    def __init__(
        self, version: Callable[[], Awaitable[int]], sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._version, self._sleep = version, sleep
        self._listeners: set[asyncio.Queue[int]] = set()

    async def run(self) -> None:
        """Look for changes until cancelled; nobody is asked while nobody listens."""
        last = await self._version()
        while True:
            await self._sleep(LOOK_EVERY_S)
            if self._listeners and (now := await self._version()) != last:
                last = now
                for listener in self._listeners:
                    if listener.empty():  # one that has not yet fetched the last change hears of both at once
                        listener.put_nowait(now)

    @property
    def full(self) -> bool:
        """Whether nobody else can listen."""
        return len(self._listeners) >= LISTENERS_MOST

    async def listen(self) -> AsyncIterator[str]:
        """Yield server-sent events: one at once, one for each change, and a comment while nothing happens."""
        listener: asyncio.Queue[int] = asyncio.Queue(1)
        self._listeners.add(listener)
        try:
            yield f"retry: 2000\n{_event(await self._version())}"
            while True:
                try:
                    yield _event(await asyncio.wait_for(listener.get(), ALIVE_EVERY_S))
                except TimeoutError:
                    yield ": still here\n\n"
        finally:
            self._listeners.discard(listener)


def live_route(changed: Changed) -> Route:
    """Return ``/events``."""

    async def events(request: Request) -> Response:
        if request.method == "HEAD":  # nothing would ever end it
            return Response(media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        if changed.full:
            return PlainTextResponse("Too many windows are open.\n", 503, {"Retry-After": str(AGAIN_S)})
        return StreamingResponse(
            changed.listen(), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )

    return Route("/events", events)


def _event(version: int) -> str:
    return f"event: changed\ndata: {version}\n\n"
