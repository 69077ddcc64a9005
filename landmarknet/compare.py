"""LandmarkNet against other networks and itself without a part: same data, same budget, same evaluation.

As the paper's Table 3, but for every kind, on patients that none of the networks saw, with the spread over patients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from landmarknet.checkpoint import demand_same_training, load_checkpoint, load_network
from landmarknet.decode import TorchBackend
from landmarknet.evaluate import HEADLINE_PX, false_alarms, find, score
from landmarknet.network import KINDS, SINGLE_KINDS
from landmarknet.operating_point import operating_point, reading_of
from landmarknet.report import demand_unseen, markdown, number, percent
from landmarknet.simulate_files import EMPTY_FIELDS
from landmarknet.study import Study
from landmarknet.train import TrainConfig, train

Change = Callable[[TrainConfig], TrainConfig]
RIVALS = ("dsnt", "deeplabv3", "prm")


VARIANTS: dict[str, tuple[str, Change]] = {
    "landmarknet": ("LandmarkNet", lambda c: c),
    "no_gate": ("LandmarkNet without the gate", lambda c: replace(c, network=replace(c.network, gate=False))),
    "no_supervision": ("LandmarkNet without intermediate supervision", lambda c: replace(c, level_share=0.0)),
    "hard_mining": ("LandmarkNet with hard-example mining", lambda c: replace(c, hard_share=0.25)),
    "whole_image": (
        "LandmarkNet, whole image resized as in the paper",
        lambda c: replace(c, network=replace(c.network, mm_per_net_px=None)),
    ),
    "unmixed": ("LandmarkNet, bodies neither warped nor mixed", lambda c: replace(c, mixed=False)),
    "shuffled": ("a floor: LandmarkNet trained on the labels of other images", lambda c: replace(c, shuffled=True)),
    "dsnt": ("DSNT regression", lambda c: replace(c, network=replace(c.network, architecture="dsnt"))),
    "deeplabv3": ("DeepLabv3", lambda c: replace(c, network=replace(c.network, architecture="deeplabv3"))),
    "prm": ("Pyramid residual modules", lambda c: replace(c, network=replace(c.network, architecture="prm"))),
}


def variant_config(study: Study, variant: str, seed: int) -> TrainConfig:
    """Return the training of one variant on the comparison's fold."""
    plan = study.comparison
    if variant not in VARIANTS:
        raise ValueError(f"no variant {variant!r}; there are {', '.join(VARIANTS)}")
    base = study.fold_config(study.fold(plan.fold))
    output = f"{study.output}/{variant}_{seed}"
    base = replace(base, seed=seed, output=output, steps=plan.steps, finish_steps=0)
    return VARIANTS[variant][1](base)


def train_variants(study: Study, say: Callable[[str], None]) -> None:
    """Train what is missing, one after the other; a training that was stopped goes on."""
    for seed in study.comparison.seeds:
        for variant in study.comparison.variants:
            config = variant_config(study, variant, seed)
            weights = Path(config.output) / "weights.pt"
            if weights.exists():
                demand_same_training(load_checkpoint(weights), config.to_dict(), weights)
            else:
                say(f"train {variant}, seed {seed}")
                train(config)


@dataclass(frozen=True, eq=False)
class ComparisonRow:
    """What one network reaches on the comparison's test patients; lists over patients and seeds, per kind."""

    name: str
    pck: Mapping[str, Sequence[float]]
    deviation_px: Mapping[str, Sequence[float]]
    alarms_per_negative: float  # single landmarks per image without any
    rival: bool = False  # another network, not LandmarkNet without a part


def comparison_row(study: Study, variant: str) -> ComparisonRow | None:
    """Evaluate a variant of the comparison, or "fold": the fold's own, longer trained network; None: not trained."""
    plan = study.comparison
    if variant == "fold":
        name = f"for reference: LandmarkNet as in the folds, {study.fold_steps} steps"
        return _evaluated(study, name, [study.fold_config(study.fold(plan.fold))], KINDS)
    answers = SINGLE_KINDS if variant == "dsnt" else KINDS  # a regression gives one point per kind
    configs = [variant_config(study, variant, seed) for seed in plan.seeds]
    row = _evaluated(study, VARIANTS[variant][0], configs, answers)
    return row and replace(row, rival=variant in RIVALS)


def comparison_table(study: Study, rows: Sequence[ComparisonRow | None]) -> str:
    """Return the rows under a header, what they are, and how LandmarkNet stands against the best of the others."""
    plan, batch, fold = study.comparison, study.recipe().batch, study.fold(study.comparison.fold)
    trained = [row for row in rows if row is not None]
    table = [[row.name, *(_cell(row, kind) for kind in KINDS), f"{row.alarms_per_negative:.3f}"] for row in trained]
    missing = f"\n\n{len(rows) - len(trained)} of {len(rows)} are not trained." if len(trained) < len(rows) else ""
    return (
        f"Each trained for {plan.steps} steps, on {plan.steps * batch} images of the same "
        f"{len(study.fold_config(fold).patients)} patients ({len(plan.seeds)} seed(s)): what is compared is how fast "
        f"they learn, far from the end. Thresholds chosen on {', '.join(fold.validation)}, tested on "
        f"{', '.join(fold.test)}; PCK@8 as mean +- standard deviation over patients, then the mean deviation of those "
        "within 12 px. All have the batch, rate and scale that were chosen for LandmarkNet; without the room's rule "
        "that the spine needs a carina or a Louis angle beside it.\n\n"
        + markdown(["network", *KINDS, "single landmarks per image without thorax"], table)
        + f"\n\n{standing(trained)}{missing}"
    )


def standing(rows: Sequence[ComparisonRow]) -> str:
    """Say for each kind what the best other network reaches, and by how many points LandmarkNet is ahead or behind."""
    own = next((row for row in rows if row.name == VARIANTS["landmarknet"][0]), None)
    sentences = []
    for kind in KINDS:
        rivals = [row for row in rows if row.rival and kind in row.pck]
        if own is None or not rivals:
            continue
        best = max(rivals, key=lambda row: float(np.mean(row.pck[kind])))
        ahead = 100 * (float(np.mean(own.pck[kind])) - float(np.mean(best.pck[kind])))
        word = "ahead of" if ahead > 0 else "behind"
        sentences.append(f"{kind}: LandmarkNet is {abs(ahead):.1f} points {word} {best.name}, the best of the others.")
    return " ".join(sentences)


def _evaluated(study: Study, name: str, configs: Sequence[TrainConfig], answers: Sequence[str]) -> ComparisonRow | None:
    fold, images = study.fold(study.comparison.fold), Path(study.images)
    pck: dict[str, list[float]] = {kind: [] for kind in answers}
    deviation: dict[str, list[float]] = {kind: [] for kind in answers}
    alarms = []
    for config in configs:
        weights = Path(config.output) / "weights.pt"
        if not weights.exists():
            return None
        checkpoint = load_checkpoint(weights)
        demand_same_training(checkpoint, config.to_dict(), weights)
        demand_unseen(checkpoint.training["patients"], (*fold.test, *fold.validation))
        network = load_network(weights)
        backend, reading = TorchBackend(network), reading_of(network.config)
        choices = find(backend, reading, images, (*fold.validation, *study.validation_negatives), unlabelled_views=True)
        chosen = operating_point(choices, network.config.kinds)
        findings = find(backend, reading, images, fold.test)
        negatives = find(backend, reading, images, (*study.test_negatives, EMPTY_FIELDS))
        for promise in (one for one in chosen if one.kind in answers):
            for patient in fold.test:
                result = score([f for f in findings if (f.kind, f.patient) == (promise.kind, patient)], promise)
                pck[promise.kind].append(result.pck[HEADLINE_PX])
                deviation[promise.kind].append(result.mean_px)
            if promise.kind in SINGLE_KINDS:
                own = [f for f in negatives if f.kind == promise.kind]
                alarms.append(false_alarms(own, promise).per_negative)
    return ComparisonRow(name, pck, deviation, float(np.sum(alarms)) / len(configs))


def _cell(row: ComparisonRow, kind: str) -> str:
    if kind not in row.pck:
        return "-"
    pck, known = row.pck[kind], [v for v in row.deviation_px[kind] if not np.isnan(v)]
    mean_px = number(float(np.mean(known)) if known else float("nan"))
    return f"{percent(float(np.mean(pck)))} +- {100 * float(np.std(pck, ddof=1)):.0f}, {mean_px} px"
