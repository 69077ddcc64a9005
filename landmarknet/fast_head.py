"""The head without its full-resolution tensor: the same numbers from 1/5 of the arithmetic.

Nearest-neighbour upsampling, concatenation and a 3x3 convolution are linear and piecewise constant. Along one axis a
pixel of a map that was upsampled s times is the first, an interior or the last pixel of its cell, and the three taps
w0, w1, w2 then fall on (F[i-1], F[i], F[i]), (F[i], F[i], F[i]) or (F[i], F[i], F[i+1]):

    first    = (w0 + w1 + w2) F[i] - w0 (F[i] - F[i-1])
    interior = (w0 + w1 + w2) F[i]
    last     = (w0 + w1 + w2) F[i] + w2 (F[i+1] - F[i])

In two dimensions each cell has 3 x 3 distinct values ("phases"), whatever s is. A coarser level's phases repeat on the
next finer grid as [first, interior x 4, last], so the sum over levels has 3 x 3 distinct values per 4 x 4 pixels: the
384 x 384 map is a 288 x 288 grid of sample sites whose middle row and column of each block stand for two pixels.

Layout is (B, H, W, C) throughout: each product is then one matrix product over all cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SITES_PER_BLOCK = 3
PIXELS_PER_BLOCK = 4
SITE_WEIGHTS = (1.0, 2.0, 1.0)  # pixels of the 384 grid that each site stands for, along one axis
SITE_OFFSETS = (0.0, 1.5, 3.0)  # centre of those pixels within the block, px


def phase_conv(x: Tensor, weight: Tensor) -> Tensor:
    """Return the 3 x 3 phases per cell of a 3x3 convolution over the upsampled ``x``.

    ``x`` is (B, H, W, C), ``weight`` (O, C, 3, 3); returns (B, 3H, 3W, O). Zero padding of the upsampled map at the
    image's border is zero padding of ``x``.
    """
    batch, height, width, _ = x.shape
    out = weight.shape[0]
    taps_x = weight.sum(dim=2)  # (O, C, 3) along x, summed over y
    taps_y = weight.sum(dim=3)  # (O, C, 3) along y, summed over x
    padded = F.pad(x, (0, 0, 1, 1, 1, 1))
    step_x = padded[:, 1:-1, 1:] - padded[:, 1:-1, :-1]  # (B, H, W+1, C)
    step_y = padded[:, 1:, 1:-1] - padded[:, :-1, 1:-1]  # (B, H+1, W, C)
    wide = padded[:, 1:] - padded[:, :-1]
    step_xy = wide[:, :, 1:] - wide[:, :, :-1]  # (B, H+1, W+1, C)

    flat = F.linear(x, taps_x.sum(dim=2))  # (B, H, W, O)
    by_x = F.linear(step_x, torch.cat((taps_x[..., 0], taps_x[..., 2])))
    by_y = F.linear(step_y, torch.cat((taps_y[..., 0], taps_y[..., 2])))
    corners = torch.cat((weight[..., 0, 0], weight[..., 0, 2], weight[..., 2, 0], weight[..., 2, 2]))
    by_xy = F.linear(step_xy, corners)

    left, right = by_x[:, :, :-1, :out], by_x[:, :, 1:, out:]
    top, bottom = by_y[:, :-1, :, :out], by_y[:, 1:, :, out:]
    top_left, top_right = by_xy[:, :-1, :-1, :out], by_xy[:, :-1, 1:, out : 2 * out]
    bottom_left, bottom_right = by_xy[:, 1:, :-1, 2 * out : 3 * out], by_xy[:, 1:, 1:, 3 * out :]

    above, below = flat - top, flat + bottom
    first = torch.stack((above - left + top_left, above, above + right - top_right), dim=3)
    interior = torch.stack((flat - left, flat, flat + right), dim=3)
    last = torch.stack((below - left - bottom_left, below, below + right + bottom_right), dim=3)
    phases = torch.stack((first, interior, last), dim=2)  # (B, H, 3, W, 3, O)
    return phases.reshape(batch, SITES_PER_BLOCK * height, SITES_PER_BLOCK * width, out)


def to_next_finer(x: Tensor) -> Tensor:
    """Repeat the phases of (B, 3H, 3W, O) on the grid of the level with cells half the size: (B, 6H, 6W, O)."""
    return _repeat_phases(_repeat_phases(x, 1, (1, 4, 1)), 2, (1, 4, 1))


def _repeat_phases(x: Tensor, dim: int, times: tuple[int, int, int]) -> Tensor:
    cells = x.unflatten(dim, (-1, SITES_PER_BLOCK))
    shape = list(cells.shape)
    parts = []
    for phase, count in enumerate(times):
        shape[dim + 1] = count
        parts.append(cells.narrow(dim + 1, phase, 1).expand(shape))
    return torch.cat(parts, dim=dim + 1).flatten(dim, dim + 1)


def upsampled_conv(features: Sequence[Tensor], weight: Tensor) -> Tensor:
    """Return conv(concat(upsampled features)) at its sample sites.

    ``features`` are (B, C, 384/s, 384/s) for s = 4, 8, 16, 32, ``weight`` (O, 4C, 3, 3); returns (B, 288, 288, O).
    """
    slices = weight.split([f.shape[1] for f in features], dim=1)
    coarsest, *finer = [phase_conv(f.permute(0, 2, 3, 1), w) for f, w in zip(features, slices, strict=True)][::-1]
    total = coarsest
    for phases in finer:
        total = to_next_finer(total) + phases
    return total


def site_batch_norm(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """Apply ``norm`` to (B, S, S, C) sites as it would act on the 384 x 384 map they stand for.

    In training the statistics weigh each site by its pixels, and the running ones are updated as torch does.
    """
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        raise ValueError("site_batch_norm needs a BatchNorm2d that tracks running statistics")
    if not norm.training:
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        return x * scale + (norm.bias - norm.running_mean * scale)
    out, mean, var = _SiteBatchNorm.apply(x, norm.weight, norm.bias, norm.eps)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        norm.num_batches_tracked += 1
        momentum = norm.momentum if norm.momentum is not None else 1.0 / float(norm.num_batches_tracked)
        pixels = _pixels(x)
        norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
        norm.running_var.lerp_((var * (pixels / (pixels - 1))).to(norm.running_var.dtype), momentum)
    normalised: Tensor = out
    return normalised


class _SiteBatchNorm(torch.autograd.Function):
    """Batch normalisation whose statistics are sums over the 3 x 3 kinds of site, times their pixels.

    With m and v the weighted mean and variance, h = (x - m) / sqrt(v) and w a site's share of all pixels,
    dx = gamma / sqrt(v) * (g - w (sum g + h sum(g h))). A function of its own: autograd would keep and pass through
    several more maps of the size of x.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        pixels = _pixels(x)
        mean = _pixel_sum(x) / pixels
        centred = x - mean.to(x.dtype)
        var = _pixel_sum(centred.square()) / pixels
        scale = torch.rsqrt(var + eps)
        ctx.save_for_backward(centred, scale, gamma)
        ctx.mark_non_differentiable(mean, var)
        return centred * (scale * gamma).to(x.dtype) + beta.to(x.dtype), mean, var

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, None]:
        centred, scale, gamma = ctx.saved_tensors
        accumulate = _accumulator(grad)
        sum_grad = grad.sum(dim=(0, 1, 2), dtype=accumulate)
        sum_grad_unit = (grad * centred).sum(dim=(0, 1, 2), dtype=accumulate) * scale
        drift = centred * (sum_grad_unit * scale).to(grad.dtype) + sum_grad.to(grad.dtype)
        share = site_weights(grad.shape[1], grad) / _pixels(grad)
        grad_x = (grad - share * drift) * (gamma * scale).to(grad.dtype)
        return grad_x, sum_grad_unit.to(gamma.dtype), sum_grad.to(gamma.dtype), None


def site_weights(n: int, like: Tensor) -> Tensor:
    """Return (n, n, 1): how many pixels of the 384 grid each of the n x n sites stands for."""
    line = torch.tensor(SITE_WEIGHTS, dtype=like.dtype, device=like.device).repeat(n // SITES_PER_BLOCK)
    return (line[:, None] * line)[:, :, None]


def _pixels(x: Tensor) -> int:
    return x.shape[0] * (x.shape[1] // SITES_PER_BLOCK * PIXELS_PER_BLOCK) ** 2


def _pixel_sum(x: Tensor) -> Tensor:
    by_site = x.unflatten(2, (-1, SITES_PER_BLOCK)).unflatten(1, (-1, SITES_PER_BLOCK))  # (B, S/3, 3, S/3, 3, C)
    sums = by_site.sum(dim=(0, 1, 3), dtype=_accumulator(x))  # (3, 3, C)
    return (sums * site_weights(SITES_PER_BLOCK, sums)).sum(dim=(0, 1))


def _accumulator(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def to_full_resolution(samples: Tensor) -> Tensor:
    """Repeat the middle row and column of each block: (..., 288, 288) to (..., 384, 384)."""
    rows, columns = samples.dim() - 2, samples.dim() - 1
    return _repeat_phases(_repeat_phases(samples, rows, (1, 2, 1)), columns, (1, 2, 1))


def to_sites(full: Tensor) -> Tensor:
    """Average (..., 384, 384) over the pixels each site stands for: (..., 288, 288)."""
    blocks = full.unflatten(-2, (-1, PIXELS_PER_BLOCK))  # (..., 96, 4, 384)
    middle = (blocks[..., 1:2, :] + blocks[..., 2:3, :]) / 2
    rows = torch.cat((blocks[..., :1, :], middle, blocks[..., 3:, :]), dim=-2).flatten(-3, -2)
    blocks = rows.unflatten(-1, (-1, PIXELS_PER_BLOCK))  # (..., 288, 96, 4)
    middle = (blocks[..., 1:2] + blocks[..., 2:3]) / 2
    return torch.cat((blocks[..., :1], middle, blocks[..., 3:]), dim=-1).flatten(-2)
