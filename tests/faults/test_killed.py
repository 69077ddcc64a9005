"""kill -9 of each of the three processes, at random moments."""

import os
import signal
import time
from contextlib import suppress

import pytest

from tests.faults.accounts import witnessed
from tests.faults.room import children, moments, wait_until

IMAGES_A_KILL = 3
EARLY_EVERY = 5  # one kill in five comes while the daemon starts


@pytest.mark.counts(3, 1000)
def test_a_supervisor_that_is_killed_at_any_moment_loses_and_doubles_nothing(room, record, count):
    pause_s, early_s = moments(1, 0.15), moments(2, 2.0)
    recovery_s, killed_s = 0.0, None
    with witnessed(room) as account:
        for number in range(count):
            before = len(room.results())
            room.feed(*range(number * IMAGES_A_KILL, (number + 1) * IMAGES_A_KILL), suffix=(".dcm", ".png")[number % 2])
            early = number % EARLY_EVERY == 1
            room.start(ready=not early)
            if early:
                time.sleep(early_s())
            else:
                wanted = min(before + 1 + number % IMAGES_A_KILL, len(room.sent))
                room.wait_until(lambda wanted=wanted: len(room.results()) >= wanted)
                recovery_s = max(recovery_s, time.monotonic() - (killed_s or time.monotonic()))
                time.sleep(pause_s())
            room.kill()
            killed_s = time.monotonic()
        room.start()
        room.wait_for_results()
        assert room.end() == 0
    assert account.refused == 0  # a death of the supervisor is held against no file
    record("kill -9 of the supervisor", count, account, recovery_s)


@pytest.mark.parametrize("who", ["worker", "reader"])
@pytest.mark.counts(3, 1000)
def test_a_child_that_is_killed_at_any_moment_loses_and_doubles_nothing(room, record, who, count):
    """A file in hand at two kills is refused, which is a result: its reason stands beside it."""
    pause_s, recovery_s = moments(3, 0.4), 0.0
    room.start()
    with witnessed(room) as account:
        for number in range(count):
            room.feed(*range(number * IMAGES_A_KILL, (number + 1) * IMAGES_A_KILL))
            time.sleep(pause_s())
            wait_until(lambda: pids_of(room, who), why=lambda: room.log[-2000:])
            killed_s = time.monotonic()
            with suppress(ProcessLookupError):  # a reader ends by itself when its worker does
                os.kill(pids_of(room, who)[0], signal.SIGKILL)
            before = len(room.without_result())
            room.wait_until(lambda before=before: len(room.without_result()) < max(before, 1))
            recovery_s = max(recovery_s, time.monotonic() - killed_s)
        room.wait_for_results()
        assert room.end() == 0
    record(f"kill -9 of the {who}", count, account, recovery_s, f"{account.refused} refused after two kills")


def pids_of(room, who):
    workers = children(room.process.pid)
    return workers if who == "worker" else [pid for worker in workers for pid in children(worker)]
