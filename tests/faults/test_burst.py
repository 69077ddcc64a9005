"""Many files at once: while the daemon stands still, without inotify, and thousands of old ones at a start."""

import ctypes
import hashlib
import json
import os
import time

import pytest

from tests.faults.accounts import witnessed

FEW = 5  # true images among the many
STALL_S = {"short": 1.0, "full": 60.0}


@pytest.mark.counts(1_000, 50_000)
def test_a_burst_while_the_daemon_stands_still_is_found_within_one_sweep(room, record, request, count):
    """inotify's queue holds 16,384 events; the daemon reads none of them while it is stopped."""
    room.start()
    with witnessed(room) as account:
        room.feed(0)
        room.wait_for_results()
        with room.still():
            began_s = time.monotonic()
            room.feed(*range(1, FEW + 1))
            for number in range(count - FEW):
                (room.drop / f"burst {number}.txt").write_bytes(b"no image %d" % number)
            time.sleep(max(0.0, STALL_S[request.node.callspec.id] - (time.monotonic() - began_s)))
        found_s = room.wait_until(lambda: known(room) >= count + 1, within_s=300)
        room.wait_for_results()
        room.kill()
    record(
        "inotify overflow: a burst during a stall", count, account, found_s, "recovery: until all are in the journal"
    )


def known(room):
    return room.journal("SELECT count(*) FROM files")[0][0]


@pytest.mark.counts(1, 10)
def test_without_an_inotify_instance_the_folder_is_swept(room, record, count):
    libc = ctypes.CDLL(None, use_errno=True)
    taken = []
    while (fd := libc.inotify_init()) >= 0:
        taken.append(fd)
        if len(taken) > 2_000:
            record.demand(False, "inotify instances exhausted", "this machine allows more than 2,000 instances")
    recovery_s = 0.0
    try:
        with witnessed(room) as account:
            for number in range(count):
                room.start()
                room.feed(number)
                recovery_s = max(recovery_s, room.wait_for_results())
                assert room.end() == 0
    finally:
        for fd in taken:
            os.close(fd)
    assert "no events from this folder" in room.log
    record("inotify instances exhausted", count, account, recovery_s)


@pytest.mark.counts(300, 100_000)
def test_a_new_image_does_not_wait_for_old_ones_whose_results_are_there(room, record, count):
    """The journal is lost, and every old file has its result: made here from a true one."""
    room.feed(0)
    room.run_once()
    template = json.loads(room.result_of(next(iter(room.sent))).read_bytes())
    for path in room.state.glob("journal.sqlite*"):
        path.unlink()
    for number in range(1, count + 1):
        _leave_with_result(room, number, template)
    untouched = {path: path.stat().st_mtime_ns for path in room.results()}
    with witnessed(room) as account:
        room.start()
        room.feed(0, suffix=".png")
        recovery_s = room.wait_for_results()
        room.wait_until(lambda: finished(room) == count + 2, within_s=1200)
        assert room.end() == 0
    assert all(path.stat().st_mtime_ns == mtime_ns for path, mtime_ns in untouched.items())
    record("old files with results, journal lost", count, account, recovery_s, "recovery: until a new image is done")


def _leave_with_result(room, number, template):
    data = b"old image %d" % number
    path = room.drop / f"old {number}.dcm"
    path.write_bytes(data)
    image = template["image"] | {"name": path.name, "sha256": hashlib.sha256(data).hexdigest()}
    room.result_of(path).write_text(json.dumps(template | {"image": image, "outputs": []}))
    room.note(path, data)


def finished(room):
    return room.journal("SELECT count(*) FROM files WHERE state = 'done'")[0][0]


@pytest.mark.counts(300, 100_000)
def test_a_new_image_does_not_wait_long_behind_old_files_that_are_no_images(room, record, count):
    for number in range(count):
        (room.drop / f"old {number}.txt").write_bytes(b"no image %d" % number)
    with witnessed(room) as account:
        room.start()
        room.wait_until(lambda: known(room) >= count, within_s=300)
        room.wait_until(lambda: refused(room) >= count, within_s=7200)
        room.kill()
        room.start()  # now they are known
        room.feed(0)
        recovery_s = room.wait_for_results()
        assert room.end() == 0
    record("old files that are no images, at a restart", count, account, recovery_s, "recovery: the new image is done")


def refused(room):
    return room.journal("SELECT count(*) FROM files WHERE state = 'refused'")[0][0]
