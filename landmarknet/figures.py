"""The figures of docs/accuracy.md, drawn from findings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge.contract import KindContract
from landmarknet.evaluate import HEADLINE_PX, Finding
from landmarknet.operating_point import errors_and_widths_net

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FARTHEST_PX = 24.0


def deviations(findings: Sequence[Finding], promise: KindContract) -> np.ndarray:
    """Return the distances, paper px, of accepted landmarks to the nearest true one, in images that show the kind."""
    out = []
    for f in findings:
        if f.kind != promise.kind or not len(f.truth_px):
            continue
        for point in f.kept(promise):
            distance = np.hypot(*(f.truth_px - point).T).min()
            if f.is_line:
                distance = abs(point[0] - np.interp(point[1], *f.truth_px[:, ::-1].T))
            out.append(distance * f.paper_per_px)
    return np.array(out)


def box_plot(findings: Sequence[Finding], kinds: Sequence[KindContract], path: Path) -> None:
    """Draw the deviation per kind, view and modality."""
    groups = [
        (
            promise,
            view,
            modality,
            deviations([f for f in findings if (f.view, f.modality) == (view, modality)], promise),
        )
        for promise in kinds
        for view in ("ap", "lateral")
        for modality in ("kv", "mv")
    ]
    groups = [g for g in groups if len(g[3])]

    def draw(axes: Axes) -> None:
        axes.boxplot([np.minimum(g[3], FARTHEST_PX) for g in groups], showfliers=True, flierprops={"markersize": 2})
        axes.set_xticks(
            range(1, len(groups) + 1), [f"{g[0].kind.replace('_', chr(10))}\n{g[1]} {g[2]}" for g in groups]
        )
        axes.tick_params(axis="x", labelsize=7)
        axes.axhline(HEADLINE_PX, linestyle="--", color="grey")
        axes.set_ylabel(f"deviation, px of the 384 grid (clipped at {FARTHEST_PX:.0f})")

    _save(path, draw, width=12)


def reliability_plot(findings: Sequence[Finding], kinds: Sequence[KindContract], path: Path) -> None:
    """Draw the share of landmarks within 8 px against their score, in bins of equal numbers."""

    def draw(axes: Axes) -> None:
        for promise in kinds:
            scores, right = scores_and_hits(findings, promise)
            if len(scores) < 40:
                continue
            bins = np.array_split(np.argsort(scores), 8)
            axes.plot([scores[b].mean() for b in bins], [right[b].mean() for b in bins], "o-", label=promise.kind)
        axes.plot((0, 1), (0, 1), ":", color="grey", label="a score that were a probability")
        axes.set_xlabel("score (height of the heatmap)")
        axes.set_ylabel("share within 8 px")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.legend()

    _save(path, draw)


def scores_and_hits(findings: Sequence[Finding], promise: KindContract) -> tuple[np.ndarray, np.ndarray]:
    """Return the score of the best ``at_most`` landmarks of each image, and whether each is right, one to one.

    Whatever is found where nothing is shown is wrong.
    """
    own = [f for f in findings if f.kind == promise.kind]
    open_promise = promise.model_copy(update={"threshold": 0.0})
    chosen = [(f, f.chosen(open_promise)) for f in own]
    scores = [f.scores[c] for f, c in chosen]
    right = [f.right(f.found_px[c]) for f, c in chosen]
    return np.concatenate(scores or [np.zeros(0)]), np.concatenate(right or [np.zeros(0)]).astype(float)


def sigma_plot(folds: Sequence[tuple[Sequence[Finding], Sequence[KindContract]]], path: Path) -> None:
    """Draw the actual standard deviation of the error against the stated sigma, in bins of equal numbers, per kind.

    Each fold states its own; all are drawn together.
    """

    def draw(axes: Axes) -> None:
        highest = 1.0
        for kind in dict.fromkeys(k.kind for _, kinds in folds for k in kinds):
            stated, squared = _stated_and_squared(folds, kind)
            if len(stated) < 40:
                continue
            bins = np.array_split(np.argsort(stated), 6)
            actual = [float(np.sqrt(squared[b].mean())) for b in bins]
            axes.plot([stated[b].mean() for b in bins], actual, "o-", label=kind)
            highest = max(highest, *actual, float(stated.max()))
        axes.plot((0, highest), (0, highest), ":", color="grey", label="as stated")
        axes.set_xlabel("stated sigma, network px")
        axes.set_ylabel("standard deviation of the error per axis, network px")
        axes.legend()

    _save(path, draw)


def _stated_and_squared(
    folds: Sequence[tuple[Sequence[Finding], Sequence[KindContract]]], kind: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the stated sigma and the squared error per axis of a kind's landmarks, network px."""
    stated, squared = [np.zeros(0)], [np.zeros(0)]
    for findings, kinds in folds:
        promise = next(k for k in kinds if k.kind == kind)
        if promise.sigma is not None:
            errors, widths = errors_and_widths_net([f for f in findings if f.kind == kind], promise)
            stated.append(promise.sigma[0] + promise.sigma[1] * widths)
            squared.append((errors**2).sum(axis=1) / (1 if promise.shape == "line" else 2))
    return np.concatenate(stated), np.concatenate(squared)


def pck_plot(findings: Sequence[Finding], kinds: Sequence[KindContract], path: Path) -> None:
    """Draw the share of true landmarks found within a distance, per kind and view."""
    limits = np.linspace(0.5, 20, 40)

    def draw(axes: Axes) -> None:
        for promise in kinds:
            for view, style in (("ap", "-"), ("lateral", "--")):
                shown = [f for f in findings if (f.kind, f.view) == (promise.kind, view) and len(f.truth_px)]
                total = sum(len(f.truth_px) for f in shown)
                if total:
                    hits = [
                        sum(len(f.distances_px(f.kept(promise), t / f.paper_per_px)) for f in shown) / total
                        for t in limits
                    ]
                    axes.plot(limits, hits, style, label=f"{promise.kind}, {view}")
        axes.axvline(HEADLINE_PX, linestyle=":", color="grey", label="right")
        axes.set_xlabel("distance, px of the 384 grid")
        axes.set_ylabel("share of true landmarks found")
        axes.set_ylim(0, 1)
        axes.legend(fontsize=8)

    _save(path, draw)


def _save(path: Path, draw: Callable[[Axes], None], width: float = 7) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(width, 5))
    draw(axes)
    axes.set_title("SIMULATED images, semi-manual labels", fontsize=9)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90, metadata={"Software": None})
    plt.close(figure)
