import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from landmarknet.decode import find_peaks, nms_radius_net_px, site_position, suppress
from landmarknet.targets import site_target

SITES = site_position(torch.arange(288))


def sampled_gaussian(x, y, height=0.8, sigma=3.0):
    return height * torch.exp(-0.5 * ((SITES[:, None] - y) ** 2 + (SITES - x) ** 2) / sigma**2)


def reference_peaks(heatmap, radius):
    """The same rule in plain Python: maxima of their window; of equal ones in reach of each other, not the later."""

    def window(y, x):
        return slice(max(0, y - radius), y + radius + 1), slice(max(0, x - radius), x + radius + 1)

    maxima = [(y, x) for y, x in np.argwhere(heatmap > 0).tolist() if heatmap[y, x] == heatmap[window(y, x)].max()]
    return {
        (y, x)
        for i, (y, x) in enumerate(maxima)
        if not any(abs(y - v) <= radius and abs(x - u) <= radius for v, u in maxima[:i])
    }


def test_sites_lie_at_the_centres_of_the_pixels_they_stand_for():
    assert SITES[:6].tolist() == [0.0, 1.5, 3.0, 4.0, 5.5, 7.0]
    assert SITES[-1] == 383.0


@settings(max_examples=50, deadline=None, derandomize=True)
@given(x=st.floats(3, 380), y=st.floats(3, 380))
def test_a_gaussian_sampled_at_the_sites_is_found_where_it_is(x, y):
    peaks = find_peaks(sampled_gaussian(x, y)[None], rows=3, radius_net_px=8)[0]
    assert peaks[0, :2].numpy() == pytest.approx((x, y), abs=1e-3)  # float32 logarithms
    assert (peaks[1:] == -1).all()


@settings(max_examples=50, deadline=None, derandomize=True)
@given(x=st.floats(8, 375), y=st.floats(8, 375))
def test_a_training_target_is_decoded_where_it_was_encoded(x, y):
    peaks = find_peaks(
        site_target("tracheal_bifurcation", np.array(((x, y),)), 384, sigma=3.0)[None], rows=1, radius_net_px=8
    )[0]
    # block means of a Gaussian are not quite one: fast-head.md gives up to 0.06 px
    assert peaks[0, :2].numpy() == pytest.approx((x, y), abs=0.08)


def test_several_peaks_come_out_highest_first():
    heatmap = torch.maximum(sampled_gaussian(100, 50, 0.5), sampled_gaussian(200, 300, 0.9))
    peaks = find_peaks(heatmap[None], rows=4, radius_net_px=8)[0]
    assert peaks[:2, :2].numpy() == pytest.approx(np.array(((200, 300), (100, 50))), abs=1e-3)
    assert peaks[0, 2] > peaks[1, 2] > 0
    assert (peaks[2:] == -1).all()


def test_a_tie_goes_to_the_upper_left_site():
    heatmap = torch.zeros(1, 288, 288)
    for y, x in ((50, 53), (50, 50), (52, 49)):
        heatmap[0, y, x] = 0.7
    kept = suppress(heatmap, radius=6)[0]
    assert kept.nonzero().tolist() == [[50, 50]]


def test_a_plateau_gives_one_peak():
    heatmap = torch.zeros(1, 288, 288)
    heatmap[0, 100:104, 100:104] = 0.5
    assert suppress(heatmap, radius=6)[0].nonzero().tolist() == [[100, 100]]


@pytest.mark.parametrize("empty", [0.0, -1.0])
def test_nothing_above_zero_gives_no_peak(empty):
    assert (find_peaks(torch.full((2, 288, 288), empty), rows=5, radius_net_px=8) == -1).all()


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 287), (287, 4), (287, 287)])
def test_a_peak_on_the_border_stays_on_the_image(row, column):
    heatmap = torch.zeros(1, 288, 288)
    heatmap[0, row, column] = 1.0
    x, y, score = find_peaks(heatmap, rows=1, radius_net_px=8)[0, 0].tolist()
    assert (x, y, score) == (float(SITES[column]), float(SITES[row]), 1.0)


@pytest.mark.parametrize("seed", range(3))
def test_suppression_agrees_with_plain_python_on_noise_with_ties(seed):
    noise = np.random.default_rng(seed).integers(-2, 12, (48, 48)).astype(np.float32)  # few values: many ties
    kept = suppress(torch.from_numpy(noise)[None], radius=3)[0].numpy()
    expected = reference_peaks(noise, 3)
    assert {tuple(p) for p in np.argwhere(kept > 0).tolist()} == expected
    assert len(expected) > 5


def test_radius_on_the_sites_equals_four_thirds_of_it_on_pixels():
    from landmarknet.fast_head import to_full_resolution

    noise = torch.rand(1, 72, 72, generator=torch.Generator().manual_seed(0))
    on_sites = suppress(noise, radius=3)[0].nonzero()
    full = to_full_resolution(noise)
    highest = torch.nn.functional.max_pool2d(full[None], 9, stride=1, padding=4)[0]
    on_pixels = ((full == highest)[0]).nonzero()
    block, phase = on_pixels // 4, on_pixels % 4
    as_sites = block * 3 + torch.tensor((0, 1, 1, 2))[phase]
    assert {tuple(p) for p in as_sites.tolist()} == {tuple(p) for p in on_sites.tolist()}


def test_more_peaks_than_rows_keeps_the_best():
    heatmap = torch.stack([sampled_gaussian(40 * i + 30, 100, 0.1 * (i + 1)) for i in range(8)]).amax(0)
    peaks = find_peaks(heatmap[None], rows=3, radius_net_px=8)[0]
    assert peaks[:, 0].numpy() == pytest.approx((310, 270, 230), abs=1e-2)


@pytest.mark.parametrize(("size", "radius"), [(384, 8), (192, 4), (96, 4)])
def test_the_radius_is_that_of_the_384_grid_in_whole_blocks(size, radius):
    assert nms_radius_net_px(size) == radius
