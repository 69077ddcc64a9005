import io

import numpy as np
import pydicom
import pytest
from highdicom import sr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.records import Landmark
from edge.results import report_codes as codes
from edge.results.structured_report import structured_report
from edge.results.wording import WARNING


def read(data):
    """Return the report as highdicom reads it."""
    return sr.ComprehensiveSR.from_dataset(pydicom.dcmread(io.BytesIO(data)))


def rois(data):
    return read(data).content.get_planar_roi_measurement_groups()


def group(data, name):
    """Return the group of measurements that is tracked as ``name``."""
    (found,) = [g for g in read(data).content.get_image_measurement_groups() if g.tracking_identifier == name]
    return found


def values(measured):
    """Return {code value: (value, unit)} of a group."""
    return {m.name.value: (m.value, m.unit.value) for m in measured.get_measurements()}


def comments(measured):
    return [
        item.value for item in measured[0].ContentSequence if item.ValueType == "TEXT" and item.name == codes.COMMENT
    ]


def test_each_landmark_is_a_point_half_a_pixel_from_its_index(portal, making):
    """PS3.3 C.18.6.1.2: (0, 0) is the top-left corner of the first pixel; ours is its centre."""
    shown = portal()
    landmarks = [shown.landmark("spinous_process", 100.25, 40), shown.landmark("tracheal_bifurcation", 0, 191)]
    first, second = rois(structured_report(shown.source, making, landmarks))
    assert first.roi.value.tolist() == [[100.75, 40.5]]
    assert second.roi.value.tolist() == [[0.5, 191.5]]
    assert first.roi.graphic_type == sr.GraphicTypeValues.POINT
    (image,) = first.roi.ContentSequence
    assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.3.4"


def test_each_landmark_has_its_score_uncertainty_and_millimetres(portal, making):
    shown = portal()  # SID 1500, SAD 1000, spacing 0.8 mm: a pixel is 0.8 / 1.5 mm at the isocentre
    landmark = shown.landmark("spinous_process", 127.5 + 15, 95.5 - 30, score=0.625, sigma_px=2.25)
    (only,) = rois(structured_report(shown.source, making, [landmark]))
    assert values(only) == {
        "score": (0.625, "1"),
        "sigma": (2.25, "{pixels}"),
        "x_isoplane": (8.0, "mm"),
        "y_isoplane": (16.0, "mm"),
    }


def test_what_is_not_known_is_not_measured(portal, making):
    shown = portal(RTImageSID=None)
    assert shown.image.geometry is None
    (only,) = rois(structured_report(shown.source, making, [shown.landmark("louis_angle", 9, 9, sigma_px=None)]))
    assert set(values(only)) == {"score"}


def test_landmarks_of_a_kind_are_numbered_and_say_what_they_are(portal, making):
    shown = portal()
    names = ["spinous_process", "spinous_process", "louis_angle"]
    data = structured_report(shown.source, making, [shown.landmark(kind, 9, 9 + i) for i, kind in enumerate(names)])
    tracked = [(g.tracking_identifier, g.finding_type.value) for g in rois(data)]
    assert tracked == [
        ("spinous_process 1", "55678000"),
        ("spinous_process 2", "55678000"),
        ("louis_angle 1", "44612009"),
    ]
    assert len({g.tracking_uid for g in rois(data)}) == 3


def test_a_kind_that_the_table_does_not_know_has_a_code_of_ours(portal, making):
    shown = portal()
    (only,) = rois(structured_report(shown.source, making, [shown.landmark("anterior_tubercle_of_c1", 9, 9)]))
    assert (only.finding_type.value, only.finding_type.scheme_designator) == ("anterior_tubercle_of_c1", codes.SCHEME)
    assert only.finding_type.meaning == "anterior tubercle of c1"


def test_no_landmark_is_a_report_too(portal, making):
    data = structured_report(portal().source, making, [])
    assert rois(data) == []
    assert values(group(data, "image")) == {"landmark_count": (0.0, "{landmarks}")}


def test_a_report_is_unverified_and_says_what_it_must(portal, making):
    data = structured_report(portal().source, making, [], remarks=("SID is 1 µm ± 2°",))
    report = read(data)
    assert (report.VerificationFlag, report.CompletionFlag) == ("UNVERIFIED", "COMPLETE")
    said = comments(group(data, "image"))
    assert said[0] == WARNING
    assert said[-1] == "SID is 1 ?m +- 2 deg"  # letters that every character set has


def test_what_could_not_be_taken_over_from_the_image_is_said(portal, making):
    data = structured_report(portal(SOPInstanceUID="259cc3de").source, making, [])
    assert any("SOPInstanceUID is no legal UID" in text for text in comments(group(data, "image")))


# --- the registration ---


def test_a_shift_has_its_axes_units_interval_and_runner_up(portal, making, registered):
    data = structured_report(portal().source, making, [], registered(outliers=("louis_angle at (1.0, 2.0) mm",)))
    assert values(group(data, "registration")) == {
        "shift_x": (8.25, "mm"),
        "shift_y": (-5.5, "mm"),
        "interval95_x": (0.75, "mm"),
        "interval95_y": (0.875, "mm"),
        "rotation": (1.5, "deg"),
        "residual": (0.625, "mm"),
        "runner_up_x": (8.0, "mm"),
        "runner_up_y": (21.5, "mm"),
        "margin": (12.5, "1"),
        "used_count": (5.0, "{landmarks}"),
    }
    said = comments(group(data, "registration"))
    assert any(text.startswith("The shift is detected minus planned") for text in said)
    assert "Axes: isocentre plane, +x right and +y up in the image" in said
    assert "Outlier: louis_angle at (1.0, 2.0) mm" in said


def test_a_withheld_registration_has_its_reason_and_no_millimetre(portal, making, withheld):
    measured = group(structured_report(portal().source, making, [], withheld), "registration")
    assert set(values(measured)) == {"used_count"}
    assert comments(measured)[0] == "registration withheld: the row may be one vertebra off"


def test_a_withheld_registration_shows_no_number_even_if_it_holds_one(portal, making, registered):
    measured = group(structured_report(portal().source, making, [], registered(status="withheld")), "registration")
    assert set(values(measured)) == {"used_count"}


def test_a_rotation_that_is_not_known_is_not_measured(portal, making, registered):
    data = structured_report(portal().source, making, [], registered(rotation_deg=None, runner_up=None))
    assert not {"rotation", "margin", "runner_up_x"} & set(values(group(data, "registration")))


def test_without_a_registration_there_is_no_group_of_it(portal, making):
    groups = read(structured_report(portal().source, making, [])).content.get_image_measurement_groups()
    assert [g.tracking_identifier for g in groups] == ["image"]


@pytest.mark.parametrize("study", ["1.2.3.1", "1.2.3.77"], ids=["same study", "another study"])
def test_image_and_reference_are_evidence(portal, making, registered, study):
    shown, plan = portal(), portal(SOPInstanceUID="1.2.3.5", StudyInstanceUID=study)
    report = read(structured_report(shown.source, making, [], registered(), plan.source))
    evidence = {(str(one[0]), str(one[2])) for one in report.get_evidence()}
    assert evidence == {("1.2.3.1", "1.2.3.4"), (study, "1.2.3.5")}


# --- laws ---


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.floats(-0.5, 4095.5), st.floats(-0.5, 4095.5)), max_size=4))
def test_points_come_back_where_they_were(portal_source, making, places):
    landmarks = [Landmark("spinous_process", xy, None, 0.5) for xy in places]
    found = [roi.roi.value[0] - 0.5 for roi in rois(structured_report(portal_source, making, landmarks))]
    # px: graphic data are float32, 24 bits of which 12 are before the point
    assert np.allclose(np.reshape(found, (-1, 2)), np.reshape(places, (-1, 2)), rtol=0, atol=2.0**-11)


@pytest.fixture
def portal_source(portal):
    return portal().source
