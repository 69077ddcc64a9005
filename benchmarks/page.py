"""What the page takes at 10,000 results: first paint in Chromium, each answer, its start and its memory.

Run it by ``make page-bench``. The page is a process of its own, as beside the daemon; results are made for it.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import tempfile
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from edge.config import PageConfig  # noqa: E402
from tests.page.browser import await_page, browser, command, free_port, visiting  # noqa: E402
from tests.page.made_room import MadeRoom  # noqa: E402
from tests.page.test_views_browser import PAINT  # noqa: E402

RESULTS, TIMES = 10_000, 15
VIEWS = ("/", "/trends?days=30", "/trends?days=400", "/engines", f"/image/{RESULTS}")
ANSWERS = (*VIEWS, "/now/fragment", "/trends.csv?days=400")


def main() -> None:
    """Print two tables."""
    with tempfile.TemporaryDirectory() as folder:
        room = MadeRoom(Path(folder), PageConfig(port=free_port()))
        room.fill(RESULTS, datetime.now(UTC))
        log, began_s = Path(folder, "log"), time.monotonic()
        with command("page", "--config", room.config_file(), log=log) as process, browser() as chromium:
            address = f"http://127.0.0.1:{room.page.port}"
            await_page(f"{address}/", log)
            started_s = time.monotonic() - began_s
            cold = read_all(f"{address}/trends?days=400")
            print(f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {os.cpu_count()} cores, ", end="")
            print(f"load {os.getloadavg()[0]:.1f}, Chromium {chromium.version}, {RESULTS:,} results, 1280 x 800\n")
            print("| view | first paint, median (fastest) of", TIMES, "ms |\n| --- | --- |")
            for view in VIEWS:
                print(f"| `{view}` | {figures(paints(chromium, address + view))} |")
            print("\n| answer | median (fastest) of", TIMES, "ms | bytes, compressed |\n| --- | --- | --- |")
            for view in ANSWERS:
                took, size = answers(address + view)
                print(f"| `{view}` | {figures(took)} | {size:,} |")
            print(
                f"\nStart: {started_s:.1f} s. All results read for the first time: {cold:.1f} s, while the page ",
                end="",
            )
            print(f"answers. Memory of the process: {resident_mb(process.pid):.0f} MB.")


def read_all(address: str) -> float:
    """Return how long it takes until the trends have read every result."""
    began_s = time.monotonic()
    while b"data-unread" in urllib.request.urlopen(address).read():
        time.sleep(0.2)
    return time.monotonic() - began_s


def paints(chromium, address: str) -> list[float]:  # noqa: ANN001 - Playwright's
    """Return the times to the first contentful paint, each in a window of its own, ms."""
    found = []
    for _ in range(TIMES):
        with visiting(chromium) as window:
            window.goto(address)
            found.append(window.evaluate(PAINT))
    return found


def answers(address: str) -> tuple[list[float], int]:
    """Return how long an answer takes, ms, and its size."""
    found, size = [], 0
    request = urllib.request.Request(address, headers={"Accept-Encoding": "gzip"})
    for _ in range(TIMES):
        began_s = time.monotonic()
        with urllib.request.urlopen(request) as answer:
            size = len(answer.read())
        found.append(1000 * (time.monotonic() - began_s))
    return found, size


def figures(found: list[float]) -> str:
    """Return median and least."""
    return f"{statistics.median(found):.0f} ({min(found):.0f})"


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1000


if __name__ == "__main__":
    main()
