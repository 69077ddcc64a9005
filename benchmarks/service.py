"""What the service costs: at rest, at a start, for an image, over thousands of them. In a table, and as JSON.

The daemon, its journal, its worker and its reader are the real ones; the clock is not, so an hour at rest takes what
its sweeps take. The full size takes about an hour of a quiet machine; `--share 0.01` shows that it works.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Annotated, Any

import typer
from structlog.typing import FilteringBoundLogger

from edge.config import Config, DropFolderConfig
from edge.errors import InferenceFailed
from edge.log import open_log
from edge.results.document import Result
from edge.results.publish import result_path
from edge.service.daemon import Daemon
from edge.service.serving import Serving, serving
from edge.service.surroundings import Next, Process, Surroundings, nobody
from edge.service.watch import watch
from edge.settle import State, Tell

ROOT = Path(__file__).parent.parent
TEMPLATE = ROOT / "docs/examples/no_landmarks.png.landmarks.json"
FULL = {"idle files": 10_000, "old files": 50_000, "images": 5_000}
TIMED_IMAGES = 200
AT_REST_S, HOUR_S = 900.0, 3600.0  # simulated: until all is taken up, and then
PAGE_BYTES, TICKS_A_S = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Figure:
    """One line of the table; ``limit`` is what issue 5 wants, None: only to be shown."""

    what: str
    value: float
    unit: str
    limit: float | None = None


@dataclass
class Clock:
    """A clock that only sleeping moves, from nine on a Monday; ``at`` says what is to be done when."""

    now_s: float = 0.0
    at: list[tuple[float, Callable[[], None]]] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now_s

    def now(self) -> datetime:
        return datetime(2026, 1, 5, 9, tzinfo=UTC) + timedelta(seconds=self.now_s)

    def sleep(self, pause_s: float) -> None:
        self.now_s += pause_s
        while self.at and self.at[0][0] <= self.now_s:
            self.at.pop(0)[1]()


class Reached:
    """Stands in the place of what makes results, and only notes when the first image came to it."""

    def __init__(self, stop: Event) -> None:
        self.stop, self.at_s = stop, 0.0

    def __call__(
        self,
        image: Path,
        results_dir: Path | None,  # noqa: ARG002
        *,
        final: bool,  # noqa: ARG002
        tell: Tell,  # noqa: ARG002
        upcoming: Next = nobody,  # noqa: ARG002
    ) -> Result:
        self.at_s = self.at_s or time.perf_counter()
        self.stop.set()
        raise InferenceFailed(f"{image.name}: only the way here was timed")

    def refuse(self, image: Path, results_dir: Path | None, reason: str, tell: Tell) -> Result:  # noqa: ARG002
        """Say that an image was refused, which none of these should be."""
        raise AssertionError(f"{image.name}: {reason}")


@dataclass
class Noting:
    """What makes results, and what it said of the last one."""

    process: Process
    images: int = 0
    timing_ms: dict[str, float] = field(default_factory=dict)

    def __call__(
        self, image: Path, results_dir: Path | None, *, final: bool, tell: Tell, upcoming: Next = nobody
    ) -> Result:
        result = self.process(image, results_dir, final=final, tell=tell, upcoming=upcoming)
        self.images, self.timing_ms = self.images + 1, result.timing_ms
        return result

    def refuse(self, image: Path, results_dir: Path | None, reason: str, tell: Tell) -> Result:
        """Pass it on."""
        return self.process.refuse(image, results_dir, reason, tell)


@contextmanager
def room(
    base: Path, clock: Clock | None = None
) -> Iterator[tuple[Config, Serving, Surroundings, FilteringBoundLogger]]:
    """Open the state of a service over an empty drop folder, with a log beside it."""
    (base / "drop").mkdir(parents=True)
    config = Config(drop_folder=(DropFolderConfig(path=base / "drop"),), state_dir=base / "state", constancy_at=None)
    with (base / "log").open("w") as file, serving(config, log := open_log(file)) as served:
        around = served.around
        if clock:
            around = replace(around, clock=clock, now=clock.now, sleep=clock.sleep)
        yield config, served, around, log


def leave_old_files(drop: Path, count: int) -> None:
    """Leave files with their results, as they lie in a folder that was served for a year."""
    template = json.loads(TEMPLATE.read_bytes())
    for number in range(count):
        path, data = drop / f"old {number}.dcm", b"old image %d" % number
        path.write_bytes(data)
        image = template["image"] | {"name": path.name, "sha256": hashlib.sha256(data).hexdigest()}
        result_path(path, None).write_text(json.dumps(template | {"image": image, "outputs": []}))


def family() -> list[int]:
    """Return this process, its worker and its reader."""
    found = [os.getpid()]
    for pid in found:
        found += [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return found


def cpu_s() -> float:
    """Return the seconds that the family has computed."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in family()]
    return sum(int(one[11]) + int(one[12]) for one in fields) / TICKS_A_S


def memory_mb() -> float:
    """Return the MiB that the family holds in memory; what two of them share counts twice."""
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in family()) * PAGE_BYTES / 2**20


def at_rest(base: Path, files: int) -> list[Figure]:
    """Serve finished files for an hour of simulated time."""
    clock, stop, seen = Clock(), Event(), []
    clock.at = [(moment_s, lambda: seen.append((cpu_s(), memory_mb()))) for moment_s in (AT_REST_S, AT_REST_S + HOUR_S)]
    clock.at.append((AT_REST_S + HOUR_S, stop.set))
    with room(base, clock) as (config, _, around, log):
        leave_old_files(base / "drop", files)
        watch(config, Reached(stop), stop=stop, log=log, around=around)
        done = around.journal.counts()[State.DONE]
    if done != files or len(seen) != 2:
        raise RuntimeError(f"{done} of {files} files were done at rest; see {base / 'log'}")
    (cpu_before_s, before_mb), (cpu_after_s, after_mb) = seen
    return [
        Figure(f"at rest with {files:,} files, share of a core", 100 * (cpu_after_s - cpu_before_s) / HOUR_S, "%", 1.0),
        Figure("at rest for an hour, memory at first", before_mb, "MiB"),
        Figure("at rest for an hour, memory grew by", after_mb - before_mb, "MiB"),
    ]


def at_a_start(base: Path, files: int) -> list[Figure]:
    """Start over old files and a new image: once without a journal that knows them, and once with one."""
    with room(base) as (config, _, around, log):

        def first_reached_s() -> float:
            (base / "drop/new.dcm").write_bytes(os.urandom(1000))
            stop, began_s = Event(), time.perf_counter()
            watch(config, reached := Reached(stop), stop=stop, log=log, around=around)
            (base / "drop/new.dcm").unlink()
            return reached.at_s - began_s

        leave_old_files(base / "drop", files)
        lost_s = first_reached_s()
        watch(config, Reached(Event()), stop=Event(), log=log, around=around, once=True)
        known_s = first_reached_s()
    settle_s = f"{config.settle_s:g} s to settle included"
    return [
        Figure(f"start over {files:,} files, journal lost, until the new image ({settle_s})", lost_s, "s", 10.0),
        Figure(f"start over {files:,} files in the journal, until the new image ({settle_s})", known_s, "s", 10.0),
    ]


def of_images(base: Path, timed: int, many: int) -> list[Figure]:
    """Process images one after another; the first ones are timed, and memory is looked at all the way."""
    clock, turns, held_mb = Clock(), [], []
    samples = sorted((ROOT / "samples").glob("*.dcm"))
    with room(base, clock) as (config, served, around, log):
        process = Noting(served.open(config))
        with Daemon(config, process, log, around) as daemon:
            for number in range(many):
                shutil.copyfile(samples[number % len(samples)], base / f"drop/image {number}.dcm")
                turns.append((turn_ms(daemon, clock, process), process.timing_ms))
                held_mb.append(memory_mb())
    warm = len(held_mb) // 10
    return [
        *what_turns_cost(turns[1:timed]),  # without the very first one, for which the libraries are loaded
        Figure(f"memory after {warm:,} images", held_mb[warm], "MiB"),
        Figure(f"memory after {many:,} images", held_mb[-1], "MiB"),
    ]


def what_turns_cost(turns: list[tuple[float, dict[str, float]]]) -> list[Figure]:
    """Return the figures of turns: how long each took in all, and its stages."""
    beyond_ms = sorted(spent_ms - stages["infer"] for spent_ms, stages in turns)
    own_ms = [spent_ms - sum(stages.values()) for spent_ms, stages in turns]
    stages_ms = {stage: statistics.median(stages[stage] for _, stages in turns) for stage in turns[0][1]}
    beyond = "settled to published beyond inference"
    return [
        Figure(f"{beyond}, median of {len(turns)} images", statistics.median(beyond_ms), "ms", 50.0),
        Figure(f"{beyond}, 95 % within", beyond_ms[int(0.95 * len(turns))], "ms", 50.0),
        *(Figure(f"of that, {stage}", spent_ms, "ms") for stage, spent_ms in stages_ms.items() if stage != "infer"),
        Figure("of that, claim, processes, publishing, journal", statistics.median(own_ms), "ms"),
        Figure("inference, beside that", stages_ms["infer"], "ms"),
    ]


def turn_ms(daemon: Daemon, clock: Clock, process: Noting) -> float:
    """Serve until one more image was processed; return what the daemon took for the step in which it was."""
    before, end_s = process.images, clock() + 60.0
    while clock() < end_s:
        began_s = time.perf_counter()
        pause_s = daemon.step()
        spent_s = time.perf_counter() - began_s
        if process.images > before:
            return spent_s * 1e3
        clock.sleep(max(pause_s, 0.01))
    raise RuntimeError("an image was not processed within a minute of simulated time")


def machine() -> dict[str, Any]:
    """Return where the figures are from."""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
    }


def main(
    share: Annotated[float, typer.Option(help="of the full size")] = 1.0,
    output: Annotated[Path | None, typer.Option("--json", help="write the figures there, too")] = None,
) -> None:
    """Print a Markdown table."""
    here = machine()
    size = {name: max(20, round(share * count)) for name, count in FULL.items()}
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        figures = at_rest(base / "rest", size["idle files"])
        figures += at_a_start(base / "start", size["old files"])
        figures += of_images(base / "images", min(TIMED_IMAGES, size["images"]), size["images"])
    print(", ".join(f"{name} {value}" for name, value in here.items()) + "\n")
    print("| figure | value | at most |\n| --- | --- | --- |")
    for one in figures:
        print(
            f"| {one.what} | {one.value:.2f} {one.unit} | {'' if one.limit is None else f'{one.limit:g} {one.unit}'} |"
        )
    if output:
        output.write_text(json.dumps(here | {"figures": [asdict(one) for one in figures]}, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
