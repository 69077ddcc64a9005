import numpy as np
import pytest

from edge.contract import KindContract
from edge.geometry import GeometryTags, image_geometry
from edge.records import ImageIdentity, Landmark, PortalImage
from edge.registration.sighting import shape_of, sighting

KINDS = (
    KindContract(kind="spinous_process", threshold=0.5, at_most=16),
    KindContract(kind="tracheal_bifurcation", threshold=0.5, at_most=1),
    KindContract(kind="spine_line", threshold=0.5, at_most=64, shape="line"),
)
ROWS, COLUMNS = 200, 400


def image(**tags):
    known = {"sid_mm": ("1500",), "sad_mm": ("1000",), "spacing_mm": ("0.6", "0.6"), "support_deg": ("0",)}
    geometry = image_geometry(GeometryTags(**known | tags), (ROWS, COLUMNS))
    reason = geometry if isinstance(geometry, str) else None
    identity = ImageIdentity("RI.1.dcm", "0" * 64, None, "RTIMAGE", ROWS, COLUMNS)
    return PortalImage(np.zeros((ROWS, COLUMNS), np.float32), "", None if reason else geometry, reason, identity)


def landmark(kind, xy_px, shown, sigma_px=3.0):
    xy_mm = shown.geometry.to_isoplane(np.array(xy_px)) if shown.geometry else None
    return Landmark(kind, xy_px, None if xy_mm is None else (float(xy_mm[0]), float(xy_mm[1])), 0.9, sigma_px)


def test_kinds_are_matched_by_name_in_a_row_or_across_a_line():
    assert [shape_of(promise) for promise in KINDS] == ["row", "point", "line"]


def test_an_uncertainty_in_pixels_is_seen_in_the_isocentre_plane():
    shown = image()
    (one,) = sighting(shown, [landmark("spine_line", (10.0, 20.0), shown)], KINDS).landmarks
    assert one.sigma_mm == pytest.approx(3.0 * 0.6 / 1.5)
    assert one.shape == "line"


def test_an_unknown_uncertainty_stays_unknown():
    shown = image()
    (one,) = sighting(shown, [landmark("spinous_process", (10.0, 20.0), shown, sigma_px=None)], KINDS).landmarks
    assert one.sigma_mm is None


def test_the_window_is_the_whole_image():
    width, height = COLUMNS * 0.6 / 1.5, ROWS * 0.6 / 1.5
    assert sighting(image(), [], KINDS).window_mm == pytest.approx((-width / 2, -height / 2, width / 2, height / 2))


def test_an_image_without_millimetres_gives_the_reason():
    assert sighting(image(sad_mm=()), [], KINDS) == "RadiationMachineSAD is empty"


def test_what_the_geometry_doubts_is_passed_on():
    seen = sighting(image(gantry_deg=("0",)), [], KINDS)
    assert seen.gantry_deg is None
    assert seen.support_deg == 0
    assert "gantry_untrusted" in seen.warnings
    assert "isocentre_uncertain" in seen.warnings
