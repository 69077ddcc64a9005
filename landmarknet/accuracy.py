"""docs/accuracy.md: everything that is known about how well landmarks are found, from one command.

Cross-validated: each patient is tested on once, by a network that was not trained on it. Thresholds and uncertainties
come from each fold's validation patients; the recipe itself was chosen on the study's validation patients.
"""

from __future__ import annotations

import multiprocessing
import platform
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import torch

from edge.contract import KindContract, Reading
from edge.engines import Engine, open_engine
from landmarknet.baselines import mean_position, shuffled
from landmarknet.checkpoint import demand_same_training, load_checkpoint, load_network
from landmarknet.compare import comparison_row, comparison_table
from landmarknet.decode import TorchBackend
from landmarknet.evaluate import HEADLINE_PX, Finding, chance_along_the_row, find, score
from landmarknet.figures import box_plot, pck_plot, reliability_plot, sigma_plot
from landmarknet.goals import alarm_goals, goal_table, visible_joints
from landmarknet.operating_point import operating_point, reading_of
from landmarknet.report import (
    NOTICE,
    accuracy_table,
    chance_line,
    demand_unseen,
    false_alarm_table,
    markdown,
    per_patient_table,
    percent,
    sigma_table,
)
from landmarknet.robustness import NUISANCES, find_changed, find_in_parallel_beam, find_without_geometry
from landmarknet.simulate_files import EMPTY_FIELDS
from landmarknet.study import Fold, Study

Say = Callable[[str], None]
PROCESSES = 2


@dataclass(frozen=True, eq=False)
class FoldResult:
    """Where a fold's network is operated, what it found in patients that it never saw, and in those that it did."""

    fold: Fold
    reading: Reading
    trained_on: tuple[str, ...]
    test: list[Finding]
    without_geometry: list[Finding]  # in the same images, their scale unknown
    out_of_view: list[Finding]  # Louis angles in AP images, where none is labelled
    other_renderer: list[Finding]  # parallel beam, scale unknown
    negatives: list[Finding]
    known: list[Finding]  # in patients that it was TRAINED on: a ceiling, no accuracy


def write_accuracy(study: Study, study_path: Path, release: Path, output: Path, say: Say) -> None:
    """Evaluate everything and write the document and its figures (``<output>/../accuracy/*.png``)."""
    engine = open_engine(release, threads=1)
    test_patients = [p for p in study.patients if p not in engine.contract.trained_on and p not in study.validation]
    demand_unseen(engine.contract.trained_on, study.test_negatives)
    say(f"{len(study.folds)} folds, {PROCESSES} at once; then {len(study.comparison.variants)} networks")
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        evaluated = pool.map(partial(evaluate_fold, study), study.folds)
        compared = pool.map(partial(comparison_row, study), study.comparison.rows)
        results, comparison = list(evaluated), comparison_table(study, list(compared))
    accepted = accepted_findings(results)
    everything = [f for r in results for f in (*r.test, *r.negatives)]
    figures, kinds = output.parent / "accuracy", accept_all(results[0].reading.kinds)
    box_plot(accepted, kinds, figures / "deviation.png")
    pck_plot(accepted, kinds, figures / "pck.png")
    reliability_plot(everything, kinds, figures / "reliability.png")
    sigma_plot([(r.test, r.reading.kinds) for r in results], figures / "sigma.png")
    say("shipped release")
    sections = [
        _head(study_path, release),
        *fold_sections(study, results),
        _release(study, engine, test_patients),
        _robustness(study, engine, test_patients, say),
        f"## Comparison\n\n{comparison}",
    ]
    output.write_text("\n\n".join(sections) + "\n")


def evaluate_fold(study: Study, fold: Fold) -> FoldResult:
    """Choose a fold's operating point on its validation patients, then look at its test patients."""
    config, images = study.fold_config(fold), Path(study.images)
    weights = Path(config.output) / "weights.pt"
    checkpoint = load_checkpoint(weights)
    demand_same_training(checkpoint, config.to_dict(), weights)
    trained_on = tuple(checkpoint.training["patients"])
    demand_unseen(
        (*trained_on, *checkpoint.training["negatives"]), (*fold.test, *fold.validation, *study.test_negatives)
    )
    network = load_network(weights)
    backend = TorchBackend(network)
    choices = (*fold.validation, *study.validation_negatives)
    everything = reading_of(network.config)
    chosen = operating_point(find(backend, everything, images, choices, unlabelled_views=True), network.config.kinds)
    reading = reading_of(network.config, chosen)
    test = find(backend, reading, images, fold.test, unlabelled_views=True)
    ct = Path(study.recipe().ct_folder)
    return FoldResult(
        fold,
        reading,
        trained_on,
        test=[f for f in test if not f.unlabelled_view],
        out_of_view=[f for f in test if f.unlabelled_view],
        other_renderer=[f for p in fold.test for f in find_in_parallel_beam(backend, reading, ct / f"{p}.nii.gz")],
        without_geometry=find_without_geometry(backend, reading, images, fold.test),
        negatives=find(backend, reading, images, (*study.test_negatives, EMPTY_FIELDS)),
        known=find(backend, reading, images, trained_on),
    )


def fold_sections(study: Study, results: list[FoldResult]) -> list[str]:
    """Return what the folds say, a section each."""
    accepted, kinds = accepted_findings(results), accept_all(results[0].reading.kinds)
    return [
        _goals(study, results, accepted, kinds),
        _cross_validation(study, results, accepted, kinds),
        _floors(results),
        _false_alarms(study, results, kinds),
        _calibration(results),
        _scale(results),
    ]


def accepted_findings(results: list[FoldResult], *, negatives: bool = False) -> list[Finding]:
    """Return all folds' findings with nothing but what each fold's own operating point accepts."""
    accepted = []
    for result in results:
        by_kind = {promise.kind: promise for promise in result.reading.kinds}
        findings = [*result.test, *result.negatives] if negatives else result.test
        accepted += [f.accepted(by_kind[f.kind]) for f in findings]
    return accepted


def accept_all(kinds: tuple[KindContract, ...]) -> tuple[KindContract, ...]:
    """Return kinds without thresholds: pooled findings have already passed their own folds'."""
    return tuple(k.model_copy(update={"threshold": 0.0}) for k in kinds)


def _head(study_path: Path, release: Path) -> str:
    return f"""# Accuracy

**{NOTICE}** No figure here is a clinical one.

Written by `landmarknet-train accuracy {study_path} --release {release}` on {datetime.now(UTC):%Y-%m-%d},
{platform.machine()}, CPU only. Images: `landmarknet-train simulate`; read, preprocessed, inferred and decoded by the
room's own code. Distances in px are of the whole image fitted into 384 x 384, as in the paper; a landmark counts as
right within {HEADLINE_PX:.0f} px of a true one, one to one."""


def _goals(study: Study, results: list[FoldResult], accepted: list[Finding], kinds: tuple[KindContract, ...]) -> str:
    joints = visible_joints(Path(study.recipe().ct_folder), study.patients)
    anatomy = [f for f in accepted_findings(results, negatives=True) if f.patient != EMPTY_FIELDS]
    guessed = [f for r in results for f in mean_position(r.known, r.test)]
    return f"""## What was wanted, and what is reached

All {len(study.patients)} labelled patients, each tested on by a network that never saw it; 95 %: patients drawn again
(bootstrap). Choices of the recipe were made on {", ".join(study.validation)}: one column leaves them out, but no
patient is wholly untouched (docs/adr/0009: variants were dropped after a look at all folds). Chance: the mean place in
the patients trained on; for spinous processes a peak anywhere along their row. Against the best other network: see
[Comparison](#comparison).

{goal_table(accepted, guessed, kinds, joints, study.validation)}

Images without thorax: {", ".join(study.test_negatives)}, by each of {len(results)} networks; empty fields are below.

{alarm_goals(anatomy, kinds)}"""


def _cross_validation(
    study: Study, results: list[FoldResult], accepted: list[Finding], kinds: tuple[KindContract, ...]
) -> str:
    operating = {(p, k.kind): k for r in results for p in r.fold.test for k in r.reading.kinds}
    per_patient = per_patient_table([f for r in results for f in r.test], lambda p, kind: operating[p, kind])
    folds = markdown(
        ["fold", "trained on", "choices on", "tested on", "thresholds (sp, tb, la, line)"],
        [
            [r.fold.name, str(len(r.trained_on)), ", ".join(r.fold.validation), ", ".join(r.fold.test),
             ", ".join(f"{k.threshold:.2f}" for k in r.reading.kinds)]
            for r in results
        ],
    )  # fmt: skip
    untouched = [f for f in accepted if f.patient not in study.validation]
    return f"""## Cross-validation over patients

Grouped folds of the shipped recipe, {study.fold_steps} steps each (the shipped model had {study.recipe().steps},
and more patients): every patient is tested on once.

{folds}

{accuracy_table(accepted, kinds)}

Without {", ".join(study.validation)}, on which choices of the recipe were made:

{accuracy_table(untouched, kinds)}

`spine_line` is the row of spinous processes as a line: its deviation is sideways, its PCK the share of the true line.
{chance_line(accepted)}

{per_patient}

![PCK against distance](accuracy/pck.png)
![Deviation](accuracy/deviation.png)"""


def _floors(results: list[FoldResult]) -> str:
    """Compare with what knows nothing of the image, and with patients that were trained on."""
    rows = []
    for result in results:
        for name, findings in (
            ("mean position of the training patients", mean_position(result.known, result.test)),
            ("labels of another image", shuffled(result.test, seed=0)),
            ("as trained, unseen patients", result.test),
            ("as trained, its own TRAINING patients (no accuracy)", result.known),
        ):
            rows.append((name, [_pck(findings, k) for k in result.reading.kinds]))
        along = chance_along_the_row([f for f in result.test if f.kind == "spinous_process"])[1]
        anywhere = [along if k.kind == "spinous_process" else float("nan") for k in result.reading.kinds]
        rows.append(("a peak anywhere along the row", anywhere))
    names = list(dict.fromkeys(name for name, _ in rows))
    means = {name: np.mean([values for n, values in rows if n == name], axis=0) for name in names}
    header = ["PCK@8, mean of the folds", *(k.kind for k in results[0].reading.kinds)]
    return "## Floors and ceiling\n\n" + markdown(header, [[n, *(percent(v) for v in means[n])] for n in names])


def _pck(findings: list[Finding], promise: KindContract) -> float:
    own = [f for f in findings if f.kind == promise.kind]
    return score(own, promise).pck[HEADLINE_PX] if own else float("nan")


def _false_alarms(study: Study, results: list[FoldResult], kinds: tuple[KindContract, ...]) -> str:
    accepted = accepted_findings(results, negatives=True)
    anatomy, empty = ([f for f in accepted if (f.patient == EMPTY_FIELDS) is empty] for empty in (False, True))
    by_kind = {(r.fold.name, k.kind): k for r in results for k in r.reading.kinds}
    shown = [len(f.kept(by_kind[r.fold.name, f.kind])) for r in results for f in r.out_of_view]
    return f"""## False alarms

Images without it: {", ".join(study.test_negatives)}, which no network saw and no choice was made on (spine kinds
are not judged in an abdomen); each image counts once for each of the {len(results)} networks. Images that hide it: of a
patient who has the landmark, outside the field.

{false_alarm_table(anatomy, kinds)}

Empty fields, of the kind that training has too:

{false_alarm_table(empty, kinds)}

A Louis angle was given in {sum(shown)} of {len(shown)} AP images, where none is labelled and none can be seen."""


def _calibration(results: list[FoldResult]) -> str:
    tables = [f"Fold {r.fold.name}\n\n{sigma_table(r.test, r.reading.kinds)}" for r in results]
    return "\n\n".join(
        (
            "## Score, abstention and uncertainty",
            "`given` in the tables is the share of images that show a kind in which one was reported: the rest is "
            "abstention. A score is no probability. Right within 8 px, one to one, against the score, where anything "
            "found in an image that does not show the kind is wrong:",
            "![Score against hits](accuracy/reliability.png)",
            "`sigma_px` = a + b w from the width w of the peak, fitted on validation patients, judged on test patients "
            "(landmarks within 20 mm; what lies farther is wrong, not uncertain). The rank correlation "
            "of error and width says how much sigma knows about the single landmark: 0 is nothing.",
            *tables,
            "![Stated and actual sigma](accuracy/sigma.png)",
        )
    )


def _release(study: Study, engine: Engine, patients: list[str]) -> str:
    images = Path(study.images)
    test = find(engine.backend, engine.contract, images, patients)
    negatives = find(engine.backend, engine.contract, images, (*study.test_negatives, EMPTY_FIELDS))
    contract = engine.contract
    return f"""## The shipped release

`{contract.release}`, trained on {len(contract.trained_on)} patients and volumes without landmarks; tested on
{", ".join(patients)} alone, which it never saw: one patient says little about the next, see the spread above.

{accuracy_table(test, engine.contract.kinds)}

{false_alarm_table([*test, *negatives], engine.contract.kinds)}

{sigma_table(test, engine.contract.kinds)}"""


def _scale(results: list[FoldResult]) -> str:
    rows = {
        "from the file's geometry": [r.test for r in results],
        "unknown: chosen by the network": [r.without_geometry for r in results],
        "unknown, another renderer (parallel beam; 2 views, 2 energies a patient)": [r.other_renderer for r in results],
    }
    table = [[name, *_mean_pck(results, found)] for name, found in rows.items()]
    header = ["scale (PCK@8, mean of the folds)", *(k.kind for k in results[0].reading.kinds)]
    return "## Scale, and another renderer\n\n" + markdown(header, table)


def _mean_pck(results: list[FoldResult], found: list[list[Finding]]) -> list[str]:
    values = [[_pck(findings, k) for k in r.reading.kinds] for r, findings in zip(results, found, strict=True)]
    return [percent(v) for v in np.nanmean(values, axis=0)]


def _robustness(study: Study, engine: Engine, patients: list[str], say: Say) -> str:
    kinds = engine.contract.kinds
    values: dict[str, list[float]] = {}
    for nuisance in NUISANCES:
        say(f"robustness: {nuisance.name}")
        findings = find_changed(engine.backend, engine.contract, Path(study.images), patients, nuisance)
        values[nuisance.name] = [_pck(findings, k) for k in kinds]
    ct = Path(study.recipe().ct_folder)
    parallel = [f for p in patients for f in find_in_parallel_beam(engine.backend, engine.contract, ct / f"{p}.nii.gz")]
    unchanged = values[NUISANCES[0].name]
    table = [
        [name, *(f"{percent(v)} ({100 * (v - u):+.0f})" for v, u in zip(row, unchanged, strict=True))]
        for name, row in values.items()
    ]
    table.append(
        [
            "another renderer: parallel beam, scale unknown (2 views, 2 energies)",
            *(percent(_pck(parallel, k)) for k in kinds),
        ]
    )
    return (
        f"## Robustness\n\nThe shipped release on {', '.join(patients)}: PCK@8, and the change in points.\n\n"
        + markdown(["nuisance", *(k.kind for k in kinds)], table)
    )
