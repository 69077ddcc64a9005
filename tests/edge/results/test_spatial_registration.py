import io
import math

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.results.spatial_registration import image_to_reference, spatial_registration


def items(data):
    """Return {referenced image: (frame of reference, 4x4 matrix)} and the object itself."""
    made = pydicom.dcmread(io.BytesIO(data))
    found = {}
    for item in made.RegistrationSequence:
        (matrix,) = item.MatrixRegistrationSequence[0].MatrixSequence
        assert matrix.FrameOfReferenceTransformationMatrixType == "RIGID"
        numbers = np.reshape([float(value) for value in matrix.FrameOfReferenceTransformationMatrix], (4, 4))
        found[str(item.ReferencedImageSequence[0].ReferencedSOPInstanceUID)] = str(item.FrameOfReferenceUID), numbers
    return found, made


@pytest.fixture
def pair(portal):
    """Return an image and its reference."""
    return portal().source, portal(SOPInstanceUID="1.2.3.5", SeriesInstanceUID="1.2.3.6").source


@given(
    st.tuples(st.floats(-30, 30), st.floats(-30, 30)),
    st.floats(-5, 5),
    st.tuples(st.floats(-200, 200), st.floats(-200, 200)),
)
def test_the_matrix_takes_a_landmark_back_to_where_the_plan_has_it(registered, shift_mm, rotation_deg, planned_mm):
    cosine, sine = math.cos(math.radians(rotation_deg)), math.sin(math.radians(rotation_deg))
    x, y = planned_mm
    detected = (cosine * x - sine * y + shift_mm[0], sine * x + cosine * y + shift_mm[1])  # turned, then shifted
    matrix = np.array(image_to_reference(registered(shift_mm=shift_mm, rotation_deg=rotation_deg)))
    assert matrix @ (*detected, 7.0, 1.0) == pytest.approx((x, y, 7.0, 1.0), abs=1e-9)  # mm


def test_the_image_is_registered_to_its_reference(pair, making, registered):
    image, reference = pair
    found, made = items(
        spatial_registration(image, reference, making, registered(shift_mm=(8.0, -5.0), rotation_deg=None))
    )
    frame, identity = found["1.2.3.5"]
    assert frame == made.FrameOfReferenceUID  # the frame that the object is written in
    assert np.array_equal(identity, np.eye(4))
    other_frame, matrix = found["1.2.3.4"]
    assert other_frame != frame
    moved = np.eye(4)
    moved[:2, 3] = -8.0, 5.0  # back by the shift
    assert np.array_equal(matrix, moved)


def test_no_frame_is_the_patient_s(portal, making, registered):
    """A program that follows the plan's frame of reference would take image axes for the patient's."""
    theirs = "1.2.3.99"
    image, reference = (portal(FrameOfReferenceUID=theirs, SOPInstanceUID=uid).source for uid in ("1.2.3.4", "1.2.3.5"))
    data = spatial_registration(image, reference, making, registered())
    found, made = items(data)
    assert theirs not in {made.FrameOfReferenceUID, *(frame for frame, _ in found.values())}
    assert theirs.encode() not in data


@pytest.mark.parametrize("study", ["1.2.3.1", "1.2.3.77"], ids=["same study", "another study"])
def test_both_images_are_referred_to_by_study_and_series(portal, making, registered, study):
    reference = portal(SOPInstanceUID="1.2.3.5", SeriesInstanceUID="1.2.3.6", StudyInstanceUID=study).source
    _, made = items(spatial_registration(portal().source, reference, making, registered()))
    found = {
        (str(made.StudyInstanceUID), str(series.SeriesInstanceUID), str(one.ReferencedSOPInstanceUID))
        for series in made.ReferencedSeriesSequence
        for one in series.ReferencedInstanceSequence
    } | {
        (str(other.StudyInstanceUID), str(series.SeriesInstanceUID), str(one.ReferencedSOPInstanceUID))
        for other in made.get("StudiesContainingOtherReferencedInstancesSequence", [])
        for series in other.ReferencedSeriesSequence
        for one in series.ReferencedInstanceSequence
    }
    assert found == {("1.2.3.1", "1.2.3.2", "1.2.3.4"), (study, "1.2.3.6", "1.2.3.5")}


def test_the_figures_fit_and_are_there(pair, making, registered):
    image, reference = pair
    widest = registered(shift_mm=(-123.4, -123.4), interval95_mm=(123.4, 123.4), rotation_deg=-12.3)
    _, made = items(spatial_registration(image, reference, making, widest))
    comment = made.RegistrationSequence[1].MatrixRegistrationSequence[0].FrameOfReferenceTransformationComment
    assert comment == "x -123.4 +- 123.4, y -123.4 +- 123.4 mm, rotation -12.3 deg"
    assert len(comment) <= 64


def test_a_withheld_registration_gives_no_object(pair, making, withheld, registered):
    for registration in (withheld, registered(status="withheld", reason="the row may be one vertebra off")):
        reason = spatial_registration(*pair, making, registration)
        assert reason == "no registration object, since the registration is withheld: the row may be one vertebra off"


def test_without_the_reference_s_file_there_is_no_object(pair, making, registered):
    assert "not at hand" in str(spatial_registration(pair[0], None, making, registered()))


def test_an_image_is_not_registered_to_itself(pair, making, registered):
    assert "its own reference" in str(spatial_registration(pair[0], pair[0], making, registered()))
