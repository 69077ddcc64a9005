"""Portal images of any size, made of samples/: 16 bit, with a geometry that holds, each of other bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import generate_uid

from benchmarks.aside import ROOT
from edge.preprocess import resize

ROOM_SHAPE = (1024, 1280)  # rows, columns of a panel of today
SAMPLES = tuple(sorted((ROOT / "samples").glob("*.dcm")))
NOISE = 20.0  # of 65536 stored values: neither constant nor compressible


def write_images(folder: Path, count: int, shape: tuple[int, int] = ROOM_SHAPE) -> list[Path]:
    """Write so many images, the samples in turns."""
    folder.mkdir(parents=True, exist_ok=True)
    return [write_image(folder / f"image {number:04d}.dcm", number, shape) for number in range(count)]


def write_image(path: Path, number: int, shape: tuple[int, int] = ROOM_SHAPE) -> Path:
    """Write one image, scaled until it covers ``shape`` and cut about its middle; the same number gives one image."""
    ds = pydicom.dcmread(SAMPLES[number % len(SAMPLES)])
    stored = ds.pixel_array
    factor = max(shape[0] / stored.shape[0], shape[1] / stored.shape[1])
    scaled = resize(stored, (round(stored.shape[0] * factor), round(stored.shape[1] * factor)))
    top, left = ((have - want) // 2 for have, want in zip(scaled.shape, shape, strict=True))
    pixels = scaled[top : top + shape[0], left : left + shape[1]]
    pixels = pixels + np.random.default_rng(number).normal(0, NOISE, shape)
    ds.PixelData = np.clip(np.round(pixels), 0, 65535).astype("<u2").tobytes()
    ds.Rows, ds.Columns = shape
    spacing = [float(value) for value in ds.ImagePlanePixelSpacing]
    ds.ImagePlanePixelSpacing = [value / factor for value in spacing]
    if "RTImagePosition" in ds:  # of the centre of the first pixel
        x, y = (float(value) for value in ds.RTImagePosition)
        moved = [(0.5 + cut) / factor - 0.5 for cut in (top, left)]
        ds.RTImagePosition = [x + moved[1] * spacing[1], y - moved[0] * spacing[0]]
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[f"bench {number}"])
    ds.save_as(path, enforce_file_format=True)
    return path
