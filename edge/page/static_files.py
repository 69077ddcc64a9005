"""Style, scripts and the icon, from the package: a fixed set, each kept by browsers for as long as it is the same."""

from __future__ import annotations

from functools import cache

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edge.page.answers import FOR_EVER, kept
from edge.page.render import STATIC, static_address

TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


def static_route() -> Route:
    """Return ``/static/NAME``."""

    async def static(request: Request) -> Response:
        name = request.path_params["name"]
        found = _files().get(name)
        if found is None:
            raise HTTPException(404, "There is no such file.")
        body, media_type = found
        asked_for_this = f"{request.url.path}?{request.url.query}" == static_address(name)
        return kept(request, body, media_type, headers={"Cache-Control": FOR_EVER if asked_for_this else "no-cache"})

    return Route("/static/{name:str}", static)


@cache
def _files() -> dict[str, tuple[bytes, str]]:
    return {file.name: (file.read_bytes(), TYPES[file.suffix]) for file in STATIC.iterdir() if file.suffix in TYPES}
