"""Tables that commands print: accuracy on unseen patients, thresholds, multiply-accumulates."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from edge.contract import Contract
from edge.engines import open_engine
from landmarknet.checkpoint import load_checkpoint, load_network
from landmarknet.dataset import CachedView, cache_views
from landmarknet.decode import torch_detector
from landmarknet.evaluate import (
    HEADLINE_NET_PX,
    PCK_NET_PX,
    Finding,
    Score,
    best_threshold,
    chance_along_the_row,
    find,
    score,
)
from landmarknet.network import INPUT_SIZE, KINDS, HeadForm, LandmarkNet, NetworkConfig

EVALUATION_POSES = 24
AT_MOST = {"spinous_process": 16, "tracheal_bifurcation": 1, "louis_angle": 1}


def accuracy_table(release: Path, ct: Sequence[Path], cache: Path, per_view: int, seed: int) -> str:
    """Return a Markdown table of a release on simulated images of patients it was not trained on."""
    engine = open_engine(release, threads=1)
    findings = find(lambda batch: engine.backend.infer(batch).peaks, _views(ct, cache), per_view, seed)
    patients = ", ".join(path.name.removesuffix(".nii.gz") for path in ct)
    head = [
        f"Release `{engine.contract.release}`, patients {patients}, SIMULATED images, semi-manual labels; "
        f"{per_view} images per view and modality, seed {seed}; `landmarknet-train evaluate`, "
        f"{datetime.now(UTC):%Y-%m-%d}.",
        "",
        "| kind | view | modality | images | landmarks | "
        + " | ".join(f"PCK@{t:.0f}" for t in PCK_NET_PX)
        + " | precision@8 | F1@8 | mean px | median mm |",
        "| --- | --- | --- | --- | --- |" + " --- |" * (len(PCK_NET_PX) + 4),
    ]
    return "\n".join([*head, *_rows(findings, engine.contract), "", _chance_line(findings)])


def _chance_line(findings: Sequence[Finding]) -> str:
    gap_px, share = chance_along_the_row([f for f in findings if f.kind == "spinous_process"])
    return (
        f"Neighbouring spinous processes lie {gap_px:.0f} px apart (median): a peak placed anywhere along their row is "
        f"within {HEADLINE_NET_PX:.0f} px of one in {100 * share:.0f} % of cases."
    )


def _rows(findings: Sequence[Finding], contract: Contract) -> list[str]:
    rows = []
    for promise in contract.kinds:
        for view in ("ap", "lateral"):
            for modality in ("kv", "mv"):
                chosen = [
                    f for f in findings
                    if f.kind == promise.kind and f.case.view == view and f.modality == modality
                ]  # fmt: skip
                if chosen:
                    result = score(chosen, promise.threshold, promise.at_most)
                    rows.append(f"| {promise.kind} | {view} | {modality} | {_cells(result)} |")
    return rows


def _cells(result: Score) -> str:
    shares = [*(result.pck[t] for t in PCK_NET_PX), result.precision, result.f1]
    percent = " | ".join(f"{100 * share:.1f} %" for share in shares)
    return f"{result.images} | {result.landmarks} | {percent} | {result.mean_px:.2f} | {result.median_mm:.1f}"


def threshold_table(checkpoint: Path, ct: Sequence[Path], cache: Path, per_view: int, seed: int) -> str:
    """Return the thresholds of (nearly) best F1 on validation patients, as the ``[[kinds]]`` of a build recipe."""
    trained_on = set(load_checkpoint(checkpoint).training["patients"])
    overlap = trained_on & {path.name.removesuffix(".nii.gz") for path in ct}
    if overlap:
        raise ValueError(f"trained on {', '.join(sorted(overlap))}: choose thresholds on other patients")
    findings = find(torch_detector(load_network(checkpoint)), _views(ct, cache), per_view, seed)
    blocks = []
    for kind in KINDS:
        threshold = best_threshold([f for f in findings if f.kind == kind], AT_MOST[kind])
        blocks.append(f'[[kinds]]\nkind = "{kind}"\nthreshold = {threshold:.3f}\nat_most = {AT_MOST[kind]}\n')
    return "\n".join(blocks)


def _views(ct: Sequence[Path], cache: Path) -> list[CachedView]:
    return [view for path in ct for view in cache_views(path, cache, EVALUATION_POSES, seed=0)]


def mac_table() -> str:
    """Return the multiply-accumulates of both heads as a Markdown table."""
    rows = ["| network | head | GMAC | of the plain head |", "| --- | --- | --- | --- |"]
    for name, config in (
        ("ResNet-50, as in the paper", NetworkConfig()),
        ("shipped: ResNet-18, half width", NetworkConfig(bottom_up="resnet18", width=0.5, head_width=0.25)),
    ):
        plain = count_macs(config, "plain")
        for head, count in (("plain", plain), ("fast", count_macs(config, "fast"))):
            rows.append(f"| {name} | {head} | {count / 1e9:.2f} | {count / plain:.3f} |")
    return "\n".join(rows)


def count_macs(config: NetworkConfig, head: HeadForm) -> int:
    """Return the multiply-accumulates of one image through convolutions and matrix products."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:  # shapes, no arithmetic
        LandmarkNet(config, head).eval()(torch.zeros(1, 1, INPUT_SIZE, INPUT_SIZE))
    return int(counter.get_total_flops() // 2)
