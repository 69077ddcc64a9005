"""Figures as PNG. matplotlib is imported when one is drawn, and without pyplot: no window, no global state."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TERMS = ("heatmaps", "levels", "presence")  # columns of losses.csv beside "step" and "learning_rate"
SMOOTHED_SHARE = 0.02  # of the steps, over which a curve is averaged


def training_curves(losses_csv: Path, png: Path) -> None:
    """Draw the terms of a training's ``losses.csv``, each step faint and a running mean, over the learning rate."""
    from matplotlib.figure import Figure

    with losses_csv.open(newline="") as file:
        rows = list(csv.DictReader(file))
    step = np.array([int(row["step"]) for row in rows])
    figure = Figure(figsize=(8, 6), layout="constrained")
    losses, rate = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for term in TERMS:
        loss = np.array([float(row[term]) for row in rows])
        if (loss > 0).any():  # a term that the network does not have is logged as zeros
            (line,) = losses.plot(step, loss, alpha=0.25, linewidth=0.8)
            width = max(1, round(SMOOTHED_SHARE * len(loss)))
            losses.plot(step, running_mean(loss, width), color=line.get_color(), label=term)
            losses.set_yscale("log", nonpositive="mask")
            losses.legend()
    rate.plot(step, [float(row["learning_rate"]) for row in rows], color="black", linewidth=0.8)
    losses.set_ylabel("weighted term of the loss")
    rate.set_ylabel("learning rate")
    rate.set_xlabel("step")
    for axes in (losses, rate):
        axes.grid(visible=True, alpha=0.3)
    _save(figure, png)


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Return the mean (n,) of each value (n,) and up to ``width - 1`` before it."""
    sums = np.concatenate(((0.0,), np.cumsum(values)))
    last = np.arange(1, len(values) + 1)
    first = np.maximum(0, last - width)
    return (sums[last] - sums[first]) / (last - first)


def _save(figure: Figure, png: Path) -> None:
    partial = png.with_suffix(".partial")
    figure.savefig(partial, format="png", dpi=110)
    partial.replace(png)
