import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from edge.pixel_checks import MAX_SIDE_PX
from edge.processes import shared_pixels
from edge.processes.shared_pixels import PixelWriter, SharedPixels


@pytest.fixture
def shared():
    """Return memory to share, given back at the end."""
    shared = SharedPixels()
    yield shared
    shared.close()


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (1024, 1280), (1025, 1031), (MAX_SIDE_PX, 1)])
def test_pixels_come_over_whole(shared, shape):
    pixels = np.random.default_rng(0).random(shape, np.float32)
    PixelWriter(shared.fileno()).put(pixels)
    copied = shared.copy(*shape)
    assert np.array_equal(copied, pixels)
    assert copied.dtype == np.float32


def test_a_copy_is_its_reader_s_own(shared):
    writer = PixelWriter(shared.fileno())
    writer.put(np.ones((4, 4), np.float32))
    copied = shared.copy(4, 4)
    writer.put(np.zeros((4, 4), np.float32))
    assert (copied == 1).all()
    assert not copied.flags.writeable


@pytest.mark.parametrize("sides", [(0, 1), (1, 0), (-1, -1), (MAX_SIDE_PX + 1, 1), (1, 2**62)])
def test_sides_that_no_image_has_are_refused_before_memory_is_reserved(shared, sides):
    with pytest.raises(ValueError, match="pixels"):
        shared.copy(*sides)


def test_its_size_is_sealed(shared):
    for size in (0, shared_pixels.MOST_BYTES * 2):
        with pytest.raises(PermissionError):
            os.ftruncate(shared.fileno(), size)


@pytest.mark.parametrize(("module", "call"), [(mmap, "mmap"), (os, "posix_fallocate")])
def test_no_memory_is_told_as_that(shared, monkeypatch, module, call):
    def full(*_args, **_options):
        raise OSError(12, "Cannot allocate memory")

    writer = PixelWriter(shared.fileno())
    monkeypatch.setattr(module, call, full)
    with pytest.raises(MemoryError):
        writer.put(np.ones((2049, 2048), np.float32))  # beyond what stays mapped


def test_pixels_in_another_order_of_memory_come_over_in_theirs(shared):
    pixels = np.asfortranarray(np.random.default_rng(0).random((5, 7), np.float32))
    PixelWriter(shared.fileno()).put(pixels)
    assert np.array_equal(shared.copy(5, 7), pixels)


def test_one_image_after_the_other_comes_over_larger_or_smaller(shared):
    writer, random = PixelWriter(shared.fileno()), np.random.default_rng(0)
    for shape in ((2000, 2500), (3, 5), (1025, 1031), (2000, 2500)):  # the largest beyond what stays mapped
        pixels = random.random(shape, np.float32)
        writer.put(pixels)
        assert np.array_equal(shared.copy(*shape), pixels)


def test_no_more_stays_mapped_than_was_meant(shared):
    writer = PixelWriter(shared.fileno())
    writer.put(np.ones((MAX_SIDE_PX, MAX_SIDE_PX), np.float32))
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if "memfd:pixels" in line]
    sizes = [int(end, 16) - int(start, 16) for start, end in (line.split()[0].split("-") for line in mapped)]
    assert sum(sizes) == shared_pixels.KEPT_BYTES


def test_giving_it_back_leaves_no_descriptor():
    before = len([*Path("/proc/self/fd").iterdir()])
    SharedPixels().close()
    assert len([*Path("/proc/self/fd").iterdir()]) == before
