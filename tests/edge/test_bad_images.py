import io
import os
import struct
import tracemalloc
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.pixels import get_encoder

from edge.errors import (
    DamagedImage,
    EdgeError,
    FileTooLarge,
    ImageUnreadable,
    ImplausibleGeometry,
    NotAnImage,
    UnsupportedImage,
)
from edge.pixel_checks import was_sent_as_text
from edge.portal_image import read_portal_image

IMPLICIT, EXPLICIT, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"
RLE, JPEG_LS, J2K = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"
SMALL = (np.arange(48 * 40).reshape(48, 40) * 7 % 4001).astype("<u2")
MIB = 2**20


@pytest.fixture
def refused(write):
    """Return a function: read these bytes, check that they are refused with this error, and return its message."""

    def read(data, error, name="RI.5.dcm"):
        with pytest.raises(EdgeError) as caught:
            read_portal_image(write(data, name))
        assert type(caught.value) is error, caught.value
        message = str(caught.value)
        assert message.startswith(f"{name}: ")
        assert any(todo in message for todo in ("left alone", "again", "export", "limit")), message
        return message

    return read


@contextmanager
def allocating_less_than(limit_bytes):
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit_bytes


def png(pixels, **options):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", **options)
    return stream.getvalue()


def tiff(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "TIFF")
    return stream.getvalue()


def encoded(pixels, syntax):
    return get_encoder(syntax).encode(
        pixels,
        rows=pixels.shape[0],
        columns=pixels.shape[1],
        samples_per_pixel=1,
        number_of_frames=1,
        bits_allocated=16,
        bits_stored=16,
        pixel_representation=0,
        photometric_interpretation="MONOCHROME2",
    )


# --- not an image ---


@pytest.mark.parametrize(
    "data",
    [b"", b"D", b"hello world\n" * 100, b"<html>", bytes(4096), b"\x08\0", b"\x08\0" * 400, b"\x02\0\x10\0UI\xff\xff"],
    ids=["empty", "one byte", "text", "html", "zeros", "two bytes", "almost headless", "almost meta"],
)
def test_any_other_file_is_left_alone(refused, data):
    assert "left alone" in refused(data, NotAnImage)


@pytest.mark.parametrize(
    ("sop_class", "called"),
    [
        ("1.2.840.10008.5.1.4.1.1.481.5", "RT Plan Storage"),
        ("1.2.840.10008.5.1.4.1.1.2", "CT Image Storage"),
        ("1.2.840.10008.5.1.4.1.1.66.1", "Spatial Registration Storage"),
        ("1.2.840.10008.1.3.10", "Media Storage Directory Storage"),
        ("1.2.3.4.5", "1.2.3.4.5"),
        ("not a uid at all", "a malformed UID"),
    ],
)
@pytest.mark.parametrize("headless", [False, True])
def test_another_dicom_object_is_called_by_its_name(refused, dicom, sop_class, called, headless):
    assert called in refused(dicom(SMALL, SOPClassUID=sop_class, headless=headless), NotAnImage)


def test_another_object_is_recognised_before_its_data_set_is_read(refused, dicom):
    plan = dicom(SMALL, SOPClassUID="1.2.840.10008.5.1.4.1.1.481.5", syntax=DEFLATED)
    assert "RT Plan Storage" in refused(plan, NotAnImage)


def test_a_headless_file_must_name_its_class(refused, dicom):
    assert "no SOP class" in refused(dicom(SMALL, SOPClassUID=None, headless=True), NotAnImage)


@pytest.mark.parametrize("make", [lambda p: p.mkdir(), os.mkfifo], ids=["folder", "named pipe"])
def test_only_regular_files_are_read_and_nothing_waits_for_a_pipe(tmp_path, make):
    make(tmp_path / "RI.5.dcm")
    with pytest.raises(NotAnImage, match="regular"):
        read_portal_image(tmp_path / "RI.5.dcm")


# --- the surroundings ---


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux's /proc")
def test_an_input_output_error_while_reading_is_no_verdict_on_the_file():
    with pytest.raises(ImageUnreadable, match="Input/output error"):
        read_portal_image(Path("/proc/self/mem"))  # a regular file whose first byte cannot be read


# --- unsupported ---


def test_a_file_over_the_size_limit_is_not_read(tmp_path):
    path = tmp_path / "RI.5.dcm"
    path.touch()
    os.truncate(path, 257 * MIB)  # sparse
    with allocating_less_than(MIB), pytest.raises(FileTooLarge, match="limit"):
        read_portal_image(path)


def test_the_size_limit_is_a_number_of_bytes(dicom, write):
    path = write(dicom(SMALL))
    size = path.stat().st_size
    assert read_portal_image(path, max_bytes=size).identity.rows == 48
    with pytest.raises(FileTooLarge, match=str(size)):
        read_portal_image(path, max_bytes=size - 1)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, J2K])
def test_a_header_of_65535_x_65535_pixels_allocates_nothing(refused, dicom, syntax):
    frames = [encoded(SMALL, J2K)] if syntax == J2K else None
    huge = dicom(SMALL, Rows=65535, Columns=65535, syntax=syntax, frames=frames)
    with allocating_less_than(MIB):
        assert "65535 x 65535" in refused(huge, UnsupportedImage)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "colour"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour"),
        ({"NumberOfFrames": "2"}, "frames"),
        ({"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}, "bits"),
        ({"BitsAllocated": 64, "BitsStored": 64, "HighBit": 63}, "bits"),
        ({"ModalityLUTSequence": b"\xfe\xff\x00\xe0\0\0\0\0"}, "lookup table"),
    ],
)
def test_images_of_a_sort_that_is_not_taken_say_which(refused, dicom, changes, said):
    assert said in refused(dicom(SMALL, **changes), UnsupportedImage)


@pytest.mark.parametrize(
    ("syntax", "called"),
    [
        (DEFLATED, "Deflated"),
        ("1.2.840.10008.1.2.2", "Big Endian"),
        ("1.2.840.10008.1.2.4.51", "JPEG Extended"),
        ("1.2.840.10008.1.2.4.100", "MPEG2"),
        ("1.2.3.4", "1.2.3.4"),
    ],
)
def test_other_transfer_syntaxes_are_refused_by_name(refused, dicom, syntax, called):
    assert called in refused(dicom(SMALL, syntax=syntax), UnsupportedImage)


def test_a_deflated_file_is_refused_before_it_is_inflated(refused, dicom):
    whole = dicom(SMALL, syntax=DEFLATED)
    start = whole.index(struct.pack("<HH", 8, 0x16))
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = packer.compress(whole[start:]) + b"".join(packer.compress(bytes(MIB)) for _ in range(64)) + packer.flush()
    with allocating_less_than(MIB):
        refused(whole[:start] + bomb, UnsupportedImage)


def test_a_colour_picture_is_refused(refused):
    colour = np.zeros((40, 40, 3), "u1")
    colour[:, 20:, 0] = 200
    assert "colour" in refused(png(colour), UnsupportedImage)


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA", "CMYK", "F"])
def test_pictures_of_other_sorts_are_refused(refused, mode):
    stream = io.BytesIO()
    Image.linear_gradient("L").convert(mode).save(stream, "TIFF")
    assert mode in refused(stream.getvalue(), UnsupportedImage)


def test_a_picture_of_several_frames_is_refused(refused):
    stream = io.BytesIO()
    frames = [Image.fromarray((SMALL // 20 + i).astype("u1")) for i in range(2)]
    frames[0].save(stream, "TIFF", save_all=True, append_images=frames[1:])
    assert "frames" in refused(stream.getvalue(), UnsupportedImage)


def test_a_picture_that_claims_to_be_huge_is_refused_from_its_header(refused):
    honest = png((SMALL // 20).astype("u1"))
    for side in (9000, 60000):  # above our limit; above pillow's own
        header = struct.pack(">II", side, side) + honest[24:29]
        lying = honest[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + honest[33:]
        assert "limit" in refused(lying, UnsupportedImage)


# --- damaged ---


@pytest.mark.parametrize("missing", [1, 2, 100, 48 * 40 * 2 - 1])
@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
def test_a_file_cut_short_in_its_pixels_says_how_many_are_there(refused, dicom, missing, syntax):
    message = refused(dicom(SMALL, syntax=syntax)[:-missing], DamagedImage)
    assert "cut short" in message
    assert f"has {48 * 40 * 2 - missing} bytes" in message


def test_pixel_data_of_the_wrong_length_are_refused(refused, dicom):
    assert "need 3840" in refused(dicom(SMALL, PixelData=bytes(3842)), DamagedImage)


@pytest.mark.parametrize("value", [None, b""])
def test_missing_pixel_data_are_called_missing(refused, dicom, value):
    assert "missing" in refused(dicom(SMALL, PixelData=value), DamagedImage)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"Rows": 0}, "0 rows"),
        ({"Columns": 0}, "0 columns"),
        ({"Rows": None}, "Rows"),
        ({"Columns": b""}, "Columns"),
        ({"Rows": b"48  "}, "Rows"),
        ({"BitsAllocated": None}, "BitsAllocated"),
        ({"BitsStored": 17}, "17 bits"),
        ({"BitsStored": 0}, "0 bits"),
        ({"HighBit": 3}, "bit 3"),
        ({"RescaleSlope": "nan"}, "RescaleSlope"),
        ({"RescaleSlope": "steep"}, "RescaleSlope"),
        ({"RescaleSlope": "1\\2"}, "RescaleSlope"),
        ({"RescaleIntercept": "-inf"}, "RescaleIntercept"),
        ({"RescaleSlope": "1e300"}, "not finite"),
        ({"RescaleIntercept": "1e39"}, "not finite"),
        ({"RescaleSlope": "0"}, "same value"),
        ({"NumberOfFrames": "many"}, "NumberOfFrames"),
        ({"SOPClassUID": None}, "SOP class"),
    ],
)
def test_headers_that_contradict_themselves_are_refused_and_quoted(refused, dicom, changes, said):
    assert said in refused(dicom(SMALL, **changes), DamagedImage)


@pytest.mark.parametrize("value", [0, 65535, 300])
def test_an_image_of_one_value_is_refused(refused, dicom, value):
    assert "same value" in refused(dicom(np.full((48, 40), value, "<u2")), DamagedImage)
    assert "same value" in refused(png(np.full((48, 40), value % 256, "u1")), DamagedImage)


def test_a_source_behind_the_receptor_is_refused_by_file(refused, dicom):
    assert "RTImageSID" in refused(dicom(SMALL, RTImageSID="-1500"), ImplausibleGeometry)


def test_a_text_mode_transfer_is_recognised(refused, dicom):
    pixels = np.random.default_rng(0).integers(0, 65536, (128, 128)).astype("<u2")
    sent = dicom(pixels, RTImageDescription="two\nlines").replace(b"\n", b"\r\n")
    assert "text-mode transfer" in refused(sent, DamagedImage)
    assert "text-mode transfer" in refused(png(pixels).replace(b"\n", b"\r\n"), DamagedImage)


def test_other_damage_is_not_called_a_text_mode_transfer(refused, dicom):
    pixels = np.random.default_rng(0).integers(0, 65536, (128, 128)).astype("<u2")
    assert "text-mode" not in refused(dicom(pixels)[:-2], DamagedImage)
    assert not was_sent_as_text(b"\r\n" * 31)
    assert was_sent_as_text(b"\r\n" * 32)


@pytest.mark.parametrize("syntax", [RLE, JPEG_LS, J2K])
@pytest.mark.parametrize("keep", [0.01, 0.1, 0.5, 0.95])
def test_a_compressed_frame_cut_short_is_refused(refused, dicom, syntax, keep):
    stream = encoded(SMALL, syntax)
    refused(dicom(SMALL, syntax=syntax, frames=[stream[: int(keep * len(stream))]]), DamagedImage)


@pytest.mark.parametrize("tail", [b"", bytes(400)], ids=["cut", "preallocated"])
def test_a_lossless_jpeg_cut_short_is_refused_although_its_decoder_would_guess_the_rest(
    refused, dicom, collimated, lossless_jpeg, tail
):
    stream = lossless_jpeg(collimated(), JPEG_LOSSLESS)
    cut = dicom(collimated(), syntax=JPEG_LOSSLESS, frames=[stream[: len(stream) // 2] + tail])
    assert "cut short" in refused(cut, DamagedImage)


@pytest.mark.parametrize("syntax", [JPEG_LS, J2K])
def test_a_codestream_of_another_size_is_refused_before_it_is_decoded(refused, dicom, syntax):
    stream = encoded(SMALL, syntax)
    size, lie = (struct.pack(f, 48, 40) for f in (">HH", ">HH"))
    if syntax == J2K:
        size, lie = struct.pack(">II", 40, 48), struct.pack(">II", 60000, 60000)
    else:
        lie = struct.pack(">HH", 60000, 60000)
    assert stream.count(size) >= 1
    lying = stream.replace(size, lie, 1)
    assert "not of 48 x 40" in refused(dicom(SMALL, syntax=syntax, frames=[lying]), DamagedImage)


def test_raw_pixels_that_claim_to_be_compressed_are_refused(refused, dicom):
    refused(dicom(SMALL, syntax=J2K), DamagedImage)
    refused(dicom(SMALL, syntax=RLE, frames=[bytes(64) + bytes(200)]), DamagedImage)


def test_an_rle_bomb_is_refused_by_its_length(refused, dicom):
    bomb = struct.pack("<16I", 2, 64, 100_064, *[0] * 13) + b"\x81\x00" * 100_000
    assert "more compressed" in refused(dicom(SMALL, syntax=RLE, frames=[bomb]), DamagedImage)


def test_a_deeply_nested_sequence_is_refused(refused, dicom):
    nest = (
        struct.pack("<HH2sHI", 0x40, 0xA730, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    ) * 5000
    whole = dicom(SMALL)
    at = whole.index(struct.pack("<HH", 0x7FE0, 0x10))
    assert "RecursionError" in refused(whole[:at] + nest + whole[at:], DamagedImage)


def test_a_hundred_thousand_empty_items_are_refused_before_they_are_walked(refused, dicom):
    items = (
        struct.pack("<HH2sHI", 0x40, 0xA730, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 100_000
    )
    whole = dicom(SMALL)
    at = whole.index(struct.pack("<HH", 0x7FE0, 0x10))
    assert "items" in refused(whole[:at] + items + whole[at:], UnsupportedImage)


def test_a_refusal_reads_the_same_each_time_and_fits_a_line(refused):
    for data in (b"\x89PNG\r\n", b"II*\0" + bytes(100), png(SMALL)[:200]):
        messages = {refused(data, DamagedImage) for _ in range(3)}
        assert len(messages) == 1
        (message,) = messages
        assert "0x" not in message
        assert "\n" not in message
        assert len(message) < 300
