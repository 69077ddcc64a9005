"""How long a drop folder has been silent in clinic hours, when that is alarming. The clock is the caller's.

Nothing that this service sees differs between a share that a sender no longer reaches and a quiet day: only the clinic
knows when images should come.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import cache
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

from edge.config import ClinicHours

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
LOCALTIME = Path("/etc/localtime")


class _Window(NamedTuple):
    begin_utc: datetime
    end_utc: datetime
    silence: timedelta


def silent_for(
    hours: tuple[ClinicHours, ...], last_arrival: datetime | None, watching_since: datetime, now: datetime
) -> timedelta | None:
    """Return how much of the clinic hours passed without an image, or None while that is no alarm.

    All times carry a zone, and the hours are read in that of ``now``. Hours of several days add up. Time in which
    nobody watched is no silence. Once alarming it stays so until an image comes, over night, too.
    """
    since = watching_since if last_arrival is None else max(last_arrival, watching_since)
    silent, alarming = timedelta(0), False
    first = since.astimezone(now.tzinfo).date()
    for number in range((now.date() - first).days + 1):
        windows = _windows(hours, first + timedelta(days=number), since, now)
        alarming |= any(silent + _covered(windows, one.end_utc) >= one.silence for one in windows)
        silent += _covered(windows, now)
    return silent if alarming else None


@cache
def local_zone(environment: str | None = None, localtime: Path = LOCALTIME) -> tzinfo:
    """Return the zone that this machine keeps, with its summer time; UTC where it names none.

    ``datetime.astimezone()`` gives a fixed offset, which is an hour off on the other side of a change of the clocks.
    Read once: the daemon asks for the time of every file, and another zone counts from the next start on.
    """
    name = (os.environ.get("TZ", "") if environment is None else environment).removeprefix(":")
    try:
        if name:
            return ZoneInfo(name)
        with localtime.open("rb") as file:
            return ZoneInfo.from_file(file)
    except (OSError, ValueError, KeyError):  # zoneinfo's own error is a KeyError
        return UTC


def _windows(hours: Sequence[ClinicHours], day: date, since: datetime, now: datetime) -> list[_Window]:
    """Return what of a day's clinic hours lies between two moments, by its begin."""
    found = []
    for one in hours:
        # in UTC: two times of the same zone are subtracted as if no clock had been changed between them
        begin, end = (datetime.combine(day, at, now.tzinfo).astimezone(UTC) for at in (one.begin, one.end))
        begin, end = max(begin, since.astimezone(UTC)), min(end, now.astimezone(UTC))
        if WEEKDAYS[day.weekday()] in one.days and begin < end:
            found.append(_Window(begin, end, timedelta(minutes=one.silence_min)))
    return sorted(found)


def _covered(windows: Sequence[_Window], until: datetime) -> timedelta:
    """Return how much time until then lies in at least one of the windows, which are sorted."""
    covered = timedelta(0)
    counted_until = datetime.min.replace(tzinfo=UTC)
    for window in windows:
        begin, end = max(window.begin_utc, counted_until), min(window.end_utc, until)
        if begin < end:
            covered, counted_until = covered + (end - begin), end
    return covered
