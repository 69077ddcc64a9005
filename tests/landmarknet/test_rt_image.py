import json
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pydicom
import pytest

from edge.portal_image import read_portal_image
from landmarknet.rt_image import SimulatedImage, write_rt_image, write_truth
from landmarknet.simulate_files import simulated_images

PORTAL = SimulatedImage(
    name="x_ap_mv_00",
    patient="x",
    kind="PORTAL",
    signal=np.add.outer(np.linspace(-3, 1, 60), np.linspace(0, 5, 80)),
    spacing_at_isocentre_mm=0.5,
    gantry_deg=-7.123456789,
    sid_mm=1500.0,
    points_px={"tracheal_bifurcation": np.array(((39.5, 29.5), (10.0, 50.0)))},
    attribution="CT: none",
)


@pytest.fixture(params=["PORTAL", "DRR"])
def image(request):
    return replace(PORTAL, kind=request.param)


def test_what_was_written_is_read_back_with_its_polarity(tmp_path, image):
    read = read_portal_image(write_rt_image(image, tmp_path))
    gain, offset = np.polyfit(image.signal.ravel(), read.pixels.ravel(), 1)
    assert gain > 0, "bright must still mean more dose"
    assert np.abs(read.pixels - (gain * image.signal + offset)).max() <= 0.51, "half a stored unit, rounding"


def test_millimetres_of_the_truth_are_those_the_room_computes(tmp_path, image):
    geometry = read_portal_image(write_rt_image(image, tmp_path)).geometry
    assert geometry.warnings == ()
    for kind, points in image.points_px.items():
        # decimal strings hold six digits behind the point
        assert geometry.to_isoplane(points) == pytest.approx(image.points_mm[kind], abs=1e-3)
    assert image.points_mm["tracheal_bifurcation"][0] == pytest.approx((0, 0)), "the middle is the beam axis"


def test_the_same_image_gives_the_same_bytes(tmp_path, image):
    (tmp_path / "again").mkdir()
    assert write_rt_image(image, tmp_path).read_bytes() == write_rt_image(image, tmp_path / "again").read_bytes()


def test_a_simulated_image_says_so(tmp_path, image):
    dataset = pydicom.dcmread(write_rt_image(image, tmp_path))
    assert "SIMULATED" in dataset.ImageComments
    assert dataset.RadiationMachineName == "SIMULATED"
    assert "CT: none" in dataset.ImageComments


def test_independent_validator_finds_no_error(tmp_path, image):
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is absent: apt-get install dicom3tools")
    path = write_rt_image(image, tmp_path)
    report = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
    assert "RTImage" in report.stderr + report.stdout
    assert "Error" not in report.stderr + report.stdout


def test_truth_lists_every_landmark_of_every_file(tmp_path, image):
    truth = json.loads(write_truth([image], tmp_path).read_text())
    (landmarks,) = (entry["landmarks"] for entry in truth["images"].values())
    assert [(entry["x_px"], entry["y_px"]) for entry in landmarks] == [(39.5, 29.5), (10.0, 50.0)]
    assert "semi-manual" in truth["notice"]


def test_both_modalities_of_a_pose_show_the_same_point_at_the_same_millimetres(ball_ct):
    ct = replace(ball_ct, patient="lidc_ball")
    images = list(simulated_images(ct, poses=2, seed=0))
    assert [i.kind for i in images] == ["DRR", "PORTAL"] * 4
    assert [round(i.gantry_deg) for i in images[::4]] == [0, 90]
    for drr, portal in zip(images[::2], images[1::2], strict=True):
        assert drr.gantry_deg == portal.gantry_deg
        for kind, points in portal.points_mm.items():
            assert points == pytest.approx(drr.points_mm[kind], abs=1e-6)
            assert len(points) == 1
