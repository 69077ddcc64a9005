"""What every request passes before any view sees it, and what every answer carries."""

from __future__ import annotations

from urllib.parse import parse_qsl, quote, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge.service.page_doors import PAGE_NAME, Doors
from edge.service.status import NOTICE

POLICY = "; ".join((
    "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' data: blob:", "connect-src 'self'",
    "font-src 'self'", "base-uri 'none'", "form-action 'self'", "frame-ancestors 'none'",
))  # fmt: skip
HEADERS = {
    "X-Page": PAGE_NAME,
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
READING = ("GET", "HEAD")
ADDRESS_MOST = 2000  # characters of path and query: ours have some dozens
COOKIE_S = 30 * 24 * 3600
ASK_AGAIN = "This page asks for a token. Open it once with ?token=... at the end of its address."
WRONG_HOST = "This page is not served under that name. Ask for it as localhost, or add the name to page.names."


class Guard:
    """ASGI middleware: reading only, under a known name, by somebody who may; headers on whatever is answered."""

    def __init__(self, app: ASGIApp, doors: Doors) -> None:
        self._app, self._doors = app, doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # nothing here speaks by WebSocket: it is not accepted

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("Cache-Control", "no-cache")
            await send(message)

        app = self._refusal(scope) or self._app
        await app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        """Return what is answered instead of a view; None: the view may be asked."""
        headers = Headers(scope=scope)
        if scope["method"] not in READING:
            return _said("This page is only read.", 405, {"Allow": ", ".join(READING)})
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > ADDRESS_MOST:
            return _said("This address is too long.", 414)
        if _host(headers.get("host", "")) not in self._doors.hosts:  # DNS rebinding: docs/adr/0016
            return _said(WRONG_HOST, 421)
        return self._asked_for_token(scope, headers)

    def _asked_for_token(self, scope: Scope, headers: Headers) -> Response | None:
        doors = self._doors
        if doors.token is None:
            return None
        asked = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for name, value in asked if name == "token"]
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if given:
            return self._welcome(scope, asked) if doors.knows(given[0]) else _unknown()
        if (kind.lower() == "bearer" and doors.knows(bearer.strip())) or doors.let_in(self._cookie(headers)):
            return None
        return _unknown()

    def _welcome(self, scope: Scope, asked: list[tuple[str, str]]) -> Response:
        """Give the cookie, and lead to the same address without the token: it is not to stay in the history."""
        rest = urlencode([(name, value) for name, value in asked if name != "token"])
        path = "/" + quote(scope["path"].lstrip("/\\"))  # // or /\ would lead to another host
        answer = RedirectResponse(f"{path}?{rest}" if rest else path, 303, {"Cache-Control": "no-store"})
        answer.set_cookie(
            self._doors.cookie_name,
            self._doors.cookie,
            max_age=COOKIE_S,
            secure=self._doors.tls,
            httponly=True,
            samesite="strict",
        )
        return answer

    def _cookie(self, headers: Headers) -> str:
        return cookie_parser(headers.get("cookie", "")).get(self._doors.cookie_name, "")


def _host(header: str) -> str:
    """Return the name of a Host header without its port, in lower case."""
    name, _, port = header.rpartition(":")
    return (name if port.isdigit() and name else header).lower().rstrip(".")


def _unknown() -> Response:
    return _said(ASK_AGAIN, 401, {"WWW-Authenticate": "Bearer", "Cache-Control": "no-store"})


def _said(text: str, status: int, headers: dict[str, str] | None = None) -> Response:
    return PlainTextResponse(f"{text}\n{NOTICE}\n", status, headers)
