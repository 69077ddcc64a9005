"""Make docs/images/page-*.png: the views of the page in Chromium, over samples that go through the shipped release.

Run it by ``make page-pictures``. The clock stands still, so that the same version makes the same pictures.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import uvicorn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from edge.constancy import ConstancyRun  # noqa: E402
from edge.engines import open_engine  # noqa: E402
from edge.page.app import page_app  # noqa: E402
from edge.page.sources import Sources  # noqa: E402
from edge.service.installed import SERVICE_CONFIG, Service  # noqa: E402
from edge.service.journal import Journal  # noqa: E402
from edge.service.page_doors import doors_of  # noqa: E402
from edge.service.state import JOURNAL, held  # noqa: E402
from edge.service.status import Status  # noqa: E402
from tests.page.browser import browser, free_port, visiting  # noqa: E402
from tests.page.image_room import ImageRoom  # noqa: E402
from tests.page.made_room import NOW, MadeRoom  # noqa: E402

IMAGES = ROOT / "docs/images"
MORNING = datetime(2026, 1, 5, 8, 12, tzinfo=UTC)
SHOWN_FOLDER = "/srv/portal/room1"
SIZE = {"width": 1280, "height": 800}


class StillSources(Sources):
    """Sources whose folder is called as in the documentation, wherever the pictures are made."""

    def status(self) -> Status:
        found = super().status()
        folders = tuple(replace(folder, path=SHOWN_FOLDER) for folder in found.folders)
        return replace(found, folders=folders, alarms=())


@contextmanager
def served(service: Service, now: datetime) -> Iterator[str]:
    """Serve the page of a service in this process; give its address."""
    config, port = service.config, free_port()
    assert config.state_dir is not None
    sources = StillSources(replace(service, config_file=SERVICE_CONFIG), time.monotonic, lambda: now)
    app = page_app(sources, doors_of(config.page))
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    with held(config.state_dir):  # as a daemon would
        thread.start()
        while not server.started:
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
        server.should_exit = True
        thread.join()


def samples_room(root: Path) -> Service:
    """Return a room whose last image was registered."""
    room = ImageRoom(root, open_engine(None, threads=1))
    room.refused("G090_0001.dcm")
    room.found("G090_0002.dcm")
    room.registered("G000_0003.dcm", signed=False, view="ap")
    room.blank("flood_0004.png")
    room.registered("G090_0005.dcm", signed=True)
    assert room.config.state_dir is not None
    with Journal.open(room.config.state_dir / JOURNAL) as journal:
        run = ConstancyRun(MORNING.replace(hour=5, minute=0), "room-cpu", True, 0.0012, 0.0001, None)
        journal.add_constancy_run(run)
    return room.service


def trends_room(root: Path) -> Service:
    """Return a room with made figures for four weeks."""
    room = MadeRoom(root)
    room.fill(900)
    return room.service


def main() -> None:
    """Make the pictures."""
    with tempfile.TemporaryDirectory() as folder, browser() as chromium:
        with served(samples_room(Path(folder, "samples")), MORNING) as address:
            take(chromium, f"{address}/", "now")
            take(chromium, f"{address}/image/5", "image")
            take(chromium, f"{address}/engines", "engines")
        with served(trends_room(Path(folder, "trends")), NOW) as address:
            take(chromium, f"{address}/trends?days=30", "trends")


def take(chromium, address: str, name: str) -> None:  # noqa: ANN001 - Playwright's
    """Make one picture."""
    with visiting(chromium, SIZE) as window:
        window.goto(address)
        window.wait_for_selector("[data-unread]", state="detached")
        window.wait_for_selector("text=Reading the image", state="hidden", timeout=60_000)
        window.wait_for_timeout(500)
        window.screenshot(path=IMAGES / f"page-{name}.png")
    print(f"docs/images/page-{name}.png")  # noqa: T201 - this is the command's output


if __name__ == "__main__":
    main()
