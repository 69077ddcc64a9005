"""What the page takes at 10,000 results: first paint in Chromium, each answer, its start and its memory.

The page is a process of its own, as beside the daemon; results are made for it.
"""

from __future__ import annotations

import statistics
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.figures import Bar, Figure
from edge.config import PageConfig
from tests.page.browser import await_page, browser, command, free_port, visiting
from tests.page.made_room import MadeRoom
from tests.page.test_views_browser import PAINT

TITLE = "The page"
RESULTS, TIMES = 10_000, 15
VIEWS = ("/", "/trends?days=30", "/trends?days=400", "/engines", "/image/{}")
ANSWERS = (*VIEWS, "/now/fragment", "/trends.csv?days=400")


def measure(quick: bool, scratch: Path) -> Iterator[Figure]:
    """Yield the first paint of each view, each answer's time, the start, and the memory."""
    results, times = (100, 3) if quick else (RESULTS, TIMES)
    room = MadeRoom(scratch, PageConfig(port=free_port()))
    room.fill(results, datetime.now(UTC))
    log, began_s = scratch / "log", time.monotonic()
    with command("page", "--config", room.config_file(), log=log) as process, browser() as chromium:
        address = f"http://127.0.0.1:{room.page.port}"
        await_page(f"{address}/", log)
        yield Figure("start of the page", time.monotonic() - began_s, "s")
        unread_s = read_all(f"{address}/trends?days=400")
        yield Figure("all results read for the first time, while the page answers", unread_s, "s")
        for view in VIEWS:
            took = paints(chromium, address + view.format(results), times)
            note = f"median of {times}, the fastest {min(took):.0f}; {results:,} results, 1280 x 800"
            yield Figure(f"first paint of {view}", statistics.median(took), "ms", bar=Bar(at_most=1000), note=note)
        for view in ANSWERS:
            took, size = answers(address + view.format(results), times)
            note = f"the fastest {min(took):.0f}; {size:,} bytes, compressed"
            yield Figure(f"answer of {view}", statistics.median(took), "ms", note=note)
        yield Figure("memory of the page's process", resident_mb(process.pid), "MB")


def read_all(address: str) -> float:
    """Return how long it takes until the trends have read every result."""
    began_s = time.monotonic()
    while b"data-unread" in urllib.request.urlopen(address).read():
        time.sleep(0.2)
    return time.monotonic() - began_s


def paints(chromium, address: str, times: int) -> list[float]:  # noqa: ANN001 - Playwright's
    """Return the times to the first contentful paint, each in a window of its own, ms."""
    found = []
    for _ in range(times):
        with visiting(chromium) as window:
            window.goto(address)
            found.append(window.evaluate(PAINT))
    return found


def answers(address: str, times: int) -> tuple[list[float], int]:
    """Return how long an answer takes, ms, and its size."""
    found, size = [], 0
    request = urllib.request.Request(address, headers={"Accept-Encoding": "gzip"})
    for _ in range(times):
        began_s = time.monotonic()
        with urllib.request.urlopen(request) as answer:
            size = len(answer.read())
        found.append(1000 * (time.monotonic() - began_s))
    return found, size


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1000
