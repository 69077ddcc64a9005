"""What a room meets first: `status`, `check` and the line in the log each say what to do about it."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edge.cli import app
from edge.service import looking
from edge.service.checkup import check_all
from edge.service.installed import service_of
from edge.service.machine import Machine
from edge.service.silence import local_zone
from edge.service.spool import claimed
from edge.service.status import gather
from tests.edge import daemon_room
from tests.faults.mounts import fill
from tests.faults.room import wait_until

SICK_SHARE = Path(__file__).parents[2] / "faults/sick_share.py"


@dataclass
class Room:
    """A drop folder, a state folder and a configuration, and what is said of them by whom."""

    state: Path

    def __post_init__(self):
        self.drop.mkdir(exist_ok=True)
        folder = f"[[drop_folder]]\npath = {json.dumps(str(self.drop))}\n"
        self.config.write_text(f"state_dir = {json.dumps(str(self.state))}\n{folder}")

    @property
    def drop(self):
        return self.state / "drop"

    @property
    def config(self):
        return self.state / "edge.toml"

    def ask(self, command):
        """Return what a command says, on one line; it must not say that all is well."""
        outcome = CliRunner().invoke(app, [command, "--config", str(self.config)])
        assert isinstance(outcome.exception, SystemExit), outcome.exception
        return " ".join(outcome.output.split())

    def log(self, meanwhile=lambda: None, break_it=lambda: None):
        """Have a daemon serve, ``meanwhile`` with an image in hand; return the reasons that it logs."""
        daemon = daemon_room.Room(self.state)
        daemon.pipeline.meanwhile = meanwhile
        break_it()
        daemon.run_for(30)
        daemon.stop()
        return " ".join(one.get("reason", "") for one in daemon.log.entries if one["log_level"] in {"warning", "error"})

    def said(self, log):
        """Return what the service's log said, and then `status` and `check`."""
        return {"log": log, "status": self.ask("status"), "check": self.ask("check")}


@pytest.fixture
def room(tmp_path):
    return Room(tmp_path)


def demand_root():
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount")


@pytest.fixture
def small_disk():
    """Return a function that mounts a small disk at a folder, with what is in it."""
    mounted = []

    def mount(at, size):
        demand_root()
        kept = {path.name: path.read_bytes() for path in at.iterdir() if path.is_file()}
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", at], check=False)
        if done.returncode != 0:
            pytest.skip("nothing can be mounted here")
        mounted.append(at)
        for name, data in kept.items():
            (at / name).write_bytes(data)

    yield mount
    for at in mounted:
        subprocess.run(["umount", "--lazy", at], check=True)


@pytest.fixture
def share(room, tmp_path):
    """Mount a share as the drop folder; return a function that says how it is sick."""
    demand_root()
    if not Path("/dev/fuse").exists() or importlib.util.find_spec("mfusepy") is None:
        pytest.skip("needs FUSE, and the package mfusepy")
    source, control = tmp_path / "source", tmp_path / "control"
    source.mkdir()
    process = subprocess.Popen([sys.executable, SICK_SHARE, source, room.drop, control], stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: os.path.ismount(room.drop) or process.poll() is not None)
        if process.poll() is not None:
            pytest.skip("needs libfuse3")
        yield control.write_text
    finally:
        control.write_text("ok")
        subprocess.run(["umount", "--lazy", room.drop], check=False)
        process.terminate()
        process.wait()


@pytest.mark.parametrize(
    ("text", "mend"),
    [
        ("setle_s = 2.0", "unknown key setle_s: did you mean settle_s?"),
        ("read_s = 0.0", "read_s: Input should be greater than 0"),
        ("settle_s = soon", "correct it there"),
        ("settle_s = 2.0", "no drop folder is set"),
    ],
)
def test_a_bad_configuration(room, text, mend):
    room.config.write_text(text)
    said = room.said(room.ask("watch"))
    assert all(mend in words for words in said.values()), said


def test_a_configuration_that_is_not_there(room):
    room.config.unlink()
    said = room.said(room.ask("watch"))
    assert all("name a configuration file that can" in words for words in said.values()), said


def test_a_missing_drop_folder(room):
    said = room.said(room.log(break_it=room.drop.rmdir))
    assert all(f"{room.drop}: " in words and "create it or mount its share" in words for words in said.values()), said


@pytest.mark.root
def test_a_full_disk_below_the_results(room, small_disk):
    small_disk(room.drop, "8m")
    (room.drop / "X.dcm").write_bytes(b"whole")
    said = room.said(room.log(break_it=lambda: fill(room.drop)))
    assert all("the disk is full: free some space or inodes" in words for words in said.values()), said


@pytest.mark.root
def test_a_full_disk_below_the_state(tmp_path, small_disk):
    (tmp_path / "drop").mkdir()
    (tmp_path / "drop/X.dcm").write_bytes(b"whole")
    (tmp_path / "state").mkdir()
    small_disk(tmp_path / "state", "64m")
    (tmp_path / "state/drop").symlink_to(tmp_path / "drop")  # on another disk
    room = Room(tmp_path / "state")

    def claim():
        with claimed(room.drop / "X.dcm", room.state, 2**20):
            pass

    said = room.said(room.log(meanwhile=claim, break_it=lambda: fill(room.state, leave_bytes=4 * 2**20)))
    assert all(str(room.state) in words and "free some" in words for words in said.values()), said


@pytest.mark.root
@pytest.mark.parametrize("how", ["EHOSTDOWN", "ESTALE", "EIO"])
def test_an_unreachable_share(room, share, how):
    share(how)
    said = room.said(room.log())
    assert all(f"{room.drop}: " in words and "its share" in words for words in said.values()), said


@pytest.mark.root
def test_a_share_that_does_not_answer(room, share, monkeypatch):
    """Nobody waits for it: neither who asks, nor the service."""
    monkeypatch.setattr(looking, "ANSWER_S", 0.2)
    share("hang")
    service, now = service_of(room.config), datetime.now(local_zone())
    said = {
        "status": " ".join(gather(service, now, answer_s=0.2).alarms),
        "check": " ".join(f"{one.what} {one.mend}" for one in check_all(lambda: service, Machine(answer_s=0.2))),
    }
    daemon = daemon_room.Room(room.state)
    daemon.run_for(1)
    (said["log"],) = [one["reason"] for one in daemon.log.entries if one["event"] == "drop folder unavailable"]
    share("ok")
    daemon.stop()
    assert all(f"{room.drop}: " in words for words in said.values()), said
    assert all("see that the server of its share is up" in words for words in said.values()), said
