"""What the room costs as work grows: old results in a folder, pixels of an image, drop folders. With a plot."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from benchmarks.figures import Bar, Figure
from benchmarks.images import write_image
from benchmarks.service_room import Clock, Reached, leave_old_files, room
from edge.config import Config
from edge.engines import open_engine
from edge.pipeline import Pipeline
from edge.service.watch import watch
from edge.settle import State

TITLE = "Cost as work grows"
LINEAR = Bar(at_most=1.1)  # the power of the size with which the cost grows; above 1: noise
OLD_RESULTS = (1_000, 10_000, 100_000)
MEGAPIXELS = (0.2, 1.3, 4.0, 16.0)
FOLDERS = (1, 2, 4, 8)
FILES_PER_FOLDER = 500
SETTLE_S = 0.2
SWEEPS = 20  # in which a sweep's cost is counted
SWEEP_S = Config().sweep_s


@dataclass(frozen=True)
class Curve:
    """One cost at several sizes."""

    name: str
    by: str
    unit: str
    sizes: tuple[float, ...]
    costs: tuple[float, ...]

    @property
    def power(self) -> float:
        """Return the power of the size with which the cost grew from the second largest size to the largest."""
        (small, large), (cheap, dear) = self.sizes[-2:], self.costs[-2:]
        return math.log(dear / cheap) / math.log(large / small)


def measure(quick: bool, scratch: Path) -> Iterator[Figure]:
    """Yield each cost at each size and the power with which it grows; leaves growth.png."""
    counts = tuple(count // 50 for count in OLD_RESULTS) if quick else OLD_RESULTS
    curves = [
        *over_old_results(scratch / "old", counts),
        over_pixels(scratch / "pixels", MEGAPIXELS[: 2 if quick else None], rounds=2 if quick else 8),
        over_folders(scratch / "folders", FOLDERS, FILES_PER_FOLDER // (50 if quick else 1)),
    ]
    for curve in curves:
        yield from figures(curve)
    plot(curves, scratch / "growth.png")


def figures(curve: Curve) -> Iterator[Figure]:
    """Yield the largest cost, with the power with which it grew, and the others in the note."""
    told = ", ".join(f"{size:,g}: {cost:.3g}" for size, cost in zip(curve.sizes, curve.costs, strict=True))
    note = f"{curve.unit} at {curve.by}: {told}"
    yield Figure(f"{curve.name}, power of {curve.by}", curve.power, "", bar=LINEAR, note=note)


def over_old_results(base: Path, counts: Sequence[int]) -> Iterator[Curve]:
    """Yield what starts and sweeps cost over finished files."""
    costs = [over(base / str(count), count) for count in counts]
    names = (
        "start with its journal lost, all taken up",
        "start with its journal, until a new image",
        "a sweep at rest",
    )
    for name, unit, values in zip(names, ("s", "s", "CPU ms"), zip(*costs, strict=True), strict=True):
        yield Curve(name, "old results", unit, tuple(counts), values)


def over(base: Path, count: int) -> tuple[float, float, float]:
    """Return the seconds of a start without a journal, of one with it, and the CPU ms of a sweep."""
    leave = base / "drop"
    with room(base, settle_s=SETTLE_S) as (config, _, around, log):
        leave_old_files(leave, count)
        began_s = time.perf_counter()
        watch(config, Reached(Event()), stop=Event(), log=log, around=around, once=True)
        lost_s = time.perf_counter() - began_s
        if around.journal.counts()[State.DONE] != count:
            raise RuntimeError(f"not all of {count} old results were found; see {base / 'log'}")
        (leave / "new.dcm").write_bytes(os.urandom(1000))
        stop, began_s = Event(), time.perf_counter()
        watch(config, reached := Reached(stop), stop=stop, log=log, around=around)
        known_s = reached.at_s - began_s
        (leave / "new.dcm").unlink()
    return lost_s, known_s, sweep_ms(base)


def sweep_ms(base: Path, folders: int = 1) -> float:
    """Return the CPU milliseconds of a sweep of finished files, all drop folders together."""
    clock, stop, seen = Clock(), Event(), list[float]()
    rest_s = 6 * SWEEP_S  # all is taken up by then
    clock.at = [
        (moment_s, lambda: seen.append(time.process_time())) for moment_s in (rest_s, rest_s + SWEEPS * SWEEP_S)
    ]
    clock.at.append((rest_s + SWEEPS * SWEEP_S, stop.set))
    with room(base, clock, folders) as (config, _, around, log):
        watch(config, Reached(stop), stop=stop, log=log, around=around)
    return 1e3 * (seen[1] - seen[0]) / SWEEPS


def over_pixels(base: Path, megapixels: Sequence[float], rounds: int) -> Curve:
    """Return what an image costs beyond inference, without overlay, from file to published result."""
    base.mkdir(parents=True)
    pipeline = Pipeline(open_engine(None, threads=1), Config().sha256(), overlay=False)
    costs = []
    for number, size in enumerate(megapixels):
        rows = round(math.sqrt(size * 1e6 * 4 / 5))
        image = write_image(base / f"{number}.dcm", 1, (rows, round(rows * 5 / 4)))
        beyond_ms = []
        for _ in range(rounds + 1):
            began_s = time.perf_counter()
            infer_ms = pipeline(image, None).timing_ms["infer"]
            beyond_ms.append(1e3 * (time.perf_counter() - began_s) - infer_ms)
        costs.append(statistics.median(beyond_ms[1:]))
    return Curve("an image without inference", "megapixels", "ms", tuple(megapixels), tuple(costs))


def over_folders(base: Path, counts: Sequence[int], files: int) -> Curve:
    """Return what a sweep of several drop folders costs, with so many finished files in each."""
    costs = []
    for count in counts:
        here = base / str(count)
        with room(here, folders=count):
            pass
        for drop in here.glob("drop*"):
            leave_old_files(drop, files)
        costs.append(sweep_ms(here, count))
    return Curve(f"a sweep at rest, {files} old results each", "drop folders", "CPU ms", tuple(counts), tuple(costs))


def plot(curves: Sequence[Curve], path: Path) -> None:
    """Draw cost over size, both axes logarithmic, with a line of slope 1."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(curves), figsize=(3.2 * len(curves), 3.2), layout="constrained")
    for ax, curve in zip(axes, curves, strict=True):
        linear = [curve.costs[-1] * size / curve.sizes[-1] for size in curve.sizes]
        ax.loglog(curve.sizes, linear, ":", color="grey", label="linear")
        ax.loglog(curve.sizes, curve.costs, "o-", color="tab:blue")
        ax.set_xticks(curve.sizes, [f"{size:g}" for size in curve.sizes])
        ax.minorticks_off()
        ax.set_title(curve.name, fontsize=7)
        ax.set_xlabel(curve.by, fontsize=8)
        ax.set_ylabel(curve.unit, fontsize=8)
    axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)
