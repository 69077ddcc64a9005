"""How a service stands, for ``landmarknet-edge status``: read from its journal, whether it runs or not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, is_dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.config import Config, DropFolderConfig
from edge.constancy import ConstancyRun, due
from edge.errors import JournalDamaged, SpoolFull, StateUnusable, Stop
from edge.results.publish import image_name
from edge.service.audit_log import serving_release
from edge.service.check_folders import Listings
from edge.service.finding import Finding
from edge.service.installed import Service
from edge.service.journal import Entry, Journal
from edge.service.machine import ANSWER_S
from edge.service.silence import silent_for
from edge.service.spool import HIGH_WATER_BYTES, free_bytes
from edge.service.state import AUDIT_LOG, JOURNAL, LOCK, lock_holder, state_folder
from edge.settle import FINISHED, State
from edge.terminal import printable

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

LOCKS = Path("/proc/locks")
LISTINGS = Listings()  # of this process: the page asks every few seconds, and a share may hang for days
TREND = 7  # constancy runs that are shown: a week
LATE = timedelta(hours=1)  # a constancy run waits for the image in hand, not for so long
FAILURES_ALARMING = 4  # of the surroundings with one file: tried again for 15 s
NOTICE = "Decision support for research; not a medical device."
WAITING = tuple(state for state in State if state not in FINISHED)


@dataclass(frozen=True)
class File:
    """One file that is worth naming: its name without its folder, and what became of it when."""

    name: str
    state: str
    when_utc: datetime
    reason: str | None


@dataclass(frozen=True)
class Folder:
    """One drop folder, as it is just now."""

    path: str
    fault: str | None  # why it cannot be listed, and what to do
    last_arrival_utc: datetime | None
    silent_s: float | None  # clinic hours without an image; None: no alarm


@dataclass(frozen=True)
class Status:
    """All that ``status`` shows. ``alarms`` are sentences for a person; none: all is well."""

    when: datetime  # local time
    process: int | None  # of the daemon; None: none serves
    release: str | None  # that serves; while none does, the one that the configuration names
    counts: dict[str, int]  # files by state
    not_images: int  # files that are left alone, and counted nowhere else
    oldest_waiting: File | None
    last_done: File | None
    last_refused: File | None
    last_error: File | None  # of the files that are tried again
    refused_by_reason: dict[str, int]
    folders: tuple[Folder, ...]
    constancy: tuple[ConstancyRun, ...]  # the last one first
    alarms: tuple[str, ...]

    @property
    def waiting(self) -> int:
        """How many files are not finished."""
        return sum(self.counts.get(state, 0) for state in WAITING)

    def to_json(self) -> dict[str, Any]:
        """Return what JSON can carry: times in ISO 8601, no infinity."""
        plain: dict[str, Any] = _plain(vars(self) | {"waiting": self.waiting})
        return plain


@dataclass(frozen=True)
class _Known:
    """What the journal says; as it stands here, of one that cannot be read."""

    counts: dict[State, int]
    not_images: int = 0
    waiting: tuple[Entry, ...] = ()
    last_done: Entry | None = None
    last_refused: Entry | None = None
    refused_by_reason: dict[str, int] = field(default_factory=dict)
    arrivals: dict[Path, datetime | None] = field(default_factory=dict)
    constancy: tuple[ConstancyRun, ...] = ()


def gather(
    service: Service,
    now: datetime,
    locks: Path = LOCKS,
    free: Callable[[Path], int] = free_bytes,
    answer_s: float = ANSWER_S,
    listings: Listings = LISTINGS,
) -> Status:
    """Ask the journal, the folders and the kernel how a service stands; ``now`` is local time with its zone.

    Raises `StateUnusable` only where this user may not look, or nothing says where; any other fault is an alarm.
    """
    state = state_folder(service.config)
    process = _holder(state / LOCK, locks)
    known, unread = _known(state / JOURNAL, service.config)
    named, unnamed = _release(service.config)
    release = (serving_release(state / AUDIT_LOG) if process else None) or named
    since = _begun(state / LOCK, service.config_file, now)
    folders = tuple(
        _folder(entry, listings.findings(entry.path, answer_s), known.arrivals.get(entry.path), since, now)
        for entry in service.config.drop_folder
    )
    retried = [entry for entry in known.waiting if entry.state is State.RETRY_WAIT]
    alarms = (
        *([] if process else [f"no daemon serves: systemctl start {service.unit}"]),
        *_of_nothing_to_do(service),
        *filter(None, (unread, unnamed)),
        *_of_release(release, named, service.unit),
        *(alarm for folder in folders for alarm in _of_folder(folder)),
        *_of_constancy(known.constancy, service.config, now, serving=process is not None),
        *_of_space(state, free),
        *_of_retries(retried),
    )
    return Status(
        when=now,
        process=process,
        release=release,
        counts={str(one): number for one, number in known.counts.items()},
        not_images=known.not_images,
        oldest_waiting=_oldest(known.waiting),
        last_done=_file(known.last_done),
        last_refused=_file(known.last_refused),
        last_error=_file(max(retried, key=lambda entry: entry.changed_utc, default=None)),
        refused_by_reason=known.refused_by_reason,
        folders=folders,
        constancy=known.constancy,
        alarms=alarms,
    )


def _holder(lock: Path, locks: Path) -> int | None:
    """Return the process that holds the lock file, None: none.

    Read from proc_locks(5): whoever tries the lock holds it for an instant, and a daemon that starts just then ends.
    """
    try:
        return lock_holder(lock.stat().st_ino, locks.read_text())
    except PermissionError as exc:  # to say that none serves would be wrong
        raise StateUnusable(f"{lock.parent}: this user may not look there; ask as root") from exc
    except OSError:
        return None


def _known(path: Path, config: Config) -> tuple[_Known, str | None]:
    try:
        with Journal.open_for_reading(path) as journal:
            arrivals = {entry.path: journal.last_arrival(entry.path) for entry in config.drop_folder}
            return _Known(
                journal.counts(), journal.not_images(), tuple(journal.waiting()), journal.last_done(),
                journal.last_refused(), journal.refused_by_reason(), arrivals, tuple(journal.constancy_runs(TREND)),
            ), None  # fmt: skip
    except (StateUnusable, SpoolFull, JournalDamaged) as exc:
        return _Known({}), str(exc)


def _release(config: Config) -> tuple[str | None, str | None]:
    from edge.contract import read_contract
    from edge.engines import SHIPPED_RELEASE
    from edge.store import CHOOSE, Store

    try:
        if config.store is None:
            return read_contract((config.release or SHIPPED_RELEASE) / "contract.json")[0].release, None
        current = Store(config.store, config.release_key).current()
    except Stop as exc:
        return None, str(exc)
    return current, None if current else f"{config.store}: no release is in use; {CHOOSE}"


def _begun(lock: Path, config: Path | None, now: datetime) -> datetime:
    """Return since when images could have come: the service's first start, or the last change of its configuration."""
    moments = [now.timestamp()]
    with suppress(OSError):
        moments = [path.stat().st_mtime for path in (lock, config) if path is not None]
    return min(datetime.fromtimestamp(max(moments), now.tzinfo), now)


def _folder(
    entry: DropFolderConfig, faults: Sequence[Finding], last_arrival: datetime | None, since: datetime, now: datetime
) -> Folder:
    silence = silent_for(entry.clinic_hours, last_arrival, last_arrival or since, now)
    return Folder(
        path=printable(str(entry.path)),
        fault=next((f"{fault.what}; {fault.mend}" for fault in faults), None),
        last_arrival_utc=last_arrival,
        silent_s=silence.total_seconds() if silence else None,
    )


def _of_nothing_to_do(service: Service) -> Iterator[str]:
    if not service.config.drop_folder:
        place = service.config_file or "a configuration, and name that with --config"
        yield f"no drop folder is set: write [[drop_folder]] with its path into {place}"


def _of_release(serves: str | None, named: str | None, unit: str) -> Iterator[str]:
    if serves and named and serves != named:
        yield (
            f"{serves} serves, but the configuration names {named}: systemctl restart {unit}; if it stays so, the log "
            "of the service says why"
        )


def _of_folder(folder: Folder) -> Iterator[str]:
    if folder.fault:
        yield folder.fault
    if folder.silent_s:
        yield (
            f"drop folder {folder.path}: no image for {in_words(folder.silent_s)} of clinic hours; "
            "see that the imaging system sends, and sends there"
        )


def _of_constancy(runs: Sequence[ConstancyRun], config: Config, now: datetime, *, serving: bool) -> Iterator[str]:
    if runs and not runs[0].passed:
        yield f"constancy: {runs[0].reason}"
        return
    earlier = now - LATE
    last = min(runs[0].when_utc, earlier) if runs else None
    if serving and due(last, earlier, config.constancy_at):
        since = f"since {local(runs[0].when_utc, now)}" if runs else "at all"
        yield f"constancy: the golden images have not run {since}; see the log of the service"


def _of_space(state: Path, free: Callable[[Path], int]) -> Iterator[str]:
    if not state.is_dir():
        return
    try:
        left_bytes = free(state)
    except StateUnusable as exc:
        yield str(exc)
    else:
        if left_bytes < HIGH_WATER_BYTES:
            yield f"{state}: {left_bytes / 1e6:.0f} MB are free, and without any images wait; free some on its disk"


def _of_retries(retried: Sequence[Entry]) -> Iterator[str]:
    stubborn = [entry for entry in retried if entry.failures >= FAILURES_ALARMING]
    if stubborn:
        yield f"{len(stubborn)} files fail again and again; {_name(stubborn[0])}: {stubborn[0].reason}"


def _file(entry: Entry | None) -> File | None:
    return None if entry is None else File(_name(entry), str(entry.state), entry.changed_utc, entry.reason)


def _oldest(waiting: Sequence[Entry]) -> File | None:
    return File(_name(waiting[0]), str(waiting[0].state), waiting[0].first_seen_utc, None) if waiting else None


def _name(entry: Entry) -> str:
    return image_name(Path(entry.path))


def _plain(value: Any) -> Any:
    # not asdict(): that copies, and the zone of /etc/localtime cannot be copied
    if is_dataclass(value):
        value = vars(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    return None if isinstance(value, float) and not math.isfinite(value) else value


def render(status: Status) -> RenderableType:
    """Return the status as a screen: one word that can be read across the room, what is wrong, and the figures."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    word = f"{len(status.alarms)} ALARM{'S' * (len(status.alarms) > 1)}" if status.alarms else "ALL IS WELL"
    colours = "bold white on red" if status.alarms else "bold black on green"
    headline = Panel(Text(" ".join(word), colours, justify="center"), padding=(1, 2), style=colours)
    alarms = [Text(f"! {printable(alarm)}", "bold red") for alarm in status.alarms]
    return Group(headline, *alarms, _table(status), Text(NOTICE, "dim"))


def _table(status: Status) -> Table:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for label, text in _rows(status):
        table.add_row(_text(label, "bold"), _text(text))
    return table


def _text(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(printable(text), style)  # not markup: a file name may look like it


def _rows(status: Status) -> Iterator[tuple[str, str]]:
    now = status.when
    yield "service", f"serves, process {status.process}" if status.process else "does not run"
    yield "engine", status.release or "none"
    yield "queue", _queue(status)
    yield "last image", _sentence(status.last_done, now)
    yield "last refusal", _sentence(status.last_refused, now)
    yield "last error", _sentence(status.last_error, now)
    for folder in status.folders:
        arrival = f"last image came {ago(folder.last_arrival_utc, now)}" if folder.last_arrival_utc else "no image yet"
        yield "drop folder", f"{folder.path}: {'CANNOT BE LISTED' if folder.fault else 'in order'}, {arrival}"
    yield "constancy", _constancy(status.constancy, now)


def _queue(status: Status) -> str:
    parts = [f"{number} {state}" for state, number in status.counts.items() if number and state in WAITING]
    first = status.oldest_waiting
    oldest = f", the oldest {first.name} since {local(first.when_utc, status.when)}" if first else ""
    waiting = f"{status.waiting} waiting ({', '.join(parts)}){oldest}" if status.waiting else "nothing waits"
    others = f", not images: {status.not_images}" if status.not_images else ""
    done, refused = status.counts.get(State.DONE, 0), status.counts.get(State.REFUSED, 0)
    return f"{waiting}; {done} done, {refused} refused{others}"


def _sentence(file: File | None, now: datetime) -> str:
    if file is None:
        return "none"
    reason = f": {file.reason}" if file.reason else ""
    return f"{file.name}, {ago(file.when_utc, now)}{reason}"


def _constancy(runs: Sequence[ConstancyRun], now: datetime) -> str:
    if not runs:
        return "no run of the golden images yet"
    last, shifts = runs[0], " ".join(f"{run.worst_shift_net_px:.2g}" for run in reversed(runs))
    verdict = "passed" if last.passed else "DRIFTED, NOTHING IS PUBLISHED"
    return f"{verdict} {ago(last.when_utc, now)} with {last.release}; worst shifts, px of the network: {shifts}"


def ago(moment: datetime, now: datetime) -> str:
    """Return how long ago a moment was, and its local time."""
    past_s = (now - moment).total_seconds()
    return f"{in_words(past_s)} ago ({local(moment, now)})" if past_s >= 0 else f"at {local(moment, now)}"


def local(moment: datetime, now: datetime) -> str:
    """Return a moment in the zone of ``now``, without the date where that is today."""
    here = moment.astimezone(now.tzinfo)
    return f"{here:%H:%M}" if here.date() == now.date() else f"{here:%Y-%m-%d %H:%M}"


def in_words(seconds: float) -> str:
    """Return a time span as a person says it."""
    minutes = int(seconds // 60)
    if minutes < 1:
        return f"{int(seconds)} s"
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes < 48 * 60 else f"{minutes // 1440} days"
