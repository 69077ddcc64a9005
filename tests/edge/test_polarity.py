import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.polarity import AIR, ANATOMY, SHADOW, UNDECIDED, dose_sign

HEIGHT, WIDTH = 192, 256
Y, X = np.mgrid[0:HEIGHT, 0:WIDTH].astype(float)


def jaws(top, bottom, left, right, angle_deg=0.0):
    """Return 0..1 (H, W): 1 inside the field, with a penumbra of 3 px."""
    angle = np.deg2rad(angle_deg)
    x = (X - WIDTH / 2) * np.cos(angle) + (Y - HEIGHT / 2) * np.sin(angle) + WIDTH / 2
    y = (Y - HEIGHT / 2) * np.cos(angle) - (X - WIDTH / 2) * np.sin(angle) + HEIGHT / 2
    inside = np.minimum.reduce([y - top, bottom - y, x - left, right - x])
    return np.clip(0.5 + inside / 3, 0, 1)


def noise(seed=0):
    return np.random.default_rng(seed).normal(0, 0.005, (HEIGHT, WIDTH))


def body_thickness(cut_top=0, cut_bottom=HEIGHT):
    """Return (H, W) path length, 0 in air, of a trunk in front of air; its CT may end inside the image."""
    trunk = 2 * np.sqrt(np.clip(1 - ((X - WIDTH / 2) / 80) ** 2, 0, None))
    spine = 0.8 * (np.abs(X - WIDTH / 2) < 8)
    lungs = 0.9 * sum(np.clip(1 - ((X - c) / 26) ** 2 - ((Y - 96) / 70) ** 2, 0, None) for c in (88, 168))
    return np.clip(trunk + spine - lungs, 0, None) * ((cut_top <= Y) & (cut_bottom > Y))


def portal(thorax, field, shadow=0.03):
    return shadow + field * thorax(HEIGHT, WIDTH) + noise()


def pelvic_bones():
    """Return (H, W) bone thickness: a spine that ends in a pelvic ring, on exactly nothing."""
    spine = (np.abs(X - 128) < 12) * (Y < 90) * (Y > 20) * (0.8 + 0.2 * np.cos(Y / 2))
    wings = sum(np.clip(1 - ((X - c) / 34) ** 2 - ((Y - 80) / 40) ** 2, 0, None) for c in (85, 171))
    hips = sum(np.clip(1 - ((X - c) / 18) ** 2 - ((Y - 135) / 25) ** 2, 0, None) for c in (75, 181))
    return spine + wings + hips


def spherical_head():
    return np.sqrt(np.clip(1 - ((X - 128) / 70) ** 2 - ((Y - 96) / 80) ** 2, 0, None))


def more_dose_is_bright(thorax):
    """Return name -> (image with bright = more dose, the rule that should decide)."""
    return {
        "collimated on four sides": (portal(thorax, jaws(30, 160, 40, 215)), SHADOW),
        "collimated, exact zeros outside": (thorax(HEIGHT, WIDTH) * (jaws(30, 160, 40, 215) > 0.5), SHADOW),
        "collimated off centre": (portal(thorax, jaws(60, 180, 20, 175)), SHADOW),
        "collimator turned by 30 deg": (portal(thorax, jaws(40, 150, 60, 196, 30)), SHADOW),
        "open flat field": (0.03 + jaws(60, 130, 80, 170) + noise(), SHADOW),
        "tiny field": (0.03 + jaws(88, 104, 120, 136) + noise(), SHADOW),
        "upper jaw only": (portal(thorax, jaws(50, 999, -999, 999)), SHADOW),
        "chest radiograph, bone dark": (thorax(HEIGHT, WIDTH) + noise(), ANATOMY),
        "MV image, air beside the body": (np.exp(-0.8 * body_thickness()) + noise(), AIR),
        "DRR shown as transmission": (np.exp(-0.8 * body_thickness()), AIR),
        "DRR of a CT that ends in the image": (-body_thickness(30, 150), AIR),
        "DRR of bones on a constant background": (-pelvic_bones(), AIR),
        "head in air": (-spherical_head(), AIR),
    }


KINDS = list(more_dose_is_bright(lambda h, w: np.ones((h, w))))


@pytest.mark.parametrize("kind", KINDS)
def test_bright_is_more_dose_in(kind, thorax):
    image, rule = more_dose_is_bright(thorax)[kind]
    assert dose_sign(image.astype(np.float32)) == (1, rule)


@pytest.mark.parametrize("kind", KINDS)
def test_bright_is_less_dose_in_the_negative_of(kind, thorax):
    image, rule = more_dose_is_bright(thorax)[kind]
    assert dose_sign(65535 - 20000 * image.astype(np.float32)) == (-1, rule)


@pytest.mark.parametrize("kind", KINDS)
def test_dead_edge_columns_do_not_change_the_answer_for(kind, thorax):
    image, rule = more_dose_is_bright(thorax)[kind]
    for dead in (image.min() - 5, image.max() + 5):  # stuck low, stuck high
        panel = image.astype(np.float32)
        panel[:, :2] = panel[:, -2:] = dead
        assert dose_sign(panel) == (1, rule)


def test_the_answer_is_the_same_at_four_times_the_size(thorax):
    for kind, (image, rule) in more_dose_is_bright(thorax).items():
        large = np.kron(image, np.ones((4, 4))).astype(np.float32)
        assert dose_sign(large) == (1, rule), kind


@settings(derandomize=True, max_examples=60, database=None, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(24, 90), st.integers(24, 90)),
    smooth=st.integers(0, 3),
    clip=st.booleans(),
)
def test_an_image_and_its_negative_get_opposite_answers(seed, shape, smooth, clip):
    image = np.random.default_rng(seed).normal(0, 1, shape)
    for _ in range(smooth):
        image = np.cumsum(image - image.mean(), axis=0) + np.cumsum(image - image.mean(), axis=1)
    if clip:  # plateaus, as in shadows, air and saturation
        image = np.clip(image, *np.percentile(image, [30, 80]))
    sign, rule = dose_sign(image.astype(np.float32))
    assert rule != UNDECIDED
    assert dose_sign(-image.astype(np.float32)) == (-sign, rule)


def test_an_image_without_a_difference_is_taken_as_stored():
    assert dose_sign(np.full((64, 64), 7, np.float32)) == (1, UNDECIDED)


def test_a_left_right_even_ramp_is_a_tie_and_taken_as_stored():
    ramp = np.repeat(np.arange(64, dtype=np.float32)[:, None], 64, axis=1)
    for image in (ramp, -ramp):
        assert dose_sign(image) == (1, UNDECIDED)


@pytest.mark.parametrize("shape", [(1, 1), (2, 300), (15, 15), (3, 3)])
def test_a_few_pixels_are_taken_as_stored(shape):
    image = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    assert dose_sign(image) == (1, UNDECIDED)
