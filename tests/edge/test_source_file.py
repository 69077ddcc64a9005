import hashlib
import os

import pytest

from edge.errors import FileTooLarge, ImageUnreadable, NotAnImage
from edge.settle import signature_of
from edge.source_file import PIECE_BYTES, demand_not_too_large, demand_unchanged, hash_file, opened, signature
from tests.edge.daemon_room import swap_bytes

DATA = os.urandom(2 * PIECE_BYTES + 5)


@pytest.fixture
def image(tmp_path):
    """Return a file of two pieces and a bit."""
    path = tmp_path / "0123.copy"
    path.write_bytes(DATA)
    return path


# opening


def test_the_signature_of_an_open_file_is_that_of_its_name(image):
    with opened(image, "X.dcm") as (source, found):
        assert os.pread(source, 4, 0) == DATA[:4]
    assert found == signature(image, "X.dcm") == signature_of(image.stat())


def test_a_link_is_not_followed(image):
    link = image.with_name("link")
    link.symlink_to(image)
    for ask in (signature, hash_file):
        with pytest.raises(NotAnImage, match=r"^X\.dcm: is a symbolic link, so it is left alone$"):
            ask(link, "X.dcm")


def test_a_pipe_does_not_hold_us_until_somebody_writes(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotAnImage, match=r"^X\.dcm: is not a regular file"):
        hash_file(tmp_path / "pipe", "X.dcm")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(NotAnImage, match="is not a regular file"):
        signature(tmp_path, "X.dcm")


def test_a_file_that_is_gone_is_tried_again(tmp_path):
    with pytest.raises(ImageUnreadable, match=r"^X\.dcm: cannot be read just now \(No such file or directory\)"):
        signature(tmp_path / "none", "X.dcm")


def test_no_descriptor_is_left_open(image):
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - numbers, no paths
    hash_file(image, "X.dcm")
    with pytest.raises(NotAnImage):
        signature(image.parent, "X.dcm")
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


# hashing


def test_a_file_of_any_size_can_be_hashed(image):
    heard = []
    assert hash_file(image, "X.dcm", lambda: heard.append(1)) == hashlib.sha256(DATA).hexdigest()
    assert len(heard) == 3  # two pieces and a bit


def grown(image):
    with image.open("ab") as file:
        file.write(b"more")


def cut(image):
    os.truncate(image, 7)


def replaced(image):
    other = image.with_name("other")
    other.write_bytes(DATA)
    other.rename(image)


def swapped(image):
    swap_bytes(image, DATA[::-1])


@pytest.mark.parametrize("how", [grown, cut, replaced, swapped])
def test_a_file_that_changes_while_it_is_hashed_is_tried_again(image, how):
    left = [how]
    with pytest.raises(ImageUnreadable, match=r"^X\.dcm: changed while it was read; it is tried again$"):
        hash_file(image, "X.dcm", lambda: left and left.pop()(image))


# telling versions apart


def test_bytes_that_took_the_place_of_others_with_their_mtime_are_found_out(image):
    before = signature(image, "X.dcm")
    demand_unchanged(image, before, "X.dcm")
    swapped(image)
    with pytest.raises(ImageUnreadable, match=r"^X\.dcm: changed"):
        demand_unchanged(image, before, "X.dcm")


def test_the_limit_itself_is_not_too_large(image):
    found = signature(image, "X.dcm")
    demand_not_too_large("X.dcm", found, len(DATA))
    with pytest.raises(FileTooLarge, match=rf"^X\.dcm: has {len(DATA)} bytes, the limit is {len(DATA) - 1};"):
        demand_not_too_large("X.dcm", found, len(DATA) - 1)
