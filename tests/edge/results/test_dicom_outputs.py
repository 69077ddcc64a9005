"""What holds for all DICOM outputs: valid for independent programs, the patient's, the same each time."""

import io
import logging
import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest
from highdicom import sr
from PIL import Image
from pydicom.pixels import get_encoder

from edge.preprocess import fit_into_square
from edge.results.dicom_outputs import SUFFIXES, Findings, dicom_outputs
from edge.results.dicom_source import read_source
from edge.results.overlay import draw_overlay
from edge.results.presentation_state import presentation_state
from edge.results.publish import is_own_output
from edge.results.spatial_registration import spatial_registration
from edge.results.structured_report import structured_report
from edge.results.wording import Alignment

ROOT = Path(__file__).parents[3]
IMPLICIT, RLE = "1.2.840.10008.1.2", "1.2.840.10008.1.2.5"
KINDS_OF_IMAGE = {
    "CR": "1.2.840.10008.5.1.4.1.1.1",
    "DX, presentation": "1.2.840.10008.5.1.4.1.1.1.1",
    "DX, processing": "1.2.840.10008.5.1.4.1.1.1.1.1",
    "SC": "1.2.840.10008.5.1.4.1.1.7",
}
PATIENT = {"StudyInstanceUID": "1.2.3.1", "SeriesInstanceUID": "1.2.3.2"}
NOBODY = dict.fromkeys(
    (
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyDate",
        "StudyTime",
        "StudyID",
        "AccessionNumber",
    )
)


def objects(shown, plan, making, kinds, registration):
    """Return {"SR", "PR", "REG": bytes} of an image with a few landmarks, one at its very corner."""
    height, width = shown.image.pixels.shape
    landmarks = [shown.landmark("spinous_process", width / 2, height * y) for y in (0.2, 0.3, 0.45)]
    landmarks += [shown.landmark("tracheal_bifurcation", width - 0.5, -0.5, sigma_px=None)]
    landmarks += [shown.landmark("spine_line", width / 2 + 3, height * y) for y in (0.1, 0.5, 0.9)]
    aligned = Alignment(landmarks, registration)
    return {
        "SR": structured_report(shown.source, making, landmarks, registration, plan, ("a remark",)),
        "PR": presentation_state(shown.source, making, shown.image, landmarks, kinds, aligned),
        "REG": spatial_registration(shown.source, plan, making, registration),
    }


@pytest.fixture
def all_objects(portal, making, kinds, registered):
    """Return a function: all objects of an image, against a plan of the same patient."""
    plan = portal(SOPInstanceUID="1.2.3.5", SeriesInstanceUID="1.2.3.6").source
    return lambda shown, by=making: objects(shown, plan, by, kinds, registered())


@pytest.fixture
def judged(errors, lacking, tool):
    """Return a function: pydicom, highdicom, dicom3tools and DCMTK read the objects of an image, all of it is there."""

    def all_read(made, image, *, render=True):
        for kind, data in made.items():
            assert pydicom.dcmread(io.BytesIO(data)).Modality == kind
            assert (errors(data), lacking(data)) == ([], []), kind
        assert sr.ComprehensiveSR.from_dataset(pydicom.dcmread(io.BytesIO(made["SR"]))).content is not None
        dumped = tool("dsrdump", "dcmtk", made["SR"])
        assert (dumped.returncode, dumped.stdout.count(b"(POINT,")) == (0, 7), dumped.stderr
        if render:
            assert tool("dcmp2pgm", "dcmtk", "-p", made["PR"], image).returncode == 0

    return all_read


# --- validators ---


@pytest.mark.parametrize("folder", ["s02", "s09", "s12", "s13"])
def test_objects_of_a_real_file_are_valid(folder, real_file, opened, all_objects, judged):
    """s09 has no preamble, no PatientSex and illegal UIDs; s12 has illegal UIDs and a negative slope."""
    shown = opened(real_file(folder))
    judged(all_objects(shown), shown.data, render=shown.data[128:132] == b"DICM")


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "samples").glob("*.dcm")))
def test_objects_of_a_sample_are_valid(name, samples, opened, all_objects, judged):
    shown = opened(samples / name)
    judged(all_objects(shown), shown.data)


@pytest.mark.parametrize(
    "changes",
    [
        {"headless": True, "syntax": IMPLICIT},
        NOBODY,
        {"RTImageSID": None},
        {"PatientSex": None, "SOPInstanceUID": "259cc3de"},
        {"PatientName": "Müller^Jörg".encode("latin-1"), "SpecificCharacterSet": "ISO_IR 100"},
        *({"SOPClassUID": uid, "Modality": "OT"} for uid in KINDS_OF_IMAGE.values()),
    ],
    ids=["headless", "without patient", "without millimetres", "illegal UID", "latin-1", *KINDS_OF_IMAGE],
)
def test_objects_of_every_sort_of_image_are_valid(changes, portal, all_objects, judged):
    shown = portal(**changes)
    # DCMTK reads no data set without a meta header, and takes no state without a name for one, though PS3.3 allows it
    judged(all_objects(shown), shown.data, render=not ({"headless", "PatientName"} & set(changes)))


def test_objects_of_a_compressed_image_are_valid(portal, collimated, all_objects, judged):
    pixels = collimated()
    frame = get_encoder(RLE).encode(
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
    shown = portal(pixels, syntax=RLE, frames=[frame])
    judged(all_objects(shown), shown.data, render=False)  # dcmp2pgm has no decoder for it


def test_a_report_without_landmarks_and_a_state_without_marks_are_valid(portal, making, kinds, withheld, errors):
    shown = portal()
    assert errors(structured_report(shown.source, making, [], withheld)) == []
    assert errors(presentation_state(shown.source, making, shown.image, [], kinds)) == []


@pytest.mark.parametrize(("keyword", "value"), [("Modality", ""), ("PatientID", None), ("Rows", 1)], ids=str)
def test_the_judge_of_what_is_there_sees_what_is_not(portal, all_objects, lacking, keyword, value):
    """A type 1 attribute that is empty, a type 2 one that is absent, and one that belongs into no module."""
    made = pydicom.dcmread(io.BytesIO(all_objects(portal())["REG"]))
    if value is None:
        delattr(made, keyword)
    else:
        setattr(made, keyword, value)
    stream = io.BytesIO()
    made.save_as(stream)
    assert lacking(stream.getvalue()) == [keyword]


# --- the patient ---


def test_the_objects_are_the_patient_s_and_of_the_study(portal, all_objects):
    for kind, data in all_objects(portal()).items():
        made = pydicom.dcmread(io.BytesIO(data))
        assert (made.PatientName, made.PatientID, made.PatientBirthDate, made.PatientSex) == (
            "Muster^Erika",
            "PID-4711",
            "19500102",
            "F",
        ), kind
        assert (made.StudyInstanceUID, made.StudyDate, made.StudyTime, made.StudyID, made.AccessionNumber) == (
            "1.2.3.1",
            "20260105",
            "101112",
            "S7",
            "A8",
        ), kind
        assert made.SeriesInstanceUID != "1.2.3.2"


def test_nothing_else_is_taken_over(portal, all_objects):
    of_the_patient = "PatientAddress", "PatientComments", "OtherPatientIDs", "EthnicGroup"
    of_others = "OperatorsName", "PhysiciansOfRecord", "InstitutionName", "StationName", "Manufacturer"
    of_the_image = "ImageComments", "StudyDescription", "RTImageDescription", "RTImageLabel"
    planted = dict.fromkeys((*of_the_patient, *of_others, *of_the_image), "PLANTED")
    for kind, data in all_objects(portal(**planted)).items():
        assert b"PLANTED" not in data, kind


@pytest.mark.parametrize(
    "changes",
    [
        {"PatientName": "Planted"},
        {"PatientName": "Planted^A^B^C^D^E"},
        {"PatientName": "^^^Planted"},
        {"PatientBirthDate": "planted", "PatientSex": "PLANTED", "StudyDate": "planted"},
        {"StudyID": "planted" * 9, "AccessionNumber": "planted" * 9, "ReferringPhysicianName": "planted=" * 4},
    ],
    ids=["one part", "six parts", "a title", "odd codes", "too long"],
)
def test_no_log_and_no_picture_holds_the_patient(portal, all_objects, kinds, registered, caplog, capfd, changes):
    """highdicom writes a name that it finds odd into its log, and pydicom any odd value."""
    caplog.set_level(logging.DEBUG)
    shown = portal(**({"PatientName": "Planted^A", "PatientID": "PLANTED-ID"} | changes))
    all_objects(shown)
    landmarks = [shown.landmark("spinous_process", 60, 70)]
    placement, _ = fit_into_square(shown.image.pixels.shape, 48)
    heatmaps = np.zeros((3, 36, 36), np.float32)
    png = draw_overlay(shown.image, landmarks, heatmaps, placement, kinds, Alignment(landmarks, registered()))
    assert "planted" not in (caplog.text + "".join(capfd.readouterr()) + str(shown.source.notes)).lower()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert b"planted" not in png.lower()
    assert Image.open(io.BytesIO(png)).info == {}


@pytest.mark.parametrize("keyword", ["PatientName", "PatientID"])
def test_no_reason_and_no_log_holds_a_patient_that_is_refused(dicom, collimated, caplog, capfd, keyword):
    caplog.set_level(logging.DEBUG)
    reason = read_source(dicom(collimated(), **(PATIENT | {keyword: "planted" * 20})), "X.dcm", (192, 256))
    assert keyword in str(reason)
    assert "planted" not in (caplog.text + "".join(capfd.readouterr()) + str(reason)).lower()


# --- all in one ---


@pytest.fixture
def wanted(portal, making, kinds, registered):
    """Return a function: `dicom_outputs` of all sorts for an image with one landmark, against a plan."""

    def of(shown, outputs=tuple(SUFFIXES), **changes):
        landmarks = [shown.landmark("spinous_process", 60, 70)]
        plan = portal(SOPInstanceUID="1.2.3.5").source
        findings = Findings(landmarks, kinds, Alignment(landmarks, registered()), plan, ("a remark",))
        return dicom_outputs(outputs, shown.data, shown.image, replace(findings, **changes), making)

    return of


def test_all_that_is_wanted_is_made_under_its_name(wanted, portal):
    made, notes = wanted(portal())
    found = {suffix: pydicom.dcmread(io.BytesIO(data)).Modality for suffix, data in made.items()}
    assert found == {".landmarks.sr.dcm": "SR", ".landmarks.pr.dcm": "PR", ".landmarks.reg.dcm": "REG"}
    assert notes == ()
    assert all(is_own_output("X" + suffix) for suffix in made)


def test_only_what_is_wanted_is_made(wanted, portal):
    made, _ = wanted(portal(), outputs=("presentation_state",))
    assert set(made) == {".landmarks.pr.dcm"}
    assert wanted(portal(), outputs=()) == ({}, ())


def test_without_a_reference_there_are_a_report_and_marks_and_a_note(wanted, portal):
    made, notes = wanted(portal(), alignment=None, reference=None)
    assert set(made) == {".landmarks.sr.dcm", ".landmarks.pr.dcm"}
    assert notes == ("no registration object, since there is no registration",)


def test_what_was_not_taken_over_is_noted(wanted, portal):
    _, notes = wanted(portal(PatientSex="X"))
    assert notes == ("PatientSex breaks PS3.5 6.2 and is left empty in the DICOM outputs",)


def test_a_picture_gives_no_object_and_says_why(wanted, portal):
    shown = portal()
    assert wanted(replace(shown, data=b"\x89PNG")) == ({}, ("RI.1.dcm: no DICOM outputs, since it is no DICOM file",))


# --- the same each time ---


def test_the_same_image_gives_the_same_bytes(portal, all_objects):
    shown = portal()
    assert all_objects(shown) == all_objects(shown)


@pytest.mark.parametrize(
    "other",
    [{"made_at": datetime(2026, 1, 7)}, {"software": "landmarknet-edge 0.2.0"}, {"release": "small-2"}],
    ids=["date", "version", "release"],
)
def test_objects_that_say_something_else_never_share_a_uid(portal, all_objects, maker, other):
    shown = portal()
    one, another = all_objects(shown), all_objects(shown, maker(**other))
    for kind in one:
        uids = [pydicom.dcmread(io.BytesIO(made[kind])).SOPInstanceUID for made in (one, another)]
        assert uids[0] != uids[1], kind


def test_a_date_is_the_one_that_was_given(portal, all_objects):
    for data in all_objects(portal()).values():
        made = pydicom.dcmread(io.BytesIO(data))
        dates = [
            element for element in made if element.VR in {"DA", "TM"} and element.keyword[:5] not in {"Study", "Patie"}
        ]
        assert {element.value for element in dates} == {"20260106", "070809.000010"}
        assert str(datetime.now().year) + "-" not in str(made)
        assert "ContributingEquipmentSequence" not in made


def test_every_uid_follows_from_the_key_and_none_is_shared(portal, all_objects):
    made = [pydicom.dcmread(io.BytesIO(data)) for data in all_objects(portal()).values()]
    uids = [str(one[word].value) for one in made for word in ("SOPInstanceUID", "SeriesInstanceUID")]
    assert len(set(uids)) == 6
    assert all(uid.startswith("2.25.") for uid in uids)
    assert all(one.file_meta.MediaStorageSOPInstanceUID == one.SOPInstanceUID for one in made)


def test_the_service_does_not_load_highdicom_before_an_object_is_wanted():
    """It takes a fifth of a second and 20 MB."""
    loaded = "edge.cli, edge.pipeline, edge.service.serving, edge.processes.worker_child, edge.results.dicom_outputs"
    asked = f"import sys, {loaded}; print('highdicom' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_an_object_that_cannot_be_made_is_a_note_and_the_others_are_made(wanted, portal):
    """Here a score that is no number, which a report cannot hold; the note tells the kind of error, and no value."""
    shown = portal()
    made, notes = wanted(shown, landmarks=[shown.landmark("spinous_process", 100, 40, score=float("nan"))])
    assert set(made) == {".landmarks.pr.dcm", ".landmarks.reg.dcm"}
    assert [note for note in notes if note.startswith("no ")] == [
        "no structured report, since it cannot be made (ValueError); please report it"
    ]
