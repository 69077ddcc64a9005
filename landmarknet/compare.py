"""LandmarkNet against other networks and itself without a part: same data, same budget, same evaluation.

As the paper's Table 3, but for every kind, on patients that none of the networks saw, with the spread over patients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from landmarknet.checkpoint import demand_same_training, load_checkpoint, load_network
from landmarknet.decode import TorchBackend
from landmarknet.evaluate import HEADLINE_PX, find, score
from landmarknet.network import KINDS, SINGLE_KINDS
from landmarknet.operating_point import operating_point, reading_of
from landmarknet.report import demand_unseen, markdown, number, percent
from landmarknet.study import Study
from landmarknet.train import TrainConfig, train

Change = Callable[[TrainConfig], TrainConfig]


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
    base = replace(base, seed=seed, output=output, steps=plan.steps)
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


def comparison_row(study: Study, variant: str) -> list[str]:
    """Return a variant's name and, per kind, PCK@8 and the mean deviation."""
    return [VARIANTS[variant][0], *_cells(study, variant)]


def comparison_table(study: Study, rows: Sequence[Sequence[str]]) -> str:
    """Return the rows under a header, and what they are: mean and standard deviation over patients (and seeds)."""
    fold = study.fold(study.comparison.fold)
    plan, batch = study.comparison, study.recipe().batch
    return (
        f"Each trained on {plan.steps * batch} images of the same {len(study.fold_config(fold).patients)} patients "
        f"({len(study.comparison.seeds)} seed(s)), thresholds chosen on {', '.join(fold.validation)}, tested on "
        f"{', '.join(fold.test)}; PCK@8 as mean +- standard deviation over patients, then the mean deviation of those "
        "within 12 px. All have the batch, rate and scale that were chosen for LandmarkNet.\n\n"
        + markdown(["network", *KINDS], rows)
    )


def _cells(study: Study, variant: str) -> list[str]:
    fold, images = study.fold(study.comparison.fold), Path(study.images)
    pck: dict[str, list[float]] = {kind: [] for kind in KINDS}
    deviation: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for seed in study.comparison.seeds:
        weights = Path(variant_config(study, variant, seed).output) / "weights.pt"
        if not weights.exists():
            return ["not trained"] * len(KINDS)
        demand_unseen(load_checkpoint(weights).training["patients"], (*fold.test, *fold.validation))
        network = load_network(weights)
        backend = TorchBackend(network)
        reading = reading_of(network.config)
        choices = (*fold.validation, *study.validation_negatives)
        chosen = operating_point(find(backend, reading, images, choices), network.config.kinds)
        findings = find(backend, reading, images, fold.test)
        for promise in chosen:
            for patient in fold.test:
                own = [f for f in findings if (f.kind, f.patient) == (promise.kind, patient)]
                result = score(own, promise)
                pck[promise.kind].append(result.pck[HEADLINE_PX])
                deviation[promise.kind].append(result.mean_px)
    answers = SINGLE_KINDS if variant == "dsnt" else KINDS  # a regression gives one point per kind
    return [_cell(pck[kind], deviation[kind]) if kind in answers else "-" for kind in KINDS]


def _cell(pck: list[float], deviation: list[float]) -> str:
    return f"{percent(float(np.mean(pck)))} +- {100 * float(np.std(pck)):.0f}, {_mean(deviation)} px"


def _mean(values: list[float]) -> str:
    known = [v for v in values if not np.isnan(v)]
    return number(float(np.mean(known)) if known else float("nan"))
