import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import structlog
from structlog.testing import LogCapture
from watchdog.events import FileClosedEvent, FileCreatedEvent, FileMovedEvent, FileSystemEventHandler

from edge.errors import FolderUnavailable
from edge.service.dropfolder import DropFolder, HeldFolder, Identity, results_below
from edge.settle import Signature, State, Tracked


class FakeObserver:
    """Passes on the events that a test makes up."""

    def __init__(self, fails: OSError | None = None) -> None:
        self.fails = fails
        self.alive = False
        self.emitters = [self]

    def schedule(self, handler: FileSystemEventHandler, path: str, **_: object) -> None:
        self.handler = handler

    def start(self) -> None:
        if self.fails:
            raise self.fails
        self.alive = True

    def stop(self) -> None:
        self.alive = False

    def is_alive(self) -> bool:
        return self.alive

    def join(self) -> None:
        pass


@pytest.fixture
def log():
    return LogCapture()


@pytest.fixture
def drop(tmp_path):
    (tmp_path / "drop").mkdir()
    return tmp_path / "drop"


def opened(drop: Path, log: LogCapture, observer: Callable[[], object] | None = FakeObserver) -> DropFolder:
    return DropFolder(drop, structlog.wrap_logger(None, processors=[log]), observer)


def put(path: Path, data: bytes = b"pixels") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path)


def soon(condition: Callable[[], bool]) -> bool:
    end_s = time.monotonic() + 60
    while not condition() and time.monotonic() < end_s:
        time.sleep(0.01)
    return condition()


# sweeping


def test_a_sweep_finds_files_in_all_subfolders_with_their_signatures(drop, log):
    paths = {put(drop / "a.dcm"), put(drop / "sub one" / "b c [1]"), put(drop / "sub one" / "deep" / "d.png", b"")}
    with opened(drop, log) as folder:
        found = folder.sweep()
    assert found.keys() == paths
    for path, signature in found.items():
        status = Path(path).stat()
        assert signature == Signature(status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns)
    assert log.entries == []


def test_what_is_not_a_file_of_others_is_passed_over(drop, log, tmp_path):
    outside = put(tmp_path / "outside" / "x.dcm")
    for name in (".hidden.dcm", ".landmarks-1.tmp", "a.landmarks.json", "a.landmarks.png", ".trash/b.dcm"):
        put(drop / name)
    (drop / "link.dcm").symlink_to(outside)
    (drop / "link").symlink_to(tmp_path / "outside")
    (drop / "loop").symlink_to(drop)
    os.mkfifo(drop / "pipe.dcm")
    with opened(drop, log) as folder:
        assert folder.sweep() == {}


def test_a_name_that_is_not_utf8_is_found(drop, log):
    path = put(drop / os.fsdecode(b"J\xfcrgen.dcm"))
    with opened(drop, log) as folder:
        assert list(folder.sweep()) == [path]


def test_a_subfolder_that_cannot_be_listed_is_one_warning(drop, log):
    # not by its mode: root, as in a container, can list everything; a path beyond PATH_MAX nobody can
    seen = put(drop / "a.dcm")
    deep, here = drop, os.open(drop, os.O_RDONLY)
    try:
        for _ in range(20):
            name = "d" * 250
            os.mkdir(name, dir_fd=here)
            below = os.open(name, os.O_RDONLY, dir_fd=here)
            os.close(here)
            deep, here = deep / name, below
    finally:
        os.close(here)
    with opened(drop, log) as folder:
        assert list(folder.sweep()) == [seen]
        assert list(folder.sweep()) == [seen]
    assert [entry["log_level"] for entry in log.entries] == ["warning"]
    assert str(deep).startswith(log.entries[0]["path"])


def finished(found: dict[str, Signature]) -> dict[str, Tracked]:
    return {path: Tracked(1, signature, State.DONE, 0.0, None) for path, signature in found.items()}


def test_of_many_finished_files_each_is_asked_for_in_its_turn(drop, log, monkeypatch):
    monkeypatch.setattr("edge.service.dropfolder.ASKED_MOST", 10)
    paths = [put(drop / f"{number}.dcm") for number in range(40)]  # 1 + 40 // 10 = 5 turns
    with opened(drop, log) as folder:
        files = finished(folder.sweep())
        for path in paths:
            Path(path).write_bytes(b"written over in place")
        changed = [{path for path, now in folder.sweep(files).items() if now.size_bytes == 21} for _ in range(5)]
    assert set().union(*changed) == set(paths)
    assert sum(map(len, changed)) == len(paths)  # none of them twice


def test_what_is_new_unfinished_or_was_replaced_shows_at_once(drop, log, monkeypatch):
    monkeypatch.setattr("edge.service.dropfolder.ASKED_MOST", 1)
    waiting, replaced, *_ = [put(drop / f"{number}.dcm") for number in range(40)]
    with opened(drop, log) as folder:
        files = finished(folder.sweep())
        files[waiting] = replace(files[waiting], state=State.INCOMPLETE)
        for path in (waiting, str(drop / "another"), str(drop / "new.dcm")):
            Path(path).write_bytes(b"larger than before")
        (drop / "another").rename(replaced)
        found = folder.sweep(files)
    assert {path for path, now in found.items() if now.size_bytes == 18} == {waiting, replaced, str(drop / "new.dcm")}


def test_a_hint_has_every_finished_file_asked_for(drop, log, monkeypatch):
    monkeypatch.setattr("edge.service.dropfolder.ASKED_MOST", 1)
    paths = [put(drop / f"{number}.dcm") for number in range(40)]
    observer = FakeObserver()
    with opened(drop, log, lambda: observer) as folder:
        files = finished(folder.sweep())
        for path in paths:
            Path(path).write_bytes(b"written over in place")
        observer.handler.dispatch(FileClosedEvent(paths[0]))
        assert {now.size_bytes for now in folder.sweep(files).values()} == {21}


def test_the_results_below_a_folder_are_found_in_one_listing(drop):
    put(drop / "a.dcm")
    results = {put(drop / "a.landmarks.json"), put(drop / "sub one" / os.fsdecode(b"\xfc.landmarks.json"))}
    put(drop / "a.landmarks.png")
    assert results_below(drop) == results
    assert results_below(drop / "missing") == set()


# one daemon at a time


def test_a_folder_is_held_from_the_first_sweep_to_the_end(drop, log):
    path = put(drop / "a.dcm")
    with opened(drop, log) as first, opened(drop, log) as second:
        first.sweep()
        with pytest.raises(FolderUnavailable, match=rf"drop: is served by process {os.getpid()} already.*stop one"):
            second.sweep()
    with opened(drop, log) as second:
        assert list(second.sweep()) == [path]


def test_a_folder_that_went_away_is_let_go(drop, log, tmp_path):
    with opened(drop, log) as first, opened(tmp_path / "was", log) as second:
        first.sweep()
        drop.rename(tmp_path / "was")
        with pytest.raises(FolderUnavailable):
            first.sweep()
        assert second.sweep() == {}


def test_a_share_that_knows_no_locks_is_one_warning_and_is_served(drop, log, monkeypatch):
    def unsupported(_fd: int, _how: int) -> None:
        raise OSError(9, "Bad file descriptor")  # what NFS says of a lock on what is not open for writing

    monkeypatch.setattr("edge.service.dropfolder.fcntl.flock", unsupported)
    path = put(drop / "a.dcm")
    open_files = len(list(Path("/proc/self/fd").iterdir()))
    with opened(drop, log) as folder:
        assert [list(folder.sweep()) for _ in range(3)] == [[path]] * 3
        assert len(list(Path("/proc/self/fd").iterdir())) == open_files  # the share can be unmounted
    assert [entry["log_level"] for entry in log.entries] == ["warning"]


# a folder that goes away


def test_a_folder_that_is_not_there_is_unavailable(drop, log):
    drop.rmdir()
    with opened(drop, log) as folder:
        with pytest.raises(FolderUnavailable, match=r"drop: is not there .*create it or mount its share"):
            folder.sweep()
        path = (drop.mkdir(), put(drop / "a.dcm"))[1]
        assert list(folder.sweep()) == [path]


def test_a_file_in_the_place_of_the_folder_is_unavailable(drop, log):
    drop.rmdir()
    drop.write_bytes(b"")
    with opened(drop, log) as folder, pytest.raises(FolderUnavailable, match="drop: cannot be listed"):
        folder.sweep()


def test_a_folder_made_anew_is_one_alarm_and_then_taken_up(drop, log, tmp_path):
    observers = []
    with opened(drop, log, lambda: observers.append(FakeObserver()) or observers[-1]) as folder:
        folder.sweep()
        drop.rename(tmp_path / "was")
        with pytest.raises(FolderUnavailable, match="is not there"):
            folder.sweep()
        path = (drop.mkdir(), put(drop / "a.dcm"))[1]
        with pytest.raises(FolderUnavailable, match="was replaced by another folder"):
            folder.sweep()
        assert list(folder.sweep()) == [path]
        assert [observer.alive for observer in observers] == [False, True]  # the old one listens to the old folder


HELD = Identity(device=40, inode=2, mount_point="/mnt/share")


@pytest.mark.parametrize(
    ("what", "then", "recovers"),
    [
        ("unmounted: what lies below shows through", Identity(1, 77, "/"), False),
        ("another share mounted over the folder", Identity(41, 2, "/mnt/share/drop"), False),
        ("mounted again: a share gets another device number", Identity(42, 2, "/mnt/share"), True),
        ("deleted and made anew", Identity(40, 3, "/mnt/share"), True),
    ],
)
def test_only_the_same_place_on_the_same_mount_is_taken_up_again(what, then, recovers):
    now = [HELD]
    folder = HeldFolder(Path("/mnt/share/drop"), identify=lambda _: now[0])
    folder.check()
    folder.check()
    now[0] = then
    with pytest.raises(FolderUnavailable, match="/mnt/share/drop"):
        folder.check()
    if recovers:
        folder.check()
    else:
        for _ in range(3):
            with pytest.raises(FolderUnavailable, match="now lies on the mount"):
                folder.check()
        now[0] = HELD
        folder.check()


# hints


@pytest.mark.parametrize(
    ("event", "hints"),
    [
        (FileClosedEvent("/drop/a.dcm"), True),
        (FileCreatedEvent("/drop/a.dcm"), True),
        (FileMovedEvent("/drop/.a.part", "/drop/a.dcm"), True),
        (FileCreatedEvent(b"/drop/J\xfcrgen.dcm"), True),
        (FileMovedEvent("/drop/.landmarks-1.tmp", "/drop/a.landmarks.json"), False),
        (FileClosedEvent("/drop/.landmarks-1.tmp"), False),
        (FileCreatedEvent("/drop/.a.part"), False),
    ],
)
def test_events_of_others_hint_and_our_own_do_not(drop, log, event, hints):
    observer = FakeObserver()
    with opened(drop, log, lambda: observer) as folder:
        folder.sweep()
        assert not folder.hinted()
        observer.handler.dispatch(event)
        assert folder.hinted() is hints
        folder.sweep()
        assert not folder.hinted()


@pytest.mark.parametrize("error", [OSError(24, "inotify instance limit reached"), ImportError("no inotify")])
def test_without_inotify_the_folder_is_swept_all_the_same(drop, log, error):
    path = put(drop / "a.dcm")
    with opened(drop, log, lambda: FakeObserver(fails=error)) as folder:
        assert list(folder.sweep()) == [path]
        assert list(folder.sweep()) == [path]
    assert [(e["log_level"], e["reason"]) for e in log.entries] == [("warning", str(error))]  # once


def test_a_dead_observer_or_emitter_is_replaced_at_the_next_sweep(drop, log):
    started = []

    def observer() -> FakeObserver:
        started.append(FakeObserver())
        return started[-1]

    with opened(drop, log, observer) as folder:
        folder.sweep()
        folder.sweep()
        assert len(started) == 1
        started[0].alive = False  # the dispatch thread died of an exception
        folder.sweep()
        started[1].emitters = [FakeObserver()]  # the folder was deleted: its emitter ended
        folder.sweep()
        assert [observer.alive for observer in started] == [False, False, True]
    assert not started[2].alive


def test_inotify_hints_at_a_file_moved_into_a_new_subfolder_and_leaves_no_thread(drop, log, tmp_path):
    threads = set(threading.enumerate())
    waiting = put(tmp_path / "elsewhere" / "a.dcm")
    with opened(drop, log, observer=None) as folder:
        folder.sweep()
        (drop / "new folder").mkdir()
        assert soon(folder.hinted)
        folder.sweep()
        shutil.move(waiting, drop / "new folder" / "a.dcm")
        assert soon(folder.hinted)
        assert list(folder.sweep()) == [str(drop / "new folder" / "a.dcm")]
    assert set(threading.enumerate()) <= threads
    assert log.entries == []


def test_a_folder_inside_one_that_is_served_is_served_already_and_the_other_way_round(drop, log):
    (drop / "room1").mkdir()
    for first, second in [(drop, drop / "room1"), (drop / "room1", drop)]:
        with opened(first, log) as one, opened(second, log) as other:
            one.sweep()
            with pytest.raises(FolderUnavailable, match="already"):
                other.sweep()


def test_two_folders_side_by_side_are_no_rivals(drop, log):
    other = drop.with_name("other")
    other.mkdir()
    with opened(drop, log) as one, opened(other, log) as two:
        assert (one.sweep(), two.sweep()) == ({}, {})


def test_what_is_named_like_a_result_but_is_none_of_ours_is_one_warning(drop, log):
    for name in ("left.landmarks.dcm", "X.landmarks.json", "X.landmarks.png", "X.landmarks.sr.dcm"):
        put(drop / name)
    with opened(drop, log) as folder:
        assert [folder.sweep(), folder.sweep()] == [{}, {}]
    assert [(entry["log_level"], entry["path"]) for entry in log.entries] == [
        ("warning", str(drop / "left.landmarks.dcm"))
    ]
    assert "rename it" in log.entries[0]["event"]
