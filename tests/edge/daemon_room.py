"""A daemon over real folders, under a clock that only the test moves, with a stand-in for what reads and infers."""

import hashlib
import os
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
from structlog.testing import LogCapture

from edge.config import Config, DropFolderConfig
from edge.errors import DamagedImage
from edge.results.document import Image, Provenance, Result
from edge.results.publish import claim_name, image_name, publish, read_result, result_path
from edge.service.daemon import Daemon
from edge.service.dropfolder import DropFolder
from edge.service.journal import Entry, Journal
from edge.service.surroundings import Next, Surroundings, Upcoming
from edge.service.watch import watch
from edge.settle import Happening, State, Tell

ZEROS = "0" * 64
PROVENANCE = Provenance(
    software="0", release="0", model_sha256=ZEROS, checkpoint_sha256=ZEROS, contract_sha256=ZEROS,
    calibration_set_sha256=None, config_sha256=ZEROS, backend={},
)  # fmt: skip


def key_of(data: bytes) -> str:
    return hashlib.sha256(b"key of " + data).hexdigest()


def result_of(image: Path, data: bytes, reason: str | None = None) -> Result:
    return Result(
        status="refused" if reason else "ok",
        reason=reason,
        image=Image(
            name=image_name(image),
            sha256=hashlib.sha256(data).hexdigest(),
            sop_instance_uid=None,
            modality=None,
            rows=None,
            columns=None,
        ),
        landmarks=(),
        geometry=None,
        provenance=PROVENANCE.model_copy(update={"key": key_of(data)}),
        timing_ms={},
        outputs=(),
    )


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0
        self.wall = datetime(2026, 1, 5, 9, tzinfo=UTC) - timedelta(seconds=1000)  # a Monday, 9:00 at the start
        self.slept_s: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def now(self) -> datetime:
        return self.wall + timedelta(seconds=self.now_s)

    def sleep(self, pause_s: float) -> None:
        self.slept_s.append(pause_s)
        self.now_s += pause_s


class Pipeline:
    """Stands in for the pipeline. A file that begins with b"part" is damaged; other errors are scripted."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.calls: list[tuple[str, bool]] = []  # (file name, final)
        self.times_s: list[float] = []
        self.rests = 0
        self.upcoming: list[Upcoming | None] = []  # what was said to come next, once a file was claimed
        self.raises: dict[str, Iterator[Exception | None]] = defaultdict(lambda: iter(()))
        self.takes_s = 0.0
        self.meanwhile = lambda: None
        self.after_publishing = lambda: None

    def __call__(self, image: Path, results_dir: Path | None, *, final: bool, tell: Tell, upcoming: Next) -> Result:
        self.calls.append((image.name, final))
        self.times_s.append(self.clock())
        result = result_path(image, results_dir)
        claim_name(image, result)
        data = image.read_bytes()
        tell(Happening.CLAIMED, sha256=hashlib.sha256(data).hexdigest())
        self.upcoming.append(upcoming())
        self.clock.now_s += self.takes_s
        self.meanwhile()
        if error := next(self.raises[image.name], None):
            raise error
        if data.startswith(b"part") and not final:
            raise DamagedImage(f"{image}: half of it is missing; send it again")
        if data.startswith(b"part"):
            return self._refused(image, results_dir, "half of it is missing", tell, kind="DamagedImage")
        tell(Happening.INFERRED, key=key_of(data))
        document = result_of(image, data)
        publish([], (result, document.to_json()))
        self.after_publishing()
        tell(Happening.PUBLISHED)
        return document

    def rest(self) -> None:
        self.rests += 1

    def refuse(self, image: Path, results_dir: Path | None, reason: str, tell: Tell) -> Result:
        return self._refused(image, results_dir, reason, tell)

    def _refused(self, image: Path, results_dir: Path | None, reason: str, tell: Tell, **facts: str) -> Result:
        document = result_of(image, image.read_bytes(), reason)
        publish([], (result_path(image, results_dir), document.to_json()))
        tell(Happening.PUBLISHED, **facts)
        return document


class Room:
    """A daemon over real folders, under a clock that only the test moves, without events."""

    def __init__(self, root: Path, **settings: object) -> None:
        self.drop = root / "drop"
        self.drop.mkdir(exist_ok=True)
        self.config = Config(drop_folder=(DropFolderConfig(path=self.drop),), **settings)
        self.clock = Clock()
        self.pipeline = Pipeline(self.clock)
        self.log = LogCapture()
        self.logger = structlog.wrap_logger(None, processors=[self.log])
        self.journal_path = root / "journal.sqlite"
        self.around = Surroundings(clock=self.clock, now=self.clock.now, sleep=self.clock.sleep, open_folder=deaf)
        self.start()

    def start(self) -> None:
        self.journal = Journal.open(self.journal_path)
        self.around = replace(self.around, journal=self.journal)
        self.daemon = Daemon(self.config, self.pipeline, self.logger, self.around)
        self.daemon.__enter__()

    def stop(self) -> None:
        self.daemon.__exit__(None, None, None)
        self.journal.close()

    def restart(self, meanwhile=lambda: None) -> None:
        self.stop()
        self.pipeline.calls.clear()
        meanwhile()
        self.start()

    def states(self) -> dict[str, State]:
        return {Path(path).name: entry.state for path, entry in self.journal.entries(self.drop).items()}

    def entry(self, name: str) -> Entry:
        return self.journal.entries(self.drop)[str(self.drop / name)]

    def put(self, name: str, data: bytes = b"whole") -> Path:
        path = self.drop / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def run_for(self, duration_s: float) -> None:
        end_s = self.clock.now_s + duration_s
        while self.clock.now_s < end_s:
            self.clock.now_s = min(self.clock.now_s + max(self.daemon.step(), 1e-6), end_s)

    def result(self, name: str) -> dict | None:
        return read_result(result_path(self.drop / name, None))

    def events(self) -> list[str]:
        return [entry["event"] for entry in self.log.entries]


def with_results(room: Room, results_dir: Path) -> Room:
    """Serve anew, with the results in a folder of their own."""
    room.config = room.config.model_copy(
        update={"drop_folder": (DropFolderConfig(path=room.drop, results_dir=results_dir),)}
    )
    room.restart()
    return room


def swap_bytes(image: Path, data: bytes) -> None:
    """Write other bytes in place and give the file its mtime back, as ``rsync --inplace --times`` can."""
    before = image.stat()
    image.write_bytes(data)
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = image.stat()
    kept = ("st_size", "st_ino", "st_mtime_ns")
    assert [getattr(after, name) for name in kept] == [getattr(before, name) for name in kept]


def no_observer():
    raise OSError("no events in this test")


def deaf(folder: DropFolderConfig, log: object) -> DropFolder:
    return DropFolder(folder.path, log, no_observer)


def watched(room: Room, stop: threading.Event, **options: object) -> int:
    room.daemon.__exit__(None, None, None)  # or it would hold the folder
    return watch(room.config, room.pipeline, stop=stop, log=room.logger, around=room.around, **options)


class Killed(BaseException):
    """The process ends here: nothing after this is run."""


def killed() -> None:
    raise Killed


def kill(room: Room, duration_s: float = 10) -> None:
    """Run until `Killed` is raised, then begin anew with what is on disk."""
    with pytest.raises(Killed):
        room.run_for(duration_s)
    room.daemon._open.close()  # its lock ends with a process; nothing else of it is heard
    room.journal.close()
    room.pipeline.calls.clear()
    room.pipeline.meanwhile = room.pipeline.after_publishing = lambda: None
    room.start()
