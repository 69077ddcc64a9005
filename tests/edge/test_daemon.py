import hashlib
import io
import os
import signal
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from structlog.testing import LogCapture

import edge.errors
from edge.config import Config, DropFolderConfig
from edge.daemon import ACTIONS, Action, Daemon, action_for, stop_on_signals, watch
from edge.dropfolder import DropFolder
from edge.errors import (
    BackendFailed,
    BadConfig,
    BadRelease,
    DamagedImage,
    EdgeError,
    FolderUnavailable,
    ImageUnreadable,
    ImplausibleGeometry,
    InferenceFailed,
    NotAnImage,
    ResultNameTaken,
    ResultsNotWritable,
    StoreNotWritable,
    UnsupportedImage,
)
from edge.log import open_log
from edge.results.document import Image, Provenance, Result
from edge.results.publish import claim_name, image_name, publish, read_result, result_path

ZEROS = "0" * 64
PROVENANCE = Provenance(
    software="0", release="0", model_sha256=ZEROS, checkpoint_sha256=ZEROS, contract_sha256=ZEROS,
    calibration_set_sha256=None, config_sha256=ZEROS, backend={},
)  # fmt: skip


def result_of(image: Path, data: bytes, reason: str | None = None) -> Result:
    return Result(
        status="refused" if reason else "ok",
        reason=reason,
        image=Image(
            name=image_name(image),
            sha256=hashlib.sha256(data).hexdigest(),
            sop_instance_uid=None,
            modality=None,
            rows=None,
            columns=None,
        ),
        landmarks=(),
        geometry=None,
        provenance=PROVENANCE,
        timing_ms={},
        outputs=(),
    )


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0
        self.slept_s: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, pause_s: float) -> None:
        self.slept_s.append(pause_s)
        self.now_s += pause_s


class Pipeline:
    """Stands in for the pipeline. A file that begins with b"part" is damaged; other errors are scripted."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.calls: list[tuple[str, bool]] = []  # (file name, final)
        self.times_s: list[float] = []
        self.raises: dict[str, Iterator[Exception | None]] = defaultdict(lambda: iter(()))
        self.takes_s = 0.0
        self.meanwhile = lambda: None

    def __call__(self, image: Path, results_dir: Path | None, *, final: bool) -> Result:
        self.calls.append((image.name, final))
        self.times_s.append(self.clock())
        result = result_path(image, results_dir)
        claim_name(image, result)
        data = image.read_bytes()
        self.clock.now_s += self.takes_s
        self.meanwhile()
        if error := next(self.raises[image.name], None):
            raise error
        if data.startswith(b"part") and not final:
            raise DamagedImage(f"{image}: half of it is missing; send it again")
        document = result_of(image, data, reason="half of it is missing" if data.startswith(b"part") else None)
        publish([], (result, document.to_json()))
        return document


class Room:
    """A daemon over real folders, under a clock that only the test moves, without events."""

    def __init__(self, root: Path, **settings: object) -> None:
        self.drop = root / "drop"
        self.drop.mkdir(exist_ok=True)
        self.config = Config(drop_folder=(DropFolderConfig(path=self.drop),), **settings)
        self.clock = Clock()
        self.pipeline = Pipeline(self.clock)
        self.log = LogCapture()
        self.start()

    def start(self) -> None:
        logger = structlog.wrap_logger(None, processors=[self.log])
        self.daemon = Daemon(self.config, self.pipeline, logger, self.clock, deaf)
        self.daemon.__enter__()

    def restart(self) -> None:
        self.daemon.__exit__(None, None, None)
        self.pipeline.calls.clear()
        self.start()

    def put(self, name: str, data: bytes = b"whole") -> Path:
        path = self.drop / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def run_for(self, duration_s: float) -> None:
        end_s = self.clock.now_s + duration_s
        while self.clock.now_s < end_s:
            self.clock.now_s = min(self.clock.now_s + max(self.daemon.step(), 1e-6), end_s)

    def result(self, name: str) -> dict | None:
        return read_result(result_path(self.drop / name, None))

    def events(self) -> list[str]:
        return [entry["event"] for entry in self.log.entries]


def no_observer():
    raise OSError("no events in this test")


def deaf(path: Path, log: object) -> DropFolder:
    return DropFolder(path, log, no_observer)


@pytest.fixture
def room(tmp_path):
    room = Room(tmp_path)
    yield room
    room.daemon.__exit__(None, None, None)


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

        def sweep(self) -> dict:
            swept_s.append(room.clock.now_s)
            return super().sweep()

    logger = structlog.wrap_logger(None, processors=[room.log])
    with Daemon(
        room.config, room.pipeline, logger, room.clock, lambda path, log: Hinted(path, log, no_observer)
    ) as room.daemon:
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


def leaves(kind: type[EdgeError]) -> set[type[EdgeError]]:
    below = kind.__subclasses__()
    return set().union(*map(leaves, below)) if below else {kind}


def test_every_leaf_of_the_error_tree_has_its_action():
    assert {leaf: action_for(leaf) for leaf in leaves(EdgeError)} == {
        NotAnImage: Action.IGNORE,
        UnsupportedImage: Action.IGNORE,
        DamagedImage: Action.WAIT,
        ImplausibleGeometry: Action.IGNORE,
        ResultNameTaken: Action.IGNORE,
        ImageUnreadable: Action.BACK_OFF,
        InferenceFailed: Action.BACK_OFF,
        FolderUnavailable: Action.BACK_OFF,
        ResultsNotWritable: Action.BACK_OFF,
        BadConfig: Action.END,
        BadRelease: Action.END,
        BackendFailed: Action.END,
        StoreNotWritable: Action.END,
    }


def test_every_branch_of_the_error_tree_has_an_action_for_leaves_to_come():
    assert set(EdgeError.__subclasses__()) <= ACTIONS.keys()


@pytest.mark.parametrize("leaf", sorted(leaves(EdgeError), key=lambda leaf: leaf.__name__))
def test_the_daemon_does_what_the_table_says(room, leaf):
    room.put("X.dcm")
    room.pipeline.raises["X.dcm"] = iter([leaf("what, which file, what to do")] * 2)
    if action_for(leaf) is Action.END:
        with pytest.raises(leaf):
            room.run_for(10)
        return
    room.run_for(1000)
    calls = {
        Action.IGNORE: [("X.dcm", False)],
        Action.WAIT: [("X.dcm", False), ("X.dcm", True)],
        Action.BACK_OFF: [("X.dcm", False)] * 3,
    }
    assert room.pipeline.calls == calls[action_for(leaf)]
    assert (room.result("X.dcm") is not None) == (action_for(leaf) is Action.BACK_OFF)


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
    assert [name for name, _ in room.pipeline.calls] == ["X.dcm", "incomplete", "Y.dcm", "incomplete"]
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


# restart


def test_after_a_restart_only_what_lacks_its_result_is_processed(room):
    for name in ("done", "refused", "not an image"):
        room.put(name, b"part" if name == "refused" else b"whole")
    room.pipeline.raises["not an image"] = iter([NotAnImage("no")] * 2)
    room.run_for(400)
    room.put("new")
    room.restart()
    room.run_for(400)
    assert room.pipeline.calls == [("not an image", False), ("new", False)]


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


# watch


def watched(room: Room, stop: threading.Event, **options: object) -> int:
    logger = structlog.wrap_logger(None, processors=[room.log])
    return watch(room.config, room.pipeline, stop=stop, log=logger, clock=room.clock, sleep=room.clock.sleep, **options)


def test_once_returns_when_every_file_has_been_tried(tmp_path):
    room = Room(tmp_path)
    room.put("X.dcm")
    assert watched(room, threading.Event(), once=True) == 0
    assert room.result("X.dcm")["status"] == "ok"
    assert room.clock.now_s < 1000 + 2 + 1


def test_once_returns_how_many_files_wait_to_be_tried_again(tmp_path):
    room = Room(tmp_path)
    for name in ("X.dcm", "incomplete", "unreadable", "not an image"):
        room.put(name, b"part" if name == "incomplete" else b"whole")
    room.pipeline.raises["unreadable"] = iter([ImageUnreadable("no")])
    room.pipeline.raises["not an image"] = iter([NotAnImage("no")])
    assert watched(room, threading.Event(), once=True) == 2


def test_once_counts_an_unavailable_folder(tmp_path):
    room = Room(tmp_path)
    room.drop.rmdir()
    assert watched(room, threading.Event(), once=True) == 1


def test_stop_is_heard_after_the_image_in_hand(tmp_path):
    room, stop = Room(tmp_path), threading.Event()
    for name in "abcdef":
        room.put(name)
    room.pipeline.meanwhile = lambda: stop.set() if len(room.pipeline.calls) == 2 else None
    watched(room, stop)
    assert [name for name, _ in room.pipeline.calls] == ["a", "b"]
    assert room.result("b")["status"] == "ok"
    assert room.events()[-1] == "stopped"


def test_the_longest_sleep_is_short(tmp_path):
    room = Room(tmp_path, sweep_s=60)
    room.put("X.dcm")
    watched(room, threading.Event(), once=True)
    assert 0 < max(room.clock.slept_s) <= 0.2


def test_without_a_drop_folder_watch_refuses_to_start(room):
    room.config = Config()
    with pytest.raises(BadConfig, match="no drop folder is set"):
        watched(room, threading.Event())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_to_stop_and_more_change_nothing(number):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with stop_on_signals() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        assert stop.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


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
