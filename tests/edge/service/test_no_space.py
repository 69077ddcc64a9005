import threading
from dataclasses import replace

import pytest

from edge.errors import (
    SpoolFull,
)
from edge.service.daemon import Daemon
from edge.settle import State
from tests.edge.daemon_room import Room, watched


@pytest.fixture
def room(tmp_path):
    room = Room(tmp_path)
    yield room
    room.stop()


# no space


def test_nothing_is_claimed_while_there_is_no_room_and_sweeping_goes_on(room):
    space = [False]
    room.around = replace(room.around, has_room=lambda: space[0])
    room.restart()
    room.put("X.dcm")
    room.pipeline.raises["X.dcm"] = iter([SpoolFull("no space; free some")])
    room.run_for(10)
    room.put("Y.dcm")
    room.run_for(300)
    assert room.pipeline.calls == [("X.dcm", False)]
    assert room.states() == {"X.dcm": State.STABLE, "Y.dcm": State.STABLE}
    assert "PAUSED: no space" in room.daemon.status()
    assert room.events().count("paused: no space") == 1
    space[0] = True
    room.run_for(2)
    assert [name for name, _ in room.pipeline.calls] == ["X.dcm", "X.dcm", "Y.dcm"]
    assert room.entry("X.dcm").failures == 0
    assert "PAUSED" not in room.daemon.status()


def test_a_journal_that_cannot_grow_is_a_pause_and_nothing_is_processed_unrecorded(room):
    room.daemon.step()
    full = room.journal._connection.execute("PRAGMA page_count").fetchone()[0]
    room.journal._connection.execute(f"PRAGMA max_page_count = {full}")
    for number in range(100):
        room.put(f"{number:03d} {'long' * 50}")
    room.run_for(60)
    assert room.pipeline.calls == []
    assert room.journal.entries(room.drop) == {}
    assert 1 <= room.events().count("paused: what happens cannot be recorded") <= 7  # 1 + 2 + 4 + ... s apart
    assert "PAUSED: the journal cannot be written" in room.daemon.status()
    room.journal._connection.execute("PRAGMA max_page_count = 1000000")
    room.run_for(60)
    assert room.journal.counts()[State.DONE] == len(room.pipeline.calls) == 100


def test_once_ends_without_space_and_tells_what_waits(tmp_path):
    room = Room(tmp_path)
    room.around = replace(room.around, has_room=lambda: False)
    room.put("X.dcm")
    room.pipeline.raises["X.dcm"] = iter([SpoolFull("no space; free some")])
    assert watched(room, threading.Event(), once=True) == 1


def test_a_journal_that_is_busy_at_a_reload_is_a_pause_and_no_end(room, monkeypatch):
    room.stop()
    room.start()

    def busy(*_arguments: object) -> None:
        raise SpoolFull("journal: is locked")

    for name in ("last_order", "constancy_runs"):
        monkeypatch.setattr(room.journal, name, busy)
    room.daemon.__exit__(None, None, None)
    with Daemon(room.config, room.pipeline, room.logger, room.around) as daemon:
        room.put("X.dcm")
        room.daemon = daemon
        room.run_for(10)
        assert "PAUSED: the journal cannot be written" in daemon.status()
        monkeypatch.undo()
        room.run_for(60)
        assert room.result("X.dcm")["status"] == "ok"
