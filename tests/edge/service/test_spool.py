import errno
import hashlib
import os
import subprocess
import sys

import pytest

from edge.errors import FileTooLarge, ImageUnreadable, NotAnImage, SpoolFull, StateUnusable
from edge.service.spool import claimed, clear_spool, has_room
from edge.settle import signature_of
from edge.source_file import PIECE_BYTES, demand_unchanged

MOST = 2**26
DATA = os.urandom(2 * PIECE_BYTES + 5)


@pytest.fixture
def spool(tmp_path):
    """Return an empty spool."""
    folder = tmp_path / "state" / "spool"
    clear_spool(folder)
    return folder


@pytest.fixture
def image(tmp_path):
    """Return a file of two pieces and a bit."""
    path = tmp_path / "X.dcm"
    path.write_bytes(DATA)
    return path


def fails(image, spool, kind, **options):
    """Return the message with which a claim fails; then nothing may be left of it."""
    with pytest.raises(kind) as caught, claimed(image, spool, MOST, **options):
        pass
    assert list(spool.iterdir()) == []
    return str(caught.value)


# --- claiming ---


def test_a_claim_is_a_copy_with_the_hash_of_what_was_copied(image, spool):
    with claimed(image, spool, MOST) as claim:
        assert claim.copy.parent == spool
        assert claim.copy.read_bytes() == DATA
        assert claim.sha256 == hashlib.sha256(DATA).hexdigest()
        assert claim.signature == signature_of(image.stat())


def test_nothing_of_a_claim_is_left(image, spool):
    with claimed(image, spool, MOST):
        pass
    assert list(spool.iterdir()) == []


def test_nothing_of_a_claim_is_left_by_an_error_either(image, spool):
    with pytest.raises(ZeroDivisionError), claimed(image, spool, MOST):
        _ = 1 / 0
    assert list(spool.iterdir()) == []


def test_nobody_else_may_read_a_copy(image, spool):
    with claimed(image, spool, MOST) as claim:
        assert claim.copy.stat().st_mode & 0o077 == 0
    assert spool.stat().st_mode & 0o077 == 0


def test_the_image_is_left_as_it_was(image, spool):
    before = image.stat()
    with claimed(image, spool, MOST):
        pass
    after = image.stat()
    kept = ("st_ino", "st_mode", "st_uid", "st_size", "st_mtime_ns", "st_ctime_ns", "st_nlink")
    assert [getattr(after, name) for name in kept] == [getattr(before, name) for name in kept]


def test_progress_is_heard_of_with_every_piece(image, spool):
    heard = []
    with claimed(image, spool, MOST, lambda: heard.append(1)):
        pass
    assert len(heard) == 3  # two pieces and a bit


def test_an_empty_file_can_be_claimed(image, spool):
    image.write_bytes(b"")
    with claimed(image, spool, MOST) as claim:
        assert (claim.copy.read_bytes(), claim.sha256) == (b"", hashlib.sha256(b"").hexdigest())


def test_a_name_that_is_no_text_is_no_obstacle(image, spool):
    path = image.rename(image.with_name(os.fsdecode(b"\xe4" * 255)))
    with claimed(path, spool, MOST) as claim:
        assert claim.copy.read_bytes() == DATA


# --- what is not claimed ---


def test_a_symbolic_link_is_not_followed(image, spool):
    link = image.with_name("link.dcm")
    link.symlink_to(image)
    assert fails(link, spool, NotAnImage) == "link.dcm: is a symbolic link, so it is left alone"


def test_a_named_pipe_does_not_hold_us(image, spool):
    pipe = image.with_name("pipe")
    os.mkfifo(pipe)
    assert "not a regular file" in fails(pipe, spool, NotAnImage)


def test_a_folder_is_left_alone(image, spool):
    assert "not a regular file" in fails(image.parent, spool, NotAnImage)


def test_a_file_that_is_too_large_is_not_read(image, spool):
    with image.open("r+b") as file:
        file.truncate(MOST + 1)
    heard = []
    message = fails(image, spool, FileTooLarge, progress=lambda: heard.append(1))
    assert message.startswith(f"X.dcm: has {MOST + 1} bytes, the limit is {MOST}")
    assert heard == []


def test_a_file_of_just_the_limit_is_claimed(image, spool):
    with claimed(image, spool, len(DATA)) as claim:
        assert claim.copy.stat().st_size == len(DATA)


def test_a_file_that_vanished_is_tried_again(image, spool):
    image.unlink()
    assert "No such file" in fails(image, spool, ImageUnreadable)


def changing(image, how):
    """Return a `progress` that changes the image once, when its first piece was read."""
    left = [how]

    def progress():
        if left:
            left.pop()(image)

    return progress


def appended(image):
    with image.open("ab") as file:
        file.write(b"more")


def overwritten(image):
    with image.open("r+b") as file:
        file.write(b"other")
    os.utime(image, ns=(1, 1))


def truncated(image):
    os.truncate(image, 7)


def replaced(image):
    other = image.with_name("other")
    other.write_bytes(DATA)
    other.rename(image)


def removed(image):
    image.unlink()


@pytest.mark.parametrize("how", [appended, overwritten, truncated, replaced, removed])
def test_a_file_that_changes_while_it_is_copied_is_tried_again(image, spool, how):
    message = fails(image, spool, ImageUnreadable, progress=changing(image, how))
    assert message.startswith("X.dcm: ")
    assert message.endswith("it is tried again")


def test_a_file_that_changes_after_it_was_copied_is_found_out(image, spool):
    with claimed(image, spool, MOST) as claim:
        demand_unchanged(image, claim.signature, image.name)
        appended(image)
        with pytest.raises(ImageUnreadable, match=r"^X\.dcm: changed while it was read"):
            demand_unchanged(image, claim.signature, image.name)


def test_a_file_that_a_link_took_the_place_of_is_found_out(image, spool):
    with claimed(image, spool, MOST) as claim:
        image.rename(image.with_name("elsewhere"))
        image.symlink_to("elsewhere")
        with pytest.raises(ImageUnreadable):
            demand_unchanged(image, claim.signature, image.name)


# --- space ---


def test_a_disk_without_room_for_the_copy_and_the_journal_is_full(image, spool):
    message = fails(image, spool, SpoolFull, keep_free_bytes=2**62)
    assert message.startswith(f"{spool}: has no space left")
    assert "free some" in message


def test_after_a_full_disk_claiming_begins_above_the_high_water_mark(spool):
    assert has_room(spool, high_water_bytes=1)
    assert not has_room(spool, high_water_bytes=2**62)


def claims_under_a_limit(image, spool, limit):
    """Claim in a process that the kernel lets write no file past ``limit`` bytes; return the error's name and text."""
    program = """
import resource, sys
from pathlib import Path
from edge.errors import EdgeError
from edge.service.spool import claimed
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    with claimed(Path(sys.argv[1]), Path(sys.argv[2]), 2**26):
        print("claimed")
except EdgeError as exc:
    print(type(exc).__name__, exc)
"""
    line = [sys.executable, "-c", program, str(image), str(spool), str(limit)]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout


def test_a_copy_that_cannot_be_written_leaves_nothing(image, spool):
    said = claims_under_a_limit(image, spool, PIECE_BYTES + 1)  # EFBIG in the middle of the second piece
    assert said.startswith(f"SpoolFull {spool}: working copies cannot be stored there just now (File too large)")
    assert list(spool.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.EIO])
def test_what_passes_is_no_end(number, spool):
    from edge.service.spool import _not_stored

    assert isinstance(_not_stored(spool, OSError(number, "x")), SpoolFull)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR])
def test_what_only_a_person_mends_is_an_end(number, spool):
    from edge.service.spool import _not_stored

    assert isinstance(_not_stored(spool, OSError(number, "x")), StateUnusable)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_meanwhile_is_full(number, spool):
    from edge.service.spool import _not_stored

    assert isinstance(_not_stored(spool, OSError(number, "")), SpoolFull)


def test_a_disk_that_ails_for_a_moment_is_waited_for(spool):
    """Injected by tests/faults/test_syscalls.py, where the daemon once stopped for good."""
    from edge.service.spool import _not_stored

    error = _not_stored(spool, OSError(errno.EIO, "Input/output error"))
    assert isinstance(error, SpoolFull)
    assert "Input/output error" in str(error)
    assert "check its disk" in str(error)


def test_a_spool_that_is_gone_stops_the_service(image, spool):
    spool.rmdir()
    with (
        pytest.raises(StateUnusable, match=r"cannot be stored there.*name another state_dir"),
        claimed(image, spool, MOST),
    ):
        pass


# --- before and besides ---


def test_what_an_earlier_process_left_is_removed_and_nothing_else(tmp_path):
    spool = tmp_path / "spool"
    assert clear_spool(spool) == 0
    (spool / "0123.copy").write_bytes(b"x")
    (spool / "README").write_bytes(b"x")
    assert clear_spool(spool) == 1
    assert [path.name for path in spool.iterdir()] == ["README"]


def test_a_spool_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StateUnusable, match="file/spool"):
        clear_spool(tmp_path / "file" / "spool")
