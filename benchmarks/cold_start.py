"""From nothing to a result, and to a daemon that is ready: each time with new processes."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.aside import ROOT
from benchmarks.figures import Bar, Figure
from benchmarks.images import write_image
from benchmarks.service_process import daemon, listening
from benchmarks.timing import alternate, ratios, spread, timed

TITLE = "Cold start"
IMPORTS = Bar(at_most=0.4)
WEIGHTS = "landmarknet/weights/room_cpu.pt"

TIMED_IMPORT = "import time; began = time.perf_counter(); import {}; print(time.perf_counter() - began)"
OURS_IMPORTED = "edge.cli, edge.process, edge.engines, edge.pipeline, edge.backends.onnxruntime, onnxruntime"
SCRIPT_IMPORTED = "benchmarks.peers.usual_script"
SCRIPT_ONCE = (
    "import sys; from pathlib import Path; from benchmarks.peers.usual_script import Options, load_network, process; "
    "process(Path(sys.argv[1]), load_network(Path(sys.argv[2])), Options())"
)


def measure(quick: bool, scratch: Path) -> Iterator[Figure]:
    """Yield imports, one image, and the daemon's start, each beside the script's where it has one."""
    image = write_image(scratch / "image.dcm", 1)
    process = [sys.executable, "-m", "edge.cli", "process", str(image)]
    turns = {
        "our imports": lambda: imported(OURS_IMPORTED),
        "its imports": lambda: imported(SCRIPT_IMPORTED),
        "our image": timed(lambda: run(process)),
        "its image": timed(lambda: run([sys.executable, "-c", SCRIPT_ONCE, str(image), WEIGHTS])),
        "our daemon": lambda: start_to_ready(scratch / "daemon"),
    }
    taken = alternate(turns, 2 if quick else 9)
    rows: tuple[tuple[str, str, str, Bar | None], ...] = (
        ("imports of landmarknet-edge process", "our imports", "its imports", IMPORTS),
        ("landmarknet-edge process, one image, from start to end", "our image", "its image", None),
        ("landmarknet-edge watch, from start to READY, golden images run", "our daemon", "its image", None),
    )
    for what, ours, theirs, bar in rows:
        medians = spread(taken[ours]).median, spread(taken[theirs]).median
        against = f"the usual script, {theirs.removeprefix('its ')}"
        ratio = ratios(taken[ours], taken[theirs])
        yield Figure(what, medians[0], "s", against, medians[1], ratio, bar, bar_on_ours=True)


def imported(modules: str) -> float:
    """Return the seconds that an import takes, of modules whose files are in memory."""
    return float(run([sys.executable, "-c", TIMED_IMPORT.format(modules)]))


def run(command: list[str]) -> str:
    """Return what a command prints."""
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def start_to_ready(base: Path) -> float:
    """Return the seconds from a daemon's start to what it tells systemd then."""
    shutil.rmtree(base, ignore_errors=True)
    (base / "drop").mkdir(parents=True)
    with listening(base / "notify") as ready:
        began_s = time.perf_counter()
        with daemon(base, {"NOTIFY_SOCKET": str(base / "notify")}):
            ready()
            return time.perf_counter() - began_s
