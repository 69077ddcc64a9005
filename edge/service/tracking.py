"""The files of all drop folders as they now stand: whose turn is next, and what of it the journal has yet to hear."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from heapq import heappop, heappush
from itertools import count
from pathlib import Path

from edge.config import DropFolderConfig
from edge.errors import NotAnImage
from edge.results.publish import mirrored_folder
from edge.service.audit_log import Facts
from edge.service.dropfolder import DropFolder, HeldFolder
from edge.service.journal import Entry, Request
from edge.service.looking import Looking
from edge.service.surroundings import Surroundings
from edge.settle import (
    FINISHED,
    Happening,
    Patience,
    Signature,
    State,
    Tracked,
    first_seen,
    happen,
    look,
    signature_of,
)


@dataclass
class Served:
    """One drop folder and what is known of its files."""

    folder: DropFolder
    looking: Looking
    results: HeldFolder | None
    config: DropFolderConfig
    patience: Patience
    sweep_s: float
    since: datetime  # watched
    files: dict[str, Tracked] = field(default_factory=dict)
    answered: set[str] = field(default_factory=set)  # files that the journal did not know, with a result when begun
    available: bool | None = None  # None: not yet swept
    swept_s: float | None = None
    arrived: datetime | None = None  # the last image that got its result
    silent: bool = False  # as last logged

    def results_dir(self, image: Path) -> Path | None:
        """Return the folder for the result of an image; None: beside it."""
        return mirrored_folder(image, self.folder.path, self.results.path if self.results else None)


class Tracking:
    """All files that are tracked. A file is named by the index of its drop folder and its path."""

    def __init__(self, around: Surroundings) -> None:
        self.served: list[Served] = []
        self.counts: Counter[State] = Counter()
        self.not_images = 0  # of those that are refused
        self._around = around
        self._clock = around.clock
        self._order: count[int] | None = None  # read when it is first needed: the journal may be busy now
        # heaps of (has a result to check, order | due_s, index of the folder, path); an entry that the file's state has
        # left behind is void. What lacks its result does not wait for what may only be ticked off.
        self._ready: list[tuple[bool, int, int, str]] = []
        self._due: list[tuple[float, int, str]] = []
        self._found: list[Facts] = []  # results that were there, not yet in the audit log
        self._unwritten: dict[str, Entry] = {}  # this and the next two: not yet in the journal
        self._presence: dict[str, bool] = {}  # of files that left their folder, or came back finished
        self._taken: list[Request] = []

    def tracked(self, index: int, path: str) -> Tracked | None:
        """Return how a file stands; None: it is not tracked."""
        return self.served[index].files.get(path)

    def begin(self, index: int, path: str, signature: Signature, ended_s: float) -> None:
        """Track a file that is new here; ``ended_s`` is when the look at it ended."""
        if self._order is None:
            self._order = count(self._around.journal.last_order() + 1)
        tracked = first_seen(next(self._order), signature, ended_s, self.served[index].patience)
        self.keep(index, path, tracked)

    def keep(
        self, index: int, path: str, tracked: Tracked, *, durable: bool = True, when: datetime | None = None
    ) -> None:
        """Have a file stand like this since ``when``, None: now; without ``durable``, as the journal knows already."""
        served = self.served[index]
        if before := served.files.get(path):
            self._count(before, -1)
        self._count(tracked, 1)
        served.files[path] = tracked
        if tracked.state is State.STABLE:
            heappush(self._ready, (path in served.answered, tracked.order, index, path))
        if tracked.due_s is not None:
            heappush(self._due, (tracked.due_s, index, path))
        if durable:
            self._presence.pop(path, None)
            self._unwritten[path] = _entry(tracked, str(served.folder.path), path, when or self._around.now())

    def drop(self, index: int, path: str) -> None:
        """Track a file no longer; that says nothing about whether it is there."""
        served = self.served[index]
        served.answered.discard(path)
        self._count(served.files.pop(path), -1)

    def happen(
        self,
        index: int,
        path: str,
        happening: Happening,
        reason: str | None = None,
        kind: str | None = None,
        when: datetime | None = None,
    ) -> Tracked:
        """Take in what happened to a file when, why, and the class of the error; return how it now stands."""
        served = self.served[index]
        told = happen(served.files[path], happening, self._clock(), served.patience, reason, kind)
        self.keep(index, path, told, when=when)
        return told

    def take_in(self, index: int, path: str, signature: Signature, began_s: float, ended_s: float) -> None:
        """Take in a look at a file."""
        served = self.served[index]
        tracked = served.files[path]
        looked = look(tracked, signature, began_s, ended_s, served.patience)
        if looked is not tracked:
            self.keep(index, path, looked)

    def look_again(self, index: int, path: str) -> None:
        """Look at one file between two sweeps."""
        began_s = self._clock()
        try:
            signature = signature_of(Path(path).lstat())
        except FileNotFoundError:
            self.drop(index, path)
            self.note_presence({path: False})
        except OSError:
            pass  # the next sweep tells
        else:
            self.take_in(index, path, signature, began_s, self._clock())

    def wake_the_due(self) -> None:
        """Take up every file again whose time has come."""
        while self._due and self._due[0][0] <= self._clock():
            due_s, index, path = heappop(self._due)
            tracked = self.tracked(index, path)
            if tracked is None or tracked.due_s != due_s:
                continue
            if tracked.state is State.SEEN:
                self.look_again(index, path)
            else:
                self.happen(index, path, Happening.DUE, tracked.reason, tracked.kind)

    def next_due_s(self) -> float | None:
        """Return when the next file is due; None: none is."""
        return self._due[0][0] if self._due else None

    def has_ready(self) -> bool:
        """Tell whether a file may be ready to be processed."""
        return bool(self._ready)

    def next_ready(self) -> tuple[int, str] | None:
        """Take the next file off the queue, the one first seen first; None: it has changed meanwhile."""
        _, _, index, path = heappop(self._ready)
        if self._is_stable(index, path):
            self.look_again(index, path)
        return (index, path) if self._is_stable(index, path) else None

    def upcoming(self) -> tuple[int, str] | None:
        """Return the file that `next_ready` most likely gives next; None: none, or one whose result is there."""
        while self._ready:
            answered, _, index, path = self._ready[0]
            if self._is_stable(index, path):
                return None if answered else (index, path)
            heappop(self._ready)
        return None

    def unfinished(self) -> int:
        """Return how many files are neither done nor refused."""
        return sum(number for state, number in self.counts.items() if state not in FINISHED)

    def counts_of_images(self) -> dict[State, int]:
        """Return how many files stand where, those apart that are no images."""
        return dict(self.counts) | {State.REFUSED: self.counts[State.REFUSED] - self.not_images}

    def note_presence(self, presence: dict[str, bool]) -> None:
        """Remember for the journal which files left their folder, or came back finished."""
        self._presence |= presence

    def note_found(self, facts: Facts) -> None:
        """Remember for the audit log a result that was there."""
        self._found.append(facts)

    def new_requests(self) -> list[Request]:
        """Return what people asked for and nobody took up yet."""
        known = {request.number for request in self._taken}
        return [request for request in self._around.journal.requests() if request.number not in known]

    def take_up(self, request: Request) -> None:
        """Have a request forgotten when what it brought about is recorded."""
        self._taken.append(request)

    def record(self) -> bool:
        """Bring audit log and journal up to date in one transaction; tell whether there was anything to write.

        Raises `SpoolFull`, and keeps the rest for later.
        """
        if self._found and self._around.audit:
            self._around.audit.append(self._found, self._around.now())
        self._found = []
        if not (self._unwritten or self._presence or self._taken):
            return False
        self._around.journal.record(self._unwritten.values(), presence=self._presence, taken=self._taken)
        self._unwritten, self._presence, self._taken = {}, {}, []
        return True

    def _is_stable(self, index: int, path: str) -> bool:
        tracked = self.tracked(index, path)
        return tracked is not None and tracked.state is State.STABLE

    def _count(self, tracked: Tracked, by: int) -> None:
        self.counts[tracked.state] += by
        if tracked.state is State.REFUSED and not is_refused_image(tracked):
            self.not_images += by


def is_refused_image(tracked: Tracked) -> bool:
    """Tell whether a file is an image, and refused: a drop folder may hold thousands of files that are no images."""
    return tracked.state is State.REFUSED and tracked.kind != NotAnImage.__name__


def _entry(tracked: Tracked, folder: str, path: str, now: datetime) -> Entry:
    now_utc = now.astimezone(UTC)
    return Entry(
        tracked.order, folder, path, tracked.signature, tracked.state, tracked.failures, tracked.crashes,
        tracked.reason, tracked.sha256, tracked.key, now_utc, now_utc, tracked.again, kind=tracked.kind,
    )  # fmt: skip
