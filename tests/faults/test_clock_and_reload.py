"""Clocks that jump, configurations that change while images come, journals that are old, lost or damaged."""

import os
import random
import shutil
import signal
import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from edge.config import read_config
from edge.log import open_log
from edge.service.serving import serving
from edge.service.watch import watch
from tests.faults.accounts import witnessed

JUMPS = [timedelta(days=400), timedelta(days=-400), timedelta(hours=1), timedelta(hours=-1), timedelta(0)]


class JumpingClock:
    """The wall clock of this machine, and how far it is off."""

    def __init__(self) -> None:
        self.off = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.off


@pytest.mark.counts(5, 200)
def test_a_wall_clock_that_jumps_changes_nothing(room, record, count):
    """With an injected clock: under libfaketime 0.9.10 every sleep of Python fails with EINVAL.

    The daemon runs here, with its real worker, since `Surroundings.now` is its only wall clock.
    """
    now, stop, waits_s = JumpingClock(), threading.Event(), []

    def jump():
        try:
            for number in range(count):
                now.off = JUMPS[number % len(JUMPS)]
                room.feed(number)
                waits_s.append(room.wait_for_results())
        finally:
            stop.set()

    config = read_config(room.config)
    with witnessed(room) as account, room.log_file.open("w") as log, serving(config, open_log(log)) as served:
        jumping = threading.Thread(target=jump)
        jumping.start()
        around = replace(served.around, now=now)
        watch(config, served.open(config), stop=stop, log=open_log(log), around=around)
        jumping.join()
    assert len(waits_s) == count
    when = [entry[0] for entry in room.journal("SELECT first_seen_utc FROM files ORDER BY ord")]
    assert when != sorted(when)  # it did see the clock jump back
    record("wall clock jumps", count, account, max(waits_s), "an injected clock")


@pytest.mark.counts(3, 200)
def test_a_reload_under_load_loses_and_doubles_nothing(room, record, count):
    """Good and bad configurations in turn; a bad one is refused, and the old one stays."""
    room.start()
    refused, recovery_s = 0, 0.0
    with witnessed(room) as account:
        for number in range(count):
            room.feed(*range(3 * number, 3 * number + 3))
            bad = number % 3 == 1
            room.configure(overlay=number % 2 == 0, **({"no_such_key": 1} if bad else {}))
            said = "configuration refused" if bad else "configuration read anew"
            before = room.log.count(said)
            room.process.send_signal(signal.SIGHUP)
            waited_s = room.wait_until(lambda said=said, before=before: room.log.count(said) > before)
            recovery_s, refused = max(recovery_s, waited_s), refused + bad
        room.wait_for_results()
        assert room.end() == 0
    record("SIGHUP reload under load", count, account, recovery_s, f"{refused} of them with a bad configuration")


@pytest.mark.counts(3, 100)
def test_a_journal_that_is_lost_or_damaged_is_rebuilt_from_the_results(room, record, count):
    recovery_s = 0.0
    with witnessed(room) as account:
        for number in range(count):
            room.feed(*range(3 * number, 3 * number + 3))
            room.start()
            room.wait_for_results()
            room.kill()
            [delete, overwrite, cut][number % 3](room.state / "journal.sqlite", number)
        room.start()
        room.feed(3 * count)
        recovery_s = room.wait_for_results()
        room.wait_until(lambda: done(room) == len(room.sent))
        assert room.end() == 0
    record("journal lost or damaged", count, account, recovery_s)


def delete(journal, _number):
    for path in journal.parent.glob("journal.sqlite*"):
        path.unlink()


def overwrite(journal, number):
    data = bytearray(journal.read_bytes())
    chance = random.Random(number)
    for _ in range(8):
        at = chance.randrange(len(data) - 512)
        data[at : at + 512] = chance.randbytes(512)
    journal.write_bytes(data)


def cut(journal, _number):
    os.truncate(journal, journal.stat().st_size // 2)


def done(room):
    return room.journal("SELECT count(*) FROM files WHERE state = 'done'")[0][0]


@pytest.mark.counts(1, 10)
def test_a_release_without_a_journal_is_followed_by_one_with_it(room, record, count):
    """The first release kept none: what it has done stands beside the images, and is not done again."""
    with witnessed(room) as account:
        for number in range(count):
            room.feed(*range(5 * number, 5 * number + 5))
            room.run_once()
            shutil.rmtree(room.state)
            room.state.mkdir()
        room.run_once()
        assert done(room) == len(room.sent)
    record("upgrade from a release without a journal", count, account)


def test_a_journal_of_a_newer_version_is_refused_and_left_as_it_is(room):
    room.feed(1)
    room.run_once()
    with closing(sqlite3.connect(room.state / "journal.sqlite")) as connection:
        connection.execute("PRAGMA user_version = 999")
    data = (room.state / "journal.sqlite").read_bytes()
    refused = room.run_once()
    assert refused.returncode == 78
    assert "newer version" in refused.stderr
    assert (room.state / "journal.sqlite").read_bytes() == data
