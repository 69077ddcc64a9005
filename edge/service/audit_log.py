"""The audit log: one JSON line per published or refused result and per change of the engine, each bound to the last.

A line carries the SHA-256 of the line before it, so whatever is altered, taken out or put in by someone who does not
rewrite all that follows shows, but for what was cut off the very end. Whoever may write here could rewrite it: keep
the last hash elsewhere, where that matters. File names and hashes only; nothing that stands inside an image.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from edge.durable import sync_folder
from edge.errors import SpoolFull, StateUnusable
from edge.service.state import is_there

BEGINNING = "0" * 64  # what stands for the line before the first
CLOSE_AFTER = timedelta(days=30)  # a chain goes on in the next file then
GAP_MOST = timedelta(days=60)  # without a line: then the clock may be wrong, and nothing is removed
FOR_NOW = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM}

Facts = Mapping[str, str | None]


@dataclass(frozen=True)
class Verdict:
    """What the check of one file of a chain showed."""

    path: Path
    lines: int
    begins_after: str  # the hash that the first line names; `BEGINNING`: nothing was before
    last_sha256: str  # of the last line
    broken_line: int | None  # the first line that is not as it was written, counted from 1
    reason: str | None


class AuditLog:
    """An open audit log; use it as a context manager. One process writes it."""

    def __init__(self, path: Path, now_utc: datetime) -> None:
        self.path = path
        self._fd = -1
        self._last: str | None = None  # the hash of the last line, also when its file was moved away
        self._engine: Facts = {}
        self._begun_utc = self._last_utc = now_utc
        self.reopen(now_utc)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; a later `append` opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def reopen(self, now_utc: datetime) -> None:
        """Open the file of that name, which may have been moved away; the chain goes on in a new one.

        Raises `StateUnusable` where that cannot be, `SpoolFull` while there is no space.
        """
        self.close()
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            lines = self.path.read_bytes().split(b"\n")
        except OSError as exc:
            raise _unusable(self.path, exc) from exc
        torn = lines.pop()
        if torn:  # a power loss, or a full disk, during a line: it stays, and the next line says so
            self._last = _sha256(torn)
            whole = _sha256(lines[-1]) if lines else BEGINNING
            self._append([{"event": "torn", "whole": whole}], now_utc, before=b"\n")
        elif lines:
            self._last = _sha256(lines[-1])
        else:
            self._begin(now_utc)
            return
        self._remember(lines, now_utc)

    def append(self, facts: Sequence[Facts], now_utc: datetime) -> None:
        """Write a line for each, durably; raise `SpoolFull` when there is no space, and then write none of them."""
        if self._fd < 0:
            self.reopen(now_utc)
        self._append(facts, now_utc)

    def engine(self, facts: Facts, now_utc: datetime) -> None:
        """Write a line about the engine that now serves, unless the last such line said the same."""
        if dict(facts) != self._engine:
            self.append([{"event": "engine", **facts}], now_utc)
            self._engine = dict(facts)

    def retain(self, keep_days: int, now_utc: datetime) -> None:
        """Close a chain of a month and go on in a new file; remove closed files of ``keep_days`` ago.

        Long after the last line nothing is done: a clock that was years ahead for a day once removed everything.
        """
        if now_utc - self._last_utc > GAP_MOST:
            return
        if now_utc - self._begun_utc >= CLOSE_AFTER:
            self.append([{"event": "closed"}], now_utc)
            try:
                self.path.rename(_closed_name(self.path, now_utc))
            except OSError as exc:
                raise _unusable(self.path, exc) from exc
            self.reopen(now_utc)
        oldest = _closed_name(self.path, now_utc - timedelta(days=keep_days))
        with suppress(OSError):  # tried again the next day
            for closed in chain(self.path):
                if closed == self.path or closed.name >= oldest.name:
                    break  # what comes after would no longer go on where something ends
                closed.unlink()

    def _begin(self, now_utc: datetime) -> None:
        """Write the first line of a file; it names the last one of the file before."""
        if self._last is None:
            before = [path for path in chain(self.path) if path != self.path]
            self._last = verify(before[-1]).last_sha256 if before else None
        event = "begun" if self._last is None else "continued"
        self._last = self._last or BEGINNING
        self._append([{"event": event, **self._engine}], now_utc)
        self._begun_utc = now_utc
        sync_folder(self.path.parent)

    def _remember(self, lines: Iterable[bytes], now_utc: datetime) -> None:
        known = [line for line in map(_parsed, lines) if line]
        for line in known:
            if line.get("event") in {"engine", "continued"}:
                self._engine = {key: line[key] for key in line.keys() - {"previous", "time", "event"}}
        with suppress(KeyError, ValueError, IndexError):
            self._begun_utc = min(now_utc, datetime.fromisoformat(known[0]["time"]))
            self._last_utc = datetime.fromisoformat(known[-1]["time"])

    def _append(self, facts: Sequence[Facts], now_utc: datetime, before: bytes = b"") -> None:
        time, last, lines = now_utc.astimezone(UTC).isoformat(timespec="milliseconds"), self._last, []
        for fact in facts:
            lines.append(json.dumps({"previous": last, "time": time, **fact}).encode())
            last = _sha256(lines[-1])
        self._write(before + b"".join(line + b"\n" for line in lines))
        self._last = last
        self._last_utc = now_utc

    def _write(self, data: bytes) -> None:
        try:
            end = os.fstat(self._fd).st_size
            try:
                _write_all(self._fd, data)
            except OSError:
                os.ftruncate(self._fd, end)  # only what was written just now, and counts for nothing yet
                raise
        except OSError as exc:
            self.close()  # whatever stands at its end now, the next append looks
            raise _unusable(self.path, exc) from exc


def facts_of(event: str, document: dict[str, Any]) -> Facts:
    """Return the line about a result's document; one that was found may be of any make."""
    image, provenance = document.get("image"), document.get("provenance")
    image, provenance = image if isinstance(image, dict) else {}, provenance if isinstance(provenance, dict) else {}
    facts = {
        "image": image.get("name"),
        "sha256": image.get("sha256"),
        "key": provenance.get("key"),
        "status": document.get("status"),
        "release": provenance.get("release"),
    }
    return {"event": event} | {key: value if isinstance(value, str) else None for key, value in facts.items()}


def verify(path: Path) -> Verdict:
    """Check one file of a chain; raise `StateUnusable` when it cannot be read.

    An altered line is told by the next one, which carries its hash: the line that is named may be the one before
    lines that were put in or taken out.
    """
    try:
        *lines, rest = path.read_bytes().split(b"\n")
    except OSError as exc:
        raise StateUnusable(f"{path}: cannot be read ({exc.strerror}); name an audit log that can") from exc
    lines += [rest] if rest else []
    parsed = [_parsed(line) for line in lines]
    previous = (parsed[0] or {}).get("previous") if parsed else BEGINNING
    number, reason = _first_fault(lines, parsed)
    return Verdict(path, len(lines), str(previous), _sha256(lines[-1]) if lines else BEGINNING, number, reason)


def verify_chain(path: Path) -> list[Verdict]:
    """Check an audit log with all closed files before it, the oldest first: also that none is missing in between."""
    verdicts = [verify(one) for one in chain(path)]
    for number, (before, after) in enumerate(pairwise(verdicts), 1):
        if after.broken_line is None and after.begins_after != before.last_sha256:
            reason = f"does not go on where {before.path.name} ends; a file between them, or lines at its end, are gone"
            verdicts[number] = Verdict(after.path, after.lines, after.begins_after, after.last_sha256, 1, reason)
    return verdicts


def chain(path: Path) -> list[Path]:
    """Return the files of an audit log that are there, in the order of their lines, the one that is written last.

    Raises `StateUnusable` where this user may not look.
    """
    last = [path] if is_there(path) else []
    return [*_in_order(sorted(path.parent.glob(f"{path.stem}-*Z{path.suffix}"))), *last]


def _in_order(closed: Sequence[Path]) -> list[Path]:
    """Return each file after the one that it names; their own names tell only what the clock said."""
    verdicts = [verify(one) for one in closed]
    ends = {one.last_sha256 for one in verdicts}
    following = {one.begins_after: one for one in verdicts}
    found: dict[Path, None] = {}
    for start in [one for one in verdicts if one.begins_after not in ends] + verdicts:
        one: Verdict | None = start
        while one is not None and one.path not in found:
            found[one.path] = None
            one = following.get(one.last_sha256)
    return list(found)


def serving_release(path: Path) -> str | None:
    """Return the release that the last line about an engine names; None: there is no such line that can be read."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return None
    said = [line for line in map(_parsed, lines) if line and line.get("event") in {"engine", "continued"}]
    release = said[-1].get("release") if said else None
    return release if isinstance(release, str) else None


def _first_fault(
    lines: Sequence[bytes], parsed: Sequence[dict[str, Any] | None]
) -> tuple[int, str] | tuple[None, None]:
    for number, (line, content) in enumerate(zip(lines, parsed, strict=True), 1):
        before = _sha256(lines[number - 2]) if number > 1 else BEGINNING
        following = parsed[number] if number < len(lines) else None
        if content is None and (following or {}).get("whole") != before:
            return number, "is no line of an audit log, or lines before it were taken out"
        if number == 1 and (content or {}).get("event") == "begun" and (content or {}).get("previous") != BEGINNING:
            return number, "was altered"
        if following is not None and following.get("previous") != _sha256(line):
            return number, "was altered, or lines after it were taken out or put in"
    return None, None


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and "previous" in content else None


def _closed_name(path: Path, when_utc: datetime) -> Path:
    return path.with_name(f"{path.stem}-{when_utc.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}{path.suffix}")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write_all(fd: int, data: bytes) -> None:
    if os.write(fd, data) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(fd)


def _unusable(path: Path, exc: OSError) -> SpoolFull | StateUnusable:
    if exc.errno in FOR_NOW:
        return SpoolFull(f"{path}: cannot be written just now ({exc.strerror}); free some space on its disk")
    return StateUnusable(f"{path}: cannot be written ({exc.strerror}); let the service's user write there")
