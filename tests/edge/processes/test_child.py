import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from contextlib import contextmanager

import pytest

from edge.processes.child import Child, ChildDied, Deadline, Message, die_with, receive, send

PROLOGUE = """
import os, signal, sys, time
from edge.processes.child import Parent
parent = Parent(sys.argv[1:])
"""
ECHO = """
for request in parent.requests():
    parent.answer(request.header | {"pid": os.getpid()}, request.blobs)
"""


@contextmanager
def child_that(does, **options):
    """Start a child that does this once it has adopted its socket; it is ended at the end."""
    child = Child(("-c", PROLOGUE + textwrap.dedent(does)), **options)
    try:
        yield child
    finally:
        child.close()


def asked(child, within_s=20.0, **options):
    return child.ask(Message({"what": "?"}), within_s=within_s, **options)


def is_gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


# --- asking ---


def test_a_child_answers_one_request_after_another():
    with child_that(ECHO) as child:
        answers = [child.ask(Message({"number": number}), within_s=20) for number in range(3)]
    assert [answer.header for answer in answers] == [{"number": number, "pid": child.pid} for number in range(3)]


def test_a_message_crosses_with_its_blobs():
    ours, theirs = socket.socketpair()
    blobs = [b"", bytes(range(256)), os.urandom(3 * 2**20)]  # the last is more than a socket holds
    with ours, theirs:
        sender = threading.Thread(target=send, args=(ours, Message({"a": [1, None, "ä"]}, blobs)))
        sender.start()
        message = receive(theirs, most_bytes=2**23)
        sender.join()
    assert message.header == {"a": [1, None, "ä"]}
    assert list(message.blobs) == blobs


def test_a_name_that_is_no_text_crosses():
    name = os.fsdecode(b"/spool/\xe4")
    with child_that(ECHO) as child:
        assert child.ask(Message({"path": name}), within_s=20).header["path"] == name


def test_a_child_speaks_first_where_it_is_heard_first():
    with child_that("parent.answer({'ready': True})") as child:
        assert child.hear(within_s=20).header == {"ready": True}


def test_arguments_come_after_those_of_the_parent():
    with child_that("parent.answer({'arguments': sys.argv[3:]})", arguments=["7", "x y"]) as child:
        assert child.hear(within_s=20).header == {"arguments": ["7", "x y"]}


# --- deaths ---


def death(does, within_s=20.0, **options):
    """Return the `ChildDied` of a child that does this; it must be gone then."""
    with child_that(does) as child:
        with pytest.raises(ChildDied) as caught:
            asked(child, within_s, **options)
        assert is_gone(child.pid)
        assert not child.lives()
    return caught.value


def test_a_child_that_ends_is_told_by_its_status():
    died = death("next(parent.requests()); os._exit(3)")
    assert (str(died), died.signal_number) == ("ended with status 3", None)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGXCPU])
def test_a_child_that_is_killed_is_told_by_the_signal(number):
    died = death(f"next(parent.requests()); os.kill(os.getpid(), {int(number)}); time.sleep(600)")
    assert (str(died), died.signal_number) == (f"was killed by {number.name}", number)


def test_a_signal_without_a_name_is_told_by_its_number():
    assert str(death("next(parent.requests()); os.kill(os.getpid(), 40)")) == "was killed by signal 40"


def test_a_child_that_keeps_silent_is_ended():
    assert str(death("time.sleep(600)", within_s=0.3)) == "gave no answer within 0.3 s and was ended"


def test_a_child_that_stops_in_the_middle_of_an_answer_is_ended():
    died = death("next(parent.requests()); parent._socket.sendall(b'\\0' * 7); time.sleep(600)", within_s=0.3)
    assert str(died) == "gave no answer within 0.3 s and was ended"


def test_a_child_that_trickles_its_answer_is_ended():
    died = death(
        """
        next(parent.requests())
        parent._socket.sendall((1000).to_bytes(8, "big"))
        while True:
            parent._socket.sendall(b" ")
            time.sleep(0.02)
        """,
        within_s=0.5,
    )
    assert str(died) == "gave no answer within 0.5 s and was ended"


def test_a_child_that_dies_in_the_middle_of_an_answer_is_told_by_its_death():
    died = death("next(parent.requests()); parent._socket.sendall((99).to_bytes(8, 'big') + b'{'); os._exit(4)")
    assert str(died) == "ended with status 4"


def test_a_child_that_hangs_up_is_killed_if_it_stays():
    with child_that("parent._socket.close(); time.sleep(600)", closing_s=0.2) as child:
        with pytest.raises(ChildDied, match="was killed by SIGKILL"):
            child.hear(within_s=20)
        assert is_gone(child.pid)


@pytest.mark.parametrize(
    "said",
    [
        "(2**40).to_bytes(8, 'big')",  # a header that would fill the memory
        "(3).to_bytes(8, 'big') + b'{x}'",
        "(2).to_bytes(8, 'big') + b'[]'",
        "(2).to_bytes(8, 'big') + b'{}'",
        "(18).to_bytes(8, 'big') + b'{\"blob_bytes\":[-1]}'[:18]",
        "(19).to_bytes(8, 'big') + b'{\"blob_bytes\":[\"a\"]}'[:19]",
        "(19).to_bytes(8, 'big') + b'{\"blob_bytes\":[100]}'[:19]",
    ],
)
def test_a_child_that_talks_nonsense_is_ended(said):
    died = death(f"next(parent.requests()); parent._socket.sendall({said}); time.sleep(600)", most_bytes=99)
    assert "makes no sense" in str(died)


def test_nonsense_nested_without_end_is_nonsense():
    died = death(
        "next(parent.requests()); text = b'[' * 100000; "
        "parent._socket.sendall(len(text).to_bytes(8, 'big') + text); time.sleep(600)"
    )
    assert "makes no sense" in str(died)


def test_a_child_that_died_between_two_requests_is_known_to_be_gone_before_the_next():
    with child_that("os._exit(5)") as child:
        with pytest.raises(ChildDied):
            child.hear(within_s=20)
        assert not child.lives()


def test_a_process_that_the_system_does_not_start_is_a_death():
    with pytest.raises(ChildDied, match=r"cannot be started \(Argument list too long"):
        Child(("-c", "pass"), ["x" * 2**18])  # MAX_ARG_STRLEN of Linux is 2**17


def test_time_in_which_everything_stood_still_is_not_held_against_the_child():
    # a clock that leaps by an hour in the first wait, as after a suspend; the answer comes in the second slice
    class Channel:
        def __init__(self):
            self.waits = 0

        def settimeout(self, seconds):
            self.seconds = seconds

        def recv_into(self, rest):
            self.waits += 1
            now_s[0] += 3600.0 if self.waits == 1 else 0.01
            if self.waits == 1:
                raise TimeoutError
            return len(rest)

    now_s = [0.0]
    channel = Channel()
    assert Deadline(16.0, clock=lambda: now_s[0]).receive_into(channel, memoryview(bytearray(5))) == 5
    assert (channel.waits, channel.seconds) == (2, 1.0)  # 16 slices of 1 s


# --- ends ---


def test_a_child_that_is_closed_ends_by_itself():
    with child_that(ECHO) as child:
        asked(child)
    assert child._process.returncode == 0


def test_closing_twice_is_once():
    with child_that(ECHO) as child:
        child.close()
    assert is_gone(child.pid)


def test_a_child_ends_with_its_parent_however_that_ends():
    program = """
        import os, signal, sys
        from edge.processes.child import Child
        child = Child(("-c", sys.argv[1]))
        print(child.hear(within_s=20).header["pid"], flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    deaf = PROLOGUE + "parent.answer({'pid': os.getpid()}); time.sleep(600)"
    output = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), deaf], capture_output=True, text=True, check=False, timeout=60
    ).stdout
    assert ends_within(int(output), seconds=20)


def ends_within(pid, seconds):
    """Wait for the end of a process that is not ours."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], seconds)[0])
    finally:
        os.close(handle)


def test_a_child_whose_parent_is_gone_already_ends_at_once():
    with pytest.raises(SystemExit):
        die_with(parent=1 if os.getppid() != 1 else 2)


def test_what_stops_the_daemon_does_not_take_the_file_from_the_child():
    with child_that(ECHO) as child:
        asked(child)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(child.pid, number)
        assert asked(child).header["pid"] == child.pid


def test_a_quiet_child_prints_nothing(capfd):
    says = "print('Zyxwv^Planted', flush=True); print('Zyxwv^Planted', file=sys.stderr, flush=True); parent.answer({})"
    with child_that(says, quiet=True) as child:
        child.hear(within_s=20)
    assert capfd.readouterr() == ("", "")


def test_a_child_does_not_hold_the_socket_of_another():
    # or the end of the parent would not be the end of the first one's requests
    counts = "parent.answer({'open': len(os.listdir('/proc/self/fd'))})"
    with child_that(counts) as one, child_that(counts) as other:
        assert one.hear(within_s=20).header == other.hear(within_s=20).header
