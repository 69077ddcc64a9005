"""Disks that are full or read-only: of the drop folder, where results go, and of the state folder."""

import os
import subprocess

import pytest

from tests.faults.accounts import witnessed
from tests.faults.mounts import fill

STATE_MB = 400  # the daemon claims again when 256 MB are free


def told(room, what):
    """Return how often the log has said something."""
    return room.log.count(what)


@pytest.mark.counts(1, 20)
def test_a_full_drop_folder_is_waited_for(room, record, mounted, count):
    record.demand_root("drop folder full")
    mounted("-t", "tmpfs", "-o", "size=8m", "none", at=room.drop)
    _is_waited_for(room, record, "drop folder full", count, lambda: _filled(room.drop))


@pytest.mark.counts(1, 20)
def test_a_drop_folder_without_inodes_is_waited_for(room, record, mounted, count):
    record.demand_root("drop folder without inodes")
    mounted("-t", "tmpfs", "-o", "size=8m,nr_inodes=600", "none", at=room.drop)
    _is_waited_for(room, record, "drop folder without inodes", count, lambda: _no_inodes(room.drop))


@pytest.mark.counts(1, 20)
def test_a_read_only_drop_folder_is_waited_for(room, record, mounted, count):
    record.demand_root("drop folder read-only")
    mounted("-t", "tmpfs", "-o", "size=8m", "none", at=room.drop)
    _is_waited_for(room, record, "drop folder read-only", count, lambda: _read_only(room.drop))


def _is_waited_for(room, record, fault, count, break_it):
    """Drop an image, let its result fail to be stored, mend the disk, and see the result come."""
    room.start()
    recovery_s = 0.0
    with witnessed(room) as account:
        for number in range(count):
            said = told(room, "error=ResultsNotWritable")
            with room.still():
                room.feed(number)
                mend = break_it()
            room.wait_until(lambda said=said: told(room, "error=ResultsNotWritable") > said)
            assert room.without_result()
            mend()
            recovery_s = max(recovery_s, room.wait_for_results())
        assert room.end() == 0
    record(fault, count, account, recovery_s)


def _filled(folder):
    ballast = fill(folder)
    return ballast.unlink


def _no_inodes(folder):
    spare = folder / ".spare"
    spare.mkdir()
    names = []
    try:
        for number in range(1000):
            (spare / str(number)).touch()
            names.append(spare / str(number))
    except OSError:
        pass

    def mend():
        for name in names:
            name.unlink()
        spare.rmdir()

    return mend


def _read_only(folder):
    remount(folder, "ro")
    return lambda: remount(folder, "rw")


def remount(folder, how):
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True, capture_output=True)


@pytest.mark.counts(1, 20)
def test_a_full_state_folder_pauses_claiming_until_there_is_room(room, record, mounted, count):
    fault = "state folder full"
    record.demand_root(fault)
    mounted("-t", "tmpfs", "-o", f"size={STATE_MB}m", "none", at=room.state)
    room.start()
    recovery_s = 0.0
    with witnessed(room) as account:
        for number in range(count):
            with room.still():  # or it would write while we ask how much there is to fill
                ballast = fill(room.state)
            said = told(room, 'event="paused:')
            room.feed(3 * number, 3 * number + 1, 3 * number + 2)
            room.wait_until(lambda said=said: told(room, 'event="paused:') > said)
            assert len(room.without_result()) == 3
            ballast.unlink()
            recovery_s = max(recovery_s, room.wait_for_results())
        assert room.end() == 0
    record(fault, count, account, recovery_s)


@pytest.mark.counts(1, 20)
def test_a_read_only_state_folder_ends_the_daemon_with_a_reason_and_nothing_is_lost(room, record, mounted, count):
    fault = "state folder read-only"
    record.demand_root(fault)
    mounted("-t", "tmpfs", "-o", "size=64m", "none", at=room.state)
    with witnessed(room) as account:
        for number in range(count):
            room.feed(number)
            remount(room.state, "ro")
            refused = room.run_once()
            assert refused.returncode == 78, refused.stderr
            assert str(room.state) in refused.stderr
            assert room.without_result()
            remount(room.state, "rw")
            room.run_once()
            assert not room.without_result()
    record(fault, count, account, note="status 78, which is not restarted")


def test_the_tests_of_this_file_would_see_a_full_disk(tmp_path, mounted):
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount")
    at = tmp_path / "full"
    at.mkdir()
    mounted("-t", "tmpfs", "-o", "size=1m", "none", at=at)
    fill(at)
    with pytest.raises(OSError, match="No space left"):
        (at / "X").write_bytes(b"x" * 5000)
