import errno
import fcntl
import gc
import os
import shutil
import threading
from itertools import chain, repeat

import pytest

from edge.results.owner import Owner, own_results
from edge.service.check_folders import Listings, within
from edge.service.finding import Finding
from edge.service.spool import HIGH_WATER_BYTES
from tests.edge.checkup_room import LOCAL, PLENTY_BYTES, levels, room_in_order


@pytest.fixture
def room(tmp_path, engine):
    return room_in_order(tmp_path, engine([]))


# --- drop folders ---


def test_a_drop_folder_that_is_not_there_is_a_fault(room, tmp_path):
    (finding,) = room.findings("drop folder /", room.with_folder(path=tmp_path / "none"))
    assert (finding.level, finding.mend) == ("fault", "create it or mount its share")


def test_a_drop_folder_that_is_a_file_is_a_fault(room, write):
    (finding,) = room.findings("drop folder /", room.with_folder(path=write(b"", "file")))
    assert (finding.level, finding.mend) == ("fault", "it is a file: name a folder")


def test_a_share_that_does_not_answer_does_not_keep_the_check_waiting(room):
    held = threading.Event()
    answers = chain([held.wait], repeat(lambda: LOCAL))  # the first one is asked about the drop folder
    (finding,) = room.findings("drop folder /", mounts=lambda: next(answers)(), answer_s=0.05)  # noqa: PLW0108
    held.set()
    assert (finding.level, finding.what.partition(": ")[2]) == ("fault", "does not answer")


def test_a_share_that_hangs_holds_one_thread_however_often_it_is_asked_and_is_heard_when_it_is_back(tmp_path):
    held, asked = threading.Event(), []

    def look(folder):
        asked.append(folder)
        held.wait(20)
        return ()

    listings = Listings(look)
    before = set(threading.enumerate())  # one of another test may end meanwhile
    for limit_s in (0.01, *[20.0] * 50):  # once late, it is not waited for again
        (finding,) = listings.findings(tmp_path, limit_s)
        assert "does not answer" in finding.what
    assert len(set(threading.enumerate()) - before) == 1
    held.set()
    while listings.findings(tmp_path, 20.0):  # until the one that hung has ended
        pass
    assert asked == [tmp_path] * 2


def test_a_fault_of_ours_in_a_folder_s_check_is_not_taken_for_a_share():
    with pytest.raises(ZeroDivisionError):
        within(5.0, lambda: [1 / 0], Finding("fault", "does not answer"))


@pytest.mark.parametrize(
    ("kind", "level"), [("cifs", "warning"), ("nfs4", "warning"), ("fuse.sshfs", "warning"), ("xfs", None)]
)
def test_events_of_a_share_are_worth_a_warning(room, kind, level):
    mounts = LOCAL + f"22 21 0:50 / {room.config.drop_folder[0].path} rw - {kind} //server/drop rw\n"
    found = room.findings("raise no events", mounts=lambda: mounts)
    assert levels(found) == ([level] if level else [])
    assert room.findings("raise no events", room.with_folder(events=False), mounts=lambda: mounts) == []


def test_a_folder_that_a_daemon_serves_is_in_order(room):
    fd = os.open(room.config.drop_folder[0].path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        (finding,) = room.findings("a daemon serves it")
    finally:
        os.close(fd)
    assert finding.level == "ok"
    assert room.findings("a daemon serves it") == []


def test_results_that_cannot_be_written_are_a_fault(room, tmp_path):
    (finding,) = room.findings("results", room.with_folder(results_dir=tmp_path / "none"))
    assert finding.level == "fault"
    assert str(tmp_path / "none") in finding.what
    assert "create it" in finding.mend


def test_results_folders_of_another_drop_folder_are_a_fault(room, tmp_path):
    (tmp_path / "shared").mkdir()
    own_results(tmp_path / "shared", Owner("/srv/another", "edge-2"))
    (finding,) = room.findings("of edge-2", room.with_folder(results_dir=tmp_path / "shared"))
    assert finding.level == "fault"
    assert finding.what.startswith(
        f"{tmp_path / 'shared'}: holds the results of the drop folder /srv/another of edge-2"
    )
    assert finding.mend.startswith("name another results_dir, or, if this drop folder takes the place of that one")


def test_its_own_results_folder_is_in_order(room, tmp_path):
    (tmp_path / "own").mkdir()
    own_results(tmp_path / "own", Owner.of(room.config.drop_folder[0].path))
    assert levels(room.findings("own", room.with_folder(results_dir=tmp_path / "own"))) == ["ok"]


def test_a_share_that_goes_away_while_it_is_tried_is_a_fault(room, tmp_path, monkeypatch):
    """Neither the file nor its name can be given back then; on CI that was raised where nobody caught it."""
    results = tmp_path / "share"
    results.mkdir()

    def go_away(descriptor):
        os.close(descriptor)
        shutil.rmtree(results)
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(os, "fsync", go_away)
    (finding,) = room.findings("results in", room.with_folder(results_dir=results))
    gc.collect()  # what could not be closed is found now
    assert (finding.level, finding.mend) == ("fault", "check the folder, its disk and its share")


# --- state ---


@pytest.mark.parametrize(
    ("free_bytes", "level"),
    [(HIGH_WATER_BYTES - 1, "fault"), (HIGH_WATER_BYTES, "warning"), (1_999_999_999, "warning"), (2_000_000_000, "ok")],
)
def test_little_space_is_a_warning_and_too_little_a_fault(room, free_bytes, level):
    (finding,) = room.findings("GB are free", free_bytes=lambda folder: free_bytes)
    assert finding.level == level


def test_a_state_folder_on_a_share_is_a_fault(room):
    mounts = LOCAL + f"22 21 0:50 / {room.config.state_dir} rw - nfs4 server:/state rw\n"
    (finding,) = room.findings("on a share", mounts=lambda: mounts)
    assert finding.level == "fault"
    assert "state_dir" in finding.mend


def test_a_state_folder_that_is_not_there_is_made_later(room, tmp_path):
    asked = []
    config = room.changed(state_dir=tmp_path / "a/b")
    (finding,) = room.findings("first start", config, free_bytes=lambda folder: asked.append(folder) or PLENTY_BYTES)
    assert finding.level == "ok"
    assert asked == [tmp_path]
    assert not (tmp_path / "a").exists()
