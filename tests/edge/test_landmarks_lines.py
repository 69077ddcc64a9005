"""Ridges to the points of a line."""

import numpy as np
import pytest

from edge.landmarks import line_points, ridge_points, site_px
from tests.edge.painted_heatmaps import LINE, POINT, WIDE, decoded, ridge, sites


@pytest.mark.parametrize("x", [40.0, 97.3, 98.6, 150.9])
@pytest.mark.parametrize("sigma_px", [1.5, 2.5, 4.0])
def test_an_upright_ridge_is_found_in_every_second_block_where_it_is(x, sigma_px):
    points = line_points(ridge(lambda _: x, sigma_px), 0.5)
    # one point a step, at the middle site of a block: 4b + 1.5 for b = 0, 2, 4 ...
    np.testing.assert_allclose(points[:, 1], np.arange(0, WIDE, 8) + 1.5)
    np.testing.assert_allclose(points[:, 0], x, rtol=0, atol=0.5)  # network px; a third of the widest gap of sites
    assert points[:, 2].min() > 0.5
    assert points[:, 2].max() <= 0.9 + 1e-6


@pytest.mark.parametrize("slope", [-0.9, -0.4, 0.2, 0.6, 0.9])  # px sideways a px down
def test_a_slanted_ridge_is_found(slope):
    points = line_points(ridge(lambda y: 96 + slope * (y - 96)), 0.5)
    assert len(points) == WIDE / 8
    np.testing.assert_allclose(points[:, 0], 96 + slope * (points[:, 1] - 96), rtol=0, atol=0.5)


def test_a_curved_ridge_is_found():
    def curve(y):
        return 96 + 25 * np.sin(y / 40)

    points = line_points(ridge(curve), 0.5)
    assert len(points) == WIDE / 8
    np.testing.assert_allclose(points[:, 0], curve(points[:, 1]), rtol=0, atol=0.5)


@pytest.mark.parametrize("x", [0.0, 1.0, WIDE - 1.0])
def test_a_ridge_at_the_square_s_edge_is_found_at_the_edge(x):
    points = line_points(ridge(lambda _: x), 0.5)
    assert len(points) == WIDE / 8
    # network px: half of the ridge is cut off, so its centre of mass lies about 0.8 sigma = 2 px inwards
    np.testing.assert_allclose(points[:, 0], x, rtol=0, atol=2.0)


@pytest.mark.parametrize(("gap", "kept"), [((40, 60), (60, WIDE)), ((120, 140), (0, 120)), ((20, 100), (100, WIDE))])
def test_a_gap_cuts_a_line_to_its_longer_stretch(gap, kept):
    points = line_points(ridge(lambda y: np.nan if gap[0] <= y < gap[1] else 96.0), 0.5)
    steps = np.arange(0, WIDE, 8) + 1.5
    np.testing.assert_allclose(points[:, 1], steps[(steps >= kept[0]) & (steps < kept[1])])


def test_a_faint_part_of_a_ridge_is_a_gap():
    heatmap = ridge(lambda _: 96.0)
    heatmap[(sites() >= 40) & (sites() < 60)] *= 0.5  # 0.45, where the ridge goes straight on
    np.testing.assert_allclose(line_points(heatmap, 0.5)[:, 1], np.arange(64, WIDE, 8) + 1.5)


@pytest.mark.parametrize(("jump_at", "kept"), [(60, (60, WIDE)), (140, (0, 140))])
@pytest.mark.parametrize("far_px", [-40, -12, 12, 40])
def test_a_jump_cuts_a_line_to_its_longer_stretch(jump_at, kept, far_px):
    points = line_points(ridge(lambda y: 96.0 if y < jump_at else 96.0 + far_px), 0.5)
    steps = np.arange(0, WIDE, 8) + 1.5
    np.testing.assert_allclose(points[:, 1], steps[(steps >= kept[0]) & (steps < kept[1])])
    assert np.ptp(points[:, 0]) < 0.01


def test_a_shift_of_less_than_a_step_is_no_jump():
    points = line_points(ridge(lambda y: 96.0 if y < 100 else 102.0), 0.5)
    assert len(points) == WIDE / 8
    assert (points[0, 0], points[-1, 0]) == pytest.approx((96, 102), abs=0.5)


def test_of_equal_stretches_the_upper_one_counts():
    points = line_points(ridge(lambda y: 96.0 if y < WIDE / 2 else 30.0), 0.5)
    assert len(points) == WIDE / 16
    assert points[:, 1].max() < WIDE / 2


def test_a_ridge_below_the_threshold_is_no_line():
    low, at = ridge(lambda _: 96.0, height=0.49), ridge(lambda _: 96.0, height=0.5)
    assert line_points(low, 0.5).shape == (0, 3)
    assert len(line_points(at, 0.5)) == WIDE / 8


@pytest.mark.parametrize("heatmap", [np.zeros((144, 144)), ridge(lambda y: 96.0 if y < 8 else np.nan)])
def test_nothing_and_a_single_point_are_no_line(heatmap):
    assert line_points(heatmap, 0.5).shape == (0, 3)


def test_what_lies_beside_a_ridge_does_not_pull_it():
    beside = ridge(lambda _: 96.0) + ridge(lambda _: 130.0, height=0.6)
    np.testing.assert_allclose(line_points(beside, 0.5)[:, 0], 96.0, rtol=0, atol=0.5)


def test_what_is_not_a_number_is_no_point_of_a_line():
    heatmap = ridge(lambda _: 96.0)
    heatmap[:36] = np.nan
    points = line_points(heatmap, 0.5)
    assert np.isfinite(points).all()
    np.testing.assert_allclose(points[:, 1], np.arange(48, WIDE, 8) + 1.5)


def test_a_line_does_not_jump_with_its_highest_site():
    """The top of a ridge is flat: which of two sites is higher is a matter of rounding, of an engine's precision."""
    across = np.exp(-0.5 * ((site_px(np.arange(36)) - 20.75) / 3.0) ** 2)  # as far from site 15, at 20 px, as from 16
    left, right = (np.tile(across, (36, 1)).astype(np.float32) for _ in range(2))
    left[:, 15] += 1e-4
    right[:, 16] += 1e-4
    assert not np.array_equal(left.argmax(axis=1), right.argmax(axis=1))
    assert ridge_points(left)[:, 0] == pytest.approx(ridge_points(right)[:, 0], abs=0.1)  # network px
    assert ridge_points(left)[:, 0] == pytest.approx(20.75, abs=0.15)


def test_a_line_is_read_from_its_heatmap_and_not_from_its_peaks():
    landmarks = decoded(LINE, ridge(lambda y: 90 + 0.1 * y), peaks=[(20, 30, 0.9)])
    assert len(landmarks) == WIDE / 8
    assert {one.kind for one in landmarks} == {"spine_line"}
    x, y = np.array([one.xy_px for one in landmarks]).T
    assert np.array_equal(y, np.sort(y))
    np.testing.assert_allclose(x, 90 + 0.1 * y, rtol=0, atol=0.5)
    assert {type(value) for one in landmarks for value in (*one.xy_px, one.score)} == {float}


def test_a_point_is_read_from_its_peaks_and_not_from_a_ridge():
    (landmark,) = decoded(POINT, ridge(lambda _: 96.0), peaks=[(20, 30, 0.9)])
    assert landmark.xy_px == (20, 30)


def test_a_line_ends_where_the_image_does():
    # an image of 96 x 192 px in the middle of the square: rows 48 to 143
    landmarks = decoded(LINE, ridge(lambda _: 96.0), shape=(96, WIDE), offset=(0, 48))
    y = np.array([one.xy_px[1] for one in landmarks])
    np.testing.assert_allclose(y, np.arange(0, 96, 8) + 1.5)


def test_of_a_line_too_long_the_upper_points_count():
    short = LINE.model_copy(update={"at_most": 5})
    y = [one.xy_px[1] for one in decoded(short, ridge(lambda _: 96.0))]
    assert y == pytest.approx([1.5, 9.5, 17.5, 25.5, 33.5], abs=1e-9)
