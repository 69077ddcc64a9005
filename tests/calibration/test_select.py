from collections import Counter

import numpy as np
import pytest

from calibration.calibration_set import CalibrationError
from calibration.select import excluded_patients, select


def chosen(folder, count=8, seed=0, exclude=()):
    return select([folder], count, seed, exclude, list)


def names(selection):
    return {entry.path.name for entry in selection.calibration_set.entries}


def test_the_same_images_give_the_same_set_whatever_their_names_and_folders(portal, tmp_path):
    for seed in range(12):
        portal(f"here/{seed:02d}.dcm", seed)
        portal(f"there/{seed % 3}/{99 - seed}.dcm", seed)
    here, there = (chosen(tmp_path / name, count=5).calibration_set for name in ("here", "there"))
    assert len(here.entries) == 5
    assert here.sha256 == there.sha256
    assert [entry.stratum for entry in here.entries] == [entry.stratum for entry in there.entries]
    assert len({chosen(tmp_path / "here", count=5, seed=s).calibration_set.sha256 for s in range(6)}) > 1


def test_a_rare_view_machine_and_energy_are_taken_before_a_common_one_fills_up(portal, tmp_path):
    for seed in range(20):
        portal(f"common{seed}.dcm", seed)
    portal("ap.dcm", 30, GantryAngle=180.0)
    portal("machine.dcm", 31, RadiationMachineName="OTHER")
    portal("kv.dcm", 32, KVP="100")
    selection = chosen(tmp_path, count=8)
    assert {"ap.dcm", "machine.dcm", "kv.dcm"} <= names(selection)
    assert len(selection.calibration_set.entries) == 8


def test_no_stratum_gets_a_second_image_before_each_has_one(portal, tmp_path):
    for seed in range(18):
        portal(f"{seed}.dcm", seed, GantryAngle=(90.0, 180.0)[seed % 2])
    selection = chosen(tmp_path, count=6)
    counts = Counter(entry.stratum for entry in selection.calibration_set.entries)
    assert len(selection.available) == 6  # two views with three exposures each
    assert set(counts.values()) == {1}


def test_exposures_are_thirds_of_monitor_units_where_the_header_tells(portal, exposure, tmp_path):
    for seed in range(9):
        portal(f"{seed}.dcm", seed, ExposureSequence=exposure(MetersetExposure=str(seed + 1)))
    strata = {e.path.stem: e.stratum.exposure for e in chosen(tmp_path, count=9).calibration_set.entries}
    thirds = ["low"] * 3 + ["middle"] * 3 + ["high"] * 3
    assert strata == {str(seed): f"mu-{third}" for seed, third in enumerate(thirds)}


def test_exposures_are_thirds_of_the_level_of_the_pixels_else(portal, field, tmp_path):
    for seed, level in enumerate((100, 1000, 5000)):
        portal(f"{seed}.dcm", (field(seed) // 10 + level).astype("<u2"))
    strata = {e.path.stem: e.stratum.exposure for e in chosen(tmp_path).calibration_set.entries}
    assert strata == {"0": "level-low", "1": "level-middle", "2": "level-high"}


def test_copies_and_near_duplicates_are_dropped(portal, png, field, tmp_path):
    portal("a.dcm", 1)
    portal("copy.dcm", 1)
    noisy = field(1) // 3 + np.random.default_rng(0).integers(0, 100, field(1).shape)
    png("exported.png", noisy.astype(np.uint16))
    portal("other.dcm", 2)
    selection = chosen(tmp_path)
    assert (selection.copies, selection.near_duplicates) == (1, 1)
    assert "other.dcm" in names(selection)
    assert len(selection.calibration_set.entries) == 2


def test_patients_are_excluded_by_header_and_by_truth(portal, tmp_path):
    portal("a.dcm", 1, PatientID="P1")
    portal("b.dcm", 2, PatientID="P2")
    portal("c.dcm", 3)
    (tmp_path / "truth.json").write_text('{"images": {"c.dcm": {"patient": "lidc0002"}}}')
    selection = chosen(tmp_path, exclude=["p1 ", "lidc0002"])
    assert names(selection) == {"b.dcm"}
    assert selection.excluded == 2


def test_images_that_name_no_patient_are_counted(portal, tmp_path):
    portal("a.dcm", 1, PatientID="P1")
    portal("b.dcm", 2)
    assert chosen(tmp_path, exclude=["P9"]).nameless == 1


def test_excluded_patients_are_named_one_by_one_or_in_a_file(tmp_path):
    listed = tmp_path / "test_patients.txt"
    listed.write_text("P1\n\n P2 \n")
    assert excluded_patients([str(listed), "P3"]) == ["P1", "P2", "P3"]


def test_what_is_no_list_of_patients_is_an_error(tmp_path):
    listed = tmp_path / "list"
    listed.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CalibrationError, match="cannot be read as a list of patient IDs"):
        excluded_patients([str(listed)])


def test_a_folder_without_a_readable_image_is_an_error(portal, tmp_path):
    path = portal("a.dcm", 1)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(CalibrationError, match=r"no portal image that can be read \(1 unreadable.*a\.dcm"):
        chosen(tmp_path)


def test_excluding_every_patient_is_an_error(portal, tmp_path):
    portal("a.dcm", 1, PatientID="P1")
    with pytest.raises(CalibrationError, match="all 1 images are of excluded patients"):
        chosen(tmp_path, exclude=["P1"])


def test_a_manifest_names_neither_patient_nor_machine(portal, tmp_path):
    portal("a.dcm", 1, PatientID="PAT-4711", PatientName="Miller^Ann", StationName="ROOM-1")
    text = chosen(tmp_path).calibration_set.model_dump_json()
    assert not any(value in text for value in ("4711", "Miller", "ROOM-1", "LINAC7"))
