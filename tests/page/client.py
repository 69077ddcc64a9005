"""Asks the page's application without a network, and without a library that would tidy an odd address up first."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from urllib.parse import unquote


@dataclass(frozen=True)
class Answer:
    """What came back; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self):
        return json.loads(self.body)


class Client:
    """Asks ``app`` as a browser on this machine would."""

    def __init__(self, app, host: str = "127.0.0.1:8765") -> None:
        self.app, self.host = app, host

    def get(self, address: str, method: str = "GET", **headers: str) -> Answer:
        return asyncio.run(self._ask(address, method, headers))

    async def _ask(self, address: str, method: str, headers: dict[str, str]) -> Answer:
        path, _, query = address.partition("?")
        named = {"host": self.host} | {name.replace("_", "-").lower(): value for name, value in headers.items()}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode("utf-8", "surrogateescape"),
            "query_string": query.encode("utf-8", "surrogateescape"),
            "root_path": "",
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in named.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8765),
        }
        status, found, body = 0, {}, b""

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            nonlocal status, found, body
            if message["type"] == "http.response.start":
                status = message["status"]
                found = {name.decode().lower(): value.decode("latin-1") for name, value in message["headers"]}
            else:
                body += message.get("body", b"")

        await self.app(scope, receive, send)
        return Answer(status, found, body)
