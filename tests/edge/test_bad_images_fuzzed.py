"""Whatever happens to a file, it is an image or one of our errors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import EdgeError, Refused
from edge.portal_image import read_portal_image
from edge.records import PortalImage
from tests.edge.test_bad_images import EXPLICIT, IMPLICIT, RLE, encoded, png, tiff


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
