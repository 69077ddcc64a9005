"""Telling browsers that something has changed: one task asks the journal for all of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

LOOK_EVERY_S = 0.25
ALIVE_EVERY_S = 15.0  # a comment: a connection that is gone shows, and nothing between closes a silent one
LISTENERS_MOST = 16
AGAIN_S = 5  # what a browser is told that comes when all places are taken
EVENT_STREAM = "text/event-stream"
NOT_STORED = {"Cache-Control": "no-store"}
LOG = logging.getLogger(__name__)  # like uvicorn's: warnings go to the service's log

Listener = asyncio.Queue[int]


class Changed:
    """Those who listen; use it in one event loop. ``version`` is asked, ``sleep`` waits between two looks."""

    def __init__(
        self, version: Callable[[], Awaitable[int]], sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._version, self._sleep = version, sleep
        self._listeners: set[Listener] = set()

    async def run(self) -> None:
        """Look for changes until cancelled; nobody is asked while nobody listens, and no fault ends it."""
        last: int | None = None
        while True:
            if last is None or self._listeners:
                last = await self._looked(last)
            await self._sleep(LOOK_EVERY_S)

    async def _looked(self, last: int | None) -> int | None:
        try:
            now = await self._version()
        except Exception:  # whatever it was, the next look may find the journal again
            LOG.warning("whether the journal has changed could not be asked; it is asked again", exc_info=True)
            return last
        if last not in (None, now):
            for listener in self._listeners:
                if listener.empty():  # one that has not yet fetched the last change hears of both at once
                    listener.put_nowait(now)
        return now

    @property
    def full(self) -> bool:
        """Whether nobody else can listen."""
        return len(self._listeners) >= LISTENERS_MOST

    def join(self) -> Listener | None:
        """Take a place for `listen`; None where all are taken. Whoever takes one leaves it."""
        if self.full:
            return None
        listener: Listener = asyncio.Queue(1)
        self._listeners.add(listener)
        return listener

    def leave(self, listener: Listener) -> None:
        """Give a place back."""
        self._listeners.discard(listener)

    async def listen(self, listener: Listener) -> AsyncIterator[str]:
        """Yield server-sent events: one at once, one for each change, and a comment while nothing happens."""
        yield f"retry: 2000\n{_event(await self._version())}"
        while True:
            try:
                yield _event(await asyncio.wait_for(listener.get(), ALIVE_EVERY_S))
            except TimeoutError:
                yield ": still here\n\n"


class _Events(StreamingResponse):
    """What one listener hears; its place is free again however this ends, even before the first event."""

    def __init__(self, changed: Changed, listener: Listener) -> None:
        super().__init__(changed.listen(listener), media_type=EVENT_STREAM, headers=NOT_STORED)
        self._changed, self._listener = changed, listener

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._changed.leave(self._listener)


def live_route(changed: Changed) -> Route:
    """Return ``/events``; by HEAD a window that was refused asks why: 503 says that all places are taken."""

    async def events(request: Request) -> Response:
        if request.method == "HEAD":  # nothing would ever end it
            return _crowded() if changed.full else Response(media_type=EVENT_STREAM, headers=NOT_STORED)
        listener = changed.join()
        return _crowded() if listener is None else _Events(changed, listener)

    return Route("/events", events)


def _crowded() -> Response:
    return PlainTextResponse("Too many windows are open.\n", 503, {"Retry-After": str(AGAIN_S)})


def _event(version: int) -> str:
    return f"event: changed\ndata: {version}\n\n"
