"""From path lengths to what a detector shows: a kV image (a DRR, if clean) or a megavoltage portal image.

Attenuation depends on energy and tissue. With m the attenuation of water and b what is left of the bone's excess over
water, primary = exp(-m (soft + b bone)): at kV, b is about 1 (the CT's own contrast); at 6 MV, where only Compton
scattering counts, about 0.5 and m is four times smaller, so bone nearly vanishes. Added to it: scatter (a wide blur of
the primary), focal and detector blur, quantum noise, uneven gain, collimation with penumbra, the couch, a graticule.
All images are SIMULATED.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Modality = Literal["kv", "mv"]
SMALLEST_FIELD_MM = 30.0
MIN_SIGNAL = 1e-5  # relative to the brightest; a kV beam through 450 mm of shoulders leaves about that


@dataclass(frozen=True)
class Field:
    """A collimated rectangle, mm at the isocentre about the beam axis, turned by ``angle_deg``."""

    x_mm: tuple[float, float]
    y_mm: tuple[float, float]
    angle_deg: float
    penumbra_mm: float
    transmission: float  # of the jaws; large for a double exposure


@dataclass(frozen=True)
class Exposure:
    """Everything about one image that is not the patient or the pose."""

    modality: Modality
    water_per_mm: float
    bone_factor: float
    scatter: float  # share of the attenuated beam that arrives as scatter
    scatter_sigma_mm: float
    blur_sigma_mm: float
    noise: float  # relative standard deviation at unit signal; grows as signal falls
    gain_unevenness: float
    response: float  # Box-Cox exponent of the output: 1 linear in dose, 0 its logarithm
    couch_mm: float
    graticule: float  # relative darkness of the lines, 0 = none
    field: Field | None
    processing: Processing | None = None


@dataclass(frozen=True)
class Processing:
    """What a machine or an archive does to the output before anybody sees it."""

    sharpening: float  # share of the detail, the output less its blur, that is added to it
    detail_sigma_mm: float
    window: tuple[float, float]  # quantiles outside which the output is clipped
    labels: int  # burnt-in letters and markers
    inverted: bool


PLAIN = Processing(0.0, 5.0, (0.0, 1.0), 0, inverted=False)


CLEAN_DRR = Exposure("kv", 0.0205, 1.0, 0.0, 60.0, 0.2, 0.0, 0.0, response=0.3, couch_mm=0.0, graticule=0.0, field=None)
PORTAL_6MV = Exposure(
    "mv",
    0.0049,
    0.5,
    scatter=0.25,
    scatter_sigma_mm=60.0,
    blur_sigma_mm=0.8,
    noise=0.006,
    gain_unevenness=0.02,
    response=1.0,
    couch_mm=4.0,
    graticule=0.0,
    field=Field((-95.0, 95.0), (-90.0, 90.0), 0.0, 3.0, 0.015),
)


def sample_exposure(rng: np.random.Generator, modality: Modality) -> Exposure:
    """Draw an exposure, much wider than any one machine."""
    kv = modality == "kv"
    return Exposure(
        modality=modality,
        water_per_mm=rng.uniform(0.016, 0.023) if kv else rng.uniform(0.0042, 0.0065),
        bone_factor=rng.uniform(0.8, 1.5) if kv else rng.uniform(0.4, 0.65),
        scatter=rng.uniform(0.0, 0.03) if kv else rng.uniform(0.05, 0.5),
        scatter_sigma_mm=rng.uniform(30.0, 90.0),
        blur_sigma_mm=rng.uniform(0.0, 0.9) if kv else rng.uniform(0.3, 1.4),
        noise=float(np.exp(rng.uniform(np.log(0.0005), np.log(0.004 if kv else 0.02)))),
        gain_unevenness=rng.uniform(0.0, 0.08),
        response=rng.uniform(0.0, 0.7) if kv else rng.uniform(0.2, 1.0),
        couch_mm=rng.uniform(2.0, 40.0) if rng.random() < 0.5 else 0.0,
        graticule=rng.uniform(0.02, 0.3) if rng.random() < 0.1 else 0.0,
        field=sample_field(rng) if rng.random() < (0.3 if kv else 0.7) else None,
        processing=sample_processing(rng, modality) if rng.random() < 0.5 else None,
    )


def sample_processing(rng: np.random.Generator, modality: Modality) -> Processing:
    """Draw a processing; one image in ten arrives with its polarity the wrong way round."""
    strong = 2.0 if modality == "kv" else 1.0
    return Processing(
        sharpening=rng.uniform(0.0, strong) if rng.random() < 0.6 else 0.0,
        detail_sigma_mm=float(np.exp(rng.uniform(np.log(2.0), np.log(40.0)))),
        window=(rng.uniform(0.0, 0.08), 1 - rng.uniform(0.0, 0.08)) if rng.random() < 0.6 else (0.0, 1.0),
        labels=int(rng.integers(1, 6)) if rng.random() < 0.3 else 0,
        inverted=bool(rng.random() < 0.2),
    )


def sample_field(rng: np.random.Generator) -> Field:
    """Draw jaws between a tight and a nearly open field."""
    left, right, bottom, top = rng.uniform(55.0, 150.0, 4)
    return Field(
        x_mm=(-left, right),
        y_mm=(-bottom, top),
        angle_deg=rng.normal(0.0, 1.0) if rng.random() < 0.8 else rng.uniform(-20.0, 20.0),
        penumbra_mm=rng.uniform(1.5, 5.0),
        transmission=rng.uniform(0.005, 0.04) if rng.random() < 0.8 else rng.uniform(0.2, 0.6),
    )


def close_over(point_mm: np.ndarray, field: Field, rng: np.random.Generator) -> Field:
    """Return a field one of whose jaws is closed over a point (2,), mm at the isocentre, and 3 to 45 mm beyond it.

    The jaw is drawn among those that leave at least 30 mm open; where none does, it is the one that leaves most.
    """
    angle, beyond = math.radians(field.angle_deg), float(np.exp(rng.uniform(np.log(3.0), np.log(45.0))))
    turn = np.array(((math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))))
    along_x, along_y = turn @ point_mm
    moved = (
        replace(field, x_mm=(along_x + beyond, field.x_mm[1])),
        replace(field, x_mm=(field.x_mm[0], along_x - beyond)),
        replace(field, y_mm=(along_y + beyond, field.y_mm[1])),
        replace(field, y_mm=(field.y_mm[0], along_y - beyond)),
    )
    left_open = [min(one.x_mm[1] - one.x_mm[0], one.y_mm[1] - one.y_mm[0]) for one in moved]
    wide = [one for one, mm in zip(moved, left_open, strict=True) if mm >= SMALLEST_FIELD_MM]
    chosen = wide[int(rng.integers(len(wide)))] if wide else moved[int(np.argmax(left_open))]
    return replace(chosen, transmission=min(chosen.transmission, 0.04))


def expose(paths_mm: Tensor, grid_mm: Tensor, exposure: Exposure, rng: np.random.Generator, *, lateral: bool) -> Tensor:
    """Return the detector's output (H, W), bright = more dose, in arbitrary units.

    ``paths_mm`` is (2, H, W): water-equivalent soft tissue and excess of bone. ``grid_mm`` is (H, W, 2): x, y of each
    pixel in mm at the isocentre, +y up.
    """
    mm_per_px = float((grid_mm[0, 1] - grid_mm[0, 0]).norm())
    path = paths_mm[0] + exposure.bone_factor * paths_mm[1]
    if exposure.couch_mm > 0:
        path = path + couch_path(grid_mm, exposure.couch_mm, rng, lateral=lateral)
    fluence = torch.exp(-exposure.water_per_mm * path)
    if exposure.field is not None:
        fluence = fluence * field_mask(grid_mm, exposure.field)
    signal = fluence
    if exposure.scatter > 0:
        source = fluence * exposure.water_per_mm * path  # open air scatters nothing
        signal = signal + exposure.scatter * blur(source, exposure.scatter_sigma_mm / mm_per_px)
    if exposure.blur_sigma_mm > 0:
        signal = blur(signal, exposure.blur_sigma_mm / mm_per_px)
    if exposure.gain_unevenness > 0:
        signal = signal * (1 + exposure.gain_unevenness * smooth_field(signal.shape, rng))
    if exposure.noise > 0:
        white = torch.from_numpy(rng.standard_normal(signal.shape, np.float32))
        signal = signal + exposure.noise * torch.sqrt(signal.clamp_min(0) * float(signal.max()) + MIN_SIGNAL) * white
    if exposure.graticule > 0:
        signal = signal * (1 - exposure.graticule * graticule_mask(grid_mm, rng))
    output = respond(signal, exposure.response)
    return output if exposure.processing is None else process(output, exposure.processing, mm_per_px, rng)


def respond(signal: Tensor, exponent: float) -> Tensor:
    """Apply the Box-Cox family: (s^g - 1) / g, the logarithm at g = 0; increasing, so polarity stays."""
    relative = (signal / signal.max()).clamp_min(MIN_SIGNAL)
    return torch.log(relative) if exponent < 1e-3 else (relative**exponent - 1) / exponent


def process(output: Tensor, processing: Processing, mm_per_px: float, rng: np.random.Generator) -> Tensor:
    """Sharpen, clip to a window, burn labels in, invert."""
    if processing.sharpening > 0:
        output = output + processing.sharpening * (output - blur(output, processing.detail_sigma_mm / mm_per_px))
    if processing.window != (0.0, 1.0):
        low, high = np.quantile(output.numpy(), processing.window)
        output = output.clamp(float(low), float(high))
    if processing.labels:
        output = output.clone()
        low, high = float(output.min()), float(output.max())
        for _ in range(processing.labels):
            height, width = (rng.uniform(3.0, 12.0, 2) * (1, 2) / mm_per_px).astype(int) + 1
            top, left = (rng.random(2) * np.array(output.shape)).astype(int)
            letters = torch.from_numpy(rng.random((height, width)) < rng.uniform(0.3, 1.0))
            patch = output[top : top + height, left : left + width]
            patch[letters[: patch.shape[0], : patch.shape[1]]] = high if rng.random() < 0.5 else low
    return -output if processing.inverted else output


def field_mask(grid_mm: Tensor, field: Field) -> Tensor:
    """Return the jaws' transmission in [transmission, 1] with an error-function-like penumbra."""
    angle = math.radians(field.angle_deg)
    x = grid_mm[..., 0] * math.cos(angle) + grid_mm[..., 1] * math.sin(angle)
    y = grid_mm[..., 1] * math.cos(angle) - grid_mm[..., 0] * math.sin(angle)
    inside = torch.ones_like(x)
    for along, (low, high) in ((x, field.x_mm), (y, field.y_mm)):
        inside = inside * torch.sigmoid((along - low) * 2 / field.penumbra_mm)
        inside = inside * torch.sigmoid((high - along) * 2 / field.penumbra_mm)
    return field.transmission + (1 - field.transmission) * inside


def couch_path(grid_mm: Tensor, thickness_mm: float, rng: np.random.Generator, *, lateral: bool) -> Tensor:
    """Return the couch's water-equivalent path: edge-on behind the back (lateral), or flat with a rail (AP)."""
    x = grid_mm[..., 0]
    if not lateral:
        rail, width = rng.uniform(-150, 150), rng.uniform(4, 15)
        return 0.2 * thickness_mm * (1 + torch.exp(-0.5 * ((x - rail) / width) ** 2))
    front, depth = rng.uniform(105, 150), rng.uniform(25, 60)
    return 2.0 * thickness_mm * torch.sigmoid((x - front) / 1.5) * torch.sigmoid((front + depth - x) / 1.5)


def graticule_mask(grid_mm: Tensor, rng: np.random.Generator) -> Tensor:
    """Return 1 on cross wires and their centimetre ticks, 0 elsewhere."""
    x, y = grid_mm[..., 0] - rng.uniform(-10, 10), grid_mm[..., 1] - rng.uniform(-10, 10)
    wire = (x.abs() < 0.5) | (y.abs() < 0.5)
    tick_x = ((x + 5) % 10 - 5).abs() < 0.5
    tick_y = ((y + 5) % 10 - 5).abs() < 0.5
    return (wire | (tick_x & (y.abs() < 3)) | (tick_y & (x.abs() < 3))).to(grid_mm.dtype)


def blur(image: Tensor, sigma_px: float) -> Tensor:
    """Gaussian blur of (H, W), renormalised at the edge; as two matrix products, so any width costs the same."""
    return gaussian_matrix(image.shape[0], sigma_px) @ image @ gaussian_matrix(image.shape[1], sigma_px).T


def gaussian_matrix(n: int, sigma_px: float) -> Tensor:
    """Return the (n, n) matrix whose rows are Gaussians of unit sum."""
    line = torch.arange(n, dtype=torch.float32)
    weight = torch.exp(-0.5 * ((line[:, None] - line) / max(sigma_px, 1e-3)) ** 2)
    return weight / weight.sum(dim=1, keepdim=True)


def smooth_field(shape: torch.Size, rng: np.random.Generator, waves: int = 4) -> Tensor:
    """Return a slowly varying random map of unit scale: a few low cosines along each axis."""
    amplitudes = torch.from_numpy(rng.standard_normal((waves, waves), np.float32)) / waves
    return _cosines(shape[0], waves).T @ amplitudes @ _cosines(shape[1], waves)


def _cosines(n: int, waves: int) -> Tensor:
    phase = (torch.arange(n, dtype=torch.float32) + 0.5) * (math.pi / n)
    return torch.cos(torch.arange(waves, dtype=torch.float32)[:, None] * phase) * math.sqrt(2)
