"""The whole path before one's eyes: samples are dropped into a folder that `watch` serves; truth stands beside."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from edge.results.document import NOTICE
from edge.results.publish import read_result, result_path

PATIENCE_S = 120.0
LOOK_EVERY_S = 0.2
NEAR_MM = 15.0  # farther from every true landmark of its kind, a found one is called extra


class DemoError(Exception):
    """The demonstration cannot go on; the message says why."""


def run_demo(samples: Path, console: Console) -> None:
    """Run the demonstration on a folder of ``*.dcm`` with its ``truth.json``, and print a table."""
    truth_file = samples / "truth.json"
    if not truth_file.is_file():
        raise DemoError(f"{samples}: holds no truth.json; name a folder that `landmarknet-train simulate` wrote")
    truth = json.loads(truth_file.read_text())
    drop_folder = Path(tempfile.mkdtemp(prefix="landmarknet-edge-demo-"))
    with watching(drop_folder):
        for name in truth["images"]:
            shutil.copyfile(samples / name, drop_folder / name)
        results = {
            name: await_result(drop_folder / name)
            for name in track(truth["images"], "waiting for results", console=console, transient=True)
        }
    console.print(table(truth["images"], results))
    console.print(f"{truth['notice']}. {NOTICE}", soft_wrap=True)
    console.print("; ".join(truth["attribution"]), soft_wrap=True)
    console.print(f"results (*.landmarks.json) and overlays (*.landmarks.png): {drop_folder}", soft_wrap=True)


@contextmanager
def watching(drop_folder: Path) -> Iterator[None]:
    """Serve a folder by a `watch` of its own process, stopped cleanly at the end."""
    log_file = drop_folder / ".watch.log"
    with log_file.open("wb") as log:
        daemon = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", "edge.cli", "watch", str(drop_folder)], stdout=log, stderr=log
        )
        try:
            yield
        except DemoError as exc:
            raise DemoError(f"{exc}; the daemon said:\n{log_file.read_text(errors='replace')[-2000:]}") from exc
        finally:
            daemon.terminate()
            status = daemon.wait(timeout=30)
    if status != 0:
        raise DemoError(f"the daemon ended with status {status}:\n{log_file.read_text(errors='replace')[-2000:]}")


def await_result(image: Path) -> dict[str, Any]:
    """Wait for the JSON result of an image."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        result = read_result(result_path(image, None))
        if result is not None:
            return result
        time.sleep(LOOK_EVERY_S)
    raise DemoError(f"{image.name}: no result within {PATIENCE_S:.0f} s")


def table(truth: dict[str, Any], results: dict[str, dict[str, Any]]) -> Table:
    """Return one row per true landmark, and one per found landmark that is none."""
    page = Table(title="landmarks found in simulated images of a patient that the network never saw")
    for heading in ("image", "ms", "landmark"):
        page.add_column(heading, justify="right" if heading == "ms" else "left")
    for heading in ("x, y px", "x, y mm", "score", "error px", "error mm"):
        page.add_column(heading, justify="right")
    for name, expected in truth.items():
        result = results[name]
        first = (name, f"{sum(result['timing_ms'].values()):.0f}")
        for row in rows(expected["landmarks"], result["landmarks"]):
            page.add_row(*first, *row)
            first = ("", "")
        page.add_section()
    return page


def rows(truth: list[dict[str, Any]], found: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    """Pair each true landmark with the nearest found one of its kind, one to one, nearest pairs first."""
    pairs = sorted(
        (_distance(t, f, "mm"), i, j)
        for i, t in enumerate(truth)
        for j, f in enumerate(found)
        if t["kind"] == f["kind"] and f["x_mm"] is not None
    )
    partner: dict[int, int] = {}
    for distance, i, j in pairs:
        if distance <= NEAR_MM and i not in partner and j not in partner.values():
            partner[i] = j
    for i, t in enumerate(truth):
        if i in partner:
            f = found[partner[i]]
            yield (*_described(f), f"{_distance(t, f, 'px'):.1f}", f"{_distance(t, f, 'mm'):.1f}")
        else:
            yield t["kind"], f"({t['x_px']:.1f}, {t['y_px']:.1f})", f"({t['x_mm']:.1f}, {t['y_mm']:.1f})", "", "", "missed"
    for j, f in enumerate(found):
        if j not in partner.values():
            yield (*_described(f), "", "extra")


def _described(found: dict[str, Any]) -> tuple[str, str, str, str]:
    mm = "" if found["x_mm"] is None else f"{found['x_mm']:.1f}, {found['y_mm']:.1f}"
    return found["kind"], f"{found['x_px']:.1f}, {found['y_px']:.1f}", mm, f"{found['score']:.2f}"


def _distance(truth: dict[str, Any], found: dict[str, Any], unit: str) -> float:
    dx, dy = (truth[f"{axis}_{unit}"] - found[f"{axis}_{unit}"] for axis in "xy")
    return float((dx**2 + dy**2) ** 0.5)
