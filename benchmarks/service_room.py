"""A service over a drop folder, with the real daemon, journal, worker and reader, and a clock that only sleeping moves.

So an hour at rest takes what its sweeps take.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

from structlog.typing import FilteringBoundLogger

from benchmarks.aside import ROOT
from edge.config import Config, DropFolderConfig
from edge.errors import InferenceFailed
from edge.log import open_log
from edge.results.document import Result
from edge.results.publish import result_path
from edge.service.daemon import Daemon
from edge.service.serving import Serving, serving
from edge.service.surroundings import Next, Process, Surroundings, nobody
from edge.settle import Happening, Tell

SETTLE_S = 0.3
TEMPLATE = ROOT / "docs/examples/no_landmarks.png.landmarks.json"


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

    def rest(self) -> None:
        """Have begun with nothing."""

    def refuse(self, image: Path, results_dir: Path | None, reason: str, tell: Tell) -> Result:  # noqa: ARG002
        """Say that an image was refused, which none of these should be."""
        raise AssertionError(f"{image.name}: {reason}")


@dataclass
class Noting:
    """What makes results, and the milliseconds that the last one took by stage, the supervisor's stages included."""

    process: Process
    images: int = 0
    made_ms: dict[str, float] = field(default_factory=dict)  # as the result has it
    around_ms: dict[str, float] = field(default_factory=dict)

    def __call__(
        self, image: Path, results_dir: Path | None, *, final: bool, tell: Tell, upcoming: Next = nobody
    ) -> Result:
        marks: list[tuple[Happening, float, float]] = []

        def noted(happening: Happening, **facts: str) -> None:
            began_s = time.perf_counter()
            tell(happening, **facts)
            marks.append((happening, began_s, time.perf_counter()))

        began_s = time.perf_counter()
        result = self.process(image, results_dir, final=final, tell=noted, upcoming=upcoming)
        self.images, self.made_ms = self.images + 1, result.timing_ms
        self.around_ms = self._around(began_s, marks)
        return result

    def _around(self, began_s: float, marks: list[tuple[Happening, float, float]]) -> dict[str, float]:
        at = {happening: (told_s, done_s) for happening, told_s, done_s in marks}
        claimed, inferred, published = (at[one] for one in (Happening.CLAIMED, Happening.INFERRED, Happening.PUBLISHED))
        worker_ms = 1e3 * (inferred[0] - claimed[1]) - sum(self.made_ms.values())
        return {
            "claim: copy and hash": 1e3 * (claimed[0] - began_s),
            "between processes": worker_ms,
            "publish: write and sync": 1e3 * (published[0] - inferred[1]),
            "journal, three times": 1e3 * sum(done_s - told_s for _, told_s, done_s in marks),
        }

    def rest(self) -> None:
        """Pass it on."""
        self.process.rest()

    def refuse(self, image: Path, results_dir: Path | None, reason: str, tell: Tell) -> Result:
        """Pass it on."""
        return self.process.refuse(image, results_dir, reason, tell)


@contextmanager
def room(
    base: Path, clock: Clock | None = None, folders: int = 1, **settings: Any
) -> Iterator[tuple[Config, Serving, Surroundings, FilteringBoundLogger]]:
    """Open the state of a service over empty drop folders, with a log beside them; the first is ``drop``."""
    drops = [base / f"drop{number or ''}" for number in range(folders)]
    for drop in drops:
        drop.mkdir(parents=True, exist_ok=True)
    entries = tuple(DropFolderConfig(path=drop) for drop in drops)
    config = Config(drop_folder=entries, state_dir=base / "state", constancy_at=None, **settings)
    with (base / "log").open("w") as file, serving(config, log := open_log(file)) as served:
        around = served.around
        if clock:
            around = replace(around, clock=clock, now=clock.now, sleep=clock.sleep)
        yield config, served, around, log


@dataclass(frozen=True)
class Turn:
    """What one image took from settled to the journal's last line."""

    spent_ms: float
    made_ms: dict[str, float]
    around_ms: dict[str, float]

    @property
    def beyond_ms(self) -> float:
        """Return everything but inference."""
        return self.spent_ms - self.made_ms["infer"]


@contextmanager
def image_by_image(base: Path, settles_s: float = SETTLE_S, **settings: Any) -> Iterator[Callable[[Path], Turn]]:
    """Give what serves one more image; a copy of it is dropped, and settles for a fraction of a second of real time.

    In a room it takes some. Without any, what the turn before left to the kernel would be counted in this one.
    """
    clock = Clock()
    with room(base, clock, **settings) as (config, served, around, log):
        process = Noting(served.open(config))
        with Daemon(config, process, log, around) as daemon:

            def serve(image: Path) -> Turn:
                (base / f"drop/{process.images} {image.name}").write_bytes(image.read_bytes())
                time.sleep(settles_s)
                spent_ms = _step_ms(daemon, clock, process)
                return Turn(spent_ms, process.made_ms, process.around_ms)

            yield serve


def _step_ms(daemon: Daemon, clock: Clock, process: Noting) -> float:
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


def leave_old_files(drop: Path, count: int) -> None:
    """Leave files with their results, as they lie in a folder that was served for a year."""
    template = json.loads(TEMPLATE.read_bytes())
    for number in range(count):
        path, data = drop / f"old {number}.dcm", b"old image %d" % number
        path.write_bytes(data)
        image = template["image"] | {"name": path.name, "sha256": hashlib.sha256(data).hexdigest()}
        result_path(path, None).write_text(json.dumps(template | {"image": image, "outputs": []}))
