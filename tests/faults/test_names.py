"""Names and kinds of files that play tricks, and DICOM values that would be paths."""

import json
import os
import socket

import pytest

from tests.faults.accounts import witnessed
from tests.faults.room import dicom_image, put

LONGEST = "x" * 251 + ".dcm"  # 255 bytes
NAMES = [
    b"RI \xe4\xf6\xfc.dcm",  # Latin-1, as an old system writes it
    b"\xff\xfe",
    LONGEST.encode(),
    "é".encode() * 127 + b"x",  # 255 bytes, cut in the middle of nothing
    b"two\nlines.dcm",
    b"tab\tand \x1b[31m red.dcm",
    b"-rf.dcm",
    b"$(touch owned).dcm",
    b"%s%n {image} \\x00.dcm",
    b"dcm",
    b"X.DCM",
    b"con.png.dcm",
    "\u202egnp.mcd".encode(),  # reads backwards
]
UIDS = ["../../../etc/passwd", "1.2.3/../../X", "1" * 64, "1.2.3\\4.5.6", ""]


@pytest.mark.counts(1, 20)
def test_a_name_can_be_anything_that_the_file_system_takes(room, record, count):
    room.start()
    with witnessed(room) as account:
        for number in range(count):
            folder = room.drop / f"fraction {number}" / "über"
            folder.mkdir(parents=True)
            for index, name in enumerate(NAMES):
                path = folder / os.fsdecode(name)
                path.write_bytes(data := dicom_image(number * 100 + index))
                room.note(path, data)
        room.wait_for_results()
        assert room.end() == 0
    assert not (room.folder / "owned").exists()
    assert "\x1b" not in room.log
    assert account.refused == 0
    record("names: 255 bytes, not UTF-8, control characters", count * len(NAMES), account)


@pytest.mark.counts(1, 20)
def test_a_uid_that_is_a_path_writes_nowhere_else(room, record, count):
    with witnessed(room) as account:
        for number in range(count):
            for index, uid in enumerate(UIDS):
                data = dicom_image(number * 10 + index, SOPInstanceUID="1.2.3", SeriesInstanceUID="1.2.3")
                data = data.replace(b"1.2.3\0", uid.encode()[:6].ljust(6, b"\0"))
                room.note(put(room.drop / f"{number} {index}.dcm", data), data)
        before = everything_below(room.folder, but=room.drop)
        room.run_once()
        room.wait_for_results()
    new = everything_below(room.folder, but=room.drop) - before
    assert {path.relative_to(room.state).parts[0] for path in new} <= {"journal.sqlite", "audit.jsonl", "lock"}
    record("DICOM values that are paths", count * len(UIDS), account)


def everything_below(folder, but):
    return {path for path in folder.rglob("*") if path.is_file() and not path.is_relative_to(but)}


@pytest.mark.counts(1, 20)
def test_what_is_no_file_is_left_alone_and_holds_up_nobody(room, record, tmp_path, monkeypatch, count):
    victim = tmp_path / "victim"
    victim.write_bytes(dicom_image(7))
    room.start()
    with witnessed(room) as account:
        for number in range(count):
            folder = room.drop / str(number)
            folder.mkdir()
            (folder / "link.dcm").symlink_to(victim)
            (folder / "dangling.dcm").symlink_to("/nowhere")
            (folder / "loop").symlink_to(".")
            (folder / "folder.dcm").mkdir()
            (folder / "elsewhere").symlink_to(tmp_path)
            os.mkfifo(folder / "pipe.dcm")
            with socket.socket(socket.AF_UNIX) as listener:
                monkeypatch.chdir(folder)  # a socket's path has 107 bytes at most
                listener.bind("socket.dcm")
            (folder / "empty.dcm").touch()
            room.feed(number)
            room.wait_for_results()
        assert room.end() == 0
    assert {path.name for path in room.results()} == {f"RI {number}.landmarks.json" for number in range(count)}
    assert victim.read_bytes() == dicom_image(7)
    assert {path.name for path in tmp_path.iterdir()} == {"room", "victim"}
    record("symbolic links, pipes, sockets, folders", 8 * count, account)


@pytest.mark.counts(1, 20)
def test_a_link_where_a_result_belongs_leads_nowhere(room, record, tmp_path, count):
    """Who may write into the drop folder may not have the daemon overwrite what only the daemon may write."""
    victims = []
    for number in range(count):
        victims += [tmp_path / f"json {number}", tmp_path / f"png {number}"]
        for victim in victims[-2:]:
            victim.write_text("keep me")
        (room.drop / f"RI {2 * number}.landmarks.json").symlink_to(victims[-2])
        (room.drop / f"RI {2 * number + 1}.landmarks.png").symlink_to(victims[-1])
    room.feed(*range(2 * count))
    done = room.run_once()
    assert done.stderr.count("error=ResultNameTaken") == count  # a name that is taken is not overwritten
    for number in range(count):
        whole = room.result_of(room.drop / f"RI {2 * number + 1}.dcm")
        assert json.loads(whole.read_bytes())["status"] == "ok"
        assert not whole.with_suffix(".png").is_symlink()
    assert all(victim.read_text() == "keep me" for victim in victims)
    record("links where results belong", 2 * count, None, None, "a link in the place of the JSON is a name taken")
