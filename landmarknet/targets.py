"""What the network should answer: Gaussians of sigma 3 px about each landmark on the 384 grid (paper, Training)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from landmarknet.fast_head import to_sites

SIGMA_NET_PX = 3.0
MIN_SIGMA_LEVEL_PX = 1.0  # ‡ at stride 32 a sigma of 3/32 px would be no target at all


def heatmap(points_net: np.ndarray, size: int, sigma: float = SIGMA_NET_PX) -> Tensor:
    """Return (size, size) float32: the highest of the Gaussians about (n, 2) x, y points; zeros for none."""
    out = torch.zeros(size, size)
    line = torch.arange(size, dtype=torch.float32)
    for x, y in np.asarray(points_net, float).reshape(-1, 2):
        along_x = torch.exp(-0.5 * ((line - x) / sigma) ** 2)
        along_y = torch.exp(-0.5 * ((line - y) / sigma) ** 2)
        low, high = max(0, int(y - 5 * sigma)), max(0, int(y + 5 * sigma) + 1)
        out[low:high] = torch.maximum(out[low:high], along_y[low:high, None] * along_x)
    return out


def site_heatmap(points_net: np.ndarray, size: int) -> Tensor:
    """Return the target of the fast form, (3 size / 4, 3 size / 4): block means of `heatmap`.

    With weights [1, 2, 1] per block its squared error has the gradient of the full-resolution one.
    """
    return to_sites(heatmap(points_net, size))


def level_heatmap(points_net: np.ndarray, size: int, stride: int) -> Tensor:
    """Return the target of the pyramid's level with this stride, (size / stride, size / stride)."""
    points = (np.asarray(points_net, float).reshape(-1, 2) + 0.5) / stride - 0.5
    return heatmap(points, size // stride, level_sigma(stride))


def level_sigma(stride: int) -> float:
    """Return the sigma of a level's targets, in px of that level."""
    return max(SIGMA_NET_PX / stride, MIN_SIGMA_LEVEL_PX)
