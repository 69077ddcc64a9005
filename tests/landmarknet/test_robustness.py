import numpy as np
import pytest

from landmarknet.ct import tissue_densities
from landmarknet.robustness import NUISANCES, parallel_image


@pytest.mark.parametrize("nuisance", NUISANCES, ids=lambda n: n.name)
def test_a_nuisance_keeps_the_shape_and_changes_the_image(nuisance):
    rng = np.random.default_rng(0)
    pixels = rng.random((60, 80))
    changed = nuisance.change(pixels.copy(), rng)
    assert changed.shape == pixels.shape
    assert np.isfinite(changed).all()
    assert np.array_equal(changed, pixels) == (nuisance.name == "none")


@pytest.mark.parametrize("view", ["ap", "lateral"])
def test_the_other_renderer_marks_the_ball_where_it_is(ball_ct, view):
    image, truth = parallel_image(ball_ct, tissue_densities(ball_ct.hu), view, per_mm=0.02, bone=1.0)
    dark = image.pixels.max() - image.pixels
    rows, columns = np.indices(dark.shape)
    (mark,) = truth["landmarks"]
    centroid = (columns * dark).sum() / dark.sum(), (rows * dark).sum() / dark.sum()
    assert centroid == pytest.approx((mark["x_px"], mark["y_px"]), abs=0.6)
    assert truth["mm_per_px"] == pytest.approx(1.0, abs=0.02)
    assert image.geometry is None
