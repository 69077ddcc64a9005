"""Ranges as a table and as a picture."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from rich.table import Table

from calibration.calibration_set import write_whole
from calibration.ranges import COARSE_BINS, ActivationRanges

_MARKS = {"percentile": ("|", "black"), "entropy": ("o", "tab:red"), "mse": ("x", "tab:green")}
_DECADES = 6  # of the shade


def tensors(ranges: ActivationRanges) -> tuple[str, ...]:
    """Return the tensors' names, in graph order."""
    return tuple(next(iter(ranges.amax.values())))


def largest(ranges: ActivationRanges, tensor: str) -> float:
    """Return the largest amax of a tensor: that of the maximum, where it was recorded."""
    return max(by_tensor[tensor] for by_tensor in ranges.amax.values())


def ranges_table(ranges: ActivationRanges) -> Table:
    """Return a table of one row per tensor: amax by method, and what share of the largest it is where it clips."""
    table = Table(title=f"INT8 ranges over {ranges.images} images of a calibration set", title_justify="left")
    table.add_column("tensor", overflow="fold")
    for method in ranges.amax:
        table.add_column(method, justify="right", no_wrap=True)
    for tensor in tensors(ranges):
        top = largest(ranges, tensor)
        table.add_row(tensor, *(_cell(by_tensor[tensor], top) for by_tensor in ranges.amax.values()))
    return table


def plot_ranges(ranges: ActivationRanges, path: Path) -> None:
    """Draw per tensor its histogram over the share of its largest amax, and where each method clips it.

    Raises `CalibrationError` where the PNG cannot be written.
    """
    from matplotlib.figure import Figure

    names = tensors(ranges)
    figure = Figure(figsize=(9, 1.6 + 0.17 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    shade = axes.imshow(
        np.array([_shade(ranges, name) for name in names]),
        extent=(0, 1, len(names) - 0.5, -0.5), aspect="auto", cmap="Blues", vmin=-_DECADES, vmax=0,
    )  # fmt: skip
    for method, (marker, colour) in _MARKS.items():
        by_tensor = {str(name): found for name, found in ranges.amax.items()}.get(method, {})
        shares = [by_tensor[name] / (largest(ranges, name) or 1) for name in by_tensor]
        axes.plot(shares, range(len(shares)), marker, color=colour, label=method, markersize=5)
    axes.set_yticks(range(len(names)), [f"{name}   {largest(ranges, name):.3g}" for name in names], fontsize=6)
    axes.set_xlim(0, 1.01)
    axes.set_xlabel("share of the largest absolute value, which stands beside the tensor's name")
    axes.set_title(f"INT8 ranges over {ranges.images} images of a calibration set", fontsize=10, loc="left")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, fontsize=8)
    figure.colorbar(shade, label="values per bin, log10 of the fullest", aspect=40, shrink=min(1.0, 30 / len(names)))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    write_whole(path, buffer.getvalue())


def _cell(amax: float, top: float) -> str:
    return f"{amax:.4g}" if amax >= top else f"{amax:.4g} ({100 * amax / top:.0f} %)"


def _shade(ranges: ActivationRanges, tensor: str) -> np.ndarray:
    """Return (`COARSE_BINS`,) log10 of the values per bin over [0, largest amax], NaN where there are none."""
    stored, top = ranges.histograms.get(tensor), largest(ranges, tensor)
    if stored is None or top == 0:
        return np.full(COARSE_BINS, np.nan)
    below = np.concatenate(((0,), np.cumsum(stored.counts)))
    edges = np.linspace(0, top, COARSE_BINS + 1)
    counts = np.diff(np.interp(edges, np.linspace(0, stored.reach, COARSE_BINS + 1), below))
    with np.errstate(divide="ignore"):
        shade = np.log10(counts / counts.max())
    return np.where(np.isfinite(shade), shade, np.nan)
