import hashlib
import json
from datetime import time
from pathlib import Path

import pytest
from pydicom.uid import UID

from edge.config import Config, CouchConfig, DropFolderConfig, PageConfig, ReferenceRule
from edge.keys import derived_uid, result_key, settings_sha256
from edge.pipeline import pipeline_of

PARTS = {
    "file_sha256": "a" * 64,
    "model_sha256": "b" * 64,
    "contract_sha256": "c" * 64,
    "manifest_sha256": "d" * 64,
    "settings_sha256": "e" * 64,
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


def test_a_reference_is_a_line_of_its_own_and_one_that_cannot_be_used_an_empty_one():
    lines = "\n".join(letter * 64 for letter in "abcde")
    for reference in ("f" * 64, ""):
        expected = hashlib.sha256(f"{lines}\n{reference}".encode()).hexdigest()
        assert result_key(**PARTS, reference_sha256=reference) == expected


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


# which settings count


def test_settings_are_hashed_by_name_whatever_their_order():
    assert settings_sha256({"b": 1, "a": True}) == hashlib.sha256(b'{"a":true,"b":1}').hexdigest()
    assert settings_sha256({"a": True, "b": 1}) == settings_sha256({"b": 1, "a": True})


OTHERS = {  # what a room can set that changes nothing that is made of an image, each by another value than its default
    "drop_folder": (DropFolderConfig(path=Path("/srv/another room"), results_dir=Path("/srv/results")),),
    "settle_s": 3.0,
    "sweep_s": 9.0,
    "incomplete_after_s": 60.0,
    "release": Path("/srv/release"),  # this and the next two: what they lead to is in the key by its hashes
    "store": Path("/srv/store"),
    "release_key": Path("/srv/site.pub"),
    "stale": "serve",
    "threads": 2,
    "references": Path("/srv/references"),  # this and the next: what they lead to is in the key by its hash
    "reference_rule": (ReferenceRule(image_name=".*", reference="a" * 64),),
    "widest_interval_mm": 10.0,  # where no image is registered; where they are: tests/edge/test_pipeline.py
    "couch": CouchConfig(name="room 1", lateral=1, longitudinal=1, vertical=-1),  # of what two-views prints
    "state_dir": Path("/var/lib/another"),
    "largest_file_mb": 10,  # this and the next three: whether something is made, not what
    "read_memory_mb": 512,
    "read_s": 5.0,
    "infer_s": 60.0,
    "keep_days": 30,
    "metrics_port": 9464,
    "constancy_at": time(6, 0),
    "page": PageConfig(port=9000),  # it only shows
}
COUNTING = {"overlay": False, "structured_report": True, "presentation_state": True, "spatial_registration": True}


def key_under(engine, **changes):
    config = Config().model_copy(update=changes)
    provenance = pipeline_of(config, engine).provenance()
    assert provenance.config_sha256 == config.sha256()
    return result_key("a" * 64, "b" * 64, "c" * 64, None, provenance.settings_sha256)


def test_every_setting_is_known_to_count_or_not():
    assert sorted(Config.model_fields) == sorted([*OTHERS, *COUNTING])  # a new one: decide, and see docs/results.md


@pytest.mark.parametrize("name", OTHERS)
def test_a_setting_that_changes_nothing_that_is_made_changes_no_key(engine, name):
    assert Config().model_copy(update={name: OTHERS[name]}).sha256() != Config().sha256()
    assert key_under(engine([]), **{name: OTHERS[name]}) == key_under(engine([]))


@pytest.mark.parametrize("name", COUNTING)
def test_a_setting_that_changes_what_is_made_changes_the_key(engine, name):
    assert key_under(engine([]), **{name: COUNTING[name]}) != key_under(engine([]))


@pytest.mark.parametrize("name", ["ok", "no_landmarks.png", "refused", "registered", "withheld"])
def test_whoever_reads_a_result_can_work_its_key_out(name):
    """As docs/results.md says, from the documented examples."""
    examples = Path(__file__).parents[2] / "docs" / "examples"
    document = json.loads((examples / f"{name}.landmarks.json").read_bytes())
    said = document["provenance"]
    settings = b'{"overlay":true,"widest_interval_mm":10.0}' if document["registration"] else b'{"overlay":true}'
    assert said["settings_sha256"] == hashlib.sha256(settings).hexdigest()
    release = said["model_sha256"], said["contract_sha256"], said["manifest_sha256"] or ""
    lines = [document["image"]["sha256"], *release, said["settings_sha256"]]
    if registration := document["registration"]:
        lines.append(registration["reference"]["sha256"])
    assert said["key"] == hashlib.sha256("\n".join(lines).encode()).hexdigest()
