import threading
from pathlib import Path

import pytest

from edge.errors import DamagedImage
from edge.processes.child import Message
from edge.processes.reading_ahead import reading_ahead

WITHIN_S = 20.0


def asked(name):
    return Message({"do": "make", "copy": f"/spool/{name}", "name": name})


def test_the_next_image_is_read_while_the_one_before_keeps_us():
    read = {name: threading.Event() for name in ("one", "two")}
    heard_of_first = threading.Event()

    def requests():
        yield asked("one")
        assert heard_of_first.wait(WITHIN_S)
        yield asked("two")

    with reading_ahead(lambda _path, name: read[name].set() or name) as reading:
        for number, request in enumerate(reading.requests(requests())):
            heard_of_first.set()
            if number == 0:  # at work on the first one, whose image is there
                assert read["two"].wait(WITHIN_S)
            assert reading(Path(request.header["copy"]), request.header["name"]) == request.header["name"]


def test_each_image_is_read_once_and_by_one_thread():
    seen = []

    def read(path, name):
        seen.append((path, name, threading.current_thread().name))
        return name

    with reading_ahead(read) as reading:
        names = [reading(Path(one.header["copy"]), one.header["name"]) for one in reading.requests(map(asked, "abc"))]
        assert reading(Path("/spool/d"), "d") == "d"  # that nobody had told of
    assert names == ["a", "b", "c"]
    assert [(str(path), name) for path, name, _ in seen] == [(f"/spool/{name}", name) for name in "abcd"]
    assert len({thread for *_, thread in seen}) == 1


def test_what_is_wrong_with_an_image_is_told_at_its_own_turn():
    def read(_path, name):
        if name == "bad":
            raise DamagedImage("bad: send it again")
        return name

    with reading_ahead(read) as reading:
        requests = reading.requests(map(asked, ("good", "bad", "good")))
        answers = []
        for request in requests:
            try:
                answers.append(reading(Path(request.header["copy"]), request.header["name"]))
            except DamagedImage as exc:
                answers.append(str(exc))
    assert answers == ["good", "bad: send it again", "good"]


def test_requests_without_an_image_pass_in_their_turn():
    with reading_ahead(lambda _path, name: name) as reading:
        does = [one.header["do"] for one in reading.requests([asked("a"), Message({"do": "golden"}), asked("b")])]
    assert does == ["make", "golden", "make"]


def test_what_breaks_the_hearing_of_requests_is_raised_where_they_are_dealt_with():
    """Or the worker would end as if its work were done, and the file in its hand would be blamed."""

    def broken():
        yield asked("a")
        raise ValueError("a header of 99 bytes")

    with reading_ahead(lambda _path, name: name) as reading:
        requests = reading.requests(broken())
        assert next(requests).header["name"] == "a"
        with pytest.raises(ValueError, match="a header of 99 bytes"):
            next(requests)
    with reading_ahead(lambda _path, name: name) as reading, pytest.raises(KeyError):
        for _ in reading.requests([Message({"do": "make", "copy": "/spool/no name"})]):
            pass


def test_no_thread_to_read_on_is_told_when_the_worker_opens(monkeypatch):
    def none(_self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none)
    with pytest.raises(RuntimeError, match="start new thread"), reading_ahead(lambda _path, name: name):
        pass
