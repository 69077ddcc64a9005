import io
import os
import resource
import signal
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge.config import Config
from edge.errors import (
    BadConfig,
    DamagedImage,
    EdgeError,
    FileTooLarge,
    ImageUnreadable,
    ImplausibleGeometry,
    NotAnImage,
    ReaderDied,
    UnsupportedImage,
)
from edge.portal_image import read_portal_image
from edge.processes.reader_process import ReaderLimits, ReaderProcess

LIMITS = ReaderLimits(memory_mb=1024, cpu_s=15, wall_s=15, file_bytes=2**28)
RLE, DEFLATED = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.1.99"
RUN = b"\x81\x00"  # RLE, PS3.5 G.3.1: 128 times the same byte


@pytest.fixture(scope="module")
def reader():
    """Return a reader that serves several tests, as it serves several images."""
    reader = ReaderProcess(LIMITS)
    yield reader
    reader.close()


@pytest.fixture
def started():
    """Return a function that makes a reader, closed at the end."""
    readers = []

    def make(limits=LIMITS, **options):
        readers.append(ReaderProcess(limits, **options))
        return readers[-1]

    yield make
    for reader in readers:
        reader.close()


def pid(reader):
    """Return which process reads now."""
    return reader._child.pid


def rle_bomb(side, bits=16):
    """Return one frame of zeros as RLE: 2 bytes for each 128."""
    plane = RUN * (side * side // 128)
    planes = bits // 8
    offsets = [64 + len(plane) * number for number in range(planes)]
    return struct.pack("<16I", planes, *offsets, *([0] * (15 - planes))) + plane * planes


def fails(reader, path, kind):
    """Return the message with which the reader refuses a file."""
    with pytest.raises(EdgeError) as caught:
        reader.read(path, "X.dcm")
    assert type(caught.value) is kind
    assert str(caught.value).startswith("X.dcm: ")
    return str(caught.value)


# --- images ---


def test_an_image_comes_over_as_it_was_read(reader, write, dicom, collimated):
    path = write(dicom(collimated()), "spooled")
    here, there = read_portal_image(path, name="X.dcm"), reader.read(path, "X.dcm")
    assert np.array_equal(there.pixels, here.pixels)
    assert there.pixels.dtype == np.float32
    assert there.geometry == here.geometry
    assert (there.identity, there.polarity_source) == (here.identity, here.polarity_source)
    assert (there.rescale, there.beam) == (here.rescale, here.beam)
    assert there.geometry_reason is None


def test_an_image_without_geometry_comes_over_with_the_reason(reader, write, collimated):
    stream = io.BytesIO()
    Image.fromarray(collimated()).save(stream, "PNG")
    image = reader.read(write(stream.getvalue(), "X.png"), "X.png")
    assert (image.geometry, image.geometry_reason) == (None, "PNG files carry no geometry")
    assert image.identity.sop_instance_uid is None


def test_the_pixels_are_read_only(reader, write, dicom, collimated):
    assert not reader.read(write(dicom(collimated())), "X.dcm").pixels.flags.writeable


def test_an_image_of_sixteen_megapixels_comes_over(reader, write, dicom):
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 2**16, (4096, 4096), "<u2")
    image = reader.read(write(dicom(pixels)), "X.dcm")
    assert np.array_equal(image.pixels, pixels.astype(np.float32))


def test_a_name_that_is_no_text_is_no_obstacle(reader, write, dicom, collimated):
    path = write(dicom(collimated()), os.fsdecode(b"\xe4.dcm"))
    assert reader.read(path, r"\xe4.dcm").identity.name == r"\xe4.dcm"


def test_one_process_reads_many_images(reader, write, dicom, collimated):
    path = write(dicom(collimated()))
    assert len({reader.read(path, "X.dcm") and pid(reader) for _ in range(5)}) == 1


def test_a_process_that_has_read_its_share_is_replaced(started, write, dicom, collimated):
    reader, path, pids = started(most_images=2), write(dicom(collimated())), []
    for _ in range(4):
        reader.read(path, "X.dcm")
        pids.append(pid(reader))
    assert pids[0] == pids[1] != pids[2] == pids[3]


def test_a_large_image_s_memory_is_given_back_with_the_process(started, write, dicom, collimated):
    reader, pids = started(), []
    for pixels in (np.arange(2**24, dtype="<u4").reshape(4096, 4096), collimated(), collimated()):
        reader.read(write(dicom(pixels)), "X.dcm")
        pids.append(pid(reader))
    assert pids[0] != pids[1] == pids[2]


@pytest.mark.parametrize("failure", [MemoryError(), OSError(12, "Cannot allocate memory")])
def test_no_memory_for_the_pixels_is_no_fault_of_the_file(started, write, dicom, collimated, monkeypatch, failure):
    def none(*_sides):
        raise failure

    path, reader = write(dicom(collimated())), started()
    with monkeypatch.context() as patch:
        patch.setattr("edge.processes.shared_pixels.SharedPixels.copy", none)
        assert "no memory for its pixels just now" in fails(reader, path, ImageUnreadable)
    assert reader.read(path, "X.dcm").identity.name == "X.dcm"


def test_no_memory_to_share_is_no_fault_of_the_file(started, write, dicom, collimated, monkeypatch):
    def none(*_args):
        raise OSError(12, "Cannot allocate memory")

    path, reader = write(dicom(collimated())), started()
    with monkeypatch.context() as patch:
        patch.setattr("os.memfd_create", none)
        with pytest.raises(ImageUnreadable, match="the reader cannot be started"):
            reader.read(path, "X.dcm")
    assert reader.read(path, "X.dcm").identity.name == "X.dcm"


def test_a_process_that_died_between_two_images_is_replaced_and_no_image_blamed(started, write, dicom, collimated):
    reader, path = started(), write(dicom(collimated()))
    reader.read(path, "X.dcm")
    dead = pid(reader)
    os.kill(dead, signal.SIGKILL)
    os.waitid(os.P_PID, dead, os.WEXITED | os.WNOWAIT)
    assert reader.read(path, "X.dcm").pixels.shape == (192, 256)
    assert pid(reader) != dead


# --- refusals ---


@pytest.mark.parametrize(
    ("kind", "change", "says"),
    [
        (UnsupportedImage, {"SamplesPerPixel": 3}, ""),
        (ImplausibleGeometry, {"RTImageSID": "0"}, "RTImageSID"),
        (DamagedImage, {"PixelData": bytes(100)}, "cut short"),
    ],
)
def test_a_refusal_comes_over_in_its_own_words(reader, write, dicom, collimated, kind, change, says):
    assert says in fails(reader, write(dicom(collimated(), **change)), kind)


def test_what_is_no_image_is_told(reader, write):
    fails(reader, write(b"hello"), NotAnImage)


def test_what_cannot_be_read_is_told(reader, tmp_path):
    assert "No such file" in fails(reader, tmp_path / "nothing", ImageUnreadable)


def test_a_file_larger_than_configured_is_refused(started, write, dicom, collimated):
    message = fails(started(replace(LIMITS, file_bytes=1000)), write(dicom(collimated())), FileTooLarge)
    assert "the limit is 1000" in message


def test_the_limits_are_those_of_the_configuration():
    config = Config(read_memory_mb=700, read_s=9.0, largest_file_mb=3)
    assert ReaderLimits.of(config) == ReaderLimits(memory_mb=700, cpu_s=9.0, wall_s=9.0, file_bytes=3 * 2**20)


# --- hostile files: recipes that cost pydicom gigabytes, and minutes ---


def nested(depth):
    """Return sequences of undefined length in one another."""
    item = struct.pack("<HH2sHI", 0x40, 0xA730, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    return item * depth + struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0) * depth


def before_pixels(whole, inserted):
    """Return a DICOM file with more elements of group 0040 before its group 3002."""
    at = whole.index(struct.pack("<HH", 0x3002, 0x000D))
    return whole[:at] + inserted + whole[at:]


def test_a_deflate_bomb_is_refused_unopened(reader, write, dicom, collimated):
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(256)) + packer.flush()
    whole = dicom(collimated(16, 16, (2, 14, 2, 14)), syntax=DEFLATED)
    message = fails(reader, write(whole[: whole.index(b"\x08\0\x16\0")] + bomb), UnsupportedImage)
    assert "Deflated" in message


def test_sequences_nested_without_end_are_damage(reader, write, dicom, collimated):
    fails(reader, write(before_pixels(dicom(collimated()), nested(3000))), DamagedImage)


def test_a_header_of_empty_items_is_refused(reader, write, dicom, collimated):
    start = struct.pack("<HH2sHI", 0x40, 0xA730, b"SQ", 0, 0xFFFFFFFF)
    items = start + struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 10**6 + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    assert "sequence items" in fails(reader, write(before_pixels(dicom(collimated()), items)), UnsupportedImage)


def test_an_rle_bomb_within_the_limits_is_an_image_of_nothing(reader, write, dicom):
    path = write(dicom(np.zeros((8192, 8192), "<u2"), syntax=RLE, frames=[rle_bomb(8192)]))
    assert "same value" in fails(reader, path, DamagedImage)


def test_a_file_that_takes_too_much_memory_is_told_so_and_the_next_one_is_read(started, write, dicom, collimated):
    reader = started(replace(LIMITS, memory_mb=300))
    message = fails(reader, write(dicom(np.ones((8192, 8192), "<u2")), "bomb"), ReaderDied)
    assert message == "X.dcm: took more than 300 MiB to read; export it anew, or raise read_memory_mb"
    assert reader.read(write(dicom(collimated())), "Y.dcm").identity.name == "Y.dcm"


def test_a_decoder_that_hides_what_it_ran_out_of_makes_the_file_damaged(started, write, dicom):
    # pydicom keeps only the text of what its decoders raise, and a MemoryError has none
    path = write(dicom(np.zeros((8192, 8192), "<u2"), syntax=RLE, frames=[rle_bomb(8192)]))
    assert "cannot be decoded" in fails(started(replace(LIMITS, memory_mb=316)), path, DamagedImage)


@pytest.fixture
def endless(write, dicom, collimated):
    """Return a file of 40 MB whose header has so many elements that it is read for several seconds."""
    element = struct.pack("<HH2sH", 0x40, 0x0244, b"DA", 0)
    return write(before_pixels(dicom(collimated()), element * 5_000_000), "endless")


def test_a_file_that_computes_too_long_is_ended_by_the_kernel(started, endless):
    reader = started(replace(LIMITS, cpu_s=0.0))  # what was used, rounded up: less than a second is left
    assert "was killed by SIGXCPU" in fails(reader, endless, ReaderDied)


def test_a_file_that_takes_too_long_is_ended(started, endless, write, dicom, collimated):
    reader = started(replace(LIMITS, wall_s=2.0))
    assert "gave no answer within 2 s" in fails(reader, endless, ReaderDied)
    assert reader.read(write(dicom(collimated())), "Y.dcm").identity.name == "Y.dcm"


def test_computing_time_is_granted_image_by_image(started, write, dicom, collimated):
    # 2 s are the most that the first one is granted: less than 1 s for the start, 1 s, rounded up
    reader, path = started(replace(LIMITS, cpu_s=1.0)), write(dicom(collimated(2048, 2048, (9, 2000, 9, 2000))))
    used_s, first = 0.0, None
    while used_s < 2.1:
        reader.read(path, "X.dcm")
        first = first or pid(reader)
        fields = Path(f"/proc/{pid(reader)}/stat").read_text().rsplit(")", 1)[1].split()
        used_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    assert pid(reader) == first


def test_a_reader_is_bound_by_the_kernel(reader, write, dicom, collimated):
    reader.read(write(dicom(collimated())), "X.dcm")
    assert resource.prlimit(pid(reader), resource.RLIMIT_AS) == (2**30, 2**30)
    assert resource.prlimit(pid(reader), resource.RLIMIT_CORE) == (0, 0)
    assert resource.prlimit(pid(reader), resource.RLIMIT_FSIZE) == (0, 0)
    assert resource.prlimit(pid(reader), resource.RLIMIT_NOFILE) == (32, 32)
    assert resource.prlimit(pid(reader), resource.RLIMIT_CPU)[0] < 60


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.57"])
def test_a_decoder_is_found_under_the_limits(started, write, dicom, collimated, lossless_jpeg, syntax):
    pixels = collimated()
    path = write(dicom(pixels, syntax=syntax, frames=[lossless_jpeg(pixels, syntax)]))
    assert np.array_equal(started().read(path, "X.dcm").pixels, pixels.astype(np.float32))


def test_too_little_memory_for_the_reader_itself_is_a_fault_of_the_configuration(started):
    with pytest.raises(BadConfig, match=r"read_memory_mb is 100, and the reader needs \d+ .*: raise it"):
        started(replace(LIMITS, memory_mb=100)).await_ready()
