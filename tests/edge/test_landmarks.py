"""Peaks to landmarks: thresholds, places, millimetres, and kinds that depend on others."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from edge.geometry import GeometryTags, ImageGeometry, image_geometry
from edge.landmarks import landmarks_from_peaks
from edge.preprocess import fit_into_square

SHAPE = (60, 96)  # detector px; on a grid of 48: half the size, 9 px of padding above and below
HALF, _ = fit_into_square(SHAPE, 48)


@pytest.fixture
def found(contract, rows):
    """Return a function: the landmarks of spinous process peaks and of tracheal bifurcation peaks, in network px."""

    def decode(spinous=(), carina=(), geometry=None, placement=HALF, shape=SHAPE, **changes):
        heatmaps = np.zeros((2, 36, 36), np.float32)
        return landmarks_from_peaks(rows(spinous, carina), heatmaps, contract(**changes), placement, shape, geometry)

    return decode


def test_without_peaks_there_are_no_landmarks(found):
    assert found() == ()


def test_a_peak_becomes_a_landmark_in_detector_pixels(found):
    (landmark,) = found(carina=[(20, 30, 0.9)])
    assert landmark.kind == "tracheal_bifurcation"
    # half the size: centre to centre x = 2 (x' + 0.5) - 0.5, and 9 rows of padding above
    assert landmark.xy_px == pytest.approx((2 * 20.5 - 0.5, 2 * (30 - 9 + 0.5) - 0.5), abs=1e-9)
    assert landmark.score == pytest.approx(0.9, abs=1e-7)  # single precision


def test_a_peak_at_its_kind_s_threshold_counts_and_below_it_does_not(found):
    at, below = np.float32(0.5), np.nextafter(np.float32(0.5), np.float32(0))
    assert len(found(carina=[(20, 30, at)])) == 1
    assert found(carina=[(20, 30, below)]) == ()
    assert len(found(spinous=[(20, 30, below)])) == 1  # its threshold is 0.35


def test_of_too_many_peaks_the_best_count(found):
    best_first = [(20, 30, 0.9), (20, 15, 0.8), (20, 35, 0.7), (20, 20, 0.6)]
    scores = [landmark.score for landmark in found(spinous=best_first)]
    assert sorted(scores, reverse=True) == pytest.approx([0.9, 0.8, 0.7], abs=1e-7)


def test_landmarks_are_listed_kind_by_kind_and_from_the_top_down(found):
    landmarks = found(spinous=[(20, 30, 0.9), (25, 15, 0.8), (22, 15, 0.7)], carina=[(20, 12, 0.9)])
    assert [landmark.kind for landmark in landmarks] == ["spinous_process"] * 3 + ["tracheal_bifurcation"]
    places = [landmark.xy_px for landmark in landmarks[:3]]
    assert places == sorted(places, key=lambda xy: (xy[1], xy[0]))
    assert [landmark.score for landmark in landmarks[:3]] == pytest.approx([0.7, 0.8, 0.9], abs=1e-7)


@pytest.mark.parametrize(
    ("y_net", "inside"), [(8.49, False), (8.5, True), (9, True), (38.5, True), (38.51, False), (47, False)]
)
def test_a_peak_in_the_padding_is_no_landmark(found, y_net, inside):
    # the image covers rows 9 to 38, so its edges lie at 8.5 and 38.5; 8.5 and 38.5 are exact in single precision
    assert len(found(carina=[(20, y_net, 0.9)])) == inside


def test_a_peak_in_the_padding_takes_no_place_of_a_landmark(found):
    landmarks = found(carina=[(20, 2, 0.95), (20, 30, 0.7)])  # one landmark of this kind at most
    assert [landmark.score for landmark in landmarks] == pytest.approx([0.7], abs=1e-7)


def test_unused_rows_are_no_landmarks_even_when_every_score_is_accepted(found, contract):
    kinds = tuple(kind.model_copy(update={"threshold": 0.0}) for kind in contract().kinds)
    assert len(found(spinous=[(20, 30, 0.0)], kinds=kinds)) == 1
    no_padding, _ = fit_into_square((96, 96), 48)
    assert found(kinds=kinds, placement=no_padding, shape=(96, 96)) == ()


def test_what_is_not_a_number_is_no_landmark(found):
    assert found(carina=[(np.nan, 30, 0.9)]) == ()
    assert found(carina=[(20, 30, np.nan)]) == ()


def test_a_refined_peak_may_overshoot_but_no_score_exceeds_1(found):
    (landmark,) = found(carina=[(20, 30, 1.07)])
    assert landmark.score == 1.0


def test_without_geometry_there_are_no_millimetres(found):
    (landmark,) = found(carina=[(20, 30, 0.9)])
    assert landmark.xy_mm is None


def test_with_geometry_a_landmark_has_its_place_in_the_isocentre_plane(found):
    tags = GeometryTags(sid_mm=("1500",), sad_mm=("1000",), spacing_mm=("0.6", "0.75"))
    geometry = image_geometry(tags, SHAPE)
    assert isinstance(geometry, ImageGeometry)
    (landmark,) = found(carina=[(20, 30, 0.9)], geometry=geometry)
    x_px, y_px = landmark.xy_px
    # a centred panel; scale 1000/1500, columns 0.75 mm to the right, rows 0.6 mm downwards
    expected = (x_px - 47.5) * 0.75 / 1.5, -(y_px - 29.5) * 0.6 / 1.5
    assert landmark.xy_mm == pytest.approx(expected, abs=1e-9)


def test_a_landmark_s_numbers_are_plain_floats(found):
    """So that they can be written as JSON."""
    geometry = SimpleNamespace(to_isoplane=np.asarray, gantry_deg=None)
    (landmark,) = found(carina=[(20, 30, 0.9)], geometry=geometry)
    assert {type(value) for value in (*landmark.xy_px, *landmark.xy_mm, landmark.score)} == {float}


# --- kinds that depend on others ---


@pytest.mark.parametrize(("carina_score", "kinds"), [(0.9, ["spinous_process", "tracheal_bifurcation"]), (0.1, [])])
def test_a_kind_that_depends_on_another_is_not_reported_alone(contract, rows, carina_score, kinds):
    small = contract()
    spinous, carina = small.kinds
    dependent = spinous.model_copy(update={"only_with": (carina.kind,)})
    reading = small.model_copy(update={"kinds": (dependent, carina)})
    peaks = rows([(20.0, 20.0, 0.9)], [(24.0, 20.0, carina_score)])
    placement, _ = fit_into_square((48, 48), 48)
    found = landmarks_from_peaks(peaks, np.zeros((2, 36, 36)), reading, placement, (48, 48), None)
    assert [one.kind for one in found] == kinds


@pytest.mark.parametrize(
    ("gantry", "shown"),
    [
        ("90.0", True),
        ("270.0", True),
        ("134.9", True),
        ("135.1", False),
        ("46", True),
        ("44", False),
        ("180", False),
        ("359", False),
    ],
)
def test_a_kind_of_lateral_views_is_not_reported_from_another_side(contract, rows, gantry, shown):
    small = contract()
    spinous, carina = small.kinds
    dependent = spinous.model_copy(update={"only_with": (carina.kind,)})
    reading = small.model_copy(update={"kinds": (dependent, carina.model_copy(update={"lateral_only": True}))})
    peaks, (placement, _) = rows([(20.0, 20.0, 0.9)], [(24.0, 20.0, 0.9)]), fit_into_square((48, 48), 48)

    def kinds(geometry):
        return [
            one.kind
            for one in landmarks_from_peaks(peaks, np.zeros((2, 36, 36)), reading, placement, (48, 48), geometry)
        ]

    tags = GeometryTags(sid_mm=("1500",), sad_mm=("1000",), spacing_mm=("0.4", "0.4"), gantry_deg=(gantry,))
    both = ["spinous_process", "tracheal_bifurcation"]
    assert kinds(image_geometry(tags, (48, 48))) == (both if shown else [])  # nor does it stand for what needs it
    assert kinds(replace(image_geometry(tags, (48, 48)), gantry_deg=None)) == both  # not known: nothing is held back
