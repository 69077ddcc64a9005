import threading
from dataclasses import replace
from pathlib import Path

import pytest

from edge.config import Config, DropFolderConfig
from edge.errors import FolderUnavailable
from edge.service.dropfolder import DropFolder
from edge.service.looking import Looking
from tests.edge.daemon_room import Room, deaf, no_observer


class Hanging(DropFolder):
    """A folder whose share hangs until it is told to go on."""

    def __init__(self, path: Path, log: object) -> None:
        super().__init__(path, log, no_observer)
        self.goes_on = threading.Event()

    def sweep(self, files):
        assert self.goes_on.wait(60)
        return super().sweep(files)


@pytest.fixture
def room(tmp_path):
    room = Room(tmp_path)
    yield room
    room.stop()


@pytest.fixture
def hanging(room, tmp_path):
    (tmp_path / "share").mkdir()
    with Hanging(tmp_path / "share", room.logger) as folder:
        yield folder
        folder.goes_on.set()


def answered(looking: Looking) -> dict:
    """Have the look that hangs end, and look again."""
    looking.folder.goes_on.set()
    looking._pending.answer.result(60)
    return looking.sweep({})


def test_a_folder_that_does_not_answer_is_unavailable_and_is_not_asked_again_meanwhile(hanging):
    looking, threads = Looking(hanging, answer_s=0.05), set(threading.enumerate())
    for _ in range(3):
        with pytest.raises(FolderUnavailable, match="see that the server of its share is up"):
            looking.sweep({})
    assert len(set(threading.enumerate()) - threads) == 1


def test_when_it_answers_again_it_is_looked_at_anew(hanging):
    looking = Looking(hanging, answer_s=0.05)
    with pytest.raises(FolderUnavailable):
        looking.sweep({})
    (hanging.path / "X.dcm").write_bytes(b"whole")
    looking.answer_s = 60
    assert list(answered(looking)) == [str(hanging.path / "X.dcm")]


def test_one_that_was_late_is_waited_for_twice_as_long_as_it_took(hanging):
    looking = Looking(hanging, answer_s=0.05)
    with pytest.raises(FolderUnavailable):
        looking.sweep({})
    hanging.goes_on.set()
    looking._pending.answer.result(60)
    looking._pending.took_s = 30.0
    looking.sweep({})
    assert looking.answer_s == 60.0


def test_a_fault_of_the_folder_is_the_folder_s(tmp_path, room):
    looking = Looking(DropFolder(tmp_path / "nowhere", room.logger, no_observer))
    for _ in range(2):
        with pytest.raises(FolderUnavailable, match="is not there"):
            looking.sweep({})


def test_a_share_that_hangs_keeps_no_other_folder_waiting(room, hanging, monkeypatch):
    monkeypatch.setattr("edge.service.looking.ANSWER_S", 1.0)  # the other folder, too, has no longer to answer
    room.stop()
    folders = (DropFolderConfig(path=hanging.path), *room.config.drop_folder)
    room.config = Config(drop_folder=folders)
    (hanging.path / "Y.dcm").write_bytes(b"whole")
    opened = lambda folder, log: hanging if folder.path == hanging.path else deaf(folder, log)  # noqa: E731
    room.around = replace(room.around, open_folder=opened)
    room.start()
    room.put("X.dcm")
    room.run_for(30)
    assert [name for name, _ in room.pipeline.calls] == ["X.dcm"]
    assert f"UNAVAILABLE: {hanging.path}" in room.daemon.status()
    assert room.daemon.progressed()  # or the watchdog would end the daemon for one folder of several
    hanging.goes_on.set()
    room.daemon._tracking.served[0].looking._pending.answer.result(60)
    room.run_for(30)
    assert [name for name, _ in room.pipeline.calls] == ["X.dcm", "Y.dcm"]


def test_a_look_that_outlives_its_daemon_does_not_hold_the_folder(room, hanging):
    looking = Looking(hanging, answer_s=0.05)
    with pytest.raises(FolderUnavailable):
        looking.sweep({})
    hanging.__exit__(None, None, None)  # a reload
    hanging.goes_on.set()
    with pytest.raises(FolderUnavailable):
        looking._pending.answer.result(60)
    with DropFolder(hanging.path, room.logger, no_observer) as another:
        assert another.sweep() == {}
