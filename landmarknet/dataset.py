"""Training samples: cached projections of many poses, exposed, cropped and turned afresh for every sample.

Sample i of a seed is always the same image, whatever came before: a resumed training sees the same data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edge.landmarks import site_px
from edge.preprocess import to_network_input
from landmarknet.ct import CtVolume, read_ct, sample_curve
from landmarknet.deformation import deform, sample_deformation
from landmarknet.fast_head import PIXELS_PER_BLOCK, SITES_PER_BLOCK
from landmarknet.mixed_bodies import Warp, mix_bodies, sample_warp
from landmarknet.network import KINDS, LATERAL_KINDS, LINE_KINDS, SINGLE_KINDS, STRIDES, NetworkConfig
from landmarknet.pose import VIEWS, View, sample_pose
from landmarknet.simulate import Field, Modality, close_over, expose, field_mask, sample_exposure, sample_field
from landmarknet.targets import level_target, site_target

if TYPE_CHECKING:
    from landmarknet.projection import Projection

CACHE_SIZE, CACHE_MM_PER_PX = 400, 1.1
CACHE_VERSION = 5  # raise it whenever projections change: 1 held half of the patient (docs/adr/0002), 2 one body each,
# 3 bodies that were cut off above and below (docs/adr/0007), 4 one curve from CT numbers to attenuation
UNDEFORMED_SHARE = 0.2
SMALLEST_MM, LARGEST_MM = 190.0, 430.0  # the detector's longer side at the isocentre
SCALE_JITTER = 0.05
MIN_VISIBLE_TRANSMISSION = 0.1  # of the jaws, for what lies under them to count as shown
NEGATIVE_SHARE, FIELD_ONLY_SHARE = 0.10, 0.05
CLOSED_SHARE = 0.25  # of the images of patients, while jaws are closed over landmarks
SPINE_KINDS = ("spinous_process", "spine_line")
SPINE_WITHOUT_LABELS = ("acrin_flt_001b", "panc_cb001")  # abdomen and pelvis: negatives for the other kinds alone
LINE_STEPS = 8
SPINOUS_MARGIN_MM = 12.0  # beyond the first and last labelled tip nobody said whether there is one


@dataclass(frozen=True, eq=False)
class CachedView:
    """Projections of one patient about one view. ``paths_mm`` (N, 2, S, S) float16; points (N, n, 2) px per kind.

    ``unlabelled`` kinds may be there without a label: what the network says of them is neither right nor wrong.
    """

    patient: str
    view: View
    paths_mm: np.ndarray
    points_px: dict[str, np.ndarray]
    unlabelled: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False)
class Case:
    """One simulated image as the network sees it, and where its landmarks truly are.

    ``points_net`` maps each labelled kind to (n, 2) network px, ``visible`` to (n,) whether the exposed image shows it.
    """

    batch: np.ndarray  # (1, 1, S, S)
    points_net: dict[str, np.ndarray]
    visible: dict[str, np.ndarray]
    view: View
    mm_per_net_px: float  # at the isocentre
    unlabelled: frozenset[str] = frozenset()

    def shown(self, kind: str) -> np.ndarray:
        """Return the (n, 2) points of a kind that the image shows."""
        return self.points_net[kind][self.visible[kind]] if kind in self.points_net else np.zeros((0, 2))


class Sample(NamedTuple):
    """One training sample; a batch has a leading dimension."""

    image: Tensor  # (1, S, S)
    target: Tensor  # (n, 3S/4, 3S/4)
    by_level: tuple[Tensor, ...]  # (n, S/s, S/s) each
    mask: Tensor  # (n, 3S/4, 1): 0 where nobody labelled this kind
    present: Tensor  # (n,) 1, 0, or -1 where unknown


def cache_views(ct_path: Path, cache: Path, poses: int, seed: int) -> list[CachedView]:
    """Return both views of a CT, projected once and kept under ``cache``: another body and another pose each time."""
    files = cache_files(ct_path, cache, poses, seed)
    if not all(f.exists() for f in files.values()):
        _project_views(read_ct(ct_path), files, poses, seed)
    return [_read_view(_patient(ct_path), view, file) for view, file in files.items()]


def cache_files(ct_path: Path, cache: Path, poses: int, seed: int) -> dict[View, Path]:
    """Return where the projections of a CT are kept."""
    return {view: cache / f"{_patient(ct_path)}.{view}.{poses}.{seed}.v{CACHE_VERSION}.npz" for view in VIEWS}


def _patient(ct_path: Path) -> str:
    return ct_path.name.removesuffix(".nii.gz")


def _project_views(ct: CtVolume, files: dict[View, Path], poses: int, seed: int) -> None:
    from landmarknet.projection import Projector

    projections: dict[View, list[Projection]] = {view: [] for view in files}
    for number in range(poses):
        rng = np.random.default_rng([seed, number, *ct.patient.encode()])
        body = ct if rng.random() < UNDEFORMED_SHARE else deform(ct, sample_deformation(rng))
        projector = Projector(body, sample_curve(rng), rng)
        for view in files:
            projections[view].append(projector.project(sample_pose(body, view, rng), CACHE_SIZE, CACHE_MM_PER_PX))
    for view, file in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        points = {kind: np.stack([p.points_px[kind] for p in projections[view]]) for kind in ct.points_mm}
        paths = np.stack([p.paths_mm.astype(np.float16) for p in projections[view]])
        partial = file.with_suffix(".partial.npz")
        np.savez(partial, paths_mm=paths, **points)  # type: ignore[arg-type]  # numpy's stub knows no **arrays
        partial.replace(file)


def _read_view(patient: str, view: View, file: Path) -> CachedView:
    with np.load(file) as data:
        points = {k: data[k] for k in data.files if k != "paths_mm"}
        if "spinous_process" in points:
            points["spine_line"] = np.stack([line_through(p) for p in points["spinous_process"]])
        return CachedView(patient, view, data["paths_mm"], points, unlabelled_kinds(patient, view))


def unlabelled_kinds(patient: str, view: View) -> frozenset[str]:
    """Return the kinds that images of a patient may show although nobody labelled them."""
    before_the_spine = set(LATERAL_KINDS) if view == "ap" else set()
    spine = set(SPINE_KINDS) if patient in SPINE_WITHOUT_LABELS else set()
    return frozenset(before_the_spine | spine)


def line_through(points: np.ndarray) -> np.ndarray:
    """Return the polyline through (n, 2) points with a point at every `LINE_STEPS`-th part of each gap."""
    steps = np.linspace(0, len(points) - 1, (len(points) - 1) * LINE_STEPS + 1)
    return np.stack([np.interp(steps, np.arange(len(points)), points[:, axis]) for axis in (0, 1)], axis=1)


@dataclass(frozen=True)
class Grid:
    """The network's input: (size, size) px of ``mm_per_px`` at the isocentre, or None: the whole image fills it."""

    size: int
    mm_per_px: float | None
    sigma_px: float

    @staticmethod
    def of(network: NetworkConfig, sigma_px: float = 0.0) -> Grid:
        """Return the grid of a network; ``sigma_px`` is that of the targets, for training."""
        return Grid(network.input_size, network.mm_per_net_px, sigma_px)


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """A source of samples: ``labelled`` patients, and ``negatives`` that show none of the kinds.

    ``mixed``: samples are warped and take on the build of others, see `landmarknet.mixed_bodies`. ``shuffled``: each
    image has the labels of the next one, so that nothing can be learnt but where landmarks lie on average. From sample
    ``jaws_from`` on, jaws are closed over landmarks in some images (docs/adr/0015).
    """

    labelled: Sequence[CachedView]
    negatives: Sequence[CachedView]
    seed: int
    grid: Grid
    mixed: bool = True
    shuffled: bool = False
    jaws_from: int | None = None

    def sample(self, index: int) -> Sample:
        """Return sample ``index`` of this seed."""
        case = self._case(index)
        if self.shuffled:
            other = self._case(index + 1)
            case = replace(case, points_net=other.points_net, visible=other.visible, unlabelled=other.unlabelled)
        return label(case, self.grid)

    def _case(self, index: int) -> Case:
        rng = np.random.default_rng([self.seed, index])
        modality: Modality = "kv" if rng.random() < 0.45 else "mv"
        draw = rng.random()
        if draw < FIELD_ONLY_SHARE:
            return draw_empty_field(modality, self.grid, rng)
        pool = self.negatives if self.negatives and draw < FIELD_ONLY_SHARE + NEGATIVE_SHARE else self.labelled
        drawn = pool[int(rng.integers(len(pool)))]
        others = [v for v in self.labelled if v.view == drawn.view] if self.mixed else []
        closing = self.jaws_from is not None and index >= self.jaws_from and rng.random() < CLOSED_SHARE
        return draw_case(drawn, modality, self.grid, rng, others, closing=closing)


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


def draw_case(
    cached: CachedView,
    modality: Modality,
    grid: Grid,
    rng: np.random.Generator,
    others: Sequence[CachedView] = (),
    *,
    closing: bool = False,
) -> Case:
    """Draw one exposure, crop, turn and scale of one cached projection; with ``others`` warped and mixed with one.

    ``closing`` closes a jaw over one of its single landmarks, where it has any.
    """
    number = int(rng.integers(len(cached.paths_mm)))
    shape, mm_per_px = draw_detector(grid, rng)
    frame = draw_frame(shape, mm_per_px, rng)
    warp = sample_warp(CACHE_SIZE, CACHE_MM_PER_PX, rng) if others else None
    paths, grid_mm = cut(cached.paths_mm[number], frame, shape, warp)
    if others:
        other = others[int(rng.integers(len(others)))].paths_mm
        other_paths, _ = cut(other[int(rng.integers(len(other)))], frame, shape)
        paths = mix_bodies(paths, other_paths, mm_per_px, rng)
    moved_px = {kind: warp.move(p[number]) if warp else p[number] for kind, p in cached.points_px.items()}
    exposure = sample_exposure(rng, modality)
    single = [moved_px[kind] for kind in SINGLE_KINDS if kind in moved_px and kind not in cached.unlabelled]
    if closing and single:
        (hidden_mm,) = _cache_mm(single[int(rng.integers(len(single)))])
        exposure = replace(exposure, field=close_over(hidden_mm, exposure.field or sample_field(rng), rng))
    image = expose(paths, grid_mm, exposure, rng, lateral=cached.view == "lateral")
    batch, placement = to_network_input(image.numpy(), grid.size, ratio=1.0)
    points_net, visible = {}, {}
    for kind, cache_px in moved_px.items():
        points_px = (np.linalg.inv(frame) @ _homogeneous(cache_px).T).T[:, :2]
        points_net[kind] = placement.to_net(points_px)
        visible[kind] = _on_detector(points_px, shape) & exposed(_cache_mm(cache_px), exposure.field)
    return Case(batch, points_net, visible, cached.view, mm_per_px, cached.unlabelled)


def draw_detector(grid: Grid, rng: np.random.Generator) -> tuple[tuple[int, int], float]:
    """Draw the detector's (height, width) in px that need no resizing, and their mm at the isocentre."""
    longer_mm = float(np.exp(rng.uniform(np.log(SMALLEST_MM), np.log(LARGEST_MM))))
    longer_px = grid.size
    if grid.mm_per_px is not None:
        asked = grid.mm_per_px * math.exp(
            float(np.clip(rng.normal(0, SCALE_JITTER), -3 * SCALE_JITTER, 3 * SCALE_JITTER))
        )
        longer_px = min(grid.size, round(longer_mm / asked))
    aspect = rng.choice((1.0, 1.0, 4 / 3, 5 / 4, 3 / 4))
    shorter_px = round(longer_px * min(aspect, 1 / aspect))
    shape = (shorter_px, longer_px) if aspect >= 1 else (longer_px, shorter_px)
    return shape, longer_mm / longer_px


def draw_frame(shape: tuple[int, int], mm_per_px: float, rng: np.random.Generator) -> np.ndarray:
    """Draw the 3x3 matrix from detector px to cache px: in-plane turn, shift, mirror, stretch."""
    zoom = mm_per_px / CACHE_MM_PER_PX * np.exp(rng.normal(0, 0.03, 2))
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


def cut(
    paths_mm: np.ndarray, frame: np.ndarray, shape: tuple[int, int], warp: Warp | None = None
) -> tuple[Tensor, Tensor]:
    """Sample (2, S, S) cached paths on the detector: paths (2, H, W), and each pixel's x, y in mm, +y up."""
    rows, columns = torch.meshgrid(torch.arange(shape[0]), torch.arange(shape[1]), indexing="ij")
    detector = torch.stack((columns, rows, torch.ones_like(rows)), dim=-1).float()
    cache_px = detector @ torch.from_numpy(frame[:2].T.astype(np.float32))  # (H, W, 2)
    looked_at = cache_px
    if warp is not None:
        moved = warp.displacement(cache_px.reshape(-1, 2).numpy())
        looked_at = cache_px + torch.from_numpy(moved.astype(np.float32)).reshape(cache_px.shape)
    unit = looked_at * (2 / (CACHE_SIZE - 1)) - 1
    source = torch.from_numpy(paths_mm).float()[None]
    paths = F.grid_sample(source, unit[None], mode="bilinear", padding_mode="border", align_corners=True)[0]
    centred = (cache_px - (CACHE_SIZE - 1) / 2) * CACHE_MM_PER_PX
    return paths, centred * torch.tensor((1.0, -1.0))


def label(case: Case, grid: Grid) -> Sample:
    """Attach targets, and masks where a kind is not labelled."""
    sites = grid.size * SITES_PER_BLOCK // PIXELS_PER_BLOCK
    points = [np.zeros((0, 2)) if kind in case.unlabelled else case.shown(kind) for kind in KINDS]
    mask, present = torch.ones(len(KINDS), sites, 1), torch.tensor([float(len(p) > 0) for p in points])
    for index, kind in enumerate(KINDS):
        if kind in case.unlabelled:
            mask[index], present[index] = 0.0, -1.0
        elif kind in SPINE_KINDS and kind in case.points_net:  # it goes on above and below the labelled stretch
            y = case.points_net[kind][:, 1]
            site_y = torch.from_numpy(site_px(np.arange(sites)))
            margin = SPINOUS_MARGIN_MM / case.mm_per_net_px if kind not in LINE_KINDS else 0.0
            mask[index, (site_y < y.min() - margin) | (site_y > y.max() + margin)] = 0.0
            if not len(points[index]):
                present[index] = -1.0
    return Sample(
        image=torch.from_numpy(case.batch[0]),
        target=torch.stack([site_target(k, p, grid.size, grid.sigma_px) for k, p in zip(KINDS, points, strict=True)]),
        by_level=tuple(
            torch.stack([level_target(k, p, grid.size, s, grid.sigma_px) for k, p in zip(KINDS, points, strict=True)])
            for s in STRIDES
        ),
        mask=mask,
        present=present,
    )


def _on_detector(points_px: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    x, y = points_px.T
    return (x >= 0) & (x <= shape[1] - 1) & (y >= 0) & (y <= shape[0] - 1)


def exposed(points_mm: np.ndarray, field: Field | None) -> np.ndarray:
    """Return (n,) whether points (n, 2), mm at the isocentre, +y up, lie in the field, or under jaws that show them."""
    if field is None or field.transmission > MIN_VISIBLE_TRANSMISSION:
        return np.ones(len(points_mm), bool)
    return (field_mask(torch.from_numpy(points_mm), field) > 0.5).numpy()


def _cache_mm(points_px: np.ndarray) -> np.ndarray:
    return (points_px - (CACHE_SIZE - 1) / 2) * (CACHE_MM_PER_PX, -CACHE_MM_PER_PX)


def _homogeneous(points: np.ndarray) -> np.ndarray:
    return np.concatenate((points, np.ones((len(points), 1))), axis=1)


def draw_empty_field(modality: Modality, grid: Grid, rng: np.random.Generator) -> Case:
    """Draw a field without a patient, with or without balls: quality assurance, a blank, a flood."""
    shape, mm_per_px = draw_detector(grid, rng)
    frame = draw_frame(shape, mm_per_px, rng)
    _, grid_mm = cut(np.zeros((2, CACHE_SIZE, CACHE_SIZE), np.float16), frame, shape)
    image = expose(balls(grid_mm, rng), grid_mm, sample_exposure(rng, modality), rng, lateral=False)
    batch, _ = to_network_input(image.numpy(), grid.size, ratio=1.0)
    return Case(batch, {}, {}, "lateral", mm_per_px)


def balls(grid_mm: Tensor, rng: np.random.Generator) -> Tensor:
    """Return the paths (2, H, W) through up to a dozen dense balls in air, as on a phantom for quality assurance."""
    paths = torch.zeros(2, *grid_mm.shape[:2])
    for _ in range(int(rng.integers(0, 12))):
        x, y = rng.uniform(-120, 120, 2)
        distance = ((grid_mm[..., 0] - x) ** 2 + (grid_mm[..., 1] - y) ** 2).sqrt()
        paths[1] = paths[1] + rng.uniform(5, 60) * torch.sigmoid((rng.uniform(2, 8) - distance) * 3)
    return paths
