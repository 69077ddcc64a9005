import errno
import os
import socket

import pytest

from edge.log import open_log
from edge.service.machine import clock_synchronised, run_program
from edge.service.metrics import serve_metrics
from tests.edge.checkup_room import levels, room_in_order


@pytest.fixture
def room(tmp_path, engine):
    return room_in_order(tmp_path, engine([]))


def test_a_program_that_is_missing_or_fails_gives_no_answer():
    assert run_program(["landmarknet-edge-no-such-program"]) is None
    assert run_program(["false"]) is None
    assert run_program(["echo", "hello"]) == "hello\n"


# --- clock ---


@pytest.mark.parametrize(("answer", "level"), [(True, "ok"), (False, "warning"), (None, "warning")])
def test_a_clock_that_nobody_keeps_right_is_a_warning(room, answer, level):
    assert levels(room.findings("clock", clock=lambda: answer)) == [level]


def test_the_kernel_is_asked_without_changing_anything():
    assert clock_synchronised() in {True, False, None}


# --- metrics ---


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_without_metrics_their_port_is_not_asked_for(room):
    assert room.findings("metrics") == []


def test_a_free_port_can_serve_metrics(room, port):
    assert levels(room.findings("metrics", room.changed(metrics_port=port))) == ["ok"]


def test_a_port_that_our_daemon_serves_is_in_order(room, port):
    with serve_metrics(port, open_log()):
        (finding,) = room.findings("metrics", room.changed(metrics_port=port))
    assert (finding.level, "daemon serves" in finding.what) == ("ok", True)


def test_a_port_that_another_program_has_is_a_fault(room, port):
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))  # it does not listen: whoever asks is refused
        (finding,) = room.findings("metrics", room.changed(metrics_port=port))
    assert (finding.level, finding.mend) == ("fault", "set another metrics_port")
    assert os.strerror(errno.EADDRINUSE) in finding.what
