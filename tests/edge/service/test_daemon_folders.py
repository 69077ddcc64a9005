import errno
import hashlib
import os
from dataclasses import replace

import pytest
import structlog

from edge.config import DropFolderConfig
from edge.errors import BadConfig
from edge.results.owner import OWNER_FILE, Owner, own_results
from edge.results.publish import read_result
from edge.service.daemon import Daemon
from edge.service.dropfolder import UNSEEN_NAME
from edge.service.journal import Journal
from edge.service.surroundings import Surroundings
from edge.settle import State
from tests.edge.daemon_room import Room, with_results


@pytest.fixture
def room(tmp_path):
    room = Room(tmp_path)
    yield room
    room.stop()


# the folder


def test_a_folder_that_vanishes_is_one_alarm_and_is_taken_up_when_it_returns(room, tmp_path):
    os.utime(room.put("X.dcm"), (1e9, 1e9))
    room.put("incomplete", b"part")
    room.run_for(10)
    room.drop.rename(tmp_path / "away")
    room.run_for(60)
    assert room.daemon.unfinished() == 1  # the folder; what is in it is not asked for
    (tmp_path / "away").rename(room.drop)
    os.utime(room.put("Y.dcm"), (1e9, 1e9))
    room.run_for(60)
    assert [name for name, _ in room.pipeline.calls] == ["X.dcm", "incomplete", "incomplete", "Y.dcm"]  # by the journal
    assert room.events().count("drop folder unavailable") == 1
    assert room.daemon.unfinished() == 1  # the incomplete image


def test_a_folder_that_is_missing_at_the_start_does_not_hold_up_another(tmp_path):
    room = Room(tmp_path)
    folders = DropFolderConfig(path=tmp_path / "missing"), *room.config.drop_folder
    room.config = room.config.model_copy(update={"drop_folder": folders})
    room.restart()
    room.put("X.dcm")
    room.run_for(10)
    assert room.result("X.dcm")["status"] == "ok"
    assert room.daemon.unfinished() == 1


def test_results_go_to_the_results_folder_and_mirror_the_drop_folder(tmp_path):
    room = with_results(Room(tmp_path), tmp_path / "results")
    for name in ("X.dcm", "a b/X.dcm", "a b/c/X.dcm"):
        room.put(name, name.encode())
    room.run_for(20)
    assert not (tmp_path / "results").exists()  # its share may not be mounted: never made by us
    assert room.daemon.unfinished() == 3
    (tmp_path / "results").mkdir()
    room.run_for(20)
    for name in ("X.dcm", "a b/X.dcm", "a b/c/X.dcm"):
        result = read_result((tmp_path / "results" / name).with_name("X.landmarks.json"))
        assert result["image"]["sha256"] == hashlib.sha256(name.encode()).hexdigest()
    assert [path.name for path in room.drop.rglob("*") if path.is_file()] == ["X.dcm"] * 3
    room.restart()
    room.run_for(20)
    assert room.pipeline.calls == []


# each folder's own settings


def test_each_folder_keeps_its_own_times(tmp_path):
    room = Room(tmp_path)
    (tmp_path / "share").mkdir()
    share = DropFolderConfig(path=tmp_path / "share", settle_s=20, sweep_s=30, incomplete_after_s=50)
    room.config = room.config.model_copy(update={"drop_folder": (*room.config.drop_folder, share)})
    room.restart()
    room.put("X.dcm")
    (tmp_path / "share" / "Y.dcm").write_bytes(b"part")
    room.run_for(120)
    assert room.pipeline.calls == [("X.dcm", False), ("Y.dcm", False), ("Y.dcm", True)]
    assert room.pipeline.times_s == pytest.approx([1002, 1020, 1050], abs=1e-3)
    room.stop()


def test_a_folder_without_events_is_never_listened_to(tmp_path):
    (tmp_path / "drop").mkdir()
    folder = DropFolderConfig(path=tmp_path / "drop", events=False)
    with Surroundings().open_folder(folder, structlog.wrap_logger(None)) as opened:
        opened.sweep()
        assert opened._observer is None


def test_two_daemons_share_no_folder_and_the_second_takes_over(room):
    room.put("X.dcm")
    second = Daemon(room.config, room.pipeline, room.logger, replace(room.around, journal=Journal.in_memory()))
    room.run_for(10)
    with second:
        second.step()
        assert second.unfinished() == 1
        reasons = [e["reason"] for e in room.log.entries if e["event"] == "drop folder unavailable"]
        assert len(reasons) == 1
        assert f"is served by process {os.getpid()} already" in reasons[0]
        room.daemon.__exit__(None, None, None)
        room.clock.now_s += 5
        second.step()
        room.clock.now_s += 2
        second.step()
        assert second.unfinished() == 0
    assert len(room.pipeline.calls) == 1


# results folders that two services name


@pytest.fixture
def two_rooms(tmp_path):
    """Return two services whose drop folders have their results in one folder."""
    (tmp_path / "results").mkdir()
    rooms = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        rooms.append(with_results(Room(tmp_path / name), tmp_path / "results"))
    yield rooms
    for room in rooms:
        room.stop()


def test_a_results_folder_belongs_to_one_service_at_a_time(two_rooms):
    one, other = two_rooms
    one.put("IMG.dcm", b"one patient")
    one.run_for(10)
    other.put("IMG.dcm", b"another patient")
    other.run_for(10)
    assert (other.pipeline.calls, other.states()) == ([], {"IMG.dcm": State.RETRY_WAIT})
    assert "stop one of the two" in other.entry("IMG.dcm").reason


def test_a_service_that_comes_later_stops_before_it_overwrites_a_result(two_rooms):
    one, other = two_rooms
    one.put("IMG.dcm", b"one patient")
    one.run_for(10)
    one.stop()
    other.put("IMG.dcm", b"another patient")
    with pytest.raises(BadConfig, match="name another results_dir") as caught:
        other.run_for(10)
    assert (caught.value.exit_status, other.pipeline.calls) == (78, [])
    result = read_result(one.config.drop_folder[0].results_dir / "IMG.landmarks.json")
    assert result["image"]["sha256"] == hashlib.sha256(b"one patient").hexdigest()
    one.start()


def test_where_folders_know_no_locks_the_second_service_stops(two_rooms, monkeypatch):
    def unknown(*_arguments: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("edge.service.dropfolder.fcntl.flock", unknown)
    for room in two_rooms:
        room.restart()
        room.put("IMG.dcm", room.drop.parent.name.encode())
    one, other = two_rooms
    one.run_for(10)
    with pytest.raises(BadConfig):
        other.run_for(10)
    assert (len(one.pipeline.calls), other.pipeline.calls) == (1, [])


def test_a_results_folder_that_is_given_to_another_is_compared_by_content(two_rooms):
    one, other = two_rooms
    other.put("IMG.dcm", b"another patient")
    one.put("IMG.dcm", b"one patient")
    one.run_for(10)
    one.stop()
    (one.config.drop_folder[0].results_dir / OWNER_FILE).unlink()  # as the message of the Stop says
    other.run_for(10)
    assert other.pipeline.calls == [("IMG.dcm", False)]
    one.start()


def test_a_results_share_that_is_mounted_later_has_its_owner_too(tmp_path):
    room = with_results(Room(tmp_path), tmp_path / "results")
    room.put("X.dcm")
    room.run_for(10)
    (tmp_path / "results").mkdir()
    own_results(tmp_path / "results", Owner("/srv/another", "edge-2"))
    with pytest.raises(BadConfig, match="/srv/another of edge-2"):
        room.run_for(400)
    assert room.pipeline.calls == []
    room.stop()


def test_a_results_folder_inside_its_drop_folder_is_no_rival_of_it(room):
    (room.drop / "results").mkdir()
    with_results(room, room.drop / "results")
    room.put("X.dcm")
    room.run_for(10)
    assert room.states() == {"X.dcm": State.DONE}
    assert UNSEEN_NAME not in room.events()  # the file that says whose results they are lies in the drop folder, too
