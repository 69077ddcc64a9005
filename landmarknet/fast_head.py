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

Levels are summed as the terms that the phases are made of (`Terms`), one map of a cell's size each: of a coarser level
a finer cell has the terms of those of its sides that the two share.

Layout is (B, H, W, C) throughout: each product is then one matrix product over all cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SITES_PER_BLOCK = 3
PIXELS_PER_BLOCK = 4
SITE_WEIGHTS = (1.0, 2.0, 1.0)  # pixels of the 384 grid that each site stands for, along one axis
SITE_OFFSETS = (0.0, 1.5, 3.0)  # centre of those pixels within the block, px


class Terms(NamedTuple):
    """What the phases of the cells are sums of, each (B, H, W, O): all of ``inner``, and what lies at their sides.

    The phase at the left has ``left`` besides, that at the top left ``left``, ``top`` and ``top_left``.
    """

    inner: Tensor
    left: Tensor
    right: Tensor
    top: Tensor
    bottom: Tensor
    top_left: Tensor
    top_right: Tensor
    bottom_left: Tensor
    bottom_right: Tensor

    def phases(self) -> tuple[tuple[Tensor, Tensor, Tensor], ...]:
        """Return the 3 x 3 phases, the upper row first, each (B, H, W, O)."""
        upper, lower = self.inner + self.top, self.inner + self.bottom
        return (
            (upper + (self.left + self.top_left), upper, upper + (self.right + self.top_right)),
            (self.inner + self.left, self.inner, self.inner + self.right),
            (lower + (self.left + self.bottom_left), lower, lower + (self.right + self.bottom_right)),
        )

    def to_next_finer(self) -> Terms:
        """Return them for cells of half the size, (B, 2H, 2W, O): each in those cells that lie at that side."""
        rows, columns = 1, 2
        return Terms(
            inner=_twice(_twice(self.inner, rows), columns),
            left=_first_of_two(_twice(self.left, rows), columns),
            right=_second_of_two(_twice(self.right, rows), columns),
            top=_first_of_two(_twice(self.top, columns), rows),
            bottom=_second_of_two(_twice(self.bottom, columns), rows),
            top_left=_first_of_two(_first_of_two(self.top_left, columns), rows),
            top_right=_first_of_two(_second_of_two(self.top_right, columns), rows),
            bottom_left=_second_of_two(_first_of_two(self.bottom_left, columns), rows),
            bottom_right=_second_of_two(_second_of_two(self.bottom_right, columns), rows),
        )


def _twice(x: Tensor, dim: int) -> Tensor:
    return torch.stack((x, x), dim=dim + 1).flatten(dim, dim + 1)


def _first_of_two(x: Tensor, dim: int) -> Tensor:
    return _beside_zeros(x, dim, (0, 1))


def _second_of_two(x: Tensor, dim: int) -> Tensor:
    return _beside_zeros(x, dim, (1, 0))


def _beside_zeros(x: Tensor, dim: int, before_and_after: tuple[int, int]) -> Tensor:
    # Padded, not stacked with zeros: an exported graph would hold those as constants, half as large as its weights.
    inner_dims = (0, 0) * (x.dim() - 1 - dim)
    return F.pad(x.unsqueeze(dim + 1), (*inner_dims, *before_and_after)).flatten(dim, dim + 1)


def terms_of_conv(x: Tensor, weight: Tensor) -> Terms:
    """Return the terms of a 3x3 convolution over the upsampled ``x``.

    ``x`` is (B, H, W, C), ``weight`` (O, C, 3, 3). Zero padding of the upsampled map at the image's border is zero
    padding of ``x``.
    """
    taps_x = weight.sum(dim=2)  # (O, C, 3) along x, summed over y
    taps_y = weight.sum(dim=3)  # (O, C, 3) along y, summed over x
    rows, columns = 1, 2
    to_left, to_right = x - _moved(x, columns, 1), _moved(x, columns, -1) - x  # steps between neighbours
    to_top, to_bottom = x - _moved(x, rows, 1), _moved(x, rows, -1) - x
    return Terms(
        inner=F.linear(x, taps_x.sum(dim=2)),
        left=F.linear(to_left, -taps_x[..., 0]),
        right=F.linear(to_right, taps_x[..., 2]),
        top=F.linear(to_top, -taps_y[..., 0]),
        bottom=F.linear(to_bottom, taps_y[..., 2]),
        top_left=F.linear(to_left - _moved(to_left, rows, 1), weight[..., 0, 0]),
        top_right=F.linear(to_right - _moved(to_right, rows, 1), -weight[..., 0, 2]),
        bottom_left=F.linear(_moved(to_left, rows, -1) - to_left, -weight[..., 2, 0]),
        bottom_right=F.linear(_moved(to_right, rows, -1) - to_right, weight[..., 2, 2]),
    )


def _moved(x: Tensor, dim: int, cells: int) -> Tensor:
    """Return ``x`` moved by so many cells along a dimension, zeros behind it."""
    inner_dims = (0, 0) * (x.dim() - 1 - dim)
    return F.pad(x, (*inner_dims, cells, -cells))


def upsampled_conv(features: Sequence[Tensor], weight: Tensor, bias: Tensor | None = None) -> Terms:
    """Return the terms of conv(concat(upsampled features)), for the cells of the finest of them.

    ``features`` are (B, C, 384/s, 384/s) for s = 4, 8, 16, 32, ``weight`` (O, 4C, 3, 3), ``bias`` (O,).
    """
    slices = weight.split([f.shape[1] for f in features], dim=1)
    levels = [terms_of_conv(f.permute(0, 2, 3, 1), w) for f, w in zip(features, slices, strict=True)][::-1]
    total = levels[0] if bias is None else levels[0]._replace(inner=levels[0].inner + bias)
    for finer in levels[1:]:
        total = Terms(*(coarse + fine for coarse, fine in zip(total.to_next_finer(), finer, strict=True)))
    return total


def interleaved(phases: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return 3 x 3 phases (B, H, W, O) as the sample sites that they are, (B, 3H, 3W, O)."""
    rows = torch.stack([torch.stack(list(row), dim=3) for row in phases], dim=2)  # (B, H, 3, W, 3, O)
    return rows.flatten(3, 4).flatten(1, 2)


def _repeat_phases(x: Tensor, dim: int, times: tuple[int, int, int]) -> Tensor:
    cells = x.unflatten(dim, (-1, SITES_PER_BLOCK))
    shape = list(cells.shape)
    parts = []
    for phase, count in enumerate(times):
        shape[dim + 1] = count
        parts.append(cells.narrow(dim + 1, phase, 1).expand(shape))
    return torch.cat(parts, dim=dim + 1).flatten(dim, dim + 1)


def scale_and_bias(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return what ``norm`` multiplies by and adds out of training, (C,) each: a convolution before it can take both."""
    _, mean, var = _tracked(norm)
    scale = norm.weight * torch.rsqrt(var + norm.eps)
    return scale, norm.bias - mean * scale


def _tracked(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor, Tensor]:
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        raise ValueError("the fast head needs a BatchNorm2d that tracks running statistics")
    return norm.num_batches_tracked, norm.running_mean, norm.running_var


def site_batch_norm(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """Apply ``norm`` in training to (B, S, S, C) sites as it would act on the 384 x 384 map they stand for.

    The statistics weigh each site by its pixels, and the running ones are updated as torch does. Raises ValueError for
    one that is not in training: see `scale_and_bias`.
    """
    if not norm.training:
        raise ValueError("site_batch_norm is for training")
    batches, running_mean, running_var = _tracked(norm)
    out, mean, var = _SiteBatchNorm.apply(x, norm.weight, norm.bias, norm.eps)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        batches += 1
        momentum = norm.momentum if norm.momentum is not None else 1.0 / float(batches)
        pixels = _pixels(x)
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_((var * (pixels / (pixels - 1))).to(running_var.dtype), momentum)
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
