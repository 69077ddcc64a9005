"""The witness and the account must see what they are there for: a suite that sees nothing would pass, too."""

import hashlib
import json
import os
import signal
import subprocess
import threading
import time

import pytest

from tests.faults.accounts import Account, witnessed
from tests.faults.mounts import users_of
from tests.faults.room import Room, children, of_session
from tests.faults.witness import Witness

IMAGE, DRAWING = b"an image", b"a drawing"


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def result(**changes):
    image = {"name": "X.dcm", "sha256": sha256(IMAGE)}
    outputs = [{"name": "X.landmarks.png", "sha256": sha256(DRAWING)}]
    return json.dumps({"status": "ok", "image": image, "outputs": outputs} | changes)


@pytest.fixture
def room(tmp_path):
    """Return a room without a daemon, with one image and its whole result."""
    room = Room(tmp_path / "room", tmp_path)
    (room.drop / "X.dcm").write_bytes(IMAGE)
    (room.drop / "X.landmarks.png").write_bytes(DRAWING)
    (room.drop / "X.landmarks.json").write_text(result())
    room.note(room.drop / "X.dcm", IMAGE)
    return room


def looked(room, *texts):
    """Return what a witness saw that looked once at what is there, and once after each of ``texts`` was the result."""
    witness = Witness(room.drop, room.drop)
    witness.look()
    for text in texts:
        (room.drop / "X.landmarks.json").unlink()
        (room.drop / "X.landmarks.json").write_text(text)
        witness.look()
    return witness.seen


def test_a_whole_result_is_right_however_often_it_is_looked_at(room):
    seen = looked(room)
    assert (seen.looks, seen.torn, seen.changed) == (1, [], [])


def test_half_a_result_is_torn_and_another_one_is_a_change(room):
    seen = looked(room, result()[:40])
    assert len(seen.torn) == 1
    assert seen.changed == ["X.landmarks.json"]


def test_a_result_that_is_written_again_with_the_same_bytes_is_no_change(room):
    assert looked(room, result()).changed == []


def test_a_result_of_an_image_that_is_not_there_is_torn(room):
    seen = looked(room, result(image={"name": "Y.dcm", "sha256": sha256(IMAGE)}))
    assert seen.torn == ["X.landmarks.json: no image Y.dcm of that hash"]


def test_a_result_whose_output_is_not_whole_is_torn(room):
    (room.drop / "X.landmarks.png").write_bytes(DRAWING[:3])
    assert looked(room).torn == ["X.landmarks.json: X.landmarks.png is not there, or not whole"]


def test_a_share_that_goes_while_its_result_is_looked_at_is_looked_at_again(room, monkeypatch, tmp_path):
    """Its JSON was read, then the share was unmounted, then the image is not there: nothing is torn."""
    mounts, image = tmp_path / "mounts", room.drop / "X.dcm"
    mounts.write_text("share")
    monkeypatch.setattr("tests.faults.witness.MOUNTS", mounts)
    witness = Witness(room.drop, room.drop)
    judged = witness._fault

    def unmounted(path, data):
        image.unlink()
        mounts.write_text("")
        return judged(path, data)

    monkeypatch.setattr(witness, "_fault", unmounted)
    witness.look()
    assert witness.seen.torn == []
    monkeypatch.undo()
    witness.look()
    assert len(witness.seen.torn) == 1  # the share is still away, and this time nothing else explains it


def settled(room):
    account = Account(room)
    account.settle({"torn": [], "changed": [], "looks": 1})
    return account


def test_an_account_in_which_nothing_is_missing_passes(room):
    settled(room).demand_nothing_wrong()


def test_an_image_without_a_result_or_with_that_of_another_file_is_lost(room):
    room.note(room.drop / "Y.dcm", b"never sent")
    (room.drop / "Y.dcm").write_bytes(b"never sent")
    (room.drop / "X.landmarks.json").write_text(result(image={"name": "X.dcm", "sha256": "0" * 64}))
    account = settled(room)
    assert account.lost == ["X.dcm: its result is of another file", "Y.dcm"]
    with pytest.raises(AssertionError):
        account.demand_nothing_wrong()


def test_an_image_that_was_changed_fails_at_once(room):
    (room.drop / "X.dcm").write_bytes(b"another image")
    with pytest.raises(AssertionError, match=r"X\.dcm was changed"):
        settled(room)


def test_a_temporary_that_stays_and_a_second_line_in_the_audit_log_are_seen(room):
    (room.drop / ".landmarks-1.tmp").touch()
    line = json.dumps({"event": "published", "image": "X.dcm"}) + "\n"
    (room.state / "audit.jsonl").write_text(line * 2)
    account = settled(room)
    assert account.torn == [".landmarks-1.tmp was left behind"]
    assert account.doubled == ["X.dcm: 2 times in the audit log"]


def test_a_witness_of_its_own_process_tells_what_it_saw(room):
    with witnessed(room) as account:
        (room.drop / "X.landmarks.png").unlink()
        (room.drop / "X.landmarks.json").unlink()
        (room.drop / "X.landmarks.json").write_text(result())
    assert account.looks > 0
    assert account.torn == ["X.landmarks.json: X.landmarks.png is not there, or not whole"]


def test_children_are_those_of_all_threads():
    """A worker's reader is started by the thread that reads."""
    started, over = [], threading.Event()

    def start():
        started.append(subprocess.Popen(["sleep", "60"]))
        over.wait()

    thread = threading.Thread(target=start)
    thread.start()
    try:
        while not started:
            time.sleep(0.01)
        assert started[0].pid in children(os.getpid())
    finally:
        over.set()
        thread.join()
        started[0].kill()
        started[0].wait()


def test_a_child_that_outlives_the_killed_one_is_still_known():
    leader = subprocess.Popen(["sh", "-c", "sleep 60 & echo $!"], start_new_session=True, stdout=subprocess.PIPE)
    child = int(leader.stdout.readline())
    leader.stdout.close()
    leader.wait()
    try:
        assert of_session(leader.pid) == [child]
    finally:
        os.kill(child, signal.SIGKILL)


def test_whoever_has_a_file_open_is_named(tmp_path):
    with (tmp_path / "open").open("w"):
        assert any("pytest" in line for line in users_of(tmp_path))
    assert users_of(tmp_path) == []
