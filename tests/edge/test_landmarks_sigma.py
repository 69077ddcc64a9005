"""The uncertainty of a landmark, from the width of its peak."""

import numpy as np
import pytest

from edge.landmarks import landmarks_from_peaks, peak_width
from edge.preprocess import fit_into_square
from tests.edge.painted_heatmaps import LINE, POINT, blob, decoded, ridge

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


def test_each_kind_s_uncertainty_comes_from_its_own_heatmap(contract, rows):
    kinds = tuple(kind.model_copy(update={"sigma": (0.0, 1.0)}) for kind in contract().kinds)
    heatmaps = np.stack([blob(20, 30, 3.0, size=48), blob(20, 30, 1.5, size=48)])
    peaks, (placement, _) = rows([(20, 30, 0.9)], [(20, 30, 0.9)]), fit_into_square((48, 48), 48)
    wide, narrow = landmarks_from_peaks(peaks, heatmaps, contract(kinds=kinds), placement, (48, 48), None)
    assert wide.sigma_px > 1.5 * narrow.sigma_px


def test_each_point_of_a_line_has_an_uncertainty():
    promise = LINE.model_copy(update={"sigma": (0.0, 1.0)})
    narrow, wide = (decoded(promise, ridge(lambda _: 96.0, sigma_px)) for sigma_px in (1.5, 3.0))
    assert all(a.sigma_px < b.sigma_px for a, b in zip(narrow, wide, strict=True))
