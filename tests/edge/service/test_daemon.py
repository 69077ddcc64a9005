import hashlib
import os
from dataclasses import replace

import pytest

from edge.errors import (
    DamagedImage,
    DeviceLost,
    ImageUnreadable,
    NotAnImage,
    ResultsNotWritable,
    WorkerDied,
)
from edge.results.publish import read_result
from edge.service.daemon import Daemon
from edge.service.dropfolder import DropFolder
from edge.settle import State
from tests.edge.daemon_room import Room, no_observer, swap_bytes


@pytest.fixture
def room(tmp_path):
    room = Room(tmp_path)
    yield room
    room.stop()


# what happens to a file


def test_a_file_is_processed_once_settle_s_after_it_was_first_seen(room):
    room.put("a b/X.dcm")
    room.run_for(100)
    assert room.pipeline.calls == [("X.dcm", False)]
    assert room.pipeline.times_s == [1002.0]  # the first sweep is at 1000 s, settle_s is 2 s
    assert room.result("a b/X.dcm")["status"] == "ok"


def test_a_file_that_arrives_later_is_found_by_the_next_sweep(room):
    room.run_for(1)
    room.put("X.dcm")
    room.run_for(100)
    assert room.pipeline.times_s == [1000 + 5 + 2]


def test_a_growing_file_is_not_touched(room):
    for chunks in range(20):
        room.put("X.dcm", b"more" * chunks)
        room.run_for(1.5)
    assert room.pipeline.calls == []
    room.run_for(2.1 + 5)
    assert len(room.pipeline.calls) == 1


def test_files_are_processed_in_the_order_they_were_first_seen(room):
    room.pipeline.takes_s = 3.0
    for names in (["m", "n"], ["a", "b"], ["z"]):
        for name in names:
            room.put(name)
        room.run_for(5)
    room.run_for(100)
    assert [name for name, _ in room.pipeline.calls] == ["m", "n", "a", "b", "z"]


def test_a_backlog_is_processed_oldest_first(room):
    for age_s, name in ((10, "c"), (30, "b"), (20, "a")):
        os.utime(room.put(name), (1e9 - age_s, 1e9 - age_s))
    room.run_for(10)
    assert [name for name, _ in room.pipeline.calls] == ["b", "a", "c"]


def test_a_step_processes_one_file_at_most(room):
    for name in "abc":
        room.put(name)
    room.daemon.step()
    room.clock.now_s += 2.0
    for done in (1, 2, 3):
        assert room.daemon.step() == (0.0 if done < 3 else pytest.approx(3.0))
        assert len(room.pipeline.calls) == done


def test_a_changed_file_is_processed_again(room):
    room.put("X.dcm", b"one")
    room.run_for(10)
    room.put("X.dcm", b"two!")
    room.run_for(10)
    assert len(room.pipeline.calls) == 2
    assert room.result("X.dcm")["image"]["sha256"] == hashlib.sha256(b"two!").hexdigest()


def test_a_file_that_changed_while_it_was_processed_is_processed_again(room):
    image = room.put("X.dcm", b"one")
    room.pipeline.meanwhile = lambda: image.write_bytes(b"two!")
    room.run_for(4)
    room.pipeline.meanwhile = lambda: None
    room.run_for(10)
    assert len(room.pipeline.calls) == 2
    assert room.result("X.dcm")["image"]["sha256"] == hashlib.sha256(b"two!").hexdigest()


def test_a_file_that_was_only_touched_is_not_processed_again(room):
    image = room.put("X.dcm")
    room.run_for(10)
    os.utime(image, (2e9, 2e9))
    room.run_for(20)
    assert len(room.pipeline.calls) == 1


def test_bytes_that_come_with_the_old_size_inode_and_mtime_are_processed(room):
    image = room.put("X.dcm", b"one")
    room.run_for(10)
    swap_bytes(image, b"two")
    room.run_for(20)
    assert len(room.pipeline.calls) == 2
    assert room.result("X.dcm")["image"]["sha256"] == hashlib.sha256(b"two").hexdigest()


@pytest.mark.parametrize(
    "benign", [lambda image: image.chmod(0o600), lambda image: os.link(image, image.parent.parent / "backup")]
)
def test_a_change_of_ctime_alone_makes_no_second_result(room, benign):
    image = room.put("X.dcm")
    room.run_for(10)
    done, result = room.entry("X.dcm"), image.with_name("X.landmarks.json").stat()
    benign(image)
    room.run_for(1)
    assert room.states() == {"X.dcm": State.SEEN}  # it settles again
    room.run_for(20)
    assert len(room.pipeline.calls) == 1
    assert image.with_name("X.landmarks.json").stat() == result
    again = room.entry("X.dcm")
    assert again.signature != done.signature
    assert (again.state, again.sha256, again.key) == (State.DONE, done.sha256, done.key)


def test_a_file_that_disappears_and_returns_is_not_processed_again(room, tmp_path):
    image = room.put("X.dcm")
    room.run_for(10)
    image.rename(tmp_path / "away")
    room.run_for(10)
    (tmp_path / "away").rename(image)
    room.run_for(20)
    assert len(room.pipeline.calls) == 1
    assert room.result("X.dcm")["status"] == "ok"


def test_a_file_that_disappears_before_its_turn_is_forgotten(room):
    image = room.put("X.dcm")
    room.run_for(1.9)
    image.unlink()
    room.run_for(20)
    assert room.pipeline.calls == []
    assert room.daemon.unfinished() == 0


def test_a_file_that_disappears_is_not_waited_for(room):
    image = room.put("X.dcm", b"part")
    room.run_for(10)
    assert room.daemon.unfinished() == 1
    image.unlink()
    room.run_for(5)
    assert room.daemon.unfinished() == 0


def test_a_file_that_changes_while_it_waits_for_its_turn_must_settle_anew(room):
    room.put("a")
    b = room.put("b", b"one")
    room.pipeline.meanwhile = lambda: b.write_bytes(b"two!")
    room.run_for(2.5)
    room.pipeline.meanwhile = lambda: None
    assert room.pipeline.calls == [("a", False)]
    room.run_for(10)
    assert room.pipeline.times_s == pytest.approx([1002.0, 1004.0], abs=1e-3)  # seen at 1002 s, settle_s later


def test_a_burst_of_events_is_not_a_burst_of_sweeps(room):
    swept_s = []

    class Hinted(DropFolder):
        def hinted(self) -> bool:
            return True

        def sweep(self, files: dict) -> dict:
            swept_s.append(room.clock.now_s)
            return super().sweep(files)

    around = replace(room.around, open_folder=lambda folder, log: Hinted(folder.path, log, no_observer))
    with Daemon(room.config, room.pipeline, room.logger, around) as room.daemon:
        room.run_for(10)
    assert swept_s == [1000.0 + pause_s for pause_s in range(10)]  # settle_s / 2 apart


# images whose rest may still arrive


def test_an_incomplete_image_is_refused_when_nothing_more_came_for_incomplete_after_s(room):
    room.put("X.dcm", b"part")
    room.run_for(299.9)
    assert room.pipeline.calls == [("X.dcm", False)]
    assert room.result("X.dcm") is None
    room.run_for(0.2)
    assert room.pipeline.calls == [("X.dcm", False), ("X.dcm", True)]
    assert room.result("X.dcm")["status"] == "refused"
    room.run_for(1000)
    assert len(room.pipeline.calls) == 2


def test_an_image_that_is_completed_in_time_is_never_refused(room):
    room.put("X.dcm", b"part")
    room.run_for(250)
    room.put("X.dcm", b"part, and more")
    room.run_for(250)  # 500 s since it was first seen, 250 since it last changed
    assert room.result("X.dcm") is None
    room.put("X.dcm", b"whole")
    room.run_for(10)
    assert room.result("X.dcm")["status"] == "ok"
    assert room.pipeline.calls == [("X.dcm", False)] * 3


def test_a_refused_image_that_is_completed_later_is_opened_again(room):
    room.put("X.dcm", b"part")
    room.run_for(310)
    assert room.result("X.dcm")["status"] == "refused"
    room.put("X.dcm", b"whole")
    room.run_for(10)
    assert room.result("X.dcm")["status"] == "ok"


def test_an_incomplete_image_keeps_no_other_waiting(room):
    room.put("X.dcm", b"part")
    room.run_for(10)
    room.put("Y.dcm")
    room.run_for(10)
    assert room.result("Y.dcm")["status"] == "ok"


def test_a_damaged_image_whose_refusal_is_raised_all_the_same_is_left_alone(room):
    room.put("X.dcm")
    room.pipeline.raises["X.dcm"] = iter([DamagedImage("torn"), DamagedImage("torn")])
    room.run_for(1000)
    assert room.pipeline.calls == [("X.dcm", False), ("X.dcm", True)]


# errors


def test_the_surroundings_are_tried_again_for_ever_with_growing_pauses(room):
    room.put("X.dcm")
    room.pipeline.raises["X.dcm"] = (ResultsNotWritable("the disk is full; free some") for _ in iter(int, 1))
    room.run_for(4000)
    pauses_s = [b - a for a, b in zip(room.pipeline.times_s, room.pipeline.times_s[1:], strict=False)]
    assert pauses_s[:11] == pytest.approx([1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300], abs=1e-3)
    assert room.result("X.dcm") is None
    room.pipeline.raises.clear()
    room.run_for(301)
    assert room.result("X.dcm")["status"] == "ok"


def test_a_failing_file_keeps_no_other_waiting(room):
    room.put("X.dcm")
    room.pipeline.raises["X.dcm"] = (ImageUnreadable("the share does not answer; check it") for _ in iter(int, 1))
    room.run_for(600)
    room.put("Y.dcm")
    room.run_for(8)
    assert room.result("Y.dcm")["status"] == "ok"


def test_an_unforeseen_fault_is_logged_with_its_trace_and_keeps_no_other_waiting(room):
    room.put("X.dcm")
    room.put("Y.dcm")
    room.pipeline.raises["X.dcm"] = iter([RecursionError("deep")])
    room.run_for(2.5)
    assert [e["log_level"] for e in room.log.entries if e.get("exc_info")] == ["error"]
    assert room.result("Y.dcm")["status"] == "ok"
    room.run_for(2)
    assert room.result("X.dcm")["status"] == "ok"


def test_a_passed_over_file_is_looked_at_again_when_it_changes(room):
    room.put("X", b"something else")
    room.pipeline.raises["X"] = iter([NotAnImage("no DICOM")])
    room.run_for(100)
    assert room.pipeline.calls == [("X", False)]
    room.put("X", b"whole")
    room.run_for(10)
    assert room.result("X")["status"] == "ok"


def test_of_two_images_with_one_result_name_the_first_keeps_it(room):
    room.put("X.dcm")
    room.run_for(10)
    room.put("X", b"another")
    room.run_for(1000)
    assert room.pipeline.calls == [("X.dcm", False), ("X", False)]
    assert read_result(room.drop / "X.landmarks.json")["image"]["name"] == "X.dcm"
    refused = [entry for entry in room.log.entries if entry["event"] == "refused"]
    assert [(entry["image"], entry["error"]) for entry in refused] == [("X", "ResultNameTaken")]


# what is begun with before its turn


def upcoming(room):
    return [named and (named.image.name, named.final) for named in room.pipeline.upcoming]


def test_the_file_that_is_first_seen_next_is_named_ahead(room):
    for name in ("b", "a", "c"):
        room.put(name)
    room.run_for(100)
    names = [name for name, _ in room.pipeline.calls]
    assert upcoming(room) == [(names[1], False), (names[2], False), None]


def test_a_file_whose_result_may_be_there_is_not_named_ahead(room):
    room.put("b")
    room.run_for(100)
    room.restart(meanwhile=lambda: (room.put("a"), room.journal_path.unlink()))
    room.run_for(100)
    assert room.pipeline.calls == [("a", False)]
    assert upcoming(room) == [None, None]


def test_after_a_death_that_two_files_shared_each_has_the_worker_to_itself_and_none_is_blamed(room):
    room.pipeline.raises["a"] = room.pipeline.raises["b"] = iter([WorkerDied("for the test")])  # the first one dies
    for name in ("a", "b"):
        room.put(name)
    room.run_for(300)
    names = [name for name, _ in room.pipeline.calls]
    assert upcoming(room) == [(names[1], False), None, None]
    assert names[2] == names[0]
    assert room.entry(names[0]).crashes == 0
    assert room.result(names[0])["status"] == "ok"


def test_a_file_that_has_the_worker_to_itself_is_refused_after_two_deaths(room):
    room.put("a")
    room.pipeline.raises["a"] = iter([WorkerDied("a: for the test")] * 9)
    room.run_for(300)
    assert room.result("a")["status"] == "refused"
    assert len(room.pipeline.calls) == 2


def test_a_file_that_lost_a_device_and_is_gone_keeps_nobody_alone(room):
    gone = room.put("bad")
    room.pipeline.raises["bad"] = iter([DeviceLost("for the test")])
    room.run_for(10)
    gone.unlink()
    room.run_for(10)
    for name in ("a", "b"):
        room.put(name)
    room.run_for(100)
    assert upcoming(room)[-2] is not None


def test_nothing_begun_ahead_is_kept_while_no_file_s_turn_comes(room):
    room.put("a")
    room.run_for(100)
    assert room.pipeline.rests > 0
