"""Training samples: cached projections of many poses, exposed, cropped and turned afresh for every sample.

Sample i of a seed is always the same image, whatever came before: a resumed training sees the same data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edge.preprocess import to_network_input
from landmarknet.ct import CtVolume, read_ct
from landmarknet.network import INPUT_SIZE, KINDS, STRIDES
from landmarknet.pose import VIEWS, View, sample_pose
from landmarknet.simulate import Field, Modality, expose, field_mask, sample_exposure
from landmarknet.targets import level_heatmap, site_heatmap

CACHE_SIZE, CACHE_MM_PER_PX = 512, 0.8
CACHE_VERSION = 2  # raise it whenever projections change: 1 held half of the patient (docs/adr/0002)
MIN_VISIBLE_TRANSMISSION = 0.1  # of the jaws, for what lies under them to count as shown
NEGATIVE_SHARE, FIELD_ONLY_SHARE = 0.10, 0.05
SPINOUS_MARGIN_MM = 12.0  # beyond the first and last labelled tip nobody said whether there is one


@dataclass(frozen=True, eq=False)
class CachedView:
    """Projections of one patient about one view. ``paths_mm`` (N, 2, S, S) float16; points (N, n, 2) px per kind."""

    patient: str
    view: View
    paths_mm: np.ndarray
    points_px: dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Case:
    """One simulated image as the network sees it, and where its landmarks truly are.

    ``points_net`` maps each labelled kind to (n, 2) network px, ``visible`` to (n,) whether the exposed image shows it.
    """

    batch: np.ndarray  # (1, 1, 384, 384)
    points_net: dict[str, np.ndarray]
    visible: dict[str, np.ndarray]
    view: View
    mm_per_net_px: float  # at the isocentre

    def shown(self, kind: str) -> np.ndarray:
        """Return the (n, 2) points of a kind that the image shows."""
        return self.points_net[kind][self.visible[kind]] if kind in self.points_net else np.zeros((0, 2))


class Sample(NamedTuple):
    """One training sample; a batch has a leading dimension."""

    image: Tensor  # (1, 384, 384)
    target: Tensor  # (n, 288, 288)
    by_level: tuple[Tensor, ...]  # (n, 384/s, 384/s) each
    mask: Tensor  # (n, 288, 1): 0 where nobody labelled this kind
    present: Tensor  # (n,) 1, 0, or -1 where unknown


def cache_views(ct_path: Path, cache: Path, poses: int, seed: int) -> list[CachedView]:
    """Return both views of a CT, projected once and kept under ``cache``."""
    patient = ct_path.name.removesuffix(".nii.gz")
    files = {view: cache / f"{patient}.{view}.{poses}.{seed}.v{CACHE_VERSION}.npz" for view in VIEWS}
    if not all(f.exists() for f in files.values()):
        _project_views(read_ct(ct_path), files, poses, seed)
    return [_read_view(patient, view, file) for view, file in files.items()]


def _project_views(ct: CtVolume, files: dict[View, Path], poses: int, seed: int) -> None:
    from landmarknet.projection import Projector

    projector = Projector(ct)
    for view, file in files.items():
        rng = np.random.default_rng([seed, len(view), *ct.patient.encode()])
        projections = [projector.project(sample_pose(ct, view, rng), CACHE_SIZE, CACHE_MM_PER_PX) for _ in range(poses)]
        file.parent.mkdir(parents=True, exist_ok=True)
        points = {kind: np.stack([p.points_px[kind] for p in projections]) for kind in ct.points_mm}
        paths = np.stack([p.paths_mm.astype(np.float16) for p in projections])
        partial = file.with_suffix(".partial.npz")
        np.savez(partial, paths_mm=paths, **points)  # type: ignore[arg-type]  # numpy's stub knows no **arrays
        partial.replace(file)


def _read_view(patient: str, view: View, file: Path) -> CachedView:
    with np.load(file) as data:
        return CachedView(patient, view, data["paths_mm"], {k: data[k] for k in data.files if k != "paths_mm"})


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """A source of samples: ``labelled`` patients, and ``negatives`` that show none of the kinds."""

    labelled: Sequence[CachedView]
    negatives: Sequence[CachedView]
    seed: int

    def sample(self, index: int) -> Sample:
        """Return sample ``index`` of this seed."""
        rng = np.random.default_rng([self.seed, index])
        modality: Modality = "kv" if rng.random() < 0.45 else "mv"
        draw = rng.random()
        if draw < FIELD_ONLY_SHARE:
            return label(draw_empty_field(modality, rng))
        pool = self.negatives if self.negatives and draw < FIELD_ONLY_SHARE + NEGATIVE_SHARE else self.labelled
        return label(draw_case(pool[int(rng.integers(len(pool)))], modality, rng))


def collate(samples: Sequence[Sample]) -> Sample:
    """Stack samples into a batch."""
    levels = zip(*(s.by_level for s in samples), strict=True)
    return Sample(
        image=torch.stack([s.image for s in samples]),
        target=torch.stack([s.target for s in samples]),
        by_level=tuple(torch.stack(level) for level in levels),
        mask=torch.stack([s.mask for s in samples]),
        present=torch.stack([s.present for s in samples]),
    )


def draw_case(cached: CachedView, modality: Modality, rng: np.random.Generator) -> Case:
    """Draw one exposure, crop, turn and scale of one cached projection."""
    number = int(rng.integers(len(cached.paths_mm)))
    shape = draw_shape(rng)
    frame = draw_frame(shape, rng)
    paths, grid_mm = cut(cached.paths_mm[number], frame, shape)
    exposure = sample_exposure(rng, modality)
    image = expose(paths, grid_mm, exposure, rng, lateral=cached.view == "lateral")
    batch, placement = to_network_input(image.numpy(), INPUT_SIZE)
    points_net, visible = {}, {}
    for kind, points in cached.points_px.items():
        points_px = (np.linalg.inv(frame) @ _homogeneous(points[number]).T).T[:, :2]
        points_net[kind] = placement.to_net(points_px)
        visible[kind] = _on_detector(points_px, shape) & _exposed(points[number], exposure.field)
    mm_per_net_px = CACHE_MM_PER_PX * math.sqrt(abs(np.linalg.det(frame[:2, :2]))) / placement.scale[0]
    return Case(batch, points_net, visible, cached.view, mm_per_net_px)


def draw_shape(rng: np.random.Generator) -> tuple[int, int]:
    """Draw the detector's (height, width); the longer side already has the network's size, so nothing is resized."""
    aspect = rng.choice((1.0, 1.0, 4 / 3, 5 / 4, 3 / 4))
    return (round(INPUT_SIZE / aspect), INPUT_SIZE) if aspect >= 1 else (INPUT_SIZE, round(INPUT_SIZE * aspect))


def draw_frame(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Draw the 3x3 matrix from detector px to cache px: field of view, in-plane turn, shift, mirror, stretch."""
    field_of_view_mm = float(np.exp(rng.uniform(np.log(200.0), np.log(400.0))))
    zoom = field_of_view_mm / INPUT_SIZE / CACHE_MM_PER_PX * np.exp(rng.normal(0, 0.04, 2))
    angle = math.radians(float(np.clip(rng.normal(0, 3), -10, 10)))
    mirror = -1.0 if rng.random() < 0.35 else 1.0
    turn = np.array(((math.cos(angle), -math.sin(angle)), (math.sin(angle), math.cos(angle))))
    linear = turn @ np.diag((zoom[0] * mirror, zoom[1]))
    middle = np.array((shape[1] - 1, shape[0] - 1)) / 2
    shift_px = rng.uniform(-45, 45, 2) / CACHE_MM_PER_PX
    frame = np.eye(3)
    frame[:2, :2] = linear
    frame[:2, 2] = (CACHE_SIZE - 1) / 2 + shift_px - linear @ middle
    return frame


def cut(paths_mm: np.ndarray, frame: np.ndarray, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Sample (2, S, S) cached paths on the detector: paths (2, H, W), and each pixel's x, y in mm, +y up."""
    rows, columns = torch.meshgrid(torch.arange(shape[0]), torch.arange(shape[1]), indexing="ij")
    detector = torch.stack((columns, rows, torch.ones_like(rows)), dim=-1).float()
    cache_px = detector @ torch.from_numpy(frame[:2].T.astype(np.float32))  # (H, W, 2)
    unit = cache_px * (2 / (CACHE_SIZE - 1)) - 1
    source = torch.from_numpy(paths_mm).float()[None]
    paths = F.grid_sample(source, unit[None], mode="bilinear", padding_mode="border", align_corners=True)[0]
    centred = (cache_px - (CACHE_SIZE - 1) / 2) * CACHE_MM_PER_PX
    return paths, centred * torch.tensor((1.0, -1.0))


def label(case: Case) -> Sample:
    """Attach targets, and masks where a kind is not labelled."""
    points = [case.shown(kind) for kind in KINDS]
    mask, present = torch.ones(len(KINDS), INPUT_SIZE * 3 // 4, 1), torch.tensor([float(len(p) > 0) for p in points])
    if case.view == "ap" and "louis_angle" in case.points_net:  # before the spine in AP: nobody could label it
        index = KINDS.index("louis_angle")
        points[index], mask[index], present[index] = np.zeros((0, 2)), 0.0, -1.0
    if "spinous_process" in case.points_net:
        tips_y = case.points_net["spinous_process"][:, 1]
        site_y = torch.arange(INPUT_SIZE * 3 // 4) * (4 / 3)
        margin = SPINOUS_MARGIN_MM / case.mm_per_net_px
        mask[KINDS.index("spinous_process"), (site_y < tips_y.min() - margin) | (site_y > tips_y.max() + margin)] = 0.0
    return Sample(
        image=torch.from_numpy(case.batch[0]),
        target=torch.stack([site_heatmap(p, INPUT_SIZE) for p in points]),
        by_level=tuple(torch.stack([level_heatmap(p, INPUT_SIZE, s) for p in points]) for s in STRIDES),
        mask=mask,
        present=present,
    )


def _on_detector(points_px: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    x, y = points_px.T
    return (x >= 0) & (x <= shape[1] - 1) & (y >= 0) & (y <= shape[0] - 1)


def _exposed(points_cache_px: np.ndarray, field: Field | None) -> np.ndarray:
    if field is None or field.transmission > MIN_VISIBLE_TRANSMISSION:
        return np.ones(len(points_cache_px), bool)
    grid_mm = (points_cache_px - (CACHE_SIZE - 1) / 2) * (CACHE_MM_PER_PX, -CACHE_MM_PER_PX)
    return (field_mask(torch.from_numpy(grid_mm), field) > 0.5).numpy()


def _homogeneous(points: np.ndarray) -> np.ndarray:
    return np.concatenate((points, np.ones((len(points), 1))), axis=1)


def draw_empty_field(modality: Modality, rng: np.random.Generator) -> Case:
    """Draw a field without a patient, with or without balls: quality assurance, a blank, a flood."""
    shape = draw_shape(rng)
    frame = draw_frame(shape, rng)
    paths, grid_mm = cut(np.zeros((2, CACHE_SIZE, CACHE_SIZE), np.float16), frame, shape)
    for _ in range(int(rng.integers(0, 12))):
        x, y = rng.uniform(-120, 120, 2)
        distance = ((grid_mm[..., 0] - x) ** 2 + (grid_mm[..., 1] - y) ** 2).sqrt()
        paths[1] = paths[1] + rng.uniform(5, 60) * torch.sigmoid((rng.uniform(2, 8) - distance) * 3)
    image = expose(paths, grid_mm, sample_exposure(rng, modality), rng, lateral=False)
    batch, _ = to_network_input(image.numpy(), INPUT_SIZE)
    return Case(batch, {}, {}, "lateral", CACHE_MM_PER_PX)
