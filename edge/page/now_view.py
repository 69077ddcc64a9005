"""The view Now: did the image arrive, what is its shift, is the system well."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from edge.page.shown_file import Shown, age, shown
from edge.page.sources import Sources
from edge.service.status import Folder, Status, in_words, local
from edge.settle import FINISHED
from edge.terminal import printable

PAGE_OF = 50  # files in the list


@dataclass(frozen=True)
class Part:
    """One part of the system and how it stands."""

    name: str
    word: str
    level: str  # good, warn, bad or idle
    told: tuple[str, ...]


@dataclass(frozen=True)
class Now:
    """What the view shows; ``parts`` are queue, engine, constancy and each drop folder."""

    time: datetime  # now; ``status.when`` is before that where the machine was slow to answer
    status: Status
    parts: tuple[Part, ...]
    latest: Shown | None  # the image that was finished last; None: none, or an older page of the list
    files: tuple[Shown, ...]
    older: int | None  # the order to go on from
    newest: bool  # whether this is the first page

    @property
    def well(self) -> bool:
        return not self.status.alarms


def now_of(sources: Sources, before: int | None) -> Now:
    """Ask the sources what is shown; ``before`` an order: the page of the list that comes after it."""
    status = sources.status()
    found = sources.recent(PAGE_OF + 1, before)
    files = tuple(shown(seen, sources) for seen in found[:PAGE_OF])
    last = sources.finished(1) if before is None else ()
    latest = shown(last[0], sources) if last else None
    older = found[PAGE_OF - 1].ord if len(found) > PAGE_OF else None
    now = sources.now()
    return Now(now, status, parts_of(status, now), latest, files, older, before is None)


def parts_of(status: Status, now: datetime) -> tuple[Part, ...]:
    """Return how the parts of the system stand, as seen at ``now``."""
    return (
        _queue(status, now),
        *(_folder(folder, now) for folder in status.folders),
        _engine(status),
        _golden(status, now),
    )


def _queue(status: Status, now: datetime) -> Part:
    oldest = status.oldest_waiting
    told = [f"{status.counts.get(FINISHED[0], 0)} done, {status.counts.get(FINISHED[1], 0)} refused"]
    if oldest:
        told.insert(0, f"oldest: {printable(oldest.name)}, {age(oldest.when_utc, now)}")
    word = f"{status.waiting} waiting" if status.waiting else "nothing waits"
    return Part("Queue", word, "idle" if status.waiting else "good", tuple(told))


def _folder(folder: Folder, now: datetime) -> Part:
    arrived = folder.last_arrival_utc
    told = [folder.path, f"last image {age(arrived, now)}" if arrived else "no image yet"]
    if folder.fault:
        return Part("Drop folder", "cannot be listed", "bad", tuple(told))
    if folder.silent_s:
        return Part("Drop folder", f"silent for {in_words(folder.silent_s)}", "warn", (*told, "of clinic hours"))
    return Part("Drop folder", "in order", "good", tuple(told))


def _engine(status: Status) -> Part:
    if status.process is None:
        return Part("Engine", "does not run", "bad", (f"would serve: {printable(status.release or 'none')}",))
    return Part("Engine", "serves", "good", (printable(status.release or "none"),))


def _golden(status: Status, now: datetime) -> Part:
    if not status.constancy:
        return Part("Constancy", "not yet run", "idle", ("the golden images run once a day",))
    last = status.constancy[0]
    told = (
        f"golden images, {local(last.when_utc, now)}",
        f"worst shift {last.worst_shift_net_px:.2g} px of the network",
    )
    if last.passed:
        return Part("Constancy", "passed", "good", told)
    return Part("Constancy", "drifted, nothing is published", "bad", told)
