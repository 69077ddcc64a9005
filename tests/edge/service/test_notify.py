"""What arrives at systemd's socket. The socket here is a real one; systemd itself is in tests/systemd."""

import socket
import time
from contextlib import suppress

import pytest

from edge.service.notify import Silent, open_notifier, watchdog_s


@pytest.fixture
def systemd(tmp_path):
    """Return a bound datagram socket, as systemd's, and its address."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        address = str(tmp_path / "notify")
        receiver.bind(address)
        receiver.settimeout(60)
        yield receiver, address


def said(systemd, speak, clock_ns=lambda: 0):
    """Return what systemd reads after ``speak(notifier)``."""
    receiver, address = systemd
    speak(open_notifier({"NOTIFY_SOCKET": address}, clock_ns))
    return receiver.recv(4096)


def test_ready(systemd):
    assert said(systemd, lambda notifier: notifier.ready()) == b"READY=1"


def test_alive(systemd):
    assert said(systemd, lambda notifier: notifier.alive()) == b"WATCHDOG=1"


def test_stopping(systemd):
    assert said(systemd, lambda notifier: notifier.stopping()) == b"STOPPING=1"


def test_reloading_says_since_when_in_microseconds(systemd):
    message = said(systemd, lambda notifier: notifier.reloading(), clock_ns=lambda: 12_345_678)
    assert message == b"RELOADING=1\nMONOTONIC_USEC=12345"


def test_the_default_clock_is_the_one_systemd_compares_with(systemd):
    before_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    receiver, address = systemd
    open_notifier({"NOTIFY_SOCKET": address}).reloading()
    told_us = int(receiver.recv(4096).rpartition(b"=")[2])
    assert before_us <= told_us <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_status_is_one_line_and_cannot_forge_another_variable(systemd):
    assert said(systemd, lambda notifier: notifier.status("3 wait\nREADY=1")) == b"STATUS=3 wait READY=1"


def test_status_is_valid_utf_8_whatever_a_file_is_called(systemd):
    message = said(systemd, lambda notifier: notifier.status("last ä \udcff.dcm"))
    assert message.decode() == "STATUS=last ä \\udcff.dcm"


def test_an_abstract_socket_is_reached():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("")  # the kernel chooses an abstract name
        receiver.settimeout(60)
        name = receiver.getsockname()
        open_notifier({"NOTIFY_SOCKET": "@" + name[1:].decode()}).ready()
        assert receiver.recv(4096) == b"READY=1"


def test_without_systemd_nothing_is_said():
    assert isinstance(open_notifier({}), Silent)
    assert isinstance(open_notifier({"NOTIFY_SOCKET": ""}), Silent)


def test_the_daemon_survives_a_systemd_that_is_gone(tmp_path):
    open_notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).alive()


def test_the_daemon_survives_a_systemd_that_does_not_listen(systemd):
    """The queue of a datagram socket is short: once it is full, a message is given up, or this test never ends."""
    receiver, address = systemd
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                other.sendto(b"x", address)
    open_notifier({"NOTIFY_SOCKET": address}).alive()
    assert receiver.recv(4096) == b"x"


def test_the_watchdog_period_is_systemd_s():
    assert watchdog_s({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 7) == 30.0
    assert watchdog_s({"WATCHDOG_USEC": "30000000"}, 7) == 30.0


def test_a_watchdog_meant_for_another_process_is_not_ours():
    """A child inherits the variables of the service."""
    assert watchdog_s({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, 7) is None


@pytest.mark.parametrize("period", ["", "soon", "-1"])
def test_without_a_watchdog_there_is_no_period(period):
    assert watchdog_s({"WATCHDOG_USEC": period}, 7) is None
    assert watchdog_s({}, 7) is None


def waited(systemd, within_s, **environment):
    """Return what systemd reads of a wait, split at its middle."""
    receiver, address = systemd
    receiver.setblocking(False)
    with open_notifier({"NOTIFY_SOCKET": address} | environment).waiting(within_s):
        before = heard(receiver)
    return before, heard(receiver)


def heard(receiver):
    messages = []
    with suppress(BlockingIOError):
        while True:
            messages.append(receiver.recv(4096))
    return messages


def test_a_long_wait_is_announced_and_taken_back(systemd):
    before, after = waited(systemd, 600, WATCHDOG_USEC="300000000")
    assert before == [b"EXTEND_TIMEOUT_USEC=600000000", b"WATCHDOG_USEC=900000000"]  # its 600 s, then the usual 300 s
    assert after == [b"WATCHDOG_USEC=300000000"]


def test_a_wait_that_the_watchdog_bears_is_not_announced(systemd):
    assert waited(systemd, 135, WATCHDOG_USEC="300000000") == ([], [])


def test_without_a_watchdog_only_the_start_is_given_longer(systemd):
    assert waited(systemd, 600) == ([b"EXTEND_TIMEOUT_USEC=600000000"], [])


def test_where_nobody_supervises_a_wait_is_just_a_wait():
    with Silent().waiting(600):
        pass
