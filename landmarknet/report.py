"""Markdown tables of findings, thresholds and multiply-accumulates, which commands print and docs/accuracy.md holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from edge.contract import KindContract
from edge.engines import open_engine
from landmarknet.evaluate import (
    HEADLINE_PX,
    PCK_PX,
    Finding,
    Score,
    chance_along_the_row,
    false_alarms,
    find,
    score,
)
from landmarknet.network import KINDS, HeadForm, LandmarkNet, NetworkConfig
from landmarknet.operating_point import inside_shares, width_correlation

NOTICE = "SIMULATED images; labels are semi-manual, not a clinician's (about +-2 to 3 mm)."


def release_report(release: Path, images: Path, patients: Sequence[str]) -> str:
    """Return a release's tables on patients it was not trained on; raise `ValueError` where it was."""
    engine = open_engine(release, threads=1)
    demand_unseen(engine.contract.trained_on, patients)
    findings = find(engine.backend, engine.contract, images, patients)
    return "\n".join(
        (
            f"Release `{engine.contract.release}`, patients {', '.join(patients)}. {NOTICE} "
            f"`landmarknet-train evaluate`, {datetime.now(UTC):%Y-%m-%d}.",
            "",
            accuracy_table(findings, engine.contract.kinds),
            "",
            false_alarm_table(findings, engine.contract.kinds),
            "",
            sigma_table(findings, engine.contract.kinds),
            "",
            chance_line(findings),
        )
    )


def demand_unseen(trained_on: Iterable[str], patients: Iterable[str]) -> None:
    """Raise `ValueError` if any of the patients was trained on: a figure on it would be no accuracy."""
    if seen := sorted(set(trained_on) & set(patients)):
        raise ValueError(f"trained on {', '.join(seen)}: a figure on these is no accuracy; name other patients")


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(share: float) -> str:
    """Return a share in percent, or a dash where there is none."""
    return "-" if np.isnan(share) else f"{100 * share:.1f} %"


def number(value: float, digits: int = 2) -> str:
    """Return a number, or a dash where there is none."""
    return "-" if np.isnan(value) else f"{value:.{digits}f}"


def cells(
    findings: Sequence[Finding], kinds: Sequence[KindContract]
) -> Iterable[tuple[KindContract, str, str, list[Finding]]]:
    """Yield kind, view, modality and the findings that may be judged, where there are any."""
    for promise in kinds:
        for view in ("ap", "lateral"):
            for modality in ("kv", "mv"):
                chosen = [f for f in findings if (f.kind, f.view, f.modality) == (promise.kind, view, modality)]
                if any(f.labelled for f in chosen):
                    yield promise, view, modality, chosen


def accuracy_table(findings: Sequence[Finding], kinds: Sequence[KindContract]) -> str:
    """Return one row per kind, view and modality."""
    header = [
        "kind", "view", "modality", "images", "landmarks", *(f"PCK@{t:.0f}" for t in PCK_PX), "patient PCK@8",
        "precision", "F1", "mean px <= 12", "median mm <= 12 px", "extra per image", "count error", "given",
    ]  # fmt: skip
    rows = [
        [promise.kind, view, modality, *score_cells(score(chosen, promise), promise.shape)]
        for promise, view, modality, chosen in cells(findings, kinds)
    ]
    return markdown(header, rows)


def score_cells(result: Score, shape: str) -> list[str]:
    """Return the cells of one row, from ``images`` on; a line has no number of landmarks."""
    return [
        str(result.images),
        "-" if shape == "line" else str(result.landmarks),
        *(percent(result.pck[t]) for t in PCK_PX),
        percent(result.patient_pck),
        percent(result.precision),
        percent(result.f1),
        number(result.mean_px),
        number(result.median_mm, 1),
        number(result.extra_per_image),
        "-" if shape == "line" else number(result.count_error),
        percent(result.given),
    ]


def false_alarm_table(findings: Sequence[Finding], kinds: Sequence[KindContract]) -> str:
    """Return landmarks per image that are not there, per kind."""
    rows = []
    for promise in kinds:
        alarms = false_alarms([f for f in findings if f.kind == promise.kind], promise)
        rows.append(
            [promise.kind, str(alarms.negatives), number(alarms.per_negative, 3), str(alarms.hidden),
             number(alarms.per_hidden, 3)]
        )  # fmt: skip
    return markdown(["kind", "images without it", "false per image", "images that hide it", "false per image"], rows)


def per_patient_table(findings: Sequence[Finding], operating: Callable[[str, str], KindContract]) -> str:
    """Return PCK@8 per patient, and the mean and spread over patients. ``operating`` maps patient and kind."""
    groups = [(kind, view) for kind in KINDS for view in ("ap", "lateral")]
    columns = [g for g in groups if any((f.kind, f.view) == g and f.labelled for f in findings)]
    patients = sorted({f.patient for f in findings if f.labelled})
    values = np.full((len(patients), len(columns)), np.nan)
    for i, patient in enumerate(patients):
        for j, (kind, view) in enumerate(columns):
            chosen = [f for f in findings if (f.patient, f.kind, f.view) == (patient, kind, view)]
            if any(len(f.truth_px) for f in chosen):
                values[i, j] = score(chosen, operating(patient, kind)).pck[HEADLINE_PX]
    rows = [[patient, *(percent(v) for v in row)] for patient, row in zip(patients, values, strict=True)]
    rows.append(["**mean**", *(percent(v) for v in np.nanmean(values, axis=0))])
    rows.append(["spread (sd)", *(percent(v) for v in np.nanstd(values, axis=0, ddof=1))])
    return markdown(["PCK@8", *(f"{kind}, {view}" for kind, view in columns)], rows)


def sigma_table(findings: Sequence[Finding], kinds: Sequence[KindContract]) -> str:
    """Return how often errors lie within one and two standard uncertainties."""
    rows = []
    for promise in kinds:
        one, two = inside_shares([f for f in findings if f.kind == promise.kind], promise)
        normal = "68 / 95 %" if promise.shape == "line" else "39 / 86 %"
        fit = "-" if promise.sigma is None else f"{promise.sigma[0]:.2f} + {promise.sigma[1]:.2f} w"
        correlation = number(width_correlation([f for f in findings if f.kind == promise.kind], promise))
        rows.append([promise.kind, fit, percent(one), percent(two), normal, correlation])
    header = ["kind", "sigma, network px", "within 1 sigma", "within 2 sigma", "normal errors", "rank correlation"]
    return markdown(header, rows)


def chance_line(findings: Sequence[Finding]) -> str:
    """Say what a detector would score that finds the row of spinous processes, but nothing along it."""
    spinous = [f for f in findings if f.kind == "spinous_process"]
    if not any(len(f.truth_px) > 1 for f in spinous):
        return "No row of spinous processes is shown in these images."
    gap_px, share = chance_along_the_row(spinous)
    return (
        f"Neighbouring spinous processes lie {gap_px:.0f} px apart (median): a peak placed anywhere along their row is "
        f"within {HEADLINE_PX:.0f} px of one in {100 * share:.0f} % of cases."
    )


def mac_table() -> str:
    """Return the multiply-accumulates of both heads as a Markdown table."""
    rows = []
    for name, config in (
        ("ResNet-50, as in the paper", NetworkConfig()),
        ("ResNet-18, half width, 384 px", NetworkConfig(bottom_up="resnet18", width=0.5, head_width=0.25)),
        (
            "shipped: the same at 256 px",
            NetworkConfig(bottom_up="resnet18", width=0.5, head_width=0.25, input_size=256),
        ),
    ):
        plain = count_macs(config, "plain")
        for head, count in (("plain", plain), ("fast", count_macs(config, "fast"))):
            rows.append([name, head, f"{count / 1e9:.2f}", f"{count / plain:.3f}"])
    return markdown(["network", "head", "GMAC", "of the plain head"], rows)


def count_macs(config: NetworkConfig, head: HeadForm) -> int:
    """Return the multiply-accumulates of one image through convolutions and matrix products."""
    size = config.input_size
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:  # shapes, no arithmetic
        LandmarkNet(config, head).eval()(torch.zeros(1, 1, size, size))
    return int(counter.get_total_flops() // 2)
