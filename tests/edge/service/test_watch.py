import os
import signal
import threading
from contextlib import nullcontext
from dataclasses import replace

import pytest

from edge.config import Config, DropFolderConfig
from edge.errors import BadConfig, ImageUnreadable, NotAnImage
from edge.service.watch import Reload, reload_on_hangup, stop_on_signals
from tests.edge.daemon_room import Room, watched


@pytest.fixture
def room(tmp_path):
    room = Room(tmp_path)
    yield room
    room.stop()


# who supervises


class Heard:
    """A notifier that remembers."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def ready(self) -> None:
        self.said.append("ready")

    def status(self, text: str) -> None:
        self.said.append(text)

    def alive(self) -> None:
        self.said.append("alive")

    def waiting(self, within_s: float) -> nullcontext:
        self.said.append(f"waiting {within_s:g} s")
        return nullcontext()

    def reloading(self) -> None:
        self.said.append("reloading")

    def stopping(self) -> None:
        self.said.append("stopping")


def test_whoever_supervises_hears_ready_alive_the_queue_and_the_end(tmp_path):
    room, heard = Room(tmp_path), Heard()
    room.around = replace(room.around, notifier=heard)
    room.put("X.dcm")
    watched(room, threading.Event(), once=True)
    assert [said for said in heard.said if said != "alive"] == [
        "ready", "1 waiting, 0 done, 0 refused", "0 waiting, 1 done, 0 refused", "stopping",
    ]  # fmt: skip
    assert heard.said.count("alive") in {2, 3}  # once a second, for the 2 s that the file took to settle


def test_a_reload_takes_up_the_new_configuration_between_two_images(tmp_path):
    room, stop, heard = Room(tmp_path), threading.Event(), Heard()
    room.around = replace(room.around, notifier=heard)
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "Z.dcm").write_bytes(b"whole")
    folders = (*room.config.drop_folder, DropFolderConfig(path=tmp_path / "second"))
    reload = Reload(lambda: (room.config.model_copy(update={"drop_folder": folders}), room.pipeline))
    for name in ("X.dcm", "Y.dcm"):
        room.put(name)

    def meanwhile() -> None:
        reload.asked = len(room.pipeline.calls) == 1
        if len(room.pipeline.calls) == 3:
            stop.set()

    room.pipeline.meanwhile = meanwhile
    watched(room, stop, reload=reload)
    assert [name for name, _ in room.pipeline.calls] == ["X.dcm", "Y.dcm", "Z.dcm"]
    assert [said for said in heard.said if said in {"ready", "reloading"}] == ["ready", "reloading", "ready"]
    assert reload.asked is False


def test_a_bad_new_configuration_is_an_error_line_and_the_old_one_stays(tmp_path):
    room, stop = Room(tmp_path), threading.Event()

    def read() -> tuple:
        room.put("X.dcm")
        raise BadConfig("edge.toml: unknown key settle; did you mean settle_s?")

    room.pipeline.meanwhile = stop.set
    watched(room, stop, reload=Reload(read, asked=True))
    assert room.result("X.dcm")["status"] == "ok"
    (line,) = [entry for entry in room.log.entries if entry["log_level"] == "error"]
    assert (line["event"], line["reason"]) == (
        "configuration refused, the old one stays", "edge.toml: unknown key settle; did you mean settle_s?",
    )  # fmt: skip


def test_a_hangup_asks_for_a_reload_and_nothing_else(tmp_path):
    before = signal.getsignal(signal.SIGHUP)
    reload = Reload(lambda: pytest.fail("not while a signal is handled"))
    with reload_on_hangup(reload):
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)
        assert reload.asked
    assert signal.getsignal(signal.SIGHUP) is before


# watch


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
