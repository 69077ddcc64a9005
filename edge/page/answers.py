"""Answers that a browser may keep: whether they are still what it has is asked by a hash of what is in them."""

from __future__ import annotations

import os
from hashlib import sha256
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

FOR_EVER = "public, max-age=31536000, immutable"


def kept(
    request: Request, body: bytes, media_type: str, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """Return a body with its ETag, or 304 where the browser has just that."""
    tag = f'W/"{sha256(body).hexdigest()[:32]}"'  # weak: the same page may come compressed or not
    head = {"ETag": tag} | (headers or {})
    known = [one.strip() for one in request.headers.get("if-none-match", "").split(",")]
    if status == 200 and (tag in known or "*" in known):
        return Response(status_code=304, headers=head)
    return Response(body, status, head, media_type)


def html(request: Request, text: str, status: int = 200) -> Response:
    """Return a page."""
    return kept(request, text.encode("utf-8", "backslashreplace"), "text/html; charset=utf-8", status)


def named(name: str, *, download: bool = False) -> dict[str, str]:
    """Return the header that gives a file its name on the reader's disk, whatever bytes are in it (RFC 6266)."""
    how = "attachment" if download else "inline"
    return {"Content-Disposition": f"{how}; filename*=UTF-8''{quote(os.fsencode(name), safe='')}"}
