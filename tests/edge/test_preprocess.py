import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edge.preprocess import CONTRAST_LIMIT, HISTOGRAM_BINS, fit_into_square, normalise, resize, to_network_input

SIZE = 384
SIDES = st.integers(1, 4096)
SHAPES = {
    "square": (40, 40),
    "wide": (30, 90),
    "tall": (90, 31),
    "one pixel high": (1, 77),
    "one pixel wide": (77, 1),
    "one pixel": (1, 1),
    "as large as the network's": (SIZE, SIZE),
    "aS1000": (768, 1024),
}


# --- resize ---


@pytest.mark.parametrize(
    ("shape", "to"),
    [
        ((768, 1024), (288, 384)),
        ((1190, 1190), (384, 384)),
        ((513, 301), (384, 225)),
        ((385, 383), (384, 382)),
        ((37, 91), (156, 384)),
        ((100, 300), (128, 100)),
        ((1, 50), (8, 384)),
        ((50, 1), (384, 8)),
        ((2, 3), (384, 384)),
    ],
)
def test_resizing_equals_torch_s_antialiased_bilinear(shape, to):
    pixels = np.random.default_rng(0).random(shape, np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(pixels)[None, None], to, mode="bilinear", align_corners=False, antialias=True
    )
    # of a range of 1: single precision in another order of summation
    np.testing.assert_allclose(resize(pixels, to), expected[0, 0].numpy(), rtol=0, atol=3e-5)


def test_an_image_of_the_right_size_is_not_resampled():
    pixels = np.random.default_rng(0).random((31, 17), np.float32)
    assert np.array_equal(resize(pixels, (31, 17)), pixels)


@pytest.mark.parametrize("shape", [(97, 203), (31, 640), (1, 1)])
def test_a_constant_image_stays_constant(shape):
    resized = resize(np.full(shape, 700, np.float32), (50, 60))
    np.testing.assert_allclose(resized, 700, rtol=1e-5)  # weights of single precision sum to 1 within 1e-6


# --- placement ---


@given(SIDES, SIDES, st.floats(-10, 5000), st.floats(-10, 5000))
def test_a_point_comes_back_from_the_network_s_grid(height, width, x, y):
    placement, _ = fit_into_square((height, width), SIZE)
    # px; double precision at coordinates up to 5e3 and scales down to 1e-4
    np.testing.assert_allclose(placement.to_image(placement.to_net([x, y])), (x, y), rtol=0, atol=1e-8)


@given(SIDES, SIDES)
def test_an_image_fills_the_square_s_longer_side_and_lies_in_the_middle_of_the_other(height, width):
    placement, (placed_height, placed_width) = fit_into_square((height, width), SIZE)
    assert max(placed_height, placed_width) == SIZE
    left, top = placement.offset
    assert (SIZE - placed_width - left) - left in {0, 1}
    assert (SIZE - placed_height - top) - top in {0, 1}
    # (0, 0) is the centre of a pixel, so the image's outermost corners lie half a pixel out, on both grids
    corners = placement.to_net([(-0.5, -0.5), (width - 0.5, height - 0.5)])
    expected = (left - 0.5, top - 0.5), (left + placed_width - 0.5, top + placed_height - 0.5)
    np.testing.assert_allclose(corners, expected, rtol=0, atol=1e-9)


@given(SIDES, SIDES, st.floats(1e-3, 8))
def test_an_image_of_a_given_scale_lies_in_the_middle_and_never_beyond_the_square(height, width, ratio):
    placement, placed = fit_into_square((height, width), SIZE, ratio)
    fitting = min(ratio, SIZE / max(height, width))
    for length, net, scale in zip((width, height), placed[::-1], placement.scale, strict=True):
        assert 1 <= net <= SIZE
        assert abs(net - length * fitting) <= 0.5 or net == 1  # a whole number of px, and one at least
        assert scale == net / length
    for net, before in zip(placed[::-1], placement.offset, strict=True):
        assert (SIZE - net - before) - before in {0, 1}


@pytest.mark.parametrize("ratio", [None, SIZE / 100, SIZE / 100 + 1, 1e9])
def test_without_a_ratio_and_with_one_too_large_an_image_fills_the_square(ratio):
    placement, placed = fit_into_square((60, 100), SIZE, ratio)
    assert placed == (round(60 * SIZE / 100), SIZE)
    assert placement == fit_into_square((60, 100), SIZE)[0]


def test_a_ratio_makes_an_image_as_small_as_it_says():
    placement, placed = fit_into_square((60, 100), SIZE, 0.5)
    assert placed == (30, 50)
    assert placement.scale == (0.5, 0.5)
    assert placement.offset == ((SIZE - 50) // 2, (SIZE - 30) // 2)


@given(st.integers(64, 1200), st.integers(64, 1200))
def test_the_aspect_ratio_is_kept_within_half_a_pixel_of_the_grid(height, width):
    _, placed = fit_into_square((height, width), SIZE)
    ratio = SIZE / max(height, width)
    assert abs(placed[0] - height * ratio) <= 0.5
    assert abs(placed[1] - width * ratio) <= 0.5


@pytest.mark.parametrize("shape", [(768, 1024), (300, 200), (129, 515), (384, 384)])
def test_what_is_seen_at_a_pixel_is_placed_where_the_placement_says(shape):
    y, x = np.mgrid[: shape[0], : shape[1]]
    centre = shape[1] * 0.31, shape[0] * 0.64
    sigma_px = max(shape) / 60
    blob = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * sigma_px**2)).astype(np.float32)
    placement, placed = fit_into_square(shape, SIZE)
    net = resize(blob, placed)
    rows, columns = np.mgrid[: placed[0], : placed[1]]
    seen = np.array([(net * columns).sum(), (net * rows).sum()]) / net.sum() + placement.offset
    # network px: antialiasing is symmetric, so what remains is sampling a blob of sigma 6 px
    np.testing.assert_allclose(seen, placement.to_net(centre), rtol=0, atol=0.01)


# --- normalise ---


def textured(seed=0, shape=(120, 160)):
    """Return an image with a smooth part, noise and a dark frame, 0..4000."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = 2000 + 900 * np.sin(x / 17) * np.cos(y / 23) + rng.normal(0, 60, shape)
    image[:20] = 100 + rng.normal(0, 5, (20, shape[1]))
    return image.astype(np.float32)


@pytest.mark.parametrize(("gain", "offset"), [(1, 1000), (16, 0), (1e-4, 0.5), (3.7, -812.25), (1e6, 1e6)])
def test_gain_and_offset_of_the_detector_change_nothing(gain, offset):
    image = textured()
    other = (gain * image.astype(np.float64) + offset).astype(np.float32)
    # of a range of 2: rounding to single precision moves a grey level by 1e-7 of it, and a few of 19,200 pixels over
    # the edge of one of 256 bins, which then moves all levels above by their share
    np.testing.assert_allclose(normalise(other), normalise(image), rtol=0, atol=2e-3)


@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.integers(2, 40), st.floats(0.2, 8))
def test_more_dose_is_never_darker(seed, height, width, power):
    image = np.random.default_rng(seed).random((height, width), np.float32) ** np.float32(power)
    levels = normalise(image).ravel()[np.argsort(image, axis=None)]
    assert np.diff(levels).min() >= 0
    assert (levels[0], levels[-1]) == (-1, 1)


@pytest.mark.parametrize("value", [0, -3.5, 65535])
def test_an_image_of_one_grey_has_no_contrast(value):
    assert not normalise(np.full((9, 12), value, np.float32)).any()


def test_the_shadow_of_a_collimator_cannot_take_the_grey_scale():
    shadow, field = np.zeros(7000, np.float32), np.linspace(1, 256, 3000, dtype=np.float32)
    levels = normalise(np.concatenate([shadow, field])[None])[0]
    # The shadow is one bin of 256 and counts as CONTRAST_LIMIT / 256 of all pixels instead of 0.7; the field keeps 0.3.
    share = 0.3 / (0.3 + CONTRAST_LIMIT / HISTOGRAM_BINS)
    assert np.ptp(levels[7001:]) == pytest.approx(2 * share, abs=2 * 2 / HISTOGRAM_BINS)  # two bins of the range of 2


# --- the network's input ---


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_shape_is_placed_whole_on_grey(shape):
    pixels = np.random.default_rng(0).random(shape, np.float32)
    batch, placement = to_network_input(pixels, SIZE)
    assert (batch.shape, batch.dtype) == ((1, 1, SIZE, SIZE), np.float32)
    _, (height, width) = fit_into_square(shape, SIZE)
    x, y = placement.offset
    inside = np.zeros((SIZE, SIZE), bool)
    inside[y : y + height, x : x + width] = True
    assert not batch[0, 0][~inside].any()
    assert np.abs(batch).max() <= 1
    assert np.array_equal(batch[0, 0, y : y + height, x : x + width], normalise(resize(pixels, (height, width))))


@pytest.mark.parametrize("ratio", [0.02, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_given_scale_is_placed_on_grey(shape, ratio):
    pixels = np.random.default_rng(0).random(shape, np.float32)
    batch, placement = to_network_input(pixels, SIZE, ratio)
    expected, (height, width) = fit_into_square(shape, SIZE, ratio)
    assert placement == expected
    x, y = placement.offset
    inside = np.zeros((SIZE, SIZE), bool)
    inside[y : y + height, x : x + width] = True
    assert not batch[0, 0][~inside].any()
    assert np.array_equal(batch[0, 0, y : y + height, x : x + width], normalise(resize(pixels, (height, width))))


def test_preparing_leaves_the_image_as_it_was():
    pixels = textured(shape=(SIZE, SIZE))
    pixels.setflags(write=False)
    before = pixels.copy()
    to_network_input(pixels, SIZE)
    assert np.array_equal(pixels, before)
