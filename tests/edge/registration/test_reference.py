import json
import stat
from dataclasses import replace

import jsonschema
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from edge.config import ReferenceRule
from edge.errors import BadReference, StoreNotWritable
from edge.planned_beam import (
    RT_IMAGE_CLASS,
    RT_PLAN_CLASS,
    beam_key,
    beam_of_image,
    beams_of_plan,
    image_key,
)
from edge.registration.reference import (
    Reference,
    add_reference,
    find_reference,
    key_by_rule,
    list_references,
    parse_reference,
    reference_from_sighting,
    reference_schema,
    remove_reference,
    show_reference,
)
from edge.registration.register import register
from edge.registration.sighting import PlaneLandmark, Sighting

PLAN_UID, IMAGE_UID, PATIENT = "1.2.840.99.5", "1.2.840.99.7", "PLANTED-ID"
SEEN = Sighting(
    landmarks=(
        PlaneLandmark("tracheal_bifurcation", "point", (1.0, 30.0), 1.5),
        PlaneLandmark("louis_angle", "point", (60.0, 45.0), 1.5),
        PlaneLandmark("spinous_process", "row", (0.0, 0.0), None),
    ),
    window_mm=(-130, -100, 130, 100),
    axes="axes of the image",
    gantry_deg=90.0,
    support_deg=0.0,
)
KEY = beam_key(PLAN_UID, 2, PATIENT)
REFERENCE = reference_from_sighting(KEY, SEEN, release="r1", image=image_key(IMAGE_UID))


def rt_image_bytes(*, syntax=ExplicitVRLittleEndian, headless=False, plans=(PLAN_UID,), beam="2", patient=PATIENT):
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.PatientID = RT_IMAGE_CLASS, IMAGE_UID, patient
    ds.ReferencedRTPlanSequence = [Dataset() for _ in plans]
    for item, uid in zip(ds.ReferencedRTPlanSequence, plans, strict=True):
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = RT_PLAN_CLASS, uid
    if beam is not None:
        ds.ReferencedBeamNumber = beam
    return dicom_file(ds, syntax, headless=headless)


def dicom_file(ds, syntax=ExplicitVRLittleEndian, *, headless=False):
    stream = pydicom.filebase.DicomBytesIO()
    if not headless:
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = syntax
        ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, IMAGE_UID
    pydicom.dcmwrite(
        stream, ds, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True, enforce_file_format=not headless
    )
    return stream.getvalue()


def plan_bytes():
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.PatientID = RT_PLAN_CLASS, PLAN_UID, PATIENT
    ds.BeamSequence = [Dataset(), Dataset()]
    for number, (beam, gantry) in enumerate(zip(ds.BeamSequence, ("0", "90"), strict=True), start=1):
        beam.BeamNumber, beam.ControlPointSequence = str(number), [Dataset(), Dataset()]
        beam.ControlPointSequence[0].GantryAngle, beam.ControlPointSequence[0].PatientSupportAngle = gantry, "0"
    image = Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = RT_IMAGE_CLASS, IMAGE_UID
    ds.BeamSequence[1].ReferencedReferenceImageSequence = [image]
    return dicom_file(ds)


# --- which beam ---


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_an_image_belongs_to_the_beam_that_it_names(syntax):
    assert beam_of_image(rt_image_bytes(syntax=syntax)) == KEY


def test_a_headless_image_belongs_to_its_beam_too():
    assert beam_of_image(rt_image_bytes(syntax=ImplicitVRLittleEndian, headless=True)) == KEY


@pytest.mark.parametrize("change", [{"plans": ("1.2.3",)}, {"beam": "3"}, {"patient": "OTHER"}])
def test_another_plan_beam_or_patient_has_another_key(change):
    assert beam_of_image(rt_image_bytes(**change)) not in {KEY, None}


@pytest.mark.parametrize("change", [{"plans": ()}, {"plans": ("",)}, {"plans": (PLAN_UID, "1.2.3")}, {"beam": None}])
def test_an_image_that_does_not_say_which_beam_belongs_to_none(change):
    assert beam_of_image(rt_image_bytes(**change)) is None


@pytest.mark.parametrize("data", [b"", b"\x08\0" * 400, bytes(128) + b"DICM", b"\x89PNG\r\n\x1a\n" + bytes(64)])
def test_what_is_no_rt_image_belongs_to_no_beam(data):
    assert beam_of_image(data) is None
    assert beams_of_plan(data) == ()


def test_a_damaged_file_raises_nothing():
    whole, rng = rt_image_bytes(), np.random.default_rng(5)
    for _ in range(200):
        data = bytearray(whole)
        for at in rng.integers(132, len(data), 4):
            data[at] = rng.integers(256)
        key = beam_of_image(bytes(data[: rng.integers(140, len(data) + 1)]))
        assert key is None or len(key) == 64


def test_a_plan_names_its_beams_with_their_angles_and_planned_images():
    first, second = beams_of_plan(plan_bytes())
    assert (first.number, first.gantry_deg, first.support_deg, first.images) == (1, 0.0, 0.0, ())
    assert (second.key, second.gantry_deg, second.images) == (KEY, 90.0, (image_key(IMAGE_UID),))


def test_a_real_plan_and_its_real_drr_name_the_same_beam(real_file):
    drr, plan = real_file("s02").read_bytes(), real_file("s04").read_bytes()
    beam = beams_of_plan(plan)[0]
    assert beam.key == beam_of_image(drr)
    assert beam.images == (image_key(pydicom.dcmread(real_file("s02")).SOPInstanceUID),)
    assert [one.gantry_deg for one in beams_of_plan(plan)] == [0, 270, 180, 90, 0]


# --- the store ---


def test_a_reference_comes_back_as_it_was_stored(tmp_path):
    path = add_reference(tmp_path / "references", REFERENCE)
    assert show_reference(path.parent, KEY) == REFERENCE
    assert list_references(path.parent) == (KEY,)
    assert stat.S_IMODE(path.stat().st_mode) & 0o600 == 0o600
    assert [one.name for one in path.parent.iterdir()] == [path.name]  # nothing temporary is left


def test_a_reference_registers_with_what_it_was_made_of(tmp_path):
    add_reference(tmp_path, REFERENCE)
    answer = register(find_reference(tmp_path, KEY).sighting(), SEEN)
    assert answer.status == "ok", answer.reason
    assert answer.shift_mm == pytest.approx((0, 0), abs=1e-3)


def test_a_beam_keeps_its_reference_unless_it_is_replaced_on_purpose(tmp_path):
    add_reference(tmp_path, REFERENCE)
    newer = REFERENCE.model_copy(update={"release": "r2"})
    with pytest.raises(BadReference, match="this beam has a reference"):
        add_reference(tmp_path, newer)
    assert show_reference(tmp_path, KEY).release == "r1"
    add_reference(tmp_path, newer, replace=True)
    assert show_reference(tmp_path, KEY).release == "r2"


def test_a_removed_reference_is_gone(tmp_path):
    add_reference(tmp_path, REFERENCE)
    remove_reference(tmp_path, KEY)
    assert list_references(tmp_path) == ()
    assert find_reference(tmp_path, KEY) is None
    for act in (show_reference, remove_reference):
        with pytest.raises(BadReference, match="no such reference"):
            act(tmp_path, KEY)


def test_an_image_of_no_beam_or_an_unplanned_one_has_no_reference(tmp_path):
    assert find_reference(tmp_path / "absent", KEY) is None
    assert find_reference(tmp_path, None) is None
    assert list_references(tmp_path / "absent") == ()


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b"\xff\xfe", REFERENCE.to_json()[:-30]])
def test_a_damaged_reference_is_a_reason_and_not_an_end(tmp_path, damage):
    add_reference(tmp_path, REFERENCE).write_bytes(damage)
    assert "not a reference" in find_reference(tmp_path, KEY)


def test_a_reference_under_another_s_name_is_not_used(tmp_path):
    other = beam_key(PLAN_UID, 3, PATIENT)
    add_reference(tmp_path, REFERENCE).rename(tmp_path / f"{other}.reference.json")
    assert "another beam" in find_reference(tmp_path, other)


@pytest.mark.parametrize("key", ["", "../../etc/passwd", "A" * 64, KEY + "\n"])
def test_what_is_no_key_reaches_no_file(tmp_path, key):
    for act in (show_reference, remove_reference):
        with pytest.raises(BadReference, match="64 hexadecimal digits"):
            act(tmp_path, key)


def test_a_store_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreNotWritable, match="cannot be stored"):
        add_reference(tmp_path / "file" / "references", REFERENCE)


def test_nothing_of_a_patient_is_in_a_reference_or_its_name(tmp_path):
    path = add_reference(tmp_path, REFERENCE)
    for identifier in (PATIENT, PLAN_UID, IMAGE_UID):
        assert identifier not in path.name + path.read_text()


def test_a_person_s_landmarks_need_a_signature():
    unsigned = json.loads(REFERENCE.to_json()) | {"landmarks_from": "person", "release": None}
    with pytest.raises(BadReference, match="signed_off_by"):
        parse_reference(json.dumps(unsigned).encode(), "marks.json")
    signed = unsigned | {"signed_off_by": "physicist on duty", "signed_off_utc": "2026-11-23T04:00:00Z"}
    assert parse_reference(json.dumps(signed).encode(), "marks.json").landmarks == REFERENCE.landmarks


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"landmarks": []}, "landmarks"),
        ({"gantry_deg": 360}, "gantry_deg"),
        ({"key": "1.2.3"}, "key"),
        ({"patient": "X"}, "patient"),
        ({"landmarks": [{"kind": "a", "shape": "point", "x_mm": 0, "y_mm": 0, "sigma_mm": 0}]}, "sigma_mm"),
    ],
)
def test_what_is_wrong_in_a_signed_off_file_is_named_and_not_quoted(change, named):
    with pytest.raises(BadReference, match=named) as caught:
        parse_reference(json.dumps(json.loads(REFERENCE.to_json()) | change).encode(), "marks.json")
    assert "'X'" not in str(caught.value)


def test_a_planned_image_without_known_uncertainties_makes_no_reference():
    vague = replace(SEEN, landmarks=SEEN.landmarks[2:])
    with pytest.raises(BadReference, match="known uncertainty"):
        reference_from_sighting(KEY, vague, release="r1")


def test_the_schema_accepts_a_reference():
    jsonschema.validate(json.loads(REFERENCE.to_json()), json.loads(reference_schema()))


def test_the_same_reference_is_the_same_bytes():
    again = Reference.model_validate_json(REFERENCE.to_json())
    assert (again.to_json(), again.sha256()) == (REFERENCE.to_json(), REFERENCE.sha256())


def test_the_first_rule_that_matches_a_whole_name_names_the_reference():
    other = beam_key(PLAN_UID, 3, PATIENT)
    rules = [ReferenceRule(image_name=r"RI\.ap.*", reference=KEY), ReferenceRule(image_name=".*", reference=other)]
    assert key_by_rule("RI.ap.7.dcm", rules) == KEY
    assert key_by_rule("x RI.ap.7.dcm", rules) == other
    assert key_by_rule("RI.1.dcm", rules[:1]) is None


def test_a_folder_that_may_not_be_read_withholds_and_ends_nothing(tmp_path, as_nobody):
    folder = tmp_path / "references"
    add_reference(folder, REFERENCE)
    with as_nobody(folder):
        assert find_reference(folder, KEY) == f"{KEY}.reference.json: cannot be read (Permission denied)"


def test_a_file_in_the_place_of_the_folder_withholds(tmp_path):
    (tmp_path / "references").write_text("")
    assert "cannot be read (Not a directory)" in find_reference(tmp_path / "references", KEY)


@pytest.mark.parametrize("uid", ["", "1.2.03", "1.2." + "3" * 64, "Muster^Erika"])
def test_a_planned_image_is_named_by_legal_uids_only(uid):
    planned = dict.fromkeys(("sop_class_uid", "study_instance_uid", "series_instance_uid"), "1.2.3")
    entry = planned | {"sop_instance_uid": uid, "rows": 2, "columns": 2}
    document = json.loads(REFERENCE.to_json())
    assert parse_reference(json.dumps(document | {"planned_image": None}).encode(), "x") == REFERENCE
    with pytest.raises(BadReference, match=r"planned_image\.sop_instance_uid"):
        parse_reference(json.dumps(document | {"planned_image": entry}).encode(), "x")
