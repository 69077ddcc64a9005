"""Drop folders that go away and come back: deleted, unmounted, mounted over; and two daemons that want the same one."""

import shutil
import subprocess

import pytest

from tests.faults.accounts import twice_in_the_audit_log, witnessed
from tests.faults.room import dicom_image, put

UNAVAILABLE = 'event="drop folder unavailable"'


@pytest.mark.counts(2, 100)
def test_a_folder_that_is_deleted_and_made_again_is_served_again(room, record, count):
    room.start()
    recovery_s = 0.0
    for number in range(count):
        room.feed(number)
        room.wait_for_results()
        said = alarms(room)
        shutil.rmtree(room.drop)
        room.sent.clear()
        room.wait_until(lambda said=said: alarms(room) > said)
        room.drop.mkdir()
        room.feed(count + number)
        recovery_s = max(recovery_s, room.wait_for_results())
    with witnessed(room) as account:
        assert room.end() == 0
    record("drop folder deleted and made again", count, account, recovery_s)


@pytest.mark.counts(2, 100)
def test_a_share_that_is_unmounted_is_waited_for_and_nothing_is_written_where_it_was(
    room, record, mounted, tmp_path, count
):
    fault = "share unmounted and mounted again"
    record.demand_root(fault)
    share, beneath = tmp_path / "share", room.drop / "beneath"
    share.mkdir()
    beneath.write_bytes(dicom_image(9_999))  # of another system: shows through when the share is away
    recovery_s = 0.0
    mounted("--bind", share, at=room.drop)
    with witnessed(room) as account:
        room.start()
        for number in range(count):
            room.feed(2 * number)
            room.wait_for_results()
            said = alarms(room)
            unmount(room.drop)
            room.wait_until(lambda said=said: alarms(room) > said)
            put(share / f"RI {2 * number + 1}.dcm", data := dicom_image(2 * number + 1))
            assert [path.name for path in room.drop.iterdir()] == ["beneath"]
            mounted("--bind", share, at=room.drop)
            room.note(room.drop / f"RI {2 * number + 1}.dcm", data)
            recovery_s = max(recovery_s, room.wait_for_results())
        assert room.end() == 0
    record(fault, count, account, recovery_s)


@pytest.mark.counts(2, 100)
def test_what_is_mounted_over_a_folder_gets_no_results_until_it_is_gone(room, record, mounted, count):
    fault = "another share mounted over the drop folder"
    record.demand_root(fault)
    recovery_s = 0.0
    room.start()
    with witnessed(room) as account:
        for number in range(count):
            said = alarms(room)
            mounted("-t", "tmpfs", "none", at=room.drop)
            (room.drop / "foreign.dcm").write_bytes(dicom_image(9_999))
            room.wait_until(lambda said=said: alarms(room) > said)
            assert [path.name for path in room.drop.iterdir()] == ["foreign.dcm"]
            unmount(room.drop)
            room.feed(number)
            recovery_s = max(recovery_s, room.wait_for_results())
        assert room.end() == 0
    record(fault, count, account, recovery_s)


def alarms(room):
    return room.log.count(UNAVAILABLE)


def unmount(folder):
    subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)


@pytest.mark.counts(1, 20)
def test_a_second_daemon_with_the_same_state_is_refused(room, record, count):
    room.start()
    with witnessed(room) as account:
        for number in range(count):
            second = room.run_once()
            assert second.returncode == 78
            assert f"process {room.process.pid}" in second.stderr
            room.feed(number)
            room.wait_for_results()
        assert room.end() == 0
    record("second daemon, same state folder", count, account, note="refused with status 78")


@pytest.mark.counts(1, 20)
def test_a_second_daemon_on_the_same_folder_waits_until_the_first_has_gone(new_room, record, count):
    first = new_room()
    second = new_room("other")
    second_drop_is(second, first)
    recovery_s, said = 0.0, "is served by process"
    with witnessed(first) as account:
        for number in range(count):
            first.start()
            second.start(ready=False)
            second.wait_until(lambda number=number: second.log.count(said) > number)
            first.feed(*range(5 * number, 5 * number + 4))
            first.wait_for_results()
            first.kill()
            first.feed(5 * number + 4)
            recovery_s = max(recovery_s, second.wait_until(lambda: not first.without_result()))
            assert second.end() == 0
    assert twice_in_the_audit_log(second) == []
    record("second daemon, same drop folder", count, account, recovery_s, "the second takes over when the first ends")


def second_drop_is(second, first):
    """Let the second room's configuration name the first one's drop folder."""
    second.config.write_text(second.config.read_text().replace(str(second.drop), str(first.drop)))
