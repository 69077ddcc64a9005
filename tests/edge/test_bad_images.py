import io
import os
import struct
import tracemalloc
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.pixels import get_encoder

from edge.errors import (
    DamagedImage,
    EdgeError,
    ImageUnreadable,
    ImplausibleGeometry,
    NotAnImage,
    Refused,
    UnsupportedImage,
)
from edge.pixel_checks import was_sent_as_text, zero_tail_share
from edge.portal_image import read_portal_image
from edge.records import PortalImage

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
    with allocating_less_than(MIB), pytest.raises(UnsupportedImage, match="limit"):
        read_portal_image(path)


def test_the_size_limit_is_a_number_of_bytes(dicom, write):
    path = write(dicom(SMALL))
    size = path.stat().st_size
    assert read_portal_image(path, max_bytes=size).identity.rows == 48
    with pytest.raises(UnsupportedImage, match=str(size)):
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


# --- half-written files: preallocated, the tail still zero ---


def with_zero_tail(pixels, share):
    flat = pixels.copy().ravel()
    flat[round(flat.size * (1 - share)) :] = 0
    return flat.reshape(pixels.shape)


@pytest.mark.parametrize("share", [0.02, 0.101, 0.333, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("shadow", [400, 20])
def test_a_zero_tail_is_refused(refused, dicom, collimated, share, shadow):
    image = with_zero_tail(collimated(shadow=shadow), share)
    assert f"last {share:.0%}" in refused(dicom(image), DamagedImage)


@pytest.mark.parametrize("cut", [(50, 60), (95, 128), (150, 200)])
def test_a_zero_tail_is_refused_where_the_shadow_is_zero_too(refused, dicom, collimated, cut):
    """The cut (row, column) lies inside the field: rows 30 to 160, columns 40 to 215."""
    image = np.clip(collimated(shadow=0).astype(int) - 50, 0, None).astype("<u2")
    written = cut[0] * 256 + cut[1]
    image.ravel()[written:] = 0
    assert f"last {1 - written / image.size:.0%}" in refused(dicom(image), DamagedImage)


def honest_zeros():
    """Return name -> (H, W) image whose last rows are zero because nothing reached them."""
    y, x = np.mgrid[0:192, 0:256].astype(float)
    rng = np.random.default_rng(2)
    texture = 20000 + 3000 * np.sin(x / 9) + 2000 * np.cos(y / 7) + rng.normal(0, 100, x.shape)
    turned = np.abs((x - 128) * 0.966 + (y - 96) * 0.259) < 60
    turned &= np.abs((y - 96) * 0.966 - (x - 128) * 0.259) < 50
    slightly = (np.abs((x - 128) + (y - 96) * 0.035) < 60) & (np.abs((y - 96) - (x - 128) * 0.035) < 50)
    fade = np.clip(1 - (y - 100) / 40, 0, 1)
    soft = np.clip((60 - np.maximum(abs(x - 128), abs(y - 96))) / 6, 0, 1)
    rods = (((abs(x - 60) < 8) & (y < 170)) | ((abs(x - 190) < 8) & (y < 171))) * (y > 20)
    return {
        "soft field on clipped zeros": np.clip(texture * soft - 50, 0, None),
        "masked rectangle": texture * ((abs(x - 128) < 60) & (abs(y - 96) < 50)),
        "masked rectangle as wide as the image": texture * (abs(y - 96) < 50),
        "masked circle": texture * ((x - 128) ** 2 + (y - 96) ** 2 < 70**2),
        "masked rectangle turned by 15 deg": texture * turned,
        "masked rectangle turned by 2 deg": texture * slightly,
        "masked rectangle turned by -2 deg": texture * slightly[:, ::-1],
        "lower jaw only, soft": texture * fade,
        "scatter that fades slowly": texture * (y < 60) + np.floor(np.clip((150 - y) / 12, 0, None)),
        "dark noise that rarely counts": texture * (y < 60) + (rng.random(x.shape) < 0.2) * (y < 150),
        "two rods of different length": texture * rods,
        "a dead last row": texture * (y < 191),
    }


@pytest.mark.parametrize("name", honest_zeros())
def test_zeros_that_nothing_reached_are_no_unwritten_tail(name, dicom, write):
    pixels = honest_zeros()[name].astype("<u2")
    assert not pixels[-1].any()
    assert zero_tail_share(pixels) == 0
    assert read_portal_image(write(dicom(pixels))).identity.rows == 192


@pytest.mark.parametrize("name", sorted(set(honest_zeros()) - {"two rods of different length"}))
def test_the_same_images_are_refused_when_their_tail_was_not_written(name):
    """Cut in the middle of a row inside the field: the zero share follows from the cut."""
    pixels = honest_zeros()[name].astype("<u2")
    cut = (50 if name in {"scatter that fades slowly", "dark noise that rarely counts"} else 96) * 256 + 128
    pixels.ravel()[cut:] = 0
    assert zero_tail_share(pixels) == pytest.approx(1 - cut / pixels.size)


# --- whatever happens to a file, it is an image or one of our errors ---


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile") / "RI.5.dcm"


@pytest.fixture(scope="module")
def valid_files(dicom, collimated):
    pixels = collimated(48, 64, jaws=(8, 40, 10, 54))
    return {
        "explicit": dicom(pixels, syntax=EXPLICIT),
        "implicit": dicom(pixels, syntax=IMPLICIT),
        "headless": dicom(pixels, syntax=IMPLICIT, headless=True),
        "rle": dicom(pixels, syntax=RLE, frames=[encoded(pixels, RLE)]),
        "png": png(pixels),
        "tiff": tiff(pixels),
    }


def outcome(path, data):
    """Return the image or our error; anything else passes through and fails the test."""
    path.write_bytes(data)
    try:
        return read_portal_image(path)
    except EdgeError as error:
        return error


HOSTILE = settings(derandomize=True, max_examples=250, database=None, deadline=None)
KINDS = st.sampled_from(["explicit", "implicit", "headless", "rle", "png", "tiff"])


def test_the_files_that_are_about_to_be_harmed_are_valid(valid_files, scratch):
    for kind, data in valid_files.items():
        assert isinstance(outcome(scratch, data), PortalImage), kind


@HOSTILE
@given(kind=KINDS, share=st.floats(0, 1, exclude_max=True))
def test_a_file_truncated_anywhere_is_refused(valid_files, scratch, kind, share):
    whole = valid_files[kind]
    rest = outcome(scratch, whole[: int(share * len(whole))])
    if isinstance(rest, PortalImage):  # a picture may lack what follows its pixels
        assert kind in {"png", "tiff", "rle"}
        np.testing.assert_array_equal(rest.pixels, outcome(scratch, whole).pixels)
    else:
        assert isinstance(rest, Refused)


@HOSTILE
@given(
    kind=KINDS, harm=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=6)
)
def test_flipped_header_bytes_give_an_image_or_a_refusal(valid_files, scratch, kind, harm):
    data = bytearray(valid_files[kind])
    header = 700 if kind in {"explicit", "implicit", "headless", "rle"} else 80
    for place, flip in harm:
        data[int(place * header)] ^= flip
    result = outcome(scratch, bytes(data))
    assert isinstance(result, PortalImage | Refused)
    if isinstance(result, PortalImage):
        assert np.isfinite(result.pixels).all()
        assert (result.geometry is None) == (result.geometry_reason is not None)


@HOSTILE
@given(kind=KINDS, place=st.floats(0, 1), insert=st.binary(min_size=1, max_size=40), cut=st.integers(0, 40))
def test_bytes_put_in_or_taken_out_give_an_image_or_a_refusal(valid_files, scratch, kind, place, insert, cut):
    whole = valid_files[kind]
    at = int(place * len(whole))
    assert isinstance(outcome(scratch, whole[:at] + insert + whole[at + cut :]), PortalImage | Refused)


# --- real files ---


def test_real_file_damaged_by_a_text_mode_transfer_says_so(real_file):
    with pytest.raises(DamagedImage, match=r"pixel data are missing.*text-mode transfer"):
        read_portal_image(real_file("s03"))


def test_real_plan_is_left_alone_by_name(real_file):
    with pytest.raises(NotAnImage, match="RT Plan Storage"):
        read_portal_image(real_file("s04"))


@pytest.mark.parametrize("folder", ["s02", "s09", "s12", "s13"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.613])
def test_real_images_half_written_are_refused(real_file, folder, share, write):
    data = real_file(folder).read_bytes()
    with pytest.raises(DamagedImage, match="cut short"):
        read_portal_image(write(data[: -int(share * 0.9 * len(data))]))
    preallocated = data[: -int(share * 0.9 * len(data))].ljust(len(data), b"\0")
    if folder == "s02" and share == 0.3:
        return  # only background is missing: the zeros that were not written are the zeros that would have been
    with pytest.raises(DamagedImage, match="not fully written"):
        read_portal_image(write(preallocated))


# --- a patient's name in the wrong place ---


@pytest.mark.parametrize(
    "attribute", ["PhotometricInterpretation", "SOPClassUID", "Modality", "SOPInstanceUID", "syntax"]
)
def test_no_text_of_the_header_but_known_terms_and_uids_is_passed_on(dicom, collimated, write, attribute):
    path = write(dicom(collimated(), **{attribute: "DOE^JOHN"}))
    assert b"DOE^JOHN" in path.read_bytes()
    try:
        passed_on = read_portal_image(path, name="X.dcm").identity
    except EdgeError as exc:
        passed_on = exc
    assert "DOE" not in str(passed_on)
