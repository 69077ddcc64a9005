import hashlib

import pytest
from pydicom.uid import UID

from edge.keys import derived_uid, result_key

PARTS = {
    "file_sha256": "a" * 64,
    "model_sha256": "b" * 64,
    "contract_sha256": "c" * 64,
    "manifest_sha256": "d" * 64,
    "config_sha256": "e" * 64,
}


def test_a_key_is_the_hash_of_the_hashes_one_a_line():
    lines = "\n".join(letter * 64 for letter in "abcde")
    assert result_key(**PARTS) == hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.parametrize("part", PARTS)
def test_each_part_changes_the_key(part):
    assert result_key(**PARTS | {part: "f" * 64}) != result_key(**PARTS)


def test_a_release_that_is_of_no_store_has_an_empty_line_in_the_place_of_its_manifest():
    lines = "\n".join(["a" * 64, "b" * 64, "c" * 64, "", "e" * 64])
    assert result_key(**PARTS | {"manifest_sha256": None}) == hashlib.sha256(lines.encode()).hexdigest()


def test_hashes_that_change_places_give_another_key():
    swapped = {"model_sha256": PARTS["contract_sha256"], "contract_sha256": PARTS["model_sha256"]}
    assert result_key(**PARTS | swapped) != result_key(**PARTS)


def test_a_key_and_a_purpose_give_one_uid_for_ever():
    # written down once: a UID that changed with a version would make a second object of the same result
    assert derived_uid("0" * 64, "structured report") == "2.25.26746219542528354453714383167369370859"


def test_keys_and_purposes_keep_uids_apart():
    assert len({derived_uid(key * 64, purpose) for key in "01" for purpose in ("instance", "series")}) == 4


@pytest.mark.parametrize("number", range(50))
def test_a_uid_is_one_that_dicom_allows(number):
    uid = UID(derived_uid(hashlib.sha256(bytes([number])).hexdigest(), "instance"))
    assert uid.is_valid  # PS3.5 9.1: at most 64 characters, no component with a leading zero
    assert uid.startswith("2.25.")
    assert (int(uid.split(".")[2]) >> 76) & 0xF == 5  # the version of the UUID (RFC 9562, 4.2)
