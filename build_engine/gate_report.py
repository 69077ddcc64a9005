"""What the gate found, for people and for programs: Markdown, JSON, and a picture of the shifts."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np

from build_engine.candidate import Candidate, warnings
from build_engine.compiled import in_words
from build_engine.verify import Change, GateResult, KindResult
from landmarknet.report import NOTICE, markdown, number, percent


def report_files(candidate: Candidate) -> dict[str, bytes]:
    """Return ``md``, ``json`` and ``png`` of a candidate's gate; nothing without a gate."""
    if candidate.gate is None:
        return {}
    title = f"{candidate.precision}, {candidate.compiled.flavour} {candidate.compiled.version}"
    return {
        "md": f"{gate_markdown(candidate.gate, title)}\n\n{_how(candidate)}\n".encode(),
        "json": gate_json(candidate),
        "png": gate_picture(candidate.gate, title),
    }


def _how(candidate: Candidate) -> str:
    lines = [f"**Warning**: {warning}." for warning in warnings(candidate)]
    lines += [
        f"Computed by: {candidate.ran_on}.",
        f"Asked for: {candidate.precision}. Delivered, in layers that multiply: "
        f"{in_words(candidate.compiled.delivered)}.",
    ]
    lines += [f"Note: {note}." for note in candidate.compiled.notes]
    if candidate.speed is not None:
        lines.append(f"One inference takes {candidate.speed:.2f} of the float32 graph's time (median of paired runs).")
    if candidate.kept_float:
        lines.append(f"Given back to float, because the gate refused them: {', '.join(candidate.kept_float)}.")
    if candidate.refused:
        lines.append(f"Attempts that the gate refused, in their order:\n\n{_refusals(candidate)}")
    if candidate.effects:
        rows = [[effect.layer, number(effect.effect, 4)] for effect in candidate.effects]
        lines.append(
            "Relative change (rms) of the heatmaps with one layer alone in INT8:\n\n"
            + markdown(["layer", "change"], rows)
        )
    return "\n\n".join(lines)


def _refusals(candidate: Candidate) -> str:
    """Return a row per refused attempt: what it took into INT8 beside what had passed, and why it was refused."""
    rows = [
        [str(len(refusal.kept_float)), ", ".join(refusal.taken) or "all", "; ".join(refusal.faults)]
        for refusal in candidate.refused
    ]
    return markdown(["layers in float", "taken into INT8", "faults"], rows)


def gate_summary(candidate: Candidate) -> dict[str, Any]:
    """Return what the manifest keeps: the verdict, one row per kind, and how it was computed; NaN becomes None."""
    result = candidate.gate
    if result is None:
        return {}
    return {
        "passed": result.passed,
        "faults": list(result.faults),
        "images": result.images,
        "limits": result.limits.model_dump(),
        "setup_mm": _quantiles(result.setup_mm),
        "kinds": {kind.kind: _kind_summary(kind) for kind in result.kinds},
        "ran_on": candidate.ran_on,
        "asked_for": candidate.precision,
        "delivered": dict(candidate.compiled.delivered),
        "notes": list(candidate.compiled.notes),
        "warnings": list(warnings(candidate)),
        "time_of_float32": None if candidate.speed is None else round(candidate.speed, 3),
        "kept_float": list(candidate.kept_float),
    }


def _kind_summary(kind: KindResult) -> dict[str, Any]:
    return {
        "pck8_reference": _or_none(kind.pck_reference),
        "pck8_candidate": _or_none(kind.pck_candidate),
        "landmarks": len(kind.moves),
        "shift_net_px": _quantiles(kind.shifts_net_px),
        "shift_mm": _quantiles(kind.shifts_mm),
        "lost": _counts(kind.lost),
        "extra": _counts(kind.extra),
        "unclear_share": None if not kind.landmarks else round(len(kind.unclear) / kind.landmarks, 4),
    }


def _quantiles(values: np.ndarray) -> dict[str, float | None]:
    if not len(values):
        return {"mean": None, "p99": None, "worst": None}
    return {
        "mean": round(float(values.mean()), 4),
        "p99": round(float(np.percentile(values, 99)), 4),
        "worst": round(float(values.max()), 4),
    }


def _counts(changes: tuple[Change, ...]) -> dict[str, int]:
    return {"all": len(changes), "clear": sum(c.clear for c in changes)}


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 5)


def gate_json(candidate: Candidate) -> bytes:
    """Return the summary, every landmark that vanished or appeared, and every refused attempt, as JSON."""
    kinds = candidate.gate.kinds if candidate.gate else ()
    changes = {word: [vars(c) for kind in kinds for c in getattr(kind, word)] for word in ("lost", "extra")}
    refused = [
        {"kept_float": list(one.kept_float), "taken": list(one.taken), "faults": list(one.faults)}
        for one in candidate.refused
    ]
    document = gate_summary(candidate) | {"changes": changes, "refused": refused}
    return (json.dumps(document, indent=2) + "\n").encode()


def gate_markdown(result: GateResult, title: str) -> str:
    """Return the report that a person reads before a release is used."""
    header = [
        "kind", "landmarks in both", "PCK@8 float32", "PCK@8 candidate", "shift px: mean", "99 %", "worst",
        "shift mm: mean", "99 %", "worst", "lost (clear)", "extra (clear)", "unclear",
    ]  # fmt: skip
    rows = [_row(kind) for kind in result.kinds]
    setup = _quantiles(result.setup_mm)
    verdict = "**passed**" if result.passed else "**NOT passed**: " + "; ".join(result.faults)
    return "\n\n".join(
        (
            f"# Gate: {title}",
            f"Verdict: {verdict}.",
            f"{result.images} held-out images. {NOTICE} The candidate against the network in float32; px of the "
            "network's grid, mm at the isocentre. Lost and extra: given by one of both only; clear: above the "
            f"threshold by {result.limits.score_margin:g}; unclear: all others, of which "
            f"{100 * result.limits.unclear_share:g} % of the landmarks are allowed; one that jumps is lost and extra.",
            markdown(header, rows),
            "How far the mean landmark of an image moved, which is what a setup shift would be off by: "
            f"mean {_mm(setup['mean'])}, 99 % {_mm(setup['p99'])}, worst {_mm(setup['worst'])} mm.",
        )
    )


def _mm(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _row(kind: KindResult) -> list[str]:
    cells = [kind.kind, str(len(kind.moves)), percent(kind.pck_reference), percent(kind.pck_candidate)]
    for values in (kind.shifts_net_px, kind.shifts_mm):
        cells += [number(float("nan") if v is None else v, 3) for v in _quantiles(values).values()]
    changed = [f"{len(c)} ({sum(one.clear for one in c)})" for c in (kind.lost, kind.extra)]
    return [*cells, *changed, f"{len(kind.unclear)} of {kind.landmarks}"]


def gate_picture(result: GateResult, title: str) -> bytes:
    """Return a PNG: every landmark's shift, in network px, a panel per kind, with the limit as a circle."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(result.kinds), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{title}: {'passed' if result.passed else 'NOT passed'} (circle: limit at 99 %)")
    limit = result.limits.shift_net_px
    reach = max([1.3 * limit, *(1.1 * m.net_px for kind in result.kinds for m in kind.moves)])
    turn = np.linspace(0, 2 * np.pi, 200)
    for axes, kind in zip(np.atleast_1d(figure.subplots(1, len(result.kinds))), result.kinds, strict=True):
        axes.plot(limit * np.cos(turn), limit * np.sin(turn), color="0.4", lw=1)
        axes.plot([m.dx_net_px for m in kind.moves], [m.dy_net_px for m in kind.moves], ".", ms=4, alpha=0.5)
        axes.set(xlim=(-reach, reach), ylim=(reach, -reach), aspect="equal", xlabel="right, px", ylabel="down, px")
        axes.set_title(f"{kind.kind}\n{len(kind.moves)} in both, {len(kind.lost)} lost, {len(kind.extra)} extra")
        axes.grid(color="0.9")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80, metadata={"Software": None})
    return buffer.getvalue()
