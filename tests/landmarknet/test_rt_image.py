import json
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pydicom
import pytest

from edge.portal_image import read_portal_image
from landmarknet.rt_image import SimulatedImage, truth_document, write_rt_image, write_truth
from landmarknet.simulate_files import simulated_images

PORTAL = SimulatedImage(
    name="x_ap_mv_00",
    patient="x",
    view="ap",
    kind="PORTAL",
    signal=np.add.outer(np.linspace(-3, 1, 60), np.linspace(0, 5, 80)),
    spacing_at_isocentre_mm=0.5,
    gantry_deg=-7.123456789,
    sid_mm=1500.0,
    sign=-1,
    points_px={"tracheal_bifurcation": np.array(((39.5, 29.5), (10.0, 50.0))), "louis_angle": np.array(((1.0, 1.0),))},
    shown={"tracheal_bifurcation": np.array((True, False)), "louis_angle": np.array((True,))},
    unlabelled=frozenset({"louis_angle"}),
    attribution="CT: none",
)


@pytest.fixture(params=[("PORTAL", -1), ("DRR", -1), ("PORTAL", 1)])
def image(request):
    kind, sign = request.param
    return replace(PORTAL, kind=kind, sign=sign)


def test_what_was_written_is_read_back_with_its_polarity(tmp_path, image):
    read = read_portal_image(write_rt_image(image, tmp_path))
    gain, offset = np.polyfit(image.signal.ravel(), read.pixels.ravel(), 1)
    assert gain > 0, "bright must still mean more dose"
    assert np.abs(read.pixels - (gain * image.signal + offset)).max() <= 0.51, "half a stored unit, rounding"


def test_millimetres_of_the_truth_are_those_the_room_computes(tmp_path, image):
    geometry = read_portal_image(write_rt_image(image, tmp_path)).geometry
    assert geometry.warnings == ()
    (truth,) = truth_document([image])["images"].values()
    for one in truth["landmarks"] + truth["hidden"]:
        # decimal strings hold six digits behind the point
        assert geometry.to_isoplane((one["x_px"], one["y_px"])) == pytest.approx((one["x_mm"], one["y_mm"]), abs=1e-3)
    assert (truth["landmarks"][0]["x_mm"], truth["landmarks"][0]["y_mm"]) == (0, 0), "the middle is the beam axis"


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


def test_truth_says_what_is_shown_what_is_hidden_and_what_nobody_labelled(tmp_path, image):
    truth = json.loads(write_truth([image], tmp_path).read_text())
    (entry,) = truth["images"].values()
    assert [(one["kind"], one["x_px"], one["y_px"]) for one in entry["landmarks"]] == [
        ("tracheal_bifurcation", 39.5, 29.5)
    ]
    assert [(one["x_px"], one["y_px"]) for one in entry["hidden"]] == [(10.0, 50.0)]
    assert entry["unlabelled"] == ["louis_angle"]
    assert entry["modality"] == ("mv" if image.kind == "PORTAL" else "kv")
    assert "semi-manual" in truth["notice"]


def test_both_modalities_of_a_pose_show_the_same_point_at_the_same_millimetres(ball_ct):
    images = list(simulated_images(replace(ball_ct, patient="lidc_ball"), poses=3, seed=0))
    assert [i.kind for i in images] == ["DRR", "PORTAL"] * 6
    assert [round(i.gantry_deg) for i in images[::6]] == [0, 90]
    truths = list(truth_document(images)["images"].values())
    for drr, portal in zip(truths[::2], truths[1::2], strict=True):
        (one,), (other,) = (t["landmarks"] + t["hidden"] for t in (drr, portal))
        assert (one["x_mm"], one["y_mm"]) == pytest.approx((other["x_mm"], other["y_mm"]), abs=2e-3)


def test_the_marked_point_is_where_the_ball_is_seen(ball_ct):
    seen = 0
    for image in simulated_images(replace(ball_ct, patient="lidc_ball"), poses=4, seed=1):
        if image.shown["tracheal_bifurcation"].all():
            rows, columns = np.indices(image.signal.shape)
            x, y = image.points_px["tracheal_bifurcation"][0]
            off_mm = np.hypot(columns - x, rows - y) * image.spacing_at_isocentre_mm
            inside, around = image.signal[off_mm < 8], image.signal[(off_mm > 13) & (off_mm < 18)]  # its radius is 10
            assert np.median(inside) < np.median(around), f"{image.name}: a dense ball is dark"
            seen += 1
    assert seen >= 8
