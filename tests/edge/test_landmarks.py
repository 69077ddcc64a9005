from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from edge.contract import KindContract
from edge.geometry import GeometryTags, ImageGeometry, image_geometry
from edge.landmarks import landmarks_from_peaks, line_points, peak_width, ridge_points, site_px
from edge.preprocess import Placement, fit_into_square
from landmarknet.fast_head import SITE_OFFSETS

SHAPE = (60, 96)  # detector px; on a grid of 48: half the size, 9 px of padding above and below
HALF, _ = fit_into_square(SHAPE, 48)
LINE = KindContract(kind="spine_line", threshold=0.5, at_most=64, shape="line")
POINT = KindContract(kind="tracheal_bifurcation", threshold=0.5, at_most=1)
WIDE = 192  # network px: a grid with room for a line


@pytest.fixture
def found(contract, rows):
    """Return a function: the landmarks of spinous process peaks and of tracheal bifurcation peaks, in network px."""

    def decode(spinous=(), carina=(), geometry=None, placement=HALF, shape=SHAPE, heatmaps=None, **changes):
        heatmaps = np.zeros((2, 36, 36), np.float32) if heatmaps is None else heatmaps
        return landmarks_from_peaks(rows(spinous, carina), heatmaps, contract(**changes), placement, shape, geometry)

    return decode


def sites(size=WIDE):
    """Return the network px of the sample sites along one axis: three in each block of 4."""
    return (4 * np.arange(size // 4)[:, None] + np.array(SITE_OFFSETS)).ravel()


def ridge(x_of_y, sigma_px=2.5, height=0.9, size=WIDE):
    """Return (S, S): at each row y a Gaussian about x_of_y(y), network px; none where that is NaN."""
    at = sites(size)
    off = at[None] - np.array([x_of_y(y) for y in at])[:, None]
    return np.nan_to_num(height * np.exp(-(off**2) / (2 * sigma_px**2))).astype(np.float32)


def blob(x, y, sigma_px, height=0.9, size=WIDE):
    """Return (S, S): a Gaussian about a point of the network's grid, sampled at the sites."""
    at = sites(size)
    square = (at[None] - x) ** 2 + (at[:, None] - y) ** 2
    return (height * np.exp(-square / (2 * sigma_px**2))).astype(np.float32)


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


# --- lines ---


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


def decoded(promise, heatmap, peaks=((-1, -1, -1),), scale=1.0, shape=(WIDE, WIDE), offset=(0, 0)):
    """Return the landmarks of one kind, from its heatmap and its peaks, of an image that is ``scale`` times reduced."""
    scale = scale if isinstance(scale, tuple) else (scale, scale)
    reading = SimpleNamespace(kinds=(promise,))
    peaks = np.array(peaks, np.float32)[None]
    return landmarks_from_peaks(peaks, heatmap[None], reading, Placement(scale, offset), shape, None)


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


# --- uncertainty ---

# What `FLOOR_SHARE` of the height takes off a Gaussian: of exp(-u) - f with u = r^2 / (2 sigma^2), up to u = ln(1 / f),
# the mass is 1 - f - f L and the mean of u is (1 - f (1 + L) - f L^2 / 2) / mass, with L = ln(1 / f). At f = 0.1 the
# mean is 0.604: the variance along each axis, mean(r^2) / 2, is 0.604 sigma^2.
FLOOR, LOG = 0.1, np.log(10)
CUT = np.sqrt((1 - FLOOR * (1 + LOG) - FLOOR * LOG**2 / 2) / (1 - FLOOR - FLOOR * LOG))


def test_the_floor_leaves_three_quarters_of_a_gaussian_s_width():
    r = np.linspace(0, 8, 100_001)  # sigma
    mass = np.clip(np.exp(-(r**2) / 2) - FLOOR, 0, None) * r
    assert pytest.approx(np.sqrt((mass * r**2).sum() / mass.sum() / 2), abs=1e-4) == CUT
    assert pytest.approx(0.777, abs=1e-3) == CUT


@pytest.mark.parametrize("sigma_px", [1.5, 2.0, 3.0])
@pytest.mark.parametrize("place", [(96.0, 96.0), (97.5, 99.0), (96.7, 98.2), (60.4, 131.9)])
@pytest.mark.parametrize("height", [0.2, 1.0])
def test_the_width_of_a_gaussian_is_its_sigma_s_but_for_the_floor(sigma_px, place, height):
    width = peak_width(blob(*place, sigma_px, height), np.array([*place, height]))
    # 15 %: sites lie 1 and 1.5 px apart, and the smallest peak is 3 px wide
    assert width == pytest.approx(CUT * sigma_px, rel=0.15)


def test_a_wider_peak_has_a_larger_width():
    widths = [peak_width(blob(96.7, 98.2, s), np.array([96.7, 98.2])) for s in (1.0, 1.5, 2.0, 2.5, 3.0, 4.0)]
    assert widths == sorted(set(widths))


def test_another_peak_far_away_does_not_widen_one():
    one = blob(96, 96, 2.0)
    both = one + blob(120, 96, 2.0)
    assert peak_width(both, np.array([96, 96])) == pytest.approx(peak_width(one, np.array([96, 96])), rel=1e-3)


@pytest.mark.parametrize("place", [(0.0, 0.0), (191.0, 96.0), (96.0, 191.0)])
def test_a_peak_at_the_edge_has_a_width(place):
    assert 0 < peak_width(blob(*place, 2.0), np.array(place)) < 2.0


def test_a_flat_heatmap_has_no_width():
    assert peak_width(np.zeros((144, 144)), np.array([96, 96])) == 0


def test_a_kind_without_sigma_has_no_uncertainty():
    (landmark,) = decoded(POINT, blob(96, 96, 2.0), [(96, 96, 0.9)])
    assert landmark.sigma_px is None


def test_the_uncertainty_is_the_contract_s_line_over_the_peak_s_width():
    width = peak_width(blob(96, 96, 2.0), np.array([96, 96]))
    for sigma, expected in (((1.25, 0.0), 1.25), ((0.0, 1.0), width), ((0.5, 2.0), 0.5 + 2 * width)):
        promise = POINT.model_copy(update={"sigma": sigma})
        (landmark,) = decoded(promise, blob(96, 96, 2.0), [(96, 96, 0.9)])
        assert landmark.sigma_px == pytest.approx(expected, rel=1e-6)
        assert type(landmark.sigma_px) is float


@pytest.mark.parametrize(("scale", "detector_px_a_network_px"), [(0.5, 2.0), (0.2, 5.0), (2.0, 0.5), ((0.5, 0.125), 4)])
def test_the_uncertainty_is_in_detector_pixels(scale, detector_px_a_network_px):
    promise = POINT.model_copy(update={"sigma": (1.5, 0.0)})  # network px
    (landmark,) = decoded(promise, blob(96, 96, 2.0), [(96, 96, 0.9)], scale=scale, shape=(2000, 2000))
    assert landmark.sigma_px == pytest.approx(1.5 * detector_px_a_network_px, rel=1e-9)  # the geometric mean of both


def test_each_kind_s_uncertainty_comes_from_its_own_heatmap(found, contract):
    kinds = tuple(kind.model_copy(update={"sigma": (0.0, 1.0)}) for kind in contract().kinds)
    heatmaps = np.stack([blob(20, 30, 3.0, size=48), blob(20, 30, 1.5, size=48)])
    wide, narrow = found([(20, 30, 0.9)], [(20, 30, 0.9)], heatmaps=heatmaps, kinds=kinds)
    assert wide.sigma_px > 1.5 * narrow.sigma_px


def test_each_point_of_a_line_has_an_uncertainty():
    promise = LINE.model_copy(update={"sigma": (0.0, 1.0)})
    narrow, wide = (decoded(promise, ridge(lambda _: 96.0, sigma_px)) for sigma_px in (1.5, 3.0))
    assert all(a.sigma_px < b.sigma_px for a, b in zip(narrow, wide, strict=True))


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


def test_a_line_does_not_jump_with_its_highest_site():
    """The top of a ridge is flat: which of two sites is higher is a matter of rounding, of an engine's precision."""
    across = np.exp(-0.5 * ((site_px(np.arange(36)) - 20.75) / 3.0) ** 2)  # as far from site 15, at 20 px, as from 16
    left, right = (np.tile(across, (36, 1)).astype(np.float32) for _ in range(2))
    left[:, 15] += 1e-4
    right[:, 16] += 1e-4
    assert not np.array_equal(left.argmax(axis=1), right.argmax(axis=1))
    assert ridge_points(left)[:, 0] == pytest.approx(ridge_points(right)[:, 0], abs=0.1)  # network px
    assert ridge_points(left)[:, 0] == pytest.approx(20.75, abs=0.15)
