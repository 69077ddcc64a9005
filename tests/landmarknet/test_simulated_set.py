import json
import shutil

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from edge.portal_image import read_portal_image
from landmarknet.simulated_set import CONTACT_SHEET, MANIFEST, DataSetPlan, make_data_set

PLAN = DataSetPlan(poses=1, negative_poses=1, empty_fields=2, seed=0)


def make(output, plan=PLAN):
    return make_data_set([], output, plan, 1, Console(quiet=True))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    output = tmp_path_factory.mktemp("set")
    make(output)
    return output


@pytest.fixture
def data_set(made, tmp_path):
    return shutil.copytree(made, tmp_path / "set")


def test_a_set_holds_what_the_room_can_read_and_a_picture_of_it(data_set):
    images = sorted((data_set / "empty_field").glob("*.dcm"))
    assert len(images) == 4
    for path in images:
        assert read_portal_image(path).geometry is not None
    truth = json.loads((data_set / "empty_field" / "truth.json").read_text())
    assert all(entry["landmarks"] == [] for entry in truth["images"].values())
    with Image.open(data_set / CONTACT_SHEET) as sheet:
        assert sheet.size == (1280, 160)


def test_what_is_complete_is_not_made_again(data_set):
    before = {path: path.stat().st_mtime_ns for path in data_set.rglob("*.dcm")}
    make(data_set)
    assert {path: path.stat().st_mtime_ns for path in data_set.rglob("*.dcm")} == before


@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_bytes(p.read_bytes()[:-2])])
def test_what_was_lost_or_changed_is_made_again_with_the_same_bytes(data_set, damage):
    manifest = (data_set / MANIFEST).read_bytes()
    damage(next((data_set / "empty_field").glob("*.dcm")))
    make(data_set)
    assert (data_set / MANIFEST).read_bytes() == manifest
    assert len(list((data_set / "empty_field").glob("*.dcm"))) == 4


def test_another_plan_is_refused(data_set):
    with pytest.raises(ValueError, match="another plan"):
        make(data_set, DataSetPlan(1, 1, 3, 0))


def test_images_of_a_set_differ_in_size_and_scale(tmp_path):
    from landmarknet.simulate_files import sample_detector

    drawn = [sample_detector(np.random.default_rng(i), "PORTAL") for i in range(50)]
    assert {d.shape[1] for d in drawn} == {384, 512, 768, 1024, 1280}
    assert min(d.sid_mm for d in drawn) >= 1000
    assert max(d.sid_mm for d in drawn) <= 1500
    assert len({round(d.mm_per_px, 3) for d in drawn}) > 40
