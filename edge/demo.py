"""The whole path before one's eyes: samples are dropped into a folder that `watch` serves; truth stands beside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from edge.contract import read_contract
from edge.engines import SHIPPED_RELEASE
from edge.results.document import NOTICE
from edge.results.publish import read_result, result_path

PATIENCE_S = 120.0
LOOK_EVERY_S = 0.2
NEAR_MM = 8.0  # farther from every true landmark of its kind, a found one is called extra
LINES = {"spine_line": "spinous_process"}  # a line, and the kind of landmarks that it should run through
BEYOND_MM = 12.0  # of the outermost labelled one: the spine goes on, and nobody labelled it


class DemoError(Exception):
    """The demonstration cannot go on; the message says why."""


def run_demo(samples: Path, console: Console) -> None:
    """Run the demonstration on a folder of ``*.dcm`` with its ``truth.json``, and print a table."""
    truth = read_truth(samples)
    drop_folder = Path(tempfile.mkdtemp(prefix="landmarknet-edge-demo-"))
    with watching(drop_folder) as daemon:
        for name in truth["images"]:
            shutil.copyfile(samples / name, drop_folder / name)
        results = {
            name: await_result(drop_folder / name, daemon)
            for name in track(truth["images"], "waiting for results", console=console, transient=True)
        }
    console.print(table(truth["images"], results))
    console.print(f"{truth['notice']}. {NOTICE}", soft_wrap=True)
    console.print("; ".join(truth["attribution"]), soft_wrap=True)
    console.print(f"results (*.landmarks.json) and overlays (*.landmarks.png): {drop_folder}", soft_wrap=True)
    lost = [name for name, result in results.items() if result["status"] != "ok"]
    if lost:
        raise DemoError(f"no landmarks in {', '.join(lost)}: this installation does not do what it should")


def read_truth(samples: Path) -> dict[str, Any]:
    """Return the ``truth.json`` of a folder of samples; raise `DemoError` unless it and its images are there."""
    hint = "name a folder that `landmarknet-train simulate` wrote"
    try:
        truth = json.loads((samples / "truth.json").read_text())
        missing = [name for name in truth["images"] if not (samples / name).is_file()]
    except (OSError, ValueError, LookupError, TypeError) as exc:
        raise DemoError(f"{samples}: holds no truth.json of ours ({exc}); {hint}") from exc
    if missing:
        raise DemoError(f"{samples}: lacks {', '.join(missing)}; {hint}")
    return cast(dict[str, Any], truth)


@contextmanager
def watching(drop_folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Serve a folder by a `watch` of its own process, stopped cleanly at the end."""
    log_file = drop_folder / ".watch.log"
    with log_file.open("wb") as log:
        daemon = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", "edge.cli", "watch", str(drop_folder)],
            stdout=log,
            stderr=log,
            # a state of its own: the user's may be held by a daemon that serves
            env=os.environ | {"STATE_DIRECTORY": str(drop_folder / ".state")},
        )
        try:
            yield daemon
        except DemoError as exc:
            raise DemoError(f"{exc}; the daemon said:\n{log_file.read_text(errors='replace')[-2000:]}") from exc
        finally:
            daemon.terminate()
            status = daemon.wait(timeout=30)
    if status != 0:
        raise DemoError(f"the daemon ended with status {status}:\n{log_file.read_text(errors='replace')[-2000:]}")


def await_result(image: Path, daemon: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Wait for the JSON result of an image, as long as the daemon runs."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and daemon.poll() is None:
        result = read_result(result_path(image, None))
        if result is not None:
            return result
        time.sleep(LOOK_EVERY_S)
    ended = "before the daemon ended" if daemon.poll() is not None else f"within {PATIENCE_S:.0f} s"
    raise DemoError(f"{image.name}: no result {ended}")


def table(truth: dict[str, Any], results: dict[str, dict[str, Any]]) -> Table:
    """Return, for each image, one row per true landmark, one per line, and one per found landmark that is none.

    80 columns wide.
    """
    page = Table(
        title=_title({expected["patient"] for expected in truth.values()}),
        caption=(
            "(x, y): the true place of one that was missed.\n"
            f"extra: nothing of its kind within {NEAR_MM:.0f} mm. unlabelled: there is no label.\n"
            "A line: the mean error of its points, to the side."
        ),
        box=None,
        padding=(0, 1),
        collapse_padding=True,
        pad_edge=False,
    )
    page.add_column("image\n  landmark", no_wrap=True)
    for heading in ("x, y\npx", "x, y\nmm", "error\npx", "error\nmm", "\nscore", "\nms"):
        page.add_column(heading, justify="right", no_wrap=True)
    for name, expected in truth.items():
        result = results[name]
        page.add_row()
        page.add_row(Path(name).stem, *[""] * 5, f"{sum(result['timing_ms'].values()):.0f}", style="bold")
        for kind, *figures in rows(expected, result["landmarks"]):
            page.add_row(f"  {kind.replace('_', ' ')}", *figures)
    return page


def _title(patients: set[str]) -> str:
    contract, _ = read_contract(SHIPPED_RELEASE / "contract.json")
    known = "was trained on" if patients & set(contract.trained_on) else "never saw"
    return f"landmarks found in simulated images of a patient that the network {known}"


def rows(truth: dict[str, Any], found: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    """Compare one image's truth with what was found: points, then lines, then what was found and is none.

    Yields kind, position in px and in mm, error in px and in mm, score.
    """
    points = [one for one in found if one["kind"] not in LINES]
    partner = pairs(truth["landmarks"], points)
    for i, t in enumerate(truth["landmarks"]):
        if i in partner:
            f = points[partner[i]]
            yield _row(f, f"{_distance(t, f, 'px'):.1f}", f"{_distance(t, f, 'mm'):.1f}")
        else:
            yield t["kind"], f"({_place(t, 'px')})", f"({_place(t, 'mm')})", "", "missed", ""
    for line, through in LINES.items():
        yield from line_row(
            line,
            [one for one in truth["landmarks"] if one["kind"] == through],
            [one for one in found if one["kind"] == line],
        )
    for j, f in enumerate(points):
        if j in partner.values():
            continue
        if may_be_unlabelled(f, truth):
            yield f["kind"], _place(f, "px"), "unlabelled", "", "", f"{f['score']:.2f}"
        else:
            yield _row(f, "", "extra")


def pairs(truth: list[dict[str, Any]], found: list[dict[str, Any]]) -> dict[int, int]:
    """Pair each true landmark with the nearest found one of its kind, one to one, nearest pairs first; by index."""
    nearest_first = sorted(
        (_distance(t, f, "mm"), i, j)
        for i, t in enumerate(truth)
        for j, f in enumerate(found)
        if t["kind"] == f["kind"] and f["x_mm"] is not None
    )
    partner: dict[int, int] = {}
    for distance, i, j in nearest_first:
        if distance <= NEAR_MM and i not in partner and j not in partner.values():
            partner[i] = j
    return partner


def line_row(line: str, truth: list[dict[str, Any]], found: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    """Yield the row of a line down the image: how far, on average, its points lie beside the true polyline.

    Only points between the polyline's ends are compared; where there is neither line nor polyline there is no row.
    """
    score = f"{np.mean([one['score'] for one in found]):.2f}" if found else ""
    count = f"{len(found)} point{'s' * (len(found) != 1)}" if found else ""
    if len(truth) < 2:
        if found:
            yield line, count, "unlabelled", "", "", score
        return
    ys = [one["y_px"] for one in truth]
    beside = [one for one in found if min(ys) <= one["y_px"] <= max(ys)]
    if not beside:
        yield line, count, "", "", "missed", score
        return
    yield line, count, f"{len(beside)} compared", _sideways(truth, beside, "px"), _sideways(truth, beside, "mm"), score


def _sideways(truth: list[dict[str, Any]], beside: list[dict[str, Any]], unit: str) -> str:
    x, y = f"x_{unit}", f"y_{unit}"
    if any(one[x] is None for one in beside):
        return ""
    downwards = sorted(truth, key=lambda one: float(one[y]))
    true_x = np.interp([one[y] for one in beside], [one[y] for one in downwards], [one[x] for one in downwards])
    return f"{np.abs(true_x - [one[x] for one in beside]).mean():.1f}"


def may_be_unlabelled(found: dict[str, Any], truth: dict[str, Any]) -> bool:
    """Tell whether a found landmark without a true one lies where nobody labelled: it is not known to be wrong."""
    if found["kind"] in truth.get("unlabelled", []):
        return True
    if found["kind"] not in LINES.values() or found["y_mm"] is None:
        return False
    labelled = [*truth["landmarks"], *truth.get("hidden", [])]
    ys = [one["y_mm"] for one in labelled if one["kind"] == found["kind"]]
    return bool(ys) and not min(ys) - BEYOND_MM <= found["y_mm"] <= max(ys) + BEYOND_MM


def _row(found: dict[str, Any], error_px: str, error_mm: str) -> tuple[str, ...]:
    return found["kind"], _place(found, "px"), _place(found, "mm"), error_px, error_mm, f"{found['score']:.2f}"


def _place(one: dict[str, Any], unit: str) -> str:
    x, y = one[f"x_{unit}"], one[f"y_{unit}"]
    return "" if x is None else f"{x:.1f}, {y:.1f}"


def _distance(truth: dict[str, Any], found: dict[str, Any], unit: str) -> float:
    dx, dy = (truth[f"{axis}_{unit}"] - found[f"{axis}_{unit}"] for axis in "xy")
    return float((dx**2 + dy**2) ** 0.5)
