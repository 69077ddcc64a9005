import numpy as np
import pydicom
import pytest

from calibration.audit import audit, shared_with
from calibration.calibration_set import CalibrationError, CalibrationSet
from calibration.report import audit_report
from calibration.select import select


@pytest.fixture
def audited(tmp_path, contract):
    """Return a function that selects what lies in ``ours`` and audits it."""

    def run(test=(), later=()):
        chosen = select([tmp_path / "ours"], 100, 0, (), list).calibration_set
        folders = ([tmp_path / name for name in names] for names in (test, later))
        return audit(chosen, *folders, contract(), list)

    return run


def topics(result):
    return [finding.topic for finding in result.findings]


def test_a_clean_set_has_nothing_to_act_on(portal, audited):
    for seed in range(6):
        portal(f"ours/{seed}.dcm", seed, PatientID="P1", PatientIdentityRemoved="YES")
        portal(f"tests/{seed}.dcm", seed + 10, PatientID="P2", PatientIdentityRemoved="YES")
        portal(f"later/{seed}.dcm", seed + 20, PatientID="P3", PatientIdentityRemoved="YES")
    result = audited(test=["tests"], later=["later"])
    assert result.findings == ()
    assert sum(result.coverage.values()) == 6
    assert list(audit_report(result))[-1] == "nothing to act on"


def test_a_test_image_in_the_set_is_found_under_another_name(portal, audited):
    portal("ours/a.dcm", 1)
    portal("tests/z.dcm", 1)
    portal("tests/y.dcm", 2)
    (finding,) = audited(test=["tests"]).findings
    assert finding.topic == "overlap"
    assert finding.what.startswith("1 of 2 test images are in the set: z.dcm")


def test_a_near_duplicate_of_a_test_image_is_found(portal, png, field, audited):
    portal("ours/a.dcm", 1)
    png("tests/exported.png", field(1) // 2)
    (finding,) = audited(test=["tests"]).findings
    assert finding.what.startswith("1 of 1 test images are nearly one of the set: exported.png")


def test_a_patient_in_both_is_found_by_header_or_truth(portal, png, audited, tmp_path):
    portal("ours/a.dcm", 1, PatientID="P1", PatientIdentityRemoved="YES")
    portal("tests/b.dcm", 2, PatientID="P1", PatientIdentityRemoved="YES")
    png("tests/c.png", 3)
    (tmp_path / "tests/truth.json").write_text('{"images": {"c.png": {"patient": "P1"}}}')
    (finding,) = audited(test=["tests"]).findings
    assert finding.what.startswith("2 of 2 test images show a patient of it: b.dcm, c.png")


def test_images_that_name_no_patient_are_noted(portal, audited):
    portal("ours/a.dcm", 1)
    portal("tests/b.dcm", 2)
    notes = audited(test=["tests"]).notes
    assert "1 test images, 1 name no patient; 0 unreadable" in notes
    assert any(note.startswith("1 images of the set name no patient") for note in notes)


def test_what_identifies_is_named_by_attribute_and_file_and_never_by_value(portal, audited):
    values = {
        "PatientName": "Miller^Ann",
        "PatientID": "4711",
        "PatientBirthDate": "19500102",
        "OtherPatientIDs": "815",
    }
    portal("ours/a.dcm", 1, **values)
    portal("ours/b.dcm", 2, BurnedInAnnotation="YES", PatientName="^^", PatientID="")
    result = audited()
    said = "\n".join(audit_report(result))
    for keyword in values:
        assert f"{keyword} in 1 of 2 images: a.dcm" in said
    assert "BurnedInAnnotation in 1 of 2 images: b.dcm" in said
    assert len(result.findings) == 5
    assert not any(value in said for value in ("Miller", "^Ann", "4711", "1950", "815"))


def test_a_pseudonym_may_stay_where_the_header_says_that_the_identity_is_removed(portal, audited):
    portal("ours/a.dcm", 1, PatientName="ANON", PatientID="A1", PatientIdentityRemoved="YES")
    assert audited().findings == ()
    portal("ours/b.dcm", 2, PatientBirthDate="19500102", PatientIdentityRemoved="YES")
    assert [finding.what.split()[0] for finding in audited().findings] == ["PatientBirthDate"]


@pytest.mark.parametrize(
    "keyword",
    [
        *("PatientBirthName", "RequestingPhysician", "PhysiciansOfRecord", "PatientMotherBirthName", "OperatorsName"),
        *("RTImageDescription", "SeriesDescription", "StudyDescription", "ImageComments", "PatientComments"),
        *("AdditionalPatientHistory", "AccessionNumber", "InstitutionName"),
    ],
)
def test_a_name_outlives_a_header_that_says_that_the_identity_is_removed(portal, audited, keyword):
    portal("ours/a.dcm", 1, PatientIdentityRemoved="YES", **{keyword: "Miller Ann"})
    (finding,) = audited().findings
    assert finding.what.startswith(f"{keyword} in 1 of 1 images: a.dcm")
    assert "Miller" not in finding.what


@pytest.mark.parametrize(
    ("vr", "value"), [("LO", "Miller"), ("PN", "Miller^A"), ("UT", "A. M."), ("UN", b"Miller^Ann")]
)
def test_a_name_in_a_private_attribute_is_found(portal, audited, vr, value):
    path = portal("ours/a.dcm", 1, PatientIdentityRemoved="YES")
    dataset = pydicom.dcmread(path)
    dataset.private_block(0x3001, "A VENDOR", create=True).add_new(0x10, vr, value)
    dataset.save_as(path)
    (finding,) = audited().findings
    assert finding.what.startswith("private (3001,1010) in 1 of 1 images")


def test_a_name_within_a_sequence_is_found(portal, audited, exposure):
    item = exposure(KVP="6000", OperatorsName="Miller^Ann")
    portal("ours/a.dcm", 1, PatientIdentityRemoved="YES", ExposureSequence=item)
    (finding,) = audited().findings
    assert finding.what.startswith("OperatorsName in 1 of 1 images")


def test_a_text_that_is_written_as_a_name_is_found_in_any_attribute(portal, audited):
    portal("ours/a.dcm", 1, RTImageLabel="Miller^Ann")
    (finding,) = audited().findings
    assert finding.what.startswith("RTImageLabel in 1 of 1 images")


def test_what_a_machine_says_of_itself_names_nobody(portal, audited):
    texts = {
        "Manufacturer": "A vendor", "ManufacturerModelName": "Panel 3", "SoftwareVersions": ["1.2", "3"],
        "StationName": "ROOM-2", "DeviceSerialNumber": "815", "RTImageLabel": "AP 1", "SeriesDescription": " ",
        "PatientBirthName": "^^", "OtherPatientIDsSequence": [],
    }  # fmt: skip
    path = portal("ours/a.dcm", 1, **texts)
    dataset = pydicom.dcmread(path)
    block = dataset.private_block(0x3001, "A VENDOR", create=True)
    block.add_new(0x10, "UN", bytes([0, 1, 2, 250]))
    block.add_new(0x11, "DS", "1.5")
    block.add_new(0x12, "LO", "")
    dataset.save_as(path)
    assert audited().findings == ()


def test_a_patient_in_a_file_name_is_found_and_not_printed(portal, audited):
    portal("ours/miller_01.dcm", 1, PatientName="Miller^Ann")
    result = audited()
    assert topics(result) == ["identity", "identity"]
    assert "miller" not in "\n".join(audit_report(result)).casefold()


def test_a_machine_that_the_set_lacks_is_found_among_later_images(portal, audited):
    portal("ours/a.dcm", 1)
    portal("later/b.dcm", 2)
    portal("later/c.dcm", 3, RadiationMachineName="NEW")
    (finding,) = audited(later=["later"]).findings
    assert finding.topic == "coverage"
    assert finding.what.startswith("1 of 2 later images are of view lateral, machine ")


def smooth(field, seed):
    """Return (96, 96): a third of a field, so that noise shows."""
    return field(seed, side=288)[:96, :96]


def noisy(picture, seed):
    noise = np.random.default_rng(seed).normal(0, 0.6 * picture.std(), picture.shape)
    return np.clip(picture + noise, 0, 65535).astype("<u2")


def test_later_images_from_a_noisier_detector_have_drifted(portal, field, audited):
    for seed in range(30):
        portal(f"ours/{seed}.dcm", smooth(field, seed))
        portal(f"later/{seed}.dcm", smooth(field, seed + 100))
        portal(f"noisy/{seed}.dcm", noisy(smooth(field, seed + 100), seed))
    assert audited(later=["later"]).findings == ()
    result = audited(later=["noisy"])
    assert set(topics(result)) == {"drift"}
    assert any(finding.what.startswith("detail of the network input") for finding in result.findings)


def test_a_few_odd_later_images_are_no_drift(portal, field, audited):
    for seed in range(30):
        portal(f"ours/{seed}.dcm", smooth(field, seed))
    for seed in range(2):
        portal(f"later/{seed}.dcm", noisy(smooth(field, seed + 100), seed))
    assert audited(later=["later"]).findings == ()


def test_what_test_images_share_with_a_set_is_said_and_its_images_are_checked(portal, tmp_path):
    portal("ours/a.dcm", 1, PatientID="P1")
    chosen = select([tmp_path / "ours"], 100, 0, (), list).calibration_set
    other_seed, apart = portal("tests/b.dcm", 2, PatientID="P1"), portal("tests/c.dcm", 3, PatientID="P2")
    assert shared_with(chosen, [apart]) == ()
    (said,) = shared_with(chosen, [apart, other_seed])
    assert said.startswith("1 of 2 test images show a patient of it: b.dcm")
    portal("ours/a.dcm", 4, PatientID="P1")
    with pytest.raises(CalibrationError, match="not the one that was selected"):
        shared_with(chosen, [apart])


def test_an_unreadable_test_image_is_noted(portal, audited):
    portal("ours/a.dcm", 1)
    portal("tests/b.dcm", 2)
    cut = portal("tests/cut.dcm", 3)
    cut.write_bytes(cut.read_bytes()[:-500])
    assert any(note.startswith("cut.dcm: ") for note in audited(test=["tests"]).notes)


def test_an_empty_set_and_an_empty_folder_are_errors(portal, audited, contract, tmp_path):
    with pytest.raises(CalibrationError, match="empty"):
        audit(CalibrationSet(seed=0, entries=()), (), (), contract(), list)
    portal("ours/a.dcm", 1)
    (tmp_path / "tests").mkdir()
    with pytest.raises(CalibrationError, match="no portal image that can be read"):
        audited(test=["tests"])
