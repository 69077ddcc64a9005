import hashlib
import io

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.pixels import get_encoder

from edge.errors import ImageUnreadable
from edge.geometry import GANTRY_UNTRUSTED, RECEPTOR_TRANSLATION_ASSUMED
from edge.planned_beam import beam_key
from edge.portal_image import read_portal_image

SIGN = "PixelIntensityRelationshipSign"
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
RLE, BASELINE = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.50"
JPEG_LOSSLESS, JPEG_LOSSLESS_SV1 = "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"
JPEG_LS, JPEG_LS_NEAR = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"
J2K_LOSSLESS, J2K = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"


def same_up_to_gain_and_offset(a, b):
    """Whether b = gain * a + offset with a positive gain, within a thousandth of the image's range."""
    low, high = a.argmin(), a.argmax()
    gain = (b.flat[high] - b.flat[low]) / (a.flat[high] - a.flat[low])
    offset = b.flat[low] - gain * a.flat[low]
    return gain > 0 and np.abs(gain * a + offset - b).max() < 1e-3 * np.ptp(b)


@pytest.fixture
def read(dicom, write):
    """Return a function: build a DICOM file of these pixels and attributes, and read it."""

    def build_and_read(pixels, **changes):
        return read_portal_image(write(dicom(pixels, **changes)))

    return build_and_read


# --- pixels ---


def test_a_plain_file_gives_its_stored_values_read_only_in_single_precision(read, collimated):
    image = read(collimated())
    np.testing.assert_array_equal(image.pixels, collimated())
    assert image.pixels.dtype == np.float32
    assert not image.pixels.flags.writeable


@pytest.mark.parametrize("dtype", ["u1", "i1", "<u2", "<i2", "<u4", "<i4"])
@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
def test_stored_values_of_every_width_and_sign_are_read(read, dtype, syntax):
    info = np.iinfo(dtype)
    values = np.linspace(max(info.min, -(2**23)), min(info.max, 2**23), 33 * 31)  # whole numbers that a float32 holds
    pixels = np.rint(values).astype(dtype).reshape(33, 31)  # an odd number of bytes needs padding
    np.testing.assert_array_equal(read(pixels, syntax=syntax).pixels, pixels.astype(np.float32))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("high_bit", [11, 13])
def test_unused_bits_do_not_count(read, signed, high_bit):
    values = np.arange(-2048, 2048) if signed else np.arange(4096)
    garbage = np.random.default_rng(1).integers(0, 2**16, 4096)
    mask = 0xFFF << (high_bit - 11)
    stored = (((values << (high_bit - 11)) & mask) | (garbage & ~mask)).astype("<u2").reshape(64, 64)
    image = read(stored, BitsStored=12, HighBit=high_bit, PixelRepresentation=int(signed))
    np.testing.assert_array_equal(image.pixels.ravel(), values)


def test_rescaling_is_applied(read, collimated):
    image = read(collimated(), RescaleSlope="0.5", RescaleIntercept="-100")
    np.testing.assert_allclose(image.pixels, collimated() * 0.5 - 100, rtol=1e-6)


@pytest.mark.parametrize("nothing", [None, ""])
def test_without_rescale_attributes_values_are_as_stored(read, collimated, nothing):
    image = read(collimated(), RescaleSlope=nothing, RescaleIntercept=nothing)
    np.testing.assert_array_equal(image.pixels, collimated())


# --- polarity: the same radiation, written down in different ways ---


def test_the_sign_attribute_decides_where_it_is_present(read, collimated):
    plus, minus = (read(collimated(), **{SIGN: sign}) for sign in (1, -1))
    assert plus.polarity_source == minus.polarity_source == SIGN
    np.testing.assert_array_equal(minus.pixels, -plus.pixels)


def test_inverted_values_with_the_opposite_sign_are_the_same_image(read, collimated):
    assert same_up_to_gain_and_offset(
        read(collimated(), **{SIGN: 1}).pixels, read(65535 - collimated(), **{SIGN: -1}).pixels
    )


@pytest.mark.parametrize("sign", [1, -1, None])
def test_inverted_values_with_a_negative_slope_are_the_same_image(read, collimated, sign):
    """The sign is applied after rescaling: the image's content is not asked, which could err."""
    plain = read(collimated(), **{SIGN: sign})
    negative = read(65535 - collimated(), RescaleSlope="-1", RescaleIntercept="65535", **{SIGN: sign})
    np.testing.assert_array_equal(negative.pixels, plain.pixels)
    assert negative.polarity_source == plain.polarity_source
    assert (negative.polarity_source == SIGN) == (sign is not None)


def test_a_strip_is_too_narrow_to_judge_but_is_read(read):
    strip = read(np.tile(np.arange(3000, dtype="<u2"), (2, 1)), **{SIGN: None})
    assert strip.polarity_source == "image content undecided, taken as stored"


@pytest.mark.parametrize("sign", [1, -1, None])
def test_the_display_attribute_monochrome_changes_nothing(read, collimated, sign):
    one, two = (
        read(collimated(), PhotometricInterpretation=kind, **{SIGN: sign}) for kind in ("MONOCHROME1", "MONOCHROME2")
    )
    np.testing.assert_array_equal(one.pixels, two.pixels)
    assert one.polarity_source == two.polarity_source


@pytest.mark.parametrize("value", [None, "", 0, 2])
def test_without_a_valid_sign_the_image_content_decides(read, collimated, value):
    stored, inverted = (read(pixels, **{SIGN: value}) for pixels in (collimated(), 65535 - collimated()))
    assert stored.polarity_source == inverted.polarity_source == "image content (collimator shadow)"
    np.testing.assert_array_equal(stored.pixels, collimated())
    assert same_up_to_gain_and_offset(stored.pixels, inverted.pixels)


# --- who it is, and where the millimetres are from ---


def test_the_identity_is_the_file_s(read, dicom, write, collimated):
    data = dicom(collimated())
    identity = read_portal_image(write(data, "RI [1] of 2")).identity
    assert identity.name == "RI [1] of 2"
    assert identity.sha256 == hashlib.sha256(data).hexdigest()
    assert (identity.sop_instance_uid, identity.modality) == ("1.2.3.4", "RTIMAGE")
    assert (identity.rows, identity.columns) == (192, 256)


def test_a_spooled_file_keeps_its_own_name(dicom, write, collimated):
    image = read_portal_image(write(dicom(collimated()), "0001.spool"), name="RI.1.dcm")
    assert image.identity.name == "RI.1.dcm"


def test_an_illegal_uid_is_kept_as_it_is(read, collimated):
    uid = "259cc3de5564af72eaa11ed4c2be64aa"
    assert read(collimated(), SOPInstanceUID=uid).identity.sop_instance_uid == uid
    assert read(collimated(), SOPInstanceUID=None).identity.sop_instance_uid is None


@pytest.mark.parametrize(
    "sop_class",
    [
        "1.2.840.10008.5.1.4.1.1.481.1",
        "1.2.840.10008.5.1.4.1.1.1",
        "1.2.840.10008.5.1.4.1.1.1.1",
        "1.2.840.10008.5.1.4.1.1.1.1.1",
        "1.2.840.10008.5.1.4.1.1.7",
    ],
)
def test_every_accepted_class_is_read(read, collimated, sop_class):
    np.testing.assert_array_equal(read(collimated(), SOPClassUID=sop_class).pixels, collimated())


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
def test_a_file_without_preamble_is_the_same_image(dicom, write, collimated, syntax):
    headless = read_portal_image(write(dicom(collimated(), syntax=syntax, headless=True)))
    whole = read_portal_image(write(dicom(collimated(), syntax=syntax)))
    np.testing.assert_array_equal(headless.pixels, whole.pixels)
    assert headless.geometry == whole.geometry is not None


# --- compressed ---


def compressed(pixels, syntax, **options):
    """Return one frame as a codestream."""
    if syntax == BASELINE:
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=100)
        return stream.getvalue()
    return get_encoder(syntax).encode(
        pixels,
        rows=pixels.shape[0],
        columns=pixels.shape[1],
        samples_per_pixel=1,
        number_of_frames=1,
        bits_allocated=pixels.dtype.itemsize * 8,
        bits_stored=pixels.dtype.itemsize * 8,
        pixel_representation=int(pixels.dtype.kind == "i"),
        photometric_interpretation="MONOCHROME2",
        **options,
    )


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, RLE, J2K_LOSSLESS])
def test_an_image_belongs_to_the_beam_that_its_header_names(dicom, write, collimated, syntax):
    frames = [compressed(collimated(), syntax)] if syntax in {RLE, J2K_LOSSLESS} else None
    dataset = pydicom.dcmread(io.BytesIO(dicom(collimated(), syntax=syntax, frames=frames)))
    plan = pydicom.Dataset()
    plan.ReferencedSOPInstanceUID = "1.2.3.99"
    dataset.ReferencedRTPlanSequence, dataset.ReferencedBeamNumber, dataset.PatientID = [plan], "2", "P"
    dataset.save_as(named := io.BytesIO())
    assert read_portal_image(write(named.getvalue())).beam == beam_key("1.2.3.99", 2, "P")


@pytest.mark.parametrize("syntax", [RLE, JPEG_LS, J2K_LOSSLESS])
@pytest.mark.parametrize("dtype", ["<u2", "<i2", "u1"])
def test_lossless_compression_changes_no_pixel(read, collimated, syntax, dtype):
    pixels = (collimated() // (256 if dtype == "u1" else 2)).astype(dtype)
    image = read(pixels, syntax=syntax, frames=[compressed(pixels, syntax)])
    np.testing.assert_array_equal(image.pixels, pixels)
    assert image.geometry is not None


@pytest.mark.parametrize("syntax", [JPEG_LOSSLESS, JPEG_LOSSLESS_SV1])
def test_lossless_jpeg_changes_no_pixel(read, collimated, lossless_jpeg, syntax):
    image = read(collimated(), syntax=syntax, frames=[lossless_jpeg(collimated(), syntax)])
    np.testing.assert_array_equal(image.pixels, collimated())


def test_near_lossless_jpeg_ls_changes_pixels_by_no_more_than_was_asked(read, collimated):
    image = read(collimated(), syntax=JPEG_LS_NEAR, frames=[compressed(collimated(), JPEG_LS_NEAR, jls_error=3)])
    assert 0 < np.abs(image.pixels - collimated()).max() <= 3  # grey levels


def test_lossy_jpeg_2000_changes_pixels_by_about_what_was_asked(read, collimated):
    image = read(collimated(), syntax=J2K, frames=[compressed(collimated(), J2K, j2k_psnr=[80])])
    rms = float(np.sqrt(np.mean((image.pixels - collimated()) ** 2)))
    assert 0 < rms < 2 * 65535 * 10 ** (-80 / 20)  # grey levels: 80 dB below full scale, and as much again


def test_baseline_jpeg_is_read(read, collimated):
    pixels = (collimated() // 256).astype("u1")
    image = read(pixels, syntax=BASELINE, frames=[compressed(pixels, BASELINE)])
    assert np.abs(image.pixels - pixels).max() <= 3  # grey levels, at quality 100


def test_a_frame_in_several_fragments_is_one_image(read, collimated):
    image = read(collimated(), syntax=JPEG_LS, frames=[compressed(collimated(), JPEG_LS)], fragments=3)
    np.testing.assert_array_equal(image.pixels, collimated())


# --- PNG and TIFF ---


def picture(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_grey_picture_has_pixels_and_no_millimetres(write, collimated, kind, bits):
    pixels = (collimated() >> (16 - bits)).astype(f"u{bits // 8}")
    image = read_portal_image(write(picture(Image.fromarray(pixels), kind), "drr.bin"))
    np.testing.assert_array_equal(image.pixels, pixels)
    assert image.polarity_source == "image content (collimator shadow)"
    assert image.geometry is None
    assert kind in image.geometry_reason
    assert image.identity.sop_instance_uid is image.identity.modality is None


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_of_a_tiff_are_read(write, collimated, order):
    pixels = collimated().astype(f"{order}u2")
    data = picture(
        Image.frombytes("I;16" + ("B" if order == ">" else ""), pixels.shape[::-1], pixels.tobytes()), "TIFF"
    )
    np.testing.assert_array_equal(read_portal_image(write(data)).pixels, collimated())


def test_a_grey_picture_stored_as_colour_is_grey(write, collimated):
    grey = (collimated() >> 8).astype(np.int16)
    noisy = np.stack([grey, grey + 2, grey - 1], axis=2).clip(0, 255).astype("u1")
    image = read_portal_image(write(picture(Image.fromarray(noisy), "PNG")))
    assert np.abs(image.pixels - grey).max() <= 1  # grey level


@pytest.mark.parametrize("inverted", [False, True])
def test_a_picture_and_its_negative_are_the_same_image(write, collimated, inverted):
    pixels = (collimated() >> 8).astype("u1")
    image = read_portal_image(write(picture(Image.fromarray(255 - pixels if inverted else pixels), "PNG")))
    assert same_up_to_gain_and_offset(pixels.astype(np.float32), image.pixels)


# --- reading ---


def test_a_file_that_cannot_be_read_now_is_tried_again(tmp_path):
    with pytest.raises(ImageUnreadable, match=r"RI\.9\.dcm.*again"):
        read_portal_image(tmp_path / "RI.9.dcm")


def test_a_file_is_read_once(dicom, write, collimated, monkeypatch):
    import os

    opened, true_open = [], os.open
    path = write(dicom(collimated()))
    monkeypatch.setattr(os, "open", lambda *a, **k: opened.append(a) or true_open(*a, **k))
    read_portal_image(path)
    assert [a[0] for a in opened] == [path]


# --- real files ---


def edges_px(profile):
    """Return where a field's profile crosses half of its height, in pixels, with linear interpolation."""
    low, high = np.percentile(profile, 5), np.median(profile[profile > (profile.min() + profile.max()) / 2])
    half = (low + high) / 2
    above = np.flatnonzero(profile > half)
    first, last = above[0], above[-1]
    return (
        first - (profile[first] - half) / (profile[first] - profile[first - 1]),
        last + (profile[last] - half) / (profile[last] - profile[last + 1]),
    )


def field_edges_mm(image):
    """Return left, right, bottom, top of the field in the isocentre plane, from profiles through the field's middle."""
    bright = image.pixels > (np.percentile(image.pixels, 1) + np.percentile(image.pixels, 99.9)) / 2
    row, column = (int(np.median(np.flatnonzero(bright.any(axis=axis)))) for axis in (1, 0))
    left, right = edges_px(np.median(image.pixels[row - 2 : row + 3], axis=0))
    top, bottom = edges_px(np.median(image.pixels[:, column - 2 : column + 3], axis=1))
    corners = image.geometry.to_isoplane([[left, bottom], [right, top]])
    return corners[0, 0], corners[1, 0], corners[0, 1], corners[1, 1]


JAW_MM = 1.0  # a jaw's position and the half-height of its penumbra agree within this


def test_real_truebeam_field_is_150_mm_wide_around_the_isocentre(real_file):
    image = read_portal_image(real_file("s13"))
    assert image.polarity_source == SIGN
    left, right, bottom, top = field_edges_mm(image)
    assert (left, right, bottom, top) == pytest.approx((-75, 75, -75, 75), abs=JAW_MM)
    assert (right - left, top - bottom) == pytest.approx((150, 150), abs=JAW_MM)


def test_real_jaws_at_minus_60_and_80_mm_are_found_through_a_negative_slope_and_a_shifted_panel(real_file):
    image = read_portal_image(real_file("s12"))
    assert image.polarity_source == "image content (collimator shadow)"
    assert image.geometry.sid_mm == 1050
    assert field_edges_mm(image) == pytest.approx((-60, 80, -100, 100), abs=JAW_MM)


def test_real_headless_mosaiq_file_has_a_corner_position_and_its_field_at_the_isocentre(real_file):
    image = read_portal_image(real_file("s09"))
    assert image.identity.sop_instance_uid == "259cc3de5564af72eaa11ed4c2be64aa"
    assert "corner" in image.geometry.sources["first_pixel_mm"]
    assert image.geometry.warnings == (RECEPTOR_TRANSLATION_ASSUMED, GANTRY_UNTRUSTED)
    np.testing.assert_allclose(image.geometry.to_isoplane([255.5, 191.5]), [0, 0], atol=1e-3)  # mm; 512 x 384 pixels
    left, right, bottom, top = field_edges_mm(image)
    assert (left + right) / 2 == pytest.approx(0, abs=JAW_MM)
    # The export leaves XRayImageReceptorTranslation out, so the panel's sag stays in: 1.3 mm measured along y.
    assert (bottom + top) / 2 == pytest.approx(0, abs=JAW_MM + 0.5)
    assert (right - left, top - bottom) == pytest.approx((20, 20), abs=2)  # mm: a Winston-Lutz field


def test_real_eclipse_drr_has_bone_bright_and_is_inverted(real_file):
    path = real_file("s02")
    image = read_portal_image(path)
    stored = np.frombuffer(path.read_bytes()[-2 * 512 * 512 :], "<u2").reshape(512, 512)
    np.testing.assert_array_equal(image.pixels, -stored.astype(np.float32))
    assert image.polarity_source == "image content (air around the body)"
    assert (image.geometry.sid_mm, image.geometry.sad_mm) == (1000, 1000)
    assert image.geometry.mm_per_px_at_isocentre == (0.9765625, 0.9765625)
