"""Shares that fail: sick ones by FUSE, and a real SMB server that is killed in the middle of an upload."""

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.accounts import witnessed
from tests.faults.room import dicom_image, put, wait_until
from tests.faults.smb import SmbServer

SICK = ["EIO", "ESTALE", "empty", "hang", "EHOSTDOWN"]
SICK_S = 1.5  # longer than two sweeps


@pytest.fixture
def share(room, tmp_path, record):
    """Mount a share as the drop folder; return what is behind it and a function that makes it sick."""
    fault = "sick share"
    record.demand_root(fault)
    record.demand(os.path.exists("/dev/fuse"), fault, "this machine has no FUSE")  # noqa: PTH110
    record.demand(importlib.util.find_spec("mfusepy"), fault, "needs the package mfusepy")
    source, control = tmp_path / "source", tmp_path / "control"
    source.mkdir()
    script = Path(__file__).with_name("sick_share.py")
    command = [sys.executable, str(script), str(source), str(room.drop), str(control)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: os.path.ismount(room.drop) or process.poll() is not None)
        record.demand(process.poll() is None, fault, "needs libfuse3")
        yield source, lambda how: put(control, how.encode())
    finally:
        put(control, b"ok")
        room.close()
        subprocess.run(["umount", "-l", str(room.drop)], check=False, capture_output=True)
        process.terminate()
        process.wait()


@pytest.mark.counts(5, 100)
def test_a_share_that_drops_out_is_waited_for(room, share, record, count):
    source, let_it_be = share
    recovery_s = 0.0
    room.start()
    with witnessed(room) as account:
        for number in range(count):
            room.feed(2 * number)
            let_it_be(SICK[number % len(SICK)])
            data = dicom_image(2 * number + 1)
            put(source / f"RI {2 * number + 1}.dcm", data)  # another machine goes on writing
            room.note(room.drop / f"RI {2 * number + 1}.dcm", data)
            time.sleep(SICK_S)
            let_it_be("ok")
            recovery_s = max(recovery_s, room.wait_for_results())
        assert room.end() == 0
    record("sick share", count, account, recovery_s, f"{', '.join(SICK)} in turn, {SICK_S} s each")


@pytest.fixture
def smb(room, tmp_path, record):
    """Serve the drop folder by SMB."""
    fault = "SMB server killed in the middle of an upload"
    record.demand_root(fault)
    for tool in ("smbd", "smbclient", "unshare", "nsenter", "ip"):
        record.demand_tool(tool, fault)
    server = SmbServer(tmp_path / "samba", room.drop)
    try:
        record.demand(server.serve(), fault, "smbd does not run here")
        yield server
    finally:
        server.close()


def wait_until_begun(upload, arriving):
    wait_until(lambda: upload.poll() is not None or (arriving.exists() and arriving.stat().st_size > 0))


@pytest.mark.counts(1, 20)
def test_an_upload_that_a_dying_server_cut_short_gets_no_result_until_it_is_whole(room, smb, record, tmp_path, count):
    recovery_s, cuts, side = 0.0, 0, 4096
    pixels = bytes(range(256)) * (side * side * 2 // 256)
    large = dicom_image(1, Rows=side, Columns=side, PixelData=pixels)
    room.configure(incomplete_after_s=600.0)
    room.start()
    with witnessed(room) as account:
        for number in range(count):
            (tmp_path / "large.dcm").write_bytes(large)
            upload = smb.client(f"put {tmp_path}/large.dcm large{number}.dcm")
            arriving = room.drop / f"large{number}.dcm"
            wait_until_begun(upload, arriving)
            smb.kill()
            upload.wait()
            cut = arriving.stat().st_size < len(large)
            cuts += cut
            if not cut:  # it was faster than we
                arriving.write_bytes(large[: len(large) // 2])
            time.sleep(1.0)
            assert not room.result_of(arriving).exists()
            assert smb.serve()
            assert smb.client(f"put {tmp_path}/large.dcm large{number}.dcm").wait() == 0
            room.note(arriving, large)
            recovery_s = max(recovery_s, room.wait_for_results())
        assert room.end() == 0
    note = f"{cuts} uploads cut short by the kill, the others after it"
    record("SMB server killed in the middle of an upload", count, account, recovery_s, note)
