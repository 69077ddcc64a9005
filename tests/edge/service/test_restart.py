import hashlib
import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import timedelta

import pytest

from edge.config import DropFolderConfig
from edge.errors import (
    ImageUnreadable,
    NotAnImage,
    ReaderDied,
    ResultsNotWritable,
    WorkerDied,
)
from edge.results.document import Result
from edge.service.journal import Journal
from edge.settle import State
from tests.edge.daemon_room import Room, kill, killed, swap_bytes


@pytest.fixture
def room(tmp_path):
    room = Room(tmp_path)
    yield room
    room.stop()


# restart


def test_after_a_restart_only_what_lacks_its_result_is_processed(room):
    for name in ("done", "refused", "not an image"):
        room.put(name, b"part" if name == "refused" else b"whole")
    room.pipeline.raises["not an image"] = iter([NotAnImage("no")] * 2)
    room.run_for(400)
    room.put("new")
    room.restart()
    room.run_for(400)
    assert room.pipeline.calls == [("new", False)]


def test_without_the_journal_results_beside_the_images_say_what_is_done(room):
    for name in ("done", "refused", "not an image"):
        room.put(name, b"part" if name == "refused" else b"whole")
    room.pipeline.raises["not an image"] = iter([NotAnImage("no")] * 2)
    room.run_for(400)
    room.restart(room.journal_path.unlink)
    room.run_for(400)
    assert room.pipeline.calls == [("not an image", False)]
    assert room.states() == {"done": State.DONE, "refused": State.REFUSED, "not an image": State.REFUSED}
    assert room.entry("refused").reason == "half of it is missing"


def test_a_file_that_changed_while_the_daemon_was_away_is_processed_again(room):
    image = room.put("X.dcm", b"one")
    room.run_for(10)
    image.write_bytes(b"two")
    os.utime(image, (2e9, 2e9))
    room.restart()
    room.run_for(10)
    assert room.pipeline.calls == [("X.dcm", False)]


def test_leftovers_of_a_crash_are_removed_at_the_start(room):
    room.put("a b/.landmarks-1.tmp")
    room.restart()
    room.run_for(1)
    assert list((room.drop / "a b").iterdir()) == []
    assert room.log.entries[-1]["leftovers_removed"] == 1


# the journal


def test_every_step_of_a_file_is_in_the_journal_before_the_next_one(room):
    room.put("X.dcm")
    seen = []

    def note() -> None:
        with Journal.open_for_reading(room.journal_path) as reader:
            seen.append(reader.entries(room.drop)[str(room.drop / "X.dcm")])

    room.daemon.step()
    note()
    room.pipeline.meanwhile = room.pipeline.after_publishing = note
    room.run_for(10)
    note()
    assert [entry.state for entry in seen] == [State.SEEN, State.CLAIMED, State.INFERRED, State.DONE]
    sha256, key = hashlib.sha256(b"whole").hexdigest(), hashlib.sha256(b"key of whole").hexdigest()
    assert [entry.sha256 for entry in seen] == [None, sha256, sha256, sha256]
    assert [entry.key for entry in seen] == [None, None, key, key]


@pytest.mark.parametrize(("point", "calls"), [("meanwhile", 1), ("after_publishing", 0)])
def test_a_daemon_that_is_killed_with_a_file_in_hand_finishes_it_when_it_runs_again(room, point, calls):
    room.put("X.dcm")
    setattr(room.pipeline, point, killed)
    kill(room)
    assert room.entry("X.dcm").state in {State.CLAIMED, State.INFERRED}
    room.run_for(20)
    assert len(room.pipeline.calls) == calls  # a result that was published is not made again
    assert (room.entry("X.dcm").state, room.entry("X.dcm").crashes) == (State.DONE, 0)
    assert room.result("X.dcm")["status"] == "ok"


def test_no_number_of_deaths_of_the_daemon_is_held_against_a_file(room):
    room.put("X.dcm")
    for _ in range(5):
        room.pipeline.meanwhile = killed
        kill(room)
    room.run_for(10)
    assert room.result("X.dcm")["status"] == "ok"


def test_the_order_survives_a_restart_whatever_the_files_times_say(room):
    room.pipeline.raises["b"] = (ImageUnreadable("no") for _ in range(3))
    room.put("b")
    room.run_for(4)
    room.put("a")
    os.utime(room.drop / "a", (1e9, 1e9))
    room.pipeline.meanwhile = killed
    kill(room)
    room.run_for(2.1)
    assert [name for name, _ in room.pipeline.calls][:2] == ["b", "a"]


def test_failures_and_crashes_survive_a_restart(room):
    room.put("X.dcm")
    room.pipeline.raises["X.dcm"] = iter([ImageUnreadable("no"), ReaderDied("X.dcm: reader died"), None])
    room.run_for(4)
    room.restart()
    entry = room.entry("X.dcm")
    assert (entry.state, entry.failures, entry.crashes, entry.reason) == (
        State.RETRY_WAIT, 1, 1, "X.dcm: reader died",
    )  # fmt: skip
    room.pipeline.raises["X.dcm"] = iter([WorkerDied("X.dcm: worker died")])
    room.run_for(20)
    assert room.pipeline.calls == [("X.dcm", False)]
    assert room.result("X.dcm")["status"] == "refused"


def test_what_is_done_is_not_opened_again_after_a_restart_but_for_a_lost_result(room):
    for name in ("X.dcm", "Y.dcm"):
        room.put(name)
    room.run_for(10)
    room.restart()
    before = {path: path.stat().st_atime_ns for path in room.drop.iterdir()}
    room.run_for(20)
    assert {path: path.stat().st_atime_ns for path in room.drop.iterdir()} == before
    room.restart((room.drop / "Y.landmarks.json").unlink)
    room.run_for(20)
    assert room.pipeline.calls == [("Y.dcm", False)]


def test_a_results_folder_that_is_not_mounted_at_the_start_makes_nothing_undone(tmp_path):
    room = Room(tmp_path)
    (tmp_path / "results").mkdir()
    folder = DropFolderConfig(path=room.drop, results_dir=tmp_path / "results")
    room.config = room.config.model_copy(update={"drop_folder": (folder,)})
    room.restart()
    room.put("X.dcm")
    room.run_for(10)
    room.restart(lambda: (tmp_path / "results").rename(tmp_path / "away"))
    room.run_for(20)
    assert room.states() == {"X.dcm": State.DONE}
    assert room.daemon.unfinished() == 0
    room.stop()


def test_a_refused_file_stays_refused_over_a_restart_until_it_changes(room):
    room.put("X", b"something else")
    room.pipeline.raises["X"] = iter([NotAnImage("X: no DICOM")])
    room.run_for(10)
    room.restart()
    room.run_for(20)
    assert room.pipeline.calls == []
    assert room.entry("X").reason == "X: no DICOM"
    room.restart(lambda: room.put("X", b"whole"))
    room.run_for(20)
    assert room.result("X")["status"] == "ok"


def test_files_that_left_do_not_count_as_waiting_and_are_known_when_they_return(room, tmp_path):
    image = room.put("X.dcm", b"part")
    room.run_for(10)
    image.rename(tmp_path / "away")
    room.run_for(10)
    assert room.journal.waiting() == []
    order = room.entry("X.dcm").order
    room.put("Y.dcm")
    room.run_for(10)
    (tmp_path / "away").rename(image)
    room.run_for(6)
    assert [(entry.path, entry.order) for entry in room.journal.waiting()] == [(str(image), order)]


def test_a_finished_file_that_left_and_returns_is_in_the_journal_as_it_was(room, tmp_path):
    """Its ctime is another, so it was compared by content; that is no news of it."""
    image = room.put("X.dcm")
    room.run_for(10)
    done = room.entry("X.dcm")
    image.rename(tmp_path / "away")
    room.run_for(10)
    assert room.entry("X.dcm") == replace(done, present=False)
    (tmp_path / "away").rename(image)
    room.run_for(10)
    back = room.entry("X.dcm")
    assert back.signature._replace(ctime_ns=done.signature.ctime_ns) == done.signature
    assert replace(back, signature=done.signature, changed_utc=done.changed_utc) == done
    assert len(room.pipeline.calls) == 1


def test_a_file_that_left_while_the_daemon_was_away_does_not_count_as_waiting(room):
    image = room.put("X.dcm", b"part")
    room.run_for(10)
    room.restart(image.unlink)
    room.run_for(1)
    assert room.journal.waiting() == []


def test_without_a_journal_a_new_image_does_not_wait_for_old_ones_to_be_looked_through(room, monkeypatch):
    for number in range(30):
        room.put(f"{number}.dcm")
    room.run_for(10)
    monkeypatch.setattr("edge.service.daemon.FOUND_MOST", 5)
    room.restart(lambda: (room.journal_path.unlink(), room.put("new.dcm")))
    room.clock.now_s += 1
    room.daemon.step()
    room.clock.now_s += 2
    room.daemon.step()
    assert room.result("new.dcm") is not None
    assert room.journal.counts()[State.DONE] == 1
    room.run_for(20)
    assert room.journal.counts()[State.DONE] == 31
    assert room.pipeline.calls == [("new.dcm", False)]


def test_a_result_that_was_found_is_as_old_as_it_is(room):
    room.put("X.dcm")
    room.run_for(10)
    result = room.drop / "X.landmarks.json"
    before = room.clock.now() - timedelta(days=3)
    for path in (room.drop / "X.dcm", result):
        os.utime(path, (before.timestamp(),) * 2)
    room.restart(room.journal_path.unlink)
    room.run_for(20)
    assert room.journal.last_done().changed_utc == before
    assert room.journal.last_arrival(room.drop) == before


def test_results_in_a_folder_of_their_own_are_compared_one_a_step(room, tmp_path):
    """Without a journal each image is hashed: 500 of a slow share in one step would be the watchdog's."""
    (tmp_path / "results").mkdir()
    entry = DropFolderConfig(path=room.drop, results_dir=tmp_path / "results")
    room.config = room.config.model_copy(update={"drop_folder": (entry,)})
    room.restart()
    for number in range(3):
        room.put(f"{number}.dcm")
    room.run_for(10)
    room.restart(room.journal_path.unlink)
    for pause_s in (1, 2):
        room.daemon.step()
        room.clock.now_s += pause_s
    done = []
    for _ in range(3):
        room.daemon.step()
        done.append(room.journal.counts()[State.DONE])
    assert (done, room.pipeline.calls) == ([1, 2, 3], [])


# the journal of an earlier version, which kept no ctime


def forget_ctimes(room: Room) -> None:
    with closing(sqlite3.connect(room.journal_path)) as journal:
        journal.execute("UPDATE files SET ctime_ns = NULL")
        journal.commit()


def test_what_an_earlier_version_finished_is_compared_by_content_and_not_processed_again(room):
    for name in ("done", "refused"):
        room.put(name, b"part" if name == "refused" else b"whole")
    room.run_for(400)
    before = {name: room.entry(name) for name in ("done", "refused")}
    room.restart(lambda: forget_ctimes(room))
    room.run_for(20)
    assert room.pipeline.calls == []
    for name, entry in before.items():
        now = room.entry(name)
        assert (now.signature, now.state, now.sha256, now.reason) == (
            entry.signature, entry.state, entry.sha256, entry.reason,
        )  # fmt: skip


def test_bytes_that_an_earlier_version_could_not_see_come_are_processed_now(room):
    image = room.put("X.dcm", b"one")
    room.run_for(10)
    room.restart(lambda: (forget_ctimes(room), swap_bytes(image, b"two")))
    room.run_for(20)
    assert room.pipeline.calls == [("X.dcm", False)]
    assert room.result("X.dcm")["image"]["sha256"] == hashlib.sha256(b"two").hexdigest()


def test_what_an_earlier_version_refused_without_a_result_stays_refused_until_it_changes(room):
    room.put("notes.txt")
    room.pipeline.raises["notes.txt"] = iter([NotAnImage("no")])
    room.run_for(10)
    room.restart(lambda: forget_ctimes(room))
    room.run_for(20)
    assert (room.pipeline.calls, room.entry("notes.txt").state) == ([], State.REFUSED)
    swap_bytes(room.drop / "notes.txt", b"image")
    room.run_for(20)
    assert room.result("notes.txt")["status"] == "ok"


def test_a_result_that_is_gone_is_made_again_whatever_the_version_before(room):
    room.put("X.dcm")
    room.run_for(10)
    room.restart(lambda: (forget_ctimes(room), (room.drop / "X.landmarks.json").unlink()))
    room.run_for(20)
    assert room.pipeline.calls == [("X.dcm", False)]


def test_a_new_image_does_not_wait_for_what_an_earlier_version_finished(room):
    for number in range(5):
        room.put(f"{number}.dcm")
    room.run_for(10)
    room.restart(lambda: (forget_ctimes(room), room.put("new.dcm")))
    for pause_s in (2, 0):
        room.daemon.step()
        room.clock.now_s += pause_s
    assert room.pipeline.calls == [("new.dcm", False)]
    assert room.journal.counts()[State.DONE] == 1
    room.run_for(10)
    assert (room.journal.counts()[State.DONE], len(room.pipeline.calls)) == (6, 1)


def test_what_an_earlier_version_did_not_finish_keeps_what_is_held_against_it(room):
    room.put("X.dcm")
    room.pipeline.raises["X.dcm"] = iter([ReaderDied("died")])
    room.run_for(2.5)
    room.restart(lambda: forget_ctimes(room))
    room.pipeline.raises["X.dcm"] = iter([ReaderDied("died")])
    room.run_for(20)
    assert room.pipeline.calls == [("X.dcm", False)]
    assert room.result("X.dcm")["status"] == "refused"


# crashes


def test_a_file_in_hand_at_two_crashes_is_refused_and_not_opened_a_third_time(room):
    room.put("X.dcm")
    room.pipeline.raises["X.dcm"] = (ReaderDied("X.dcm: the reader was killed by SIGSEGV") for _ in iter(int, 1))
    room.run_for(1000)
    assert len(room.pipeline.calls) == 2
    result = room.result("X.dcm")
    assert result["status"] == "refused"
    assert result["reason"] == (
        "X.dcm: the reader was killed by SIGSEGV; that happened 2 times, so the file is not opened again: "
        "check what was exported"
    )
    assert room.entry("X.dcm").state is State.REFUSED


def test_a_changed_file_is_forgiven_its_crashes(room):
    room.put("X.dcm")
    room.pipeline.raises["X.dcm"] = iter([ReaderDied("died"), None])
    room.run_for(2.5)
    room.put("X.dcm", b"whole, but another")
    room.run_for(20)
    assert (room.entry("X.dcm").state, room.entry("X.dcm").crashes) == (State.DONE, 0)


def test_a_refusal_that_cannot_be_stored_is_stored_later_without_another_crash(room, monkeypatch):
    room.put("X.dcm")
    room.pipeline.raises["X.dcm"] = (ReaderDied("died") for _ in iter(int, 1))
    refuse, stored = room.pipeline.refuse, iter([False, False, True])

    def sometimes(*arguments: object) -> Result:
        if not next(stored):
            raise ResultsNotWritable("the disk is full")
        return refuse(*arguments)

    monkeypatch.setattr(room.pipeline, "refuse", sometimes)
    room.run_for(100)
    assert len(room.pipeline.calls) == 2
    assert room.result("X.dcm")["status"] == "refused"
    assert room.result("X.dcm")["reason"].startswith("died; that happened 2 times")  # not "the disk is full"
    assert room.entry("X.dcm").kind == "ReaderDied"
