import pytest

from edge.config import DropFolderConfig
from edge.service.journal import ask_requeue
from tests.edge.daemon_room import Room, kill, killed


@pytest.fixture
def room(tmp_path):
    room = Room(tmp_path)
    yield room
    room.stop()


# asked for by a person


def test_what_a_person_asks_for_is_processed_again_although_it_has_its_result(room):
    for name in ("done", "refused"):
        room.put(name, b"part" if name == "refused" else b"whole")
    room.run_for(310)
    room.pipeline.calls.clear()
    ask_requeue(room.journal_path, [room.drop / "done", room.drop / "unknown"])
    room.run_for(10)
    assert room.pipeline.calls == [("done", False)]
    ask_requeue(room.journal_path, None)
    room.run_for(10)
    assert room.pipeline.calls == [("done", False), ("refused", False)]
    assert room.journal.requests() == []


def test_a_wish_survives_the_death_of_the_daemon_that_heard_it(room):
    room.put("X.dcm")
    room.run_for(10)
    ask_requeue(room.journal_path, [room.drop / "X.dcm"])
    room.pipeline.meanwhile = killed
    kill(room)
    room.run_for(10)
    assert room.pipeline.calls == [("X.dcm", False)]
    room.restart()
    room.run_for(10)
    assert room.pipeline.calls == []  # once is enough


@pytest.fixture
def second(room, tmp_path):
    """Return a second drop folder of the same daemon, with a file that is done."""
    (tmp_path / "second").mkdir()
    folders = (*room.config.drop_folder, DropFolderConfig(path=tmp_path / "second"))
    room.config = room.config.model_copy(update={"drop_folder": folders})
    room.restart()
    (tmp_path / "second" / "Y.dcm").write_bytes(b"whole")
    room.run_for(20)
    room.pipeline.calls.clear()
    return tmp_path / "second"


def test_a_wish_for_a_file_of_another_folder_waits_until_that_was_looked_at(room, second):
    room.stop()
    ask_requeue(room.journal_path, [second / "Y.dcm"])
    room.start()
    room.run_for(20)
    assert room.pipeline.calls == [("Y.dcm", False)]
    assert room.journal.requests() == []


@pytest.mark.parametrize("asked", ["Y.dcm", None])
def test_a_wish_waits_for_a_share_that_is_away(room, second, asked):
    if asked is None:
        (second / "Y.dcm").write_bytes(b"part")
        room.run_for(400)
        room.pipeline.calls.clear()
    second.rename(second.with_name("away"))
    room.run_for(10)
    ask_requeue(room.journal_path, asked and [second / asked])
    room.run_for(10)
    assert len(room.journal.requests()) == 1
    second.with_name("away").rename(second)
    room.run_for(20)
    assert room.pipeline.calls == [("Y.dcm", False)]
    assert room.journal.requests() == []


def test_a_wish_for_a_file_that_nobody_knows_is_told_of(room):
    ask_requeue(room.journal_path, [room.drop / "unknown", room.drop.parent / "elsewhere"])
    room.run_for(10)
    assert room.journal.requests() == []
    told = [e for e in room.log.entries if e["event"].startswith("processing again was asked for")]
    assert [(e["log_level"], e["files"]) for e in told] == [("warning", 0)] * 2
