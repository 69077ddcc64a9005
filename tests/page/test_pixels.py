import asyncio
import errno
import os
import textwrap
import threading
from contextlib import contextmanager

import pytest

from edge.config import Config
from edge.page.pixels import Busy, Made, Pixels, Wanted

WANTED = Wanted("pixels", "/drop/X.dcm", "X.dcm", "a" * 64, "b" * 64, "c" * 64)
PROLOGUE = """
import os, signal, sys, time
from edge.processes.child import Parent
parent = Parent(sys.argv[1:])
requests = parent.requests()
config = next(requests).header["config"]
parent.answer({"ready": True})
"""
ECHO = """
for request in requests:
    parent.answer(request.header | {"pid": os.getpid()}, [b"pixels"])
"""


@contextmanager
def child_that(does, **options):
    """Give a `Pixels` whose child does this once it has its configuration."""
    pixels = Pixels(Config(), ("-c", PROLOGUE + textwrap.dedent(does)), **options)
    try:
        yield pixels
    finally:
        pixels.close()


def asked(pixels, wanted=WANTED):
    return pixels.ask(wanted).result(timeout=30)


def is_gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_nothing_is_started_before_anybody_asks():
    with child_that(ECHO) as pixels:
        assert pixels.pid is None


def test_what_is_wanted_reaches_the_child_and_its_answer_comes_back():
    with child_that(ECHO) as pixels:
        made = asked(pixels)
    assert isinstance(made, Made)
    assert made.data == b"pixels"
    assert {name: made.facts[name] for name in vars(WANTED)} == vars(WANTED)


def test_the_child_is_told_the_configuration():
    with child_that("for request in requests: parent.answer({'reason': str(config['read_s'])})") as pixels:
        assert asked(pixels) == str(Config().read_s)


def test_a_reason_comes_back_as_text():
    with child_that("for request in requests: parent.answer({'reason': 'the file is gone'})") as pixels:
        assert asked(pixels) == "the file is gone"


def test_one_child_serves_many_requests():
    with child_that(ECHO) as pixels:
        assert len({asked(pixels).facts["pid"] for _ in range(3)}) == 1


def test_a_child_that_dies_says_so_and_the_next_request_has_another_one():
    dies_once = """
    for request in requests:
        if request.header["name"] == "deadly.dcm":
            os.kill(os.getpid(), signal.SIGSEGV)
        parent.answer({"pid": os.getpid()}, [b"pixels"])
    """
    deadly = Wanted("pixels", "/drop/deadly.dcm", "deadly.dcm", "a" * 64, "b" * 64, "c" * 64)
    with child_that(dies_once) as pixels:
        first = asked(pixels).facts["pid"]
        said = asked(pixels, deadly)
        assert said == "deadly.dcm: the process that shows images was killed by SIGSEGV; try again"
        assert asked(pixels).facts["pid"] != first


def test_a_child_that_keeps_silent_is_ended():
    with child_that("for request in requests: time.sleep(60)", answer_s=0.5) as pixels:
        said = asked(pixels)
        assert said == "X.dcm: the process that shows images gave no answer within 0.5 s and was ended; try again"
        assert pixels.pid is None


@pytest.mark.parametrize("answer", ["parent.answer({})", "parent.answer({}, [b'x' * (2**26 + 1)])"])
def test_an_answer_that_makes_no_sense_is_a_reason(answer):
    with child_that(f"for request in requests: {answer}") as pixels:
        assert asked(pixels).startswith("X.dcm: the process that shows images gave an answer ")
        assert pixels.pid is None


def test_a_child_that_cannot_begin_is_a_reason():
    pixels = Pixels(Config(), ("-c", "raise SystemExit(3)"))
    assert asked(pixels) == "X.dcm: the process that shows images ended with status 3; try again"
    pixels.close()


def test_a_machine_without_room_for_another_process_is_a_reason():
    class Full(Pixels):
        def _started(self):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    pixels = Full(Config())
    for _ in range(2):  # the one who asks next is answered, too
        said = asked(pixels)
        assert said == "X.dcm: the process that shows images cannot be asked (Too many open files); try again"
    pixels.close()


def test_a_child_that_died_at_rest_is_started_anew():
    with child_that(ECHO) as pixels:
        first = asked(pixels).facts["pid"]
        pixels._child._process.kill()
        pixels._child._process.wait()
        assert asked(pixels).facts["pid"] != first


def test_a_child_at_rest_is_ended():
    ended = threading.Event()

    class Watched(Pixels):
        def _end(self):
            super()._end()
            ended.set()

    pixels = Watched(Config(), ("-c", PROLOGUE + ECHO), rest_s=0.05)
    pid = asked(pixels).facts["pid"]
    assert ended.wait(20)
    assert pixels.pid is None
    assert is_gone(pid)
    assert asked(pixels).facts["pid"] != pid
    pixels.close()


def asked_until_busy(pixels, wanted):
    held = []
    try:
        while len(held) < 10:
            held.append(pixels.ask(wanted))
    except Busy:
        return held
    pytest.fail("nobody was told to come again")


def test_more_than_may_wait_are_told_to_come_again():
    waits = """
    for request in requests:
        with open(request.header["path"]) as pipe:  # until the test writes
            pipe.read()
        parent.answer({}, [b"pixels"])
    """
    read, write = os.pipe()
    slow = Wanted("pixels", f"/proc/{os.getpid()}/fd/{read}", "X.dcm", "a" * 64, "b" * 64, "c" * 64)
    with child_that(waits, waiting=1) as pixels:
        first = pixels.ask(slow)
        held = asked_until_busy(pixels, slow)
        assert len(held) <= 1  # one, where the first was in hand already
        os.close(write)
        assert all(one.result(timeout=30).data == b"pixels" for one in (first, *held))
    os.close(read)


def test_a_request_that_nobody_waits_for_any_more_is_left_out():
    with child_that(ECHO) as pixels:
        cancelled = pixels.ask(WANTED)
        cancelled.cancel()  # or it is in hand already: both are well
        assert asked(pixels).data == b"pixels"


def test_it_is_awaited_without_holding_up_the_loop():
    async def both(pixels):
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1

        ticking = asyncio.create_task(tick())
        made = await pixels.get(WANTED)
        ticking.cancel()
        return made, ticks

    with child_that(ECHO) as pixels:
        made, ticks = asyncio.run(both(pixels))
    assert made.data == b"pixels"
    assert ticks > 10  # a process is started meanwhile; a loop that is held up would tick once


def test_closing_ends_the_child_and_is_twice_once():
    with child_that(ECHO) as pixels:
        pid = asked(pixels).facts["pid"]
        pixels.close()
        assert is_gone(pid)
        pixels.close()
