"""The addresses of the trends: a span of days, and one course or all."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import UTC, timedelta

import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edge.page.answers import html, kept, named
from edge.page.render import render
from edge.page.sources import ROWS_MOST, Rows, Sources
from edge.page.trends_csv import trends_csv
from edge.page.trends_view import SPANS_DAYS, trends_of

USUAL_DAYS = 30
COURSE = r"[0-9a-f]{1,64}"


def trends_routes(sources: Sources) -> list[Route]:
    """Return ``/trends`` and ``/trends.csv``."""

    async def trends(request: Request) -> Response:
        days, course = _asked(request)
        text = await anyio.to_thread.run_sync(_page, sources, days, course)
        return html(request, text)

    async def table(request: Request) -> Response:
        days, course = _asked(request)
        body = await anyio.to_thread.run_sync(_table, sources, days, course)
        return kept(request, body, "text/csv; charset=utf-8", headers=named(f"trends-{days}-days.csv", download=True))

    return [Route("/trends", trends), Route("/trends.csv", table)]


def _page(sources: Sources, days: int, course: str | None) -> str:
    found = trends_of(sources, days, course, time.monotonic())
    return render("trends.html", trends=found, spans=SPANS_DAYS, here="Trends", as_of=found.as_of)


def _table(sources: Sources, days: int, course: str | None) -> bytes:
    found = sources.trend_rows((sources.now() - timedelta(days=days)).astimezone(UTC))
    chosen = (row for row in found.rows if course is None or row.course == course)
    return trends_csv(chosen, _missing(found))


def _missing(found: Rows) -> Iterator[str]:
    if found.unread:
        yield f"The results of {found.unread} images could not be read just now: they are not in this table."
    if found.cut:
        yield f"There are more than {ROWS_MOST} images in this time: this table is of the newest."


def _asked(request: Request) -> tuple[int, str | None]:
    days, course = request.query_params.get("days", str(USUAL_DAYS)), request.query_params.get("course")
    if days not in map(str, SPANS_DAYS):
        raise HTTPException(404, f"Trends are shown for {', '.join(map(str, SPANS_DAYS))} days.")
    if course is not None and re.fullmatch(COURSE, course) is None:
        raise HTTPException(404, "There is no such course.")
    return int(days), course
