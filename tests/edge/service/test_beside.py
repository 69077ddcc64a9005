import subprocess
import sys
from itertools import pairwise

import pytest
import structlog
from structlog.testing import LogCapture

from edge.service.beside import CLOSING_S, MOST_PAUSE_S, STEADY_S, Beside, start_process


class Made:
    """Stands in for a process."""

    def __init__(self, pid):
        self.pid, self.status, self.heard, self.deaf = pid, None, [], False
        self.undying, self.waited_s = False, []

    def poll(self):
        return self.status

    def terminate(self):
        self.heard.append("terminate")
        if not self.deaf:
            self.status = 0

    def kill(self):
        self.heard.append("kill")
        if not self.undying:
            self.status = -9

    def wait(self, timeout=None):
        self.waited_s.append(timeout)
        if self.status is None:
            raise subprocess.TimeoutExpired("page", timeout)
        return self.status


class Beginnings:
    """Starts `Made` processes, or fails as the system does; its clock is the test's."""

    def __init__(self):
        self.now_s, self.started, self.fails = 100.0, [], False
        self.log = LogCapture()
        logger = structlog.wrap_logger(None, processors=[self.log])
        self.beside = Beside(["page"], logger, lambda: self.now_s, self.start)

    def start(self, command):
        if self.fails:
            raise OSError(12, "Cannot allocate memory")
        self.started.append((self.now_s, Made(len(self.started))))
        return self.started[-1][1]

    @property
    def last(self):
        return self.started[-1][1]

    def run_for(self, duration_s):
        end_s = self.now_s + duration_s
        while self.now_s < end_s:
            self.now_s += 0.5
            self.beside.tend()


@pytest.fixture
def room():
    return Beginnings()


def test_nothing_is_started_that_nobody_wants(room):
    room.run_for(10)
    room.beside.renew(1, wanted=False)
    room.run_for(10)
    assert room.started == []


def test_it_is_started_once_and_let_live(room):
    room.beside.renew(1, wanted=True)
    room.run_for(1000)
    assert len(room.started) == 1


def test_what_ends_again_and_again_is_started_after_pauses_that_double_up_to_a_limit(room):
    room.beside.renew(1, wanted=True)
    for _ in range(2000):
        room.run_for(1)
        room.last.status = 1
    moments = [at_s for at_s, _ in room.started]
    pauses = [later - earlier for earlier, later in pairwise(moments)]
    assert pauses[:4] == sorted(pauses[:4])
    assert pauses[0] <= 2.5  # the first second, and the time until the end is seen
    assert pauses[3] >= 8
    assert max(pauses) <= MOST_PAUSE_S + 2


def test_what_lived_for_long_is_started_at_once(room):
    room.beside.renew(1, wanted=True)
    for _ in range(5):
        room.run_for(STEADY_S + 10)
        room.last.status = -9
        room.run_for(2)
    assert len(room.started) == 6


def test_what_cannot_be_started_is_tried_again_and_told(room):
    room.fails = True
    room.beside.renew(1, wanted=True)
    room.run_for(4)
    room.fails = False
    room.run_for(5)
    assert len(room.started) == 1
    assert "Cannot allocate memory" in room.log.entries[0]["reason"]


def test_another_configuration_ends_it_and_starts_it_anew(room):
    room.beside.renew(1, wanted=True)
    room.run_for(5)
    before = room.last
    room.beside.renew(2, wanted=True)
    room.run_for(1)
    assert before.heard == ["terminate"]
    assert len(room.started) == 2
    room.beside.renew(1, wanted=False)
    room.run_for(5)
    assert (room.last.heard, len(room.started)) == (["terminate"], 2)


def test_the_same_configuration_leaves_it_alone(room):
    for _ in range(3):
        room.beside.renew(1, wanted=True)
        room.run_for(5)
    assert len(room.started) == 1
    assert room.last.heard == []


def test_one_that_cannot_be_killed_is_left_to_itself(room):
    room.beside.renew(1, wanted=True)
    room.run_for(1)
    room.last.deaf = room.last.undying = True
    room.beside.close()
    assert room.last.waited_s[-1] is not None
    assert "does not end" in room.log.entries[0]["event"]


def test_one_that_does_not_end_is_killed(room):
    room.beside.renew(1, wanted=True)
    room.run_for(1)
    room.last.deaf = True
    room.beside.close()
    assert room.last.heard == ["terminate", "kill"]
    assert CLOSING_S < 30  # TimeoutStopSec of the unit


def test_what_has_ended_is_ended_no_more(room):
    room.beside.renew(1, wanted=True)
    room.run_for(1)
    room.last.status = 0
    room.beside.close()
    assert room.last.heard == []


def test_a_process_beside_the_daemon_cannot_speak_to_systemd_for_it():
    told = "import os, sys; sys.exit(any(name in os.environ for name in sys.argv[1:]))"
    own = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_PID": "1", "WATCHDOG_USEC": "1"}
    process = start_process([sys.executable, "-c", told, *own], own)
    assert process.wait(60) == 0
