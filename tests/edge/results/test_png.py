"""Our PNG writer against another program's reader."""

import io

import numpy as np
import pytest
from PIL import Image

from edge.results.png import png_of


def read_back(data):
    picture = Image.open(io.BytesIO(data))
    picture.load()  # checks the sums of all chunks
    return picture


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (9, 1), (64, 48), (301, 1024)])
def test_a_picture_is_read_back_as_it_was(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    picture = read_back(png_of(pixels))
    assert (picture.format, picture.mode) == ("PNG", "RGB")
    np.testing.assert_array_equal(np.asarray(picture), pixels)


def test_a_part_of_a_larger_picture_is_written_as_it_stands():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    part = pixels[3:20:2, 5:30]
    np.testing.assert_array_equal(np.asarray(read_back(png_of(part))), part)


def test_a_smooth_picture_gets_small():
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (256, 256, 3))
    assert len(png_of(ramp)) < ramp.nbytes / 80


def test_the_same_pixels_give_the_same_bytes():
    pixels = np.random.default_rng(0).integers(0, 256, (30, 20, 3), np.uint8)
    assert png_of(pixels) == png_of(pixels.copy())
