import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

import edge.errors
from edge.config import DropFolderConfig
from edge.errors import (
    DamagedImage,
    DeviceLost,
    ImageUnreadable,
    JournalDamaged,
    NotAnImage,
    ReaderDied,
    ResultNameTaken,
    ResultsNotWritable,
    SpoolFull,
)
from edge.log import open_log
from edge.results.publish import read_result
from edge.service.audit_log import AuditLog, verify
from edge.service.daemon import Daemon
from edge.service.dropfolder import DropFolder
from edge.service.journal import Journal, ask_requeue
from edge.service.metrics import NoMetrics
from edge.service.surroundings import Surroundings
from edge.settle import State
from tests.edge.daemon_room import Room, no_observer


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
    room = Room(tmp_path)
    folder = DropFolderConfig(path=room.drop, results_dir=tmp_path / "results")
    room.config = room.config.model_copy(update={"drop_folder": (folder,)})
    room.restart()
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


# the audit log


def test_the_audit_log_has_a_line_for_every_result_and_every_refusal(room, tmp_path):
    room.around = replace(room.around, audit=AuditLog(tmp_path / "audit.jsonl", room.clock.now()))
    room.restart()
    room.put("X.dcm")
    room.put("Y.dcm", b"part")
    room.run_for(310)
    room.restart(room.journal_path.unlink)
    room.run_for(10)
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [(line["event"], line.get("image"), line.get("status")) for line in lines] == [
        ("begun", None, None),
        ("published", "X.dcm", "ok"),
        ("refused", "Y.dcm", "refused"),
        ("found", "X.dcm", "ok"),
        ("found", "Y.dcm", "refused"),
    ]
    assert verify(tmp_path / "audit.jsonl").broken_line is None
    room.around.audit.close()


def test_a_result_whose_audit_line_finds_no_space_gets_it_later(room, tmp_path, monkeypatch):
    audit = AuditLog(tmp_path / "audit.jsonl", room.clock.now())
    room.around = replace(room.around, audit=audit)
    room.restart()
    append, full = audit.append, [True]

    def sometimes(*arguments: object) -> None:
        if full[0]:
            raise SpoolFull("audit.jsonl: no space; free some")
        append(*arguments)

    monkeypatch.setattr(audit, "append", sometimes)
    room.put("X.dcm")
    room.run_for(10)
    assert room.result("X.dcm") is not None
    assert room.states() != {"X.dcm": State.DONE}
    full[0] = False
    room.run_for(100)
    assert room.states() == {"X.dcm": State.DONE}
    assert len(room.pipeline.calls) == 1
    assert '"event": "found", "image": "X.dcm"' in (tmp_path / "audit.jsonl").read_text()
    audit.close()


# progress


def test_a_daemon_that_cannot_look_at_its_folder_for_want_of_a_journal_made_no_progress(room, monkeypatch):
    def busy(_folder: Path) -> dict:
        raise SpoolFull("journal: is locked")

    assert not room.daemon.progressed()
    monkeypatch.setattr(room.journal, "entries", busy)
    assert room.daemon.step() > 0
    assert not room.daemon.progressed()
    monkeypatch.undo()
    room.run_for(2)
    assert room.daemon.progressed()


# the log


def lines(level: str, log) -> list[str]:
    stream = io.StringIO()
    log(open_log(stream, level))
    return stream.getvalue().splitlines()


def test_an_event_is_one_line_of_keys_and_values():
    (line,) = lines("info", lambda log: log.info("result published", image="RI 1.dcm", landmarks=17, once=True))
    time, rest = line.split(" ", 1)
    assert rest == 'level=info event="result published" image="RI 1.dcm" landmarks=17 once=true'
    assert time.startswith("time=2")
    assert time.endswith("Z")


@pytest.mark.parametrize("name", ["a\nlevel=error", "a\rb", "a\x1b[31m", "J\udcfcrgen", "a\u2028b"])
def test_no_file_name_can_forge_a_line(name):
    (line,) = lines("info", lambda log: log.info("refused", image=name))
    assert line.isprintable()
    line.encode()


def test_a_trace_stays_on_its_line():
    def fail(log) -> None:
        try:
            [].pop()
        except IndexError:
            log.exception("unforeseen fault")

    (line,) = lines("info", fail)
    assert "IndexError: pop from empty list" in line


def test_the_level_is_kept():
    assert len(lines("warning", lambda log: (log.info("a"), log.warning("b"), log.debug("c")))) == 1


def test_the_daemon_logs_no_trace_for_a_refused_file_and_only_known_keys(room):
    room.put("damaged", b"part")
    room.put("X.dcm")
    room.put("X")
    room.pipeline.raises["X.dcm"] = iter([ResultsNotWritable("full; free some")])
    room.run_for(400)
    known = {"event", "log_level", "folder", "image", "reason", "error", "status", "landmarks", "files"}
    assert {key for entry in room.log.entries for key in entry} <= known | {"leftovers_removed"}
    assert "refused" in room.events()
    assert edge.errors.ResultNameTaken.__name__ in {entry.get("error") for entry in room.log.entries}


# what is too large, and results folders that two services name


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


@pytest.fixture
def two_rooms(tmp_path):
    """Return two services whose drop folders have their results in one folder."""
    (tmp_path / "results").mkdir()
    rooms = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        room = Room(tmp_path / name)
        entry = DropFolderConfig(path=room.drop, results_dir=tmp_path / "results")
        room.config = room.config.model_copy(update={"drop_folder": (entry,)})
        room.restart()
        rooms.append(room)
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


def test_a_younger_result_in_a_results_folder_is_compared_by_content(two_rooms):
    one, other = two_rooms
    other.put("IMG.dcm", b"another patient")
    one.put("IMG.dcm", b"one patient")
    one.run_for(10)
    one.stop()
    other.run_for(10)
    assert other.pipeline.calls == [("IMG.dcm", False)]
    one.start()


def test_a_results_folder_inside_its_drop_folder_is_no_rival_of_it(room):
    (room.drop / "results").mkdir()
    entry = DropFolderConfig(path=room.drop, results_dir=room.drop / "results")
    room.config = room.config.model_copy(update={"drop_folder": (entry,)})
    room.restart()
    room.put("X.dcm")
    room.run_for(10)
    assert room.states() == {"X.dcm": State.DONE}


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


def test_a_journal_that_is_damaged_while_it_serves_ends_the_daemon_for_a_new_one(room, monkeypatch):
    """No Stop: its status 78 would keep systemd from starting the one that sets the journal aside."""

    def damaged(*_arguments: object, **_options: object) -> None:
        raise JournalDamaged("journal.sqlite: is damaged")

    room.put("X.dcm")
    monkeypatch.setattr(room.journal, "record", damaged)
    with pytest.raises(JournalDamaged):
        room.run_for(10)
    assert room.pipeline.calls == []
