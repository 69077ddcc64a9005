import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.datadict import tag_for_keyword
from pydicom.uid import UID

from edge.results.dicom_source import COPIED, DicomSource, legal_uid, read_source

SHAPE = (192, 256)
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"


@pytest.fixture
def sourced(dicom, collimated):
    """Return a function: `read_source` of a small image of a patient."""

    def of(**changes):
        ids = {"StudyInstanceUID": "1.2.3.1", "SeriesInstanceUID": "1.2.3.2", "PatientID": "PID-4711"}
        return read_source(dicom(collimated(), **(ids | changes)), "X.dcm", SHAPE)

    return of


def test_every_attribute_of_the_table_is_one_of_the_standard_and_has_a_reason():
    keywords = [one.keyword for one in COPIED]
    assert all(tag_for_keyword(keyword) for keyword in keywords)
    assert len(set(keywords)) == len(keywords)
    assert all(len(one.reason) > 10 for one in COPIED)


def test_a_source_refers_to_its_image(portal):
    source = portal().source
    assert source.sop_class_uid == "1.2.840.10008.5.1.4.1.1.481.1"
    assert (source.sop_instance_uid, source.study_instance_uid, source.series_instance_uid) == (
        "1.2.3.4",
        "1.2.3.1",
        "1.2.3.2",
    )
    assert (source.rows, source.columns) == SHAPE
    assert source.notes == ()


def test_what_stands_for_the_image_in_highdicom_says_nothing_of_the_patient(portal):
    reference = portal().source.reference()
    assert reference.PatientName is None
    assert "Muster" not in str(reference)
    assert "4711" not in str(reference)


def test_a_headless_file_is_a_source(portal):
    assert portal(syntax=IMPLICIT, headless=True).source.sop_instance_uid == "1.2.3.4"


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
@pytest.mark.parametrize("value", [None, ""], ids=["absent", "empty"])
def test_without_a_uid_to_refer_to_there_is_no_source(sourced, keyword, value):
    reason = sourced(**{keyword: value})
    assert isinstance(reason, str)
    assert f"no {keyword}" in reason
    assert reason.startswith("X.dcm: ")


@pytest.mark.parametrize("data", [b"\x89PNG\r\n", b"II*\0", b""], ids=["png", "tiff", "nothing"])
def test_what_is_no_dicom_file_is_no_source(data):
    assert "it is no DICOM file" in str(read_source(data, "X.png", SHAPE))


def test_a_plan_is_no_source(real_file):
    assert "not that of a portal image" in str(read_source(real_file("s04").read_bytes(), "RP.dcm", SHAPE))


# --- values that break the standard ---


def test_an_illegal_uid_is_replaced_by_one_that_follows_from_it(sourced):
    source, again = (sourced(SOPInstanceUID="259cc3de", StudyInstanceUID="259cc3de") for _ in range(2))
    assert source.sop_instance_uid == again.sop_instance_uid == source.study_instance_uid
    assert UID(source.sop_instance_uid).is_valid
    assert [note.split()[0] for note in source.notes] == ["StudyInstanceUID", "SOPInstanceUID"]
    assert sourced(SOPInstanceUID="259cc3df").sop_instance_uid != source.sop_instance_uid


@given(st.text(), st.text())
def test_a_derived_uid_is_legal_and_as_different_as_its_origin(one, other):
    assert UID(legal_uid(one)).is_valid
    assert len(legal_uid(one)) <= 64
    assert (legal_uid(one) == legal_uid(other)) == (one.strip() == other.strip())


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientSex", "X"),
        ("PatientBirthDate", "1950.01.02"),
        ("PatientBirthDate", "unknown"),
        ("StudyTime", "10:11:12"),
        ("StudyDate", "20260105-20260106"),
        ("StudyID", "longer than sixteen"),
        ("AccessionNumber", "A\\B"),
    ],
)
def test_an_illegal_value_that_may_be_empty_is_left_empty_and_named_without_its_value(sourced, keyword, value):
    source = sourced(**{keyword: value})
    assert isinstance(source, DicomSource)
    assert source.patient_and_study[keyword].value in (None, "")
    assert keyword in source.notes[0]
    assert value not in source.notes[0]


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("PatientID", "4" * 65), ("PatientID", "A\\B"), ("PatientName", "N" * 65), ("SpecificCharacterSet", "ISO_IR 999")],
)
def test_an_identity_that_cannot_be_taken_over_as_it_is_gives_no_objects_at_all(sourced, keyword, value):
    """An object of a changed name or ID would be filed with another patient."""
    reason = sourced(**{keyword: value})
    assert isinstance(reason, str)
    assert keyword in reason
    assert value not in reason


def test_a_missing_patient_is_as_empty_as_in_the_image_and_noted(sourced):
    source = sourced(PatientID=None)
    assert all(source.patient_and_study[word].value is None for word in ("PatientID", "PatientName", "PatientSex"))
    assert source.notes == ("PatientID is missing or empty, and so it is in the DICOM outputs",)


# --- letters ---


@pytest.mark.parametrize(
    ("letters", "name"),
    [
        ("ISO_IR 100", "Müller^Jörg".encode("latin-1")),
        ("ISO_IR 192", "Müller^Jörg".encode()),
        ("ISO_IR 144", "Люкceмбypг".encode("iso8859_5")),
        ("\\ISO 2022 IR 87", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"),  # PS3.5 H.3.1
        (None, b"M\xfcller^J\xf6rg"),  # undeclared: the archive compares bytes
    ],
    ids=["latin-1", "utf-8", "cyrillic", "japanese", "undeclared"],
)
def test_a_name_has_the_image_s_letters_and_bytes(portal, making, letters, name):
    from edge.results.structured_report import structured_report

    shown = portal(PatientName=name, SpecificCharacterSet=letters)
    report = structured_report(shown.source, making, [])
    assert name in report
    again = pydicom.dcmread(pydicom.filebase.DicomBytesIO(report))
    assert again.PatientName == pydicom.dcmread(pydicom.filebase.DicomBytesIO(shown.data)).PatientName


def test_a_name_that_cannot_be_read_with_the_image_s_letters_gives_no_objects(sourced):
    reason = sourced(PatientName="Müller^Jörg".encode("latin-1"), SpecificCharacterSet="ISO_IR 192")
    assert "PatientName breaks" in str(reason)
