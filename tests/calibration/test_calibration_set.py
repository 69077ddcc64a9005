import hashlib
import json
from pathlib import Path

import pytest

from calibration.calibration_set import (
    CalibrationError,
    CalibrationSet,
    Entry,
    Stratum,
    images,
    read_calibration_set,
    write_calibration_set,
)

STRATUM = Stratum(view="ap", machine="unknown", energy="mv", exposure="level-low")


def set_of(*paths):
    entries = (Entry(path=p, sha256=hashlib.sha256(p.read_bytes()).hexdigest(), stratum=STRATUM) for p in paths)
    return CalibrationSet(seed=0, entries=tuple(entries))


def test_a_set_reads_back_as_it_was_written(portal, tmp_path):
    chosen = set_of(portal("a.dcm", 1), portal("b.dcm", 2))
    write_calibration_set(tmp_path / "set.json", chosen)
    assert read_calibration_set(tmp_path / "set.json") == chosen
    assert json.loads((tmp_path / "set.json").read_text())["schema"] == "landmarknet-edge/calibration-set/1"


def test_relative_paths_move_with_the_manifest(portal, tmp_path, monkeypatch):
    portal("site/images/a.dcm", 1)
    monkeypatch.chdir(tmp_path / "site")
    (relative,) = (tmp_path / "site").glob("images/*")
    chosen = set_of(relative.relative_to(tmp_path / "site"))
    write_calibration_set(tmp_path / "site/sets/set.json", chosen)
    (tmp_path / "site").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    ((path, image),) = images(read_calibration_set(tmp_path / "moved/sets/set.json"))
    assert path.resolve() == tmp_path / "moved/images/a.dcm"
    assert image.identity.sha256 == chosen.entries[0].sha256


def test_relative_paths_hold_beside_a_manifest_in_a_linked_folder(portal, tmp_path, monkeypatch):
    portal("images/a.dcm", 1)
    (tmp_path / "deep/down/sets").mkdir(parents=True)
    (tmp_path / "linked").symlink_to(tmp_path / "deep/down/sets")
    monkeypatch.chdir(tmp_path)
    write_calibration_set(Path("linked/set.json"), set_of(Path("images/a.dcm")))
    assert len(list(images(read_calibration_set(Path("linked/set.json"))))) == 1


def test_the_hash_of_a_set_is_that_of_its_images_not_of_names_or_order(portal, tmp_path):
    one, two = portal("a.dcm", 1), portal("b.dcm", 2)
    before, third = set_of(one, two).sha256, portal("c.dcm", 3)
    moved = one.rename(tmp_path / "z.dcm")
    assert set_of(two, moved).sha256 == before
    assert set_of(two, third).sha256 != before
    hashes = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in (moved, two))
    assert before == hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def test_an_empty_set_is_an_error():
    with pytest.raises(CalibrationError, match="empty"):
        list(images(CalibrationSet(seed=0, entries=())))


def test_an_image_that_changed_is_named(portal):
    path = portal("a.dcm", 1)
    chosen = set_of(path)
    portal("a.dcm", 2)
    with pytest.raises(CalibrationError, match=r"a\.dcm is not the one that was selected"):
        list(images(chosen))


@pytest.mark.parametrize("harm", ["missing", "truncated"])
def test_an_image_that_cannot_be_read_is_named(portal, harm):
    path = portal("a.dcm", 1)
    chosen = set_of(path)
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CalibrationError, match=r"calibration image .*a\.dcm cannot be used"):
        list(images(chosen))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not a calibration set"),
        ('{"schema": "landmarknet-edge/calibration-set/1", "seed": 0, "entries": [], "colour": 1}', "colour: Extra"),
        ('{"schema": "landmarknet-edge/calibration-set/9", "seed": 0, "entries": []}', "schema: "),
    ],
)
def test_a_manifest_of_another_form_says_what_is_wrong(tmp_path, text, said):
    path = tmp_path / "set.json"
    path.write_text(text)
    with pytest.raises(CalibrationError, match=said):
        read_calibration_set(path)


def test_a_manifest_that_cannot_be_written_leaves_nothing(portal, tmp_path):
    (tmp_path / "set.json").mkdir()
    with pytest.raises(CalibrationError, match="cannot be written"):
        write_calibration_set(tmp_path / "set.json", set_of(portal("a.dcm", 1)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.dcm", "set.json"]
