"""Power loss on ext4 and XFS: journal, spool and results lie on the disk that loses it, the images do not."""

import hashlib
import json
import time
from contextlib import closing

import pytest

from tests.faults.accounts import Account
from tests.faults.mounts import PoweredDisk, why_no_loop
from tests.faults.room import moments

IMAGES_A_LOSS = 3


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
@pytest.mark.counts(1, 500)
def test_what_the_journal_calls_done_outlives_a_power_loss(new_room, tmp_path, record, kind, count):
    fault = f"power loss on {kind}"
    record.demand_root(fault)
    record.demand_tool(f"mkfs.{kind}", fault)
    reason = why_no_loop(tmp_path)
    record.demand(reason is None, fault, reason)

    disk = PoweredDisk(kind, tmp_path / "disk.img", tmp_path / "disk")
    disk.mount()
    try:
        (disk.at / "results").mkdir()
        room = new_room(results_dir=disk.at / "results", settings={"state_dir": str(disk.at / "state")})
        with closing(room):  # or whatever goes wrong would be hidden behind a disk in use
            account, recovery_s = _loses_power(room, disk, count)
    finally:
        disk.unmount()
    record(fault, count, account, recovery_s)


def _loses_power(room, disk, count):
    pause_s, account, done, recovery_s, lost_s = moments(4, 0.2), Account(room), {}, 0.0, None
    for number in range(count):
        room.feed(*range(number * IMAGES_A_LOSS, (number + 1) * IMAGES_A_LOSS))
        room.start()
        wanted = min(len(room.results()) + 1 + number % IMAGES_A_LOSS, len(room.sent))
        room.wait_until(lambda wanted=wanted: len(room.results()) >= wanted)
        recovery_s = max(recovery_s, time.monotonic() - (lost_s or time.monotonic()))
        time.sleep(pause_s())
        lost_s = time.monotonic()
        disk.lose_power()
        room.kill()
        disk.unmount()
        disk.mount()
        _look(room, account, done)
    room.start()
    room.wait_for_results()
    recovery_s = max(recovery_s, time.monotonic() - lost_s)
    assert room.end() == 0
    _look(room, account, done)
    account.settle({"torn": [], "changed": [], "looks": count + 1})
    return account, recovery_s


def _look(room, account, done):
    """Hold what is on the disk against the journal: what it calls done is there, whole, and as it was before."""
    whole = {}
    for path in room.results():
        data = path.read_bytes()
        try:
            outputs = json.loads(data)["outputs"]
            ok = all(sha256(path.with_name(output["name"])) == output["sha256"] for output in outputs)
        except (ValueError, OSError):
            ok = False
        if not ok:
            account.torn.append(path.name)
        whole[path] = hashlib.sha256(data).hexdigest()
    for image in list(room.sent):
        path = room.result_of(image)
        if str(image) in called_done(room):
            if path not in whole:
                account.lost.append(f"{image.name}: done, and its result is gone")
            elif done.setdefault(path, whole[path]) != whole[path]:
                account.doubled.append(path.name)


def called_done(room):
    return {bytes(path).decode() for (path,) in room.journal("SELECT path FROM files WHERE state = 'done'")}


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()
