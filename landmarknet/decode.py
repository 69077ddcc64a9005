"""From heatmaps to peaks, inside the graph: non-maximum suppression, the best K, sub-pixel refinement.

Works on the 3S/4 x 3S/4 sample sites of the fast head. A radius of 3m sites there equals one of 4m px on the full map,
whose interior 2 x 2 pixels are exact ties. Only operators that ONNX Runtime and TensorRT both run are used.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge.backends import Inference
from landmarknet.comparators import Network
from landmarknet.fast_head import PIXELS_PER_BLOCK, SITE_OFFSETS, SITES_PER_BLOCK
from landmarknet.network import PAPER_SIZE

ROWS_PER_KIND = 24
NMS_RADIUS_PAPER_PX = 8  # on the 384 grid
FLOOR = 1e-6  # heights below it have no logarithm worth a refinement


class LandmarkDetector(nn.Module):
    """The exported graph: image (1, 1, S, S) to peaks (n, K, 3) and heatmaps (n, 3S/4, 3S/4).

    The heatmaps are the mean of what the network says of the image and of its mirror image: a body that it never saw
    is found more often that way (docs/adr/0015), for twice the arithmetic. Sample sites mirror onto each other.
    """

    def __init__(self, network: Network, rows: int = ROWS_PER_KIND) -> None:
        super().__init__()
        self.network, self.rows = network, rows
        self.radius_net_px = nms_radius_net_px(network.config.input_size)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        as_seen, mirrored = self.network(torch.cat((image, image.flip(-1)))).heatmaps
        heatmaps = (as_seen + mirrored.flip(-1)) / 2
        return find_peaks(heatmaps, self.rows, self.radius_net_px), heatmaps


def nms_radius_net_px(input_size: int) -> int:
    """Return the radius, a multiple of 4 network px, that is 8 px on the 384 grid."""
    blocks = NMS_RADIUS_PAPER_PX * input_size / PAPER_SIZE / PIXELS_PER_BLOCK
    return max(1, round(blocks)) * PIXELS_PER_BLOCK


class TorchBackend:
    """The graph run by torch, in the shape of the room's backends: for what is not a release yet."""

    def __init__(self, network: Network) -> None:
        self._detector = LandmarkDetector(network).eval()

    def infer(self, batch: np.ndarray) -> Inference:
        with torch.inference_mode():
            peaks, heatmaps = self._detector(torch.from_numpy(batch))
        return Inference(peaks.numpy(), heatmaps.numpy())

    def describe(self) -> dict[str, str]:
        return {"flavour": "torch", "version": torch.__version__, "precision": "fp32", "device": "cpu"}


def find_peaks(heatmaps: Tensor, rows: int, radius_net_px: int) -> Tensor:
    """Return (n, rows, 3): x, y in network px and the height, highest first; unused rows are -1.

    ``heatmaps`` is (n, S, S) on sample sites, ``radius_net_px`` a multiple of 4. A peak is the highest site within
    the radius (a square window) and above zero; among equals the upper one, then the left one.
    """
    n, size, _ = heatmaps.shape
    peaks = suppress(heatmaps, radius_net_px // PIXELS_PER_BLOCK * SITES_PER_BLOCK)
    height, index = torch.topk(peaks.reshape(n, size * size), rows, dim=1)  # (n, K)
    row = torch.div(index, size, rounding_mode="floor")
    column = index - row * size
    flat = heatmaps.reshape(n, size * size)
    y = refine(flat, height, row, column, size, step=size)
    x = refine(flat, height, column, row, size, step=1)
    found = torch.stack((x, y, height), dim=2)
    return torch.where((height > 0)[:, :, None], found, torch.full_like(found, -1.0))


def suppress(heatmaps: Tensor, radius: int) -> Tensor:
    """Keep (n, S, S) heights that no other within ``radius`` sites exceeds, the first of equals; the rest become 0."""
    size = heatmaps.shape[-1]
    highest = _window_max(heatmaps, radius)
    order = torch.arange(size * size, 0, -1, dtype=heatmaps.dtype, device=heatmaps.device).reshape(1, size, size)
    candidates = torch.where((heatmaps == highest) & (heatmaps > 0), order, torch.zeros_like(heatmaps))
    first = (candidates == _window_max(candidates, radius)) & (candidates > 0)
    return torch.where(first, heatmaps, torch.zeros_like(heatmaps))


def _window_max(maps: Tensor, radius: int) -> Tensor:
    return F.max_pool2d(maps[None], 2 * radius + 1, stride=1, padding=radius)[0]


def refine(flat: Tensor, height: Tensor, along: Tensor, across: Tensor, size: int, step: int) -> Tensor:
    """Return the peak's coordinate along one axis, (n, K) network px.

    The vertex of the parabola through the logarithms at the site and its two neighbours, which lie 1 or 1.5 px away:
    exact for a Gaussian sampled at points. Not moved at the image's edge, nor further than half way to a neighbour.
    """
    centre = along * step + across * (size if step == 1 else 1)
    inside = (along > 0) & (along < size - 1)
    before = torch.gather(flat, 1, torch.where(inside, centre - step, centre))
    after = torch.gather(flat, 1, torch.where(inside, centre + step, centre))
    here = site_position(along)
    to_before = here - site_position(along - 1)
    to_after = site_position(along + 1) - here
    top = torch.log(height.clamp_min(FLOOR))
    slope_before = (top - torch.log(before.clamp_min(FLOOR))) / to_before  # of the chords, >= 0 at a peak
    slope_after = (top - torch.log(after.clamp_min(FLOOR))) / to_after
    total = slope_before + slope_after
    shift = (slope_before * to_after - slope_after * to_before) / (2 * total.clamp_min(FLOOR))
    shift = torch.maximum(torch.minimum(shift, to_after / 2), -to_before / 2)
    return torch.where(inside & (total > FLOOR), here + shift, here)


def site_position(index: Tensor) -> Tensor:
    """Return the network px of sample sites along one axis."""
    block = torch.div(index, SITES_PER_BLOCK, rounding_mode="floor")
    phase = index - block * SITES_PER_BLOCK
    return block.to(torch.float32) * PIXELS_PER_BLOCK + phase.to(torch.float32) * SITE_OFFSETS[1]
