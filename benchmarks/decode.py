"""From heatmaps to peaks: the release's own part of the graph against what scipy and scikit-image offer.

All three get the same maps of sample sites and give the same rows of x, y and height, or nothing is timed. The others
find the peaks, and Python refines each of them by the same parabola.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from skimage.feature import peak_local_max
from torch import Tensor, nn

from benchmarks.figures import Bar, Figure
from benchmarks.images import SAMPLES
from benchmarks.timing import alternate, ratios, spread, timed
from build_engine.export import export_graph
from edge.backends.onnxruntime import import_onnxruntime
from edge.detect import detect
from edge.engines import open_engine
from edge.portal_image import read_portal_image
from edge.preprocess import resize
from landmarknet.decode import FLOOR, ROWS_PER_KIND, find_peaks, nms_radius_net_px
from landmarknet.fast_head import PIXELS_PER_BLOCK, SITE_OFFSETS, SITES_PER_BLOCK

TITLE = "Decode: heatmaps to peaks"
BAR = Bar(at_most=0.2)
OFF_PX = 1e-3  # float32 logarithms


def measure(quick: bool, scratch: Path) -> Iterator[Figure]:  # noqa: ARG001
    """Yield the figures for maps of the shipped release, and for the same maps at the paper's size."""
    engine = open_engine(None, threads=1)
    image = read_portal_image(SAMPLES[-1])
    heatmaps = detect(image, engine.backend, engine.contract).inference.heatmaps
    yield from for_maps("shipped release", engine.contract.input_size, heatmaps, 5 if quick else 200)
    side = 288
    large = np.stack([resize(heatmap, (side, side)) for heatmap in heatmaps])
    yield from for_maps("paper's size", side // SITES_PER_BLOCK * PIXELS_PER_BLOCK, large, 5 if quick else 200)


def for_maps(name: str, input_size: int, heatmaps: np.ndarray, rounds: int) -> Iterator[Figure]:
    """Yield ours against each of the others."""
    sites = nms_radius_net_px(input_size) // PIXELS_PER_BLOCK * SITES_PER_BLOCK
    ours = graph(heatmaps, nms_radius_net_px(input_size))
    others: dict[str, Callable[[], np.ndarray]] = {
        "scipy.ndimage.maximum_filter and Python": lambda: decode(heatmaps, lambda one: by_scipy(one, sites)),
        "skimage peak_local_max and Python": lambda: decode(heatmaps, lambda one: by_skimage(one, sites)),
    }
    for other, run in others.items():
        demand_same(run(), ours(), other)
    taken = alternate({"": timed(ours)} | {key: timed(run) for key, run in others.items()}, rounds)
    for other in others:
        mine, theirs = (1e3 * spread(taken[key]).median for key in ("", other))
        what = f"{name}, {heatmaps.shape[0]} maps of {heatmaps.shape[1]} x {heatmaps.shape[2]}"
        yield Figure(what, mine, "ms", other, theirs, ratios(taken[""], taken[other]), BAR)


class Decode(nn.Module):
    """The part of a release's graph behind its heatmaps."""

    def __init__(self, radius_net_px: int) -> None:
        super().__init__()
        self.radius_net_px = radius_net_px

    def forward(self, heatmaps: Tensor) -> Tensor:
        return find_peaks(heatmaps, ROWS_PER_KIND, self.radius_net_px)


def graph(heatmaps: np.ndarray, radius_net_px: int) -> Callable[[], np.ndarray]:
    """Return the decode as ONNX Runtime runs it, with one thread."""
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    model = export_graph(Decode(radius_net_px), (torch.from_numpy(heatmaps),), ("heatmaps",), ("peaks",))
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"heatmaps": heatmaps})[0]


def decode(heatmaps: np.ndarray, find: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return (n, K, 3) as the graph does, for peaks (m, 2) of row and column that ``find`` gives of each map."""
    rows = np.full((len(heatmaps), ROWS_PER_KIND, 3), -1.0)
    for row, heatmap in zip(rows, heatmaps, strict=True):
        peaks = find(heatmap)
        heights = heatmap[tuple(peaks.T)]
        for place, peak in enumerate(np.argsort(-heights, kind="stable")[:ROWS_PER_KIND]):
            y, x = (int(value) for value in peaks[peak])
            row[place] = refined(heatmap[y], x), refined(heatmap[:, x], y), heights[peak]
    return rows


def by_scipy(heatmap: np.ndarray, radius: int) -> np.ndarray:
    """Return the peaks as people find them with scipy."""
    highest = ndimage.maximum_filter(heatmap, size=2 * radius + 1, mode="constant", cval=-math.inf)
    return np.argwhere((heatmap == highest) & (heatmap > 0))


def by_skimage(heatmap: np.ndarray, radius: int) -> np.ndarray:
    """Return the peaks as people find them with scikit-image."""
    return peak_local_max(
        heatmap, min_distance=radius, threshold_abs=0.0, num_peaks=ROWS_PER_KIND, exclude_border=False
    )


def refined(line: np.ndarray, index: int) -> float:
    """Return where along a line of sites the parabola through three logarithms is highest, network px."""
    here = position(index)
    if not 0 < index < len(line) - 1:
        return here
    before, after = here - position(index - 1), position(index + 1) - here
    low, top, high = (math.log(max(FLOOR, float(value))) for value in line[index - 1 : index + 2])
    slopes = (top - low) / before, (top - high) / after
    if sum(slopes) <= FLOOR:
        return here
    shift = (slopes[0] * after - slopes[1] * before) / (2 * sum(slopes))
    return here + max(-before / 2, min(after / 2, shift))


def position(index: int) -> float:
    """Return the network px of a site."""
    block, phase = divmod(index, SITES_PER_BLOCK)
    return block * PIXELS_PER_BLOCK + SITE_OFFSETS[phase]


def demand_same(theirs: np.ndarray, ours: np.ndarray, name: str) -> None:
    """Raise where the peaks are not the same."""
    off = float(np.abs(theirs - ours).max())
    if not off <= OFF_PX:
        raise RuntimeError(f"{name}: finds other peaks, by up to {off:.3g}; the comparison would mean nothing")
