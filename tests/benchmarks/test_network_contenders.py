import numpy as np
import torch

from benchmarks.network_contenders import difference
from landmarknet.fast_head import to_full_resolution


def test_sites_are_compared_with_the_pixels_they_stand_for():
    sites = np.random.default_rng(0).normal(size=(1, 2, 6, 9)).astype(np.float32)
    full = to_full_resolution(torch.from_numpy(sites)).numpy()
    assert full.shape == (1, 2, 8, 12)
    assert difference(sites, full) == 0


def test_a_difference_is_in_units_of_the_right_ones_spread():
    right = np.array([-1.0, 1.0, -1.0, 1.0]).reshape(1, 1, 2, 2)  # standard deviation 1
    assert difference(right + 0.5, right) == 0.5
