"""A file's turn: its result is found, or made and published, or what went wrong decides how it goes on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from structlog.typing import FilteringBoundLogger

from edge.errors import DeviceLost, EdgeError, Refused, WorkerDied
from edge.results.document import Result
from edge.results.files import make_folder
from edge.results.owner import Owner, own_results
from edge.results.publish import image_name, is_done, read_result, result_path
from edge.service.actions import Action, action_for, log_error
from edge.service.audit_log import facts_of
from edge.service.state import Space
from edge.service.surroundings import Process, Surroundings, Upcoming, nobody
from edge.service.tracking import Served, Tracking
from edge.settle import CRASHES_MOST, FINISHED, Happening, State, Tell, Tracked, final_from_s
from edge.source_file import demand_not_too_large


@dataclass(frozen=True)
class Attempts:
    """What it takes to process tracked files; ``space`` is for working copies, ``recording`` for the journal."""

    process: Process
    tracking: Tracking
    around: Surroundings
    space: Space
    recording: Space
    largest_file_bytes: int
    log: FilteringBoundLogger
    lost: set[str] = field(default_factory=set)  # files that lost a device
    suspects: set[str] = field(default_factory=set)  # those of them since when others were processed
    shared: set[str] = field(default_factory=set)  # the file that was named as the next one while one is in hand
    alone: set[str] = field(default_factory=set)  # files that shared a worker when it died

    def record(self) -> None:
        """Bring the journal up to date; raises `SpoolFull`, and keeps the rest for later."""
        if self.tracking.record():
            self.recording.sufficed()

    def attempt(self, index: int, path: str) -> bool:
        """Finish a file whose result is there, or process it; tell whether that may have taken an image's time."""
        served, image = self.tracking.served[index], Path(path)
        tracked = served.files[path]
        final = self.around.clock() >= final_from_s(tracked, served.patience)
        name = image_name(image)
        log = self.log.bind(image=name, folder=str(image.parent))
        served.answered.discard(path)
        try:
            demand_not_too_large(name, tracked.signature, self.largest_file_bytes)  # its result would be hashed, too
            if document := _standing(served, image, tracked):
                log.debug("has its result")
                facts = facts_of("found", document)
                self.tracking.note_found(facts)
                self._know(index, path, sha256=facts["sha256"], key=facts["key"])
                when = min(_published_at(served, image), self.around.now())
                self._finish(index, path, document.get("status"), document.get("reason"), when=when)
                return not _trusts_times(served, tracked)
            result = self._process_one(index, path, final=final)
            kind = served.files[path].kind
            self._report(log, result, kind)
            self._finish(index, path, result.status, result.reason, kind)
            self.alone.discard(path)
            served.arrived = self.around.now()
            if result.status != "refused":
                self._acquit(path)
        except EdgeError as exc:
            self._fail(index, path, exc, log, final=final)
        except Exception as exc:
            log.exception("unforeseen fault, to be tried again; please report it")
            self.tracking.happen(index, path, Happening.FAILED, f"unforeseen fault ({type(exc).__name__})")
        return True

    def _process_one(self, index: int, path: str, *, final: bool) -> Result:
        served, image = self.tracking.served[index], Path(path)
        tracked, tell = served.files[path], self._tell(index, path)
        results_dir = served.results_dir(image)
        if results_dir:
            make_folder(results_dir)
        if tracked.crashes >= CRASHES_MOST:
            result = self.process.refuse(image, results_dir, _why_not_again(image, tracked), tell)
            self._know(index, path, kind=tracked.kind)
        else:
            self.shared.clear()
            upcoming = self._upcoming if self._may_share(path) and not tracked.crashes else nobody
            result = self.process(image, results_dir, final=final, tell=tell, upcoming=upcoming)
        if served.files[path].state is not State.PUBLISHED:
            tell(Happening.PUBLISHED)
        if self.around.audit:
            event = "refused" if result.status == "refused" else "published"
            self.around.audit.append([facts_of(event, result.model_dump())], self.around.now())
        self.space.sufficed()
        return result

    def _may_share(self, path: str) -> bool:
        """Tell whether a file may share the worker with the next one: of two in hand, nobody knows who ended it."""
        return path not in self.alone and not any(map(self._is_open, self.lost | self.suspects))

    def _is_open(self, path: str) -> bool:
        found = (served.files.get(path) for served in self.tracking.served)
        return any(tracked is not None and tracked.state not in FINISHED for tracked in found)

    def _upcoming(self) -> Upcoming | None:
        if (found := self.tracking.upcoming()) is None or not self._may_share(found[1]):
            return None
        index, path = found
        served = self.tracking.served[index]
        tracked = served.files[path]
        if tracked.crashes:
            return None
        self.shared.add(path)
        final = self.around.clock() >= final_from_s(tracked, served.patience)
        return Upcoming(Path(path), tracked.signature, final)

    def _tell(self, index: int, path: str) -> Tell:
        def tell(happening: Happening, **facts: str) -> None:
            self.tracking.happen(index, path, happening)
            self._know(index, path, **facts)
            self.record()

        return tell

    def _know(self, index: int, path: str, **facts: str | None) -> None:
        tracked = self.tracking.served[index].files[path]
        self.tracking.keep(index, path, replace(tracked, **facts))  # type: ignore[arg-type]

    def _acquit(self, path: str) -> None:
        """Take in that landmarks were looked for in a file: the device is there, so those that lost it are suspect."""
        self.suspects.update(self.lost)
        self.suspects.discard(path)
        self.lost.clear()

    def _finish(
        self,
        index: int,
        path: str,
        status: object,
        reason: object,
        kind: str | None = None,
        when: datetime | None = None,
    ) -> None:
        if status == "refused":
            self.tracking.happen(index, path, Happening.REFUSED, str(reason), kind, when)
        else:
            self.tracking.happen(index, path, Happening.COMMITTED, when=when)

    def _fail(self, index: int, path: str, exc: EdgeError, log: FilteringBoundLogger, *, final: bool) -> None:
        action = action_for(type(exc))
        if action is Action.WAIT and final:
            action = Action.IGNORE
        if action.value is None:
            raise exc
        if isinstance(exc, DeviceLost):
            action = Action.CRASHED if path in self.suspects else action
            self.suspects.discard(path)
            self.lost.add(path)
        if isinstance(exc, WorkerDied) and self.shared:
            self.alone.update(self.shared, {path})  # whose fault it was shows when each has a worker to itself
            action = Action.BACK_OFF
        if action is Action.PAUSE:
            self.space.ran_out(self.around.clock())
        if action is Action.IGNORE:
            self.around.metrics.refused(type(exc).__name__)
        reason, kind = str(exc), type(exc).__name__
        tracked = self.tracking.served[index].files[path]
        if tracked.crashes >= CRASHES_MOST and action is not Action.IGNORE:
            reason, kind = tracked.reason or reason, tracked.kind or kind  # of its refusal, when that can be stored
        self.tracking.happen(index, path, action.value, reason, kind)
        log_error(log, exc, action)

    def _report(self, log: FilteringBoundLogger, result: Result, kind: str | None) -> None:
        self.around.metrics.published(result.status, result.timing_ms)
        if result.status == "refused":
            self.around.metrics.refused(kind or Refused.__name__)
            log.warning("refused", error=kind or Refused.__name__, reason=result.reason)
        else:
            log.info("result published", status=result.status, landmarks=len(result.landmarks))


def _standing(served: Served, image: Path, tracked: Tracked) -> dict[str, Any] | None:
    """Return the result that answers this very file, if there is one and nobody asked for another."""
    if served.results:
        served.results.check()
        own_results(served.results.path, Owner.of(served.config.path))  # its share may have come, or changed, just now
    path = result_path(image, served.results_dir(image))
    if tracked.again or not is_done(image, path, trust_times=_trusts_times(served, tracked)):
        return None
    return read_result(path)


def _trusts_times(served: Served, tracked: Tracked) -> bool:
    """Tell whether a result that is younger than the file is taken for its own without hashing the file.

    In a folder of results it may be that of another folder's file, of the service or the path that was there before.
    """
    return not tracked.doubted and served.results is None


def _published_at(served: Served, image: Path) -> datetime:
    try:
        return datetime.fromtimestamp(result_path(image, served.results_dir(image)).stat().st_mtime, UTC)
    except OSError:
        return datetime.max.replace(tzinfo=UTC)


def _why_not_again(image: Path, tracked: Tracked) -> str:
    return (
        f"{tracked.reason or image_name(image)}; that happened {tracked.crashes} times, so the file is not "
        "opened again: check what was exported"
    )
