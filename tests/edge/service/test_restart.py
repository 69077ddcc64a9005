import hashlib
import os
import threading
from dataclasses import replace
from datetime import timedelta

import pytest

from edge.config import DropFolderConfig
from edge.errors import (
    ImageUnreadable,
    NotAnImage,
    ReaderDied,
    ResultsNotWritable,
    SpoolFull,
    WorkerDied,
)
from edge.results.document import Result
from edge.service.daemon import Daemon
from edge.service.journal import Journal, ask_requeue
from edge.settle import State
from tests.edge.daemon_room import Room, watched


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


class Killed(BaseException):
    """The process ends here: nothing after this is run."""


def killed() -> None:
    raise Killed


def kill(room: Room, duration_s: float = 10) -> None:
    """Run until `Killed` is raised, then begin anew with what is on disk."""
    with pytest.raises(Killed):
        room.run_for(duration_s)
    room.daemon._open.close()  # its lock ends with a process; nothing else of it is heard
    room.journal.close()
    room.pipeline.calls.clear()
    room.pipeline.meanwhile = room.pipeline.after_publishing = lambda: None
    room.start()


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
    image = room.put("X.dcm")
    room.run_for(10)
    done = room.entry("X.dcm")
    image.rename(tmp_path / "away")
    room.run_for(10)
    assert room.entry("X.dcm") == replace(done, present=False)
    (tmp_path / "away").rename(image)
    room.run_for(10)
    assert room.entry("X.dcm") == done
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
