import os
from collections.abc import Mapping
from dataclasses import replace

import pytest

from edge.errors import (
    DeviceLost,
    NotAnImage,
    ReaderDied,
    ResultNameTaken,
)
from edge.service.journal import ask_requeue
from edge.service.metrics import NoMetrics
from edge.settle import State
from tests.edge.daemon_room import Room


@pytest.fixture
def room(tmp_path):
    room = Room(tmp_path)
    yield room
    room.stop()


# kinds of refusals


class Kinds(NoMetrics):
    """Metrics that remember the kinds of refusals, and the last figures of the queue."""

    def __init__(self) -> None:
        self.refusals: list[str] = []
        self.figures: tuple[int, int] | None = None  # refused, no images

    def refused(self, kind: str) -> None:
        self.refusals.append(kind)

    def queue(self, counts: Mapping[State, int], not_images: int) -> None:
        self.figures = counts[State.REFUSED], not_images


def refuse_four(room: Room) -> Kinds:
    """Have four files refused, each for another reason, and return the metrics."""
    kinds = Kinds()
    room.around = replace(room.around, metrics=kinds)
    room.restart()
    room.put("1 torn", b"part")
    for name, error in {
        "2 twin": [ResultNameTaken("is X.dcm's")],
        "3 notes": [NotAnImage("is text")],
        "4 bomb": [ReaderDied("was killed by SIGSEGV")] * 2,
    }.items():
        room.put(name)
        room.pipeline.raises[name] = iter(error)
    room.run_for(400)
    return kinds


def test_every_refusal_is_counted_and_recorded_by_its_kind_published_or_not(room):
    kinds = refuse_four(room)
    expected = {"1 torn": "DamagedImage", "2 twin": "ResultNameTaken", "3 notes": "NotAnImage", "4 bomb": "ReaderDied"}
    assert sorted(kinds.refusals) == sorted(expected.values())
    assert {name: room.entry(name).kind for name in expected} == expected
    assert {room.entry(name).state for name in expected} == {State.REFUSED}


def test_what_is_no_image_counts_apart_also_after_a_restart(room):
    kinds = refuse_four(room)
    for _ in range(2):
        room.run_for(10)
        assert kinds.figures == (3, 1)
        assert room.daemon.status() == "0 waiting, 0 done, 3 refused; not images: 1"
        room.restart()
    room.put("3 notes", b"now an image")
    room.run_for(10)
    assert (kinds.figures, room.entry("3 notes").kind) == ((3, 0), None)


def test_whoever_asks_for_every_refused_image_does_not_mean_what_is_none(room):
    refuse_four(room)
    room.pipeline.calls.clear()
    ask_requeue(room.journal_path, None)
    room.run_for(10)
    assert sorted(name for name, _ in room.pipeline.calls) == ["1 torn", "2 twin", "4 bomb"]


# what is too large


def test_a_file_too_large_is_refused_in_the_journal_alone_and_never_read(room):
    image = room.put("big.dcm")
    os.truncate(image, 2**40)  # to hash it would take an hour
    room.put("X.dcm")
    room.run_for(10)
    assert room.result("X.dcm")["status"] == "ok"
    assert (room.entry("big.dcm").state, room.entry("big.dcm").kind) == (State.REFUSED, "FileTooLarge")
    assert "the limit is 268435456" in room.entry("big.dcm").reason
    assert room.result("big.dcm") is None
    image.write_bytes(b"whole")
    room.run_for(10)
    assert room.result("big.dcm")["status"] == "ok"


def test_a_file_too_large_is_not_even_hashed_against_a_result_that_is_there(room):
    image = room.put("X.dcm")
    room.run_for(10)
    os.truncate(image, 2**40)
    room.run_for(10)
    assert room.entry("X.dcm").kind == "FileTooLarge"


# an image on which the device always fails


def test_an_image_on_which_the_device_always_fails_while_others_succeed_is_refused(room):
    room.put("P.dcm")
    room.pipeline.raises["P.dcm"] = (DeviceLost("cuda: illegal address") for _ in iter(int, 1))
    for number in range(6):
        room.put(f"{number}.dcm")
        room.run_for(600)
    assert [name for name, _ in room.pipeline.calls].count("P.dcm") < 40
    assert room.result("P.dcm")["status"] == "refused"


def test_a_device_that_fails_for_every_image_is_held_against_none(room):
    for name in ("P.dcm", "Q.dcm"):
        room.put(name)
        room.pipeline.raises[name] = (DeviceLost("no GPU") for _ in range(20))
    room.run_for(24 * 3600)
    assert room.states() == {"P.dcm": State.DONE, "Q.dcm": State.DONE}


def test_a_refusal_in_between_says_nothing_of_the_device(room):
    room.put("P.dcm")
    room.pipeline.raises["P.dcm"] = (DeviceLost("no GPU") for _ in iter(int, 1))
    for number in range(6):
        room.put(f"{number}.dcm", b"part")
        room.run_for(600)
    assert room.result("5.dcm")["status"] == "refused"
    assert room.entry("P.dcm").state is State.RETRY_WAIT
