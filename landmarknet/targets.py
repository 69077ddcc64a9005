"""What the network should answer: a Gaussian about each landmark, of sigma 3 px on the 384 grid (paper, Training)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from landmarknet.fast_head import to_sites
from landmarknet.network import LINE_KINDS

PAPER_SIGMA_NET_PX = 3.0
MIN_SIGMA_LEVEL_PX = 1.0  # ‡ at stride 32 a sigma of 3/32 px would be no target at all


def heatmap(points_net: np.ndarray, size: int, sigma: float) -> Tensor:
    """Return (size, size) float32: the highest of the Gaussians about (n, 2) x, y points; zeros for none."""
    out = torch.zeros(size, size)
    line = torch.arange(size, dtype=torch.float32)
    for x, y in np.asarray(points_net, float).reshape(-1, 2):
        along_x = torch.exp(-0.5 * ((line - x) / sigma) ** 2)
        along_y = torch.exp(-0.5 * ((line - y) / sigma) ** 2)
        low, high = max(0, int(y - 5 * sigma)), max(0, int(y + 5 * sigma) + 1)
        out[low:high] = torch.maximum(out[low:high], along_y[low:high, None] * along_x)
    return out


def ridge(points_net: np.ndarray, size: int, sigma: float) -> Tensor:
    """Return (size, size) float32: a Gaussian across the line through (n, 2) points, which runs down the image."""
    if not len(points_net):
        return torch.zeros(size, size)
    x, y = np.asarray(points_net, float)[np.argsort(points_net[:, 1])].T
    rows = np.arange(size)
    across = rows[None] - np.interp(rows, y, x)[:, None]
    beyond = np.maximum(np.maximum(y[0] - rows, rows - y[-1]), 0.0)[:, None]
    out = np.exp(-0.5 * (across**2 + beyond**2) / sigma**2)
    return torch.from_numpy(out.astype(np.float32))


def draw(kind: str, points_net: np.ndarray, size: int, sigma: float) -> Tensor:
    """Return the full-resolution target of one kind, (size, size): a Gaussian per point, or a ridge for a line."""
    return (ridge if kind in LINE_KINDS else heatmap)(points_net, size, sigma)


def site_target(kind: str, points_net: np.ndarray, size: int, sigma: float) -> Tensor:
    """Return the target of the fast form, (3 size / 4, 3 size / 4): block means of the full-resolution one.

    With weights [1, 2, 1] per block its squared error has the gradient of the full-resolution one.
    """
    return to_sites(draw(kind, points_net, size, sigma))


def level_target(kind: str, points_net: np.ndarray, size: int, stride: int, sigma: float) -> Tensor:
    """Return the target of the pyramid's level with this stride, (size / stride, size / stride)."""
    points = (np.asarray(points_net, float).reshape(-1, 2) + 0.5) / stride - 0.5
    return draw(kind, points, size // stride, level_sigma(stride, sigma))


def level_sigma(stride: int, sigma: float) -> float:
    """Return the sigma of a level's targets, in px of that level."""
    return max(sigma / stride, MIN_SIGMA_LEVEL_PX)
