"""Nothing that a file says of a patient is passed on, wherever in it that stands."""

import io
import json
import struct

import numpy as np
import pytest
from PIL import Image

from edge.errors import DamagedImage, EdgeError
from edge.portal_image import read_portal_image
from edge.results.publish import result_path
from tests.edge.daemon_room import Pipeline, Room
from tests.edge.test_bad_images import RLE, encoded

PATIENT = b"DOE^JOHN"
GEOMETRY = (
    *("RTImageSID", "RadiationMachineSAD", "ImagePlanePixelSpacing", "RTImagePosition", "XRayImageReceptorTranslation"),
    *("XRayImageReceptorAngle", "RTImageOrientation", "RTImagePlane", "GantryAngle"),
)
ITEM_TAG = b"\xfe\xff\x00\xe0"


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


@pytest.mark.parametrize("attribute", GEOMETRY)
def test_no_text_of_a_geometry_attribute_is_passed_on_but_numbers_and_terms(dicom, collimated, write, attribute):
    image = read_portal_image(write(dicom(collimated(), **{attribute: "DOE^JOHN"})), name="X.dcm")
    assert attribute in f"{image.geometry_reason} {image.geometry}"
    assert "DOE" not in f"{image.geometry_reason} {image.geometry}"


@pytest.mark.parametrize("value", ["1000,0", "1\\2", "-"])
def test_what_may_have_been_meant_as_a_number_is_quoted(dicom, collimated, write, value):
    image = read_portal_image(write(dicom(collimated(), RTImageSID=value)))
    assert repr(value) in image.geometry_reason


def test_the_other_term_for_the_plane_is_quoted(dicom, collimated, write):
    image = read_portal_image(write(dicom(collimated(), RTImagePlane="NON_NORMAL")))
    assert "'NON_NORMAL'" in image.geometry_reason


# --- the texts of foreign errors, which quote what they do not understand ---


def quoted(data):
    """Return how a library may quote bytes: as text, as numbers, as a tag (PS3.5 7.1.1), also of some of them."""
    numbers = [str(int.from_bytes(data[at : at + 4], "little")) for at in range(len(data) - 3)]
    tags = ["{:04X},{:04X}".format(*struct.unpack_from("<HH", data, at)) for at in range(len(data) - 3)]
    return {data.decode(), "DOE", "JOHN", *numbers, *tags}


def with_a_patient_in_the_frames(whole, shift):
    """Return a compressed DICOM file with a name over the head of the item that holds its frame."""
    at = whole.rindex(ITEM_TAG) + shift
    return whole[:at] + PATIENT + whole[at + len(PATIENT) :]


@pytest.fixture
def frames_of(dicom, collimated):
    """Return a function: a DICOM file damaged so that its decoder's error quotes a patient's name."""
    whole = dicom(collimated(), syntax=RLE, frames=[encoded(collimated(), RLE)])
    return lambda shift: with_a_patient_in_the_frames(whole, shift)


@pytest.mark.parametrize("shift", range(-4, 5))
def test_a_damaged_element_is_not_quoted(frames_of, write, shift):
    with pytest.raises(DamagedImage) as caught:
        read_portal_image(write(frames_of(shift)), name="X.dcm")
    assert not [words for words in quoted(PATIENT) if words in str(caught.value)]


def test_of_a_foreign_error_only_its_name_is_passed_on(frames_of, write):
    with pytest.raises(DamagedImage) as caught:
        read_portal_image(write(frames_of(0)), name="X.dcm")
    assert str(caught.value) == "X.dcm: cannot be decoded (ValueError); send it again"
    assert "4F44,5E45" in str(caught.value.__cause__)  # "DO", "E^": without this there was nothing to pass on


def test_of_a_damaged_picture_neither(write):
    stream = io.BytesIO()
    Image.fromarray((np.arange(1600) % 251).astype("u1").reshape(40, 40)).save(stream, "PNG")
    with pytest.raises(DamagedImage) as caught:
        read_portal_image(write(stream.getvalue()[:60], "X.png"))
    assert str(caught.value) == "X.png: cannot be decoded (OSError); send it again"


class Reading(Pipeline):
    """Stands in for the pipeline, but for reading."""

    def __call__(self, image, results_dir, *, final, tell, upcoming):
        try:
            read_portal_image(image)
        except DamagedImage as exc:
            if not final:
                raise
            return self._refused(image, results_dir, str(exc), tell, kind=type(exc).__name__)
        raise AssertionError(f"{image} was read")


def test_a_damaged_element_reaches_neither_result_nor_log_nor_journal(frames_of, tmp_path):
    room = Room(tmp_path)
    room.stop()
    room.pipeline = Reading(room.clock)
    room.start()
    try:
        image = room.put("X.dcm", frames_of(0))
        room.run_for(1000)
        assert room.entry("X.dcm").reason == "X.dcm: cannot be decoded (ValueError); send it again"
    finally:
        room.stop()
    told = result_path(image, None).read_text() + json.dumps(room.log.entries, default=str)
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("journal.sqlite*"))
    assert "cannot be decoded" in told
    assert b"cannot be decoded" in kept
    assert not [words for words in quoted(PATIENT) if words in told or words.encode() in kept]
