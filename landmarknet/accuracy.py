"""docs/accuracy.md: everything that is known about how well landmarks are found, from one command.

Cross-validated: each patient is tested on once, by a network that was not trained on it. Thresholds and uncertainties
come from other patients (`landmarknet.folds`); the recipe itself was chosen on the study's validation patients.
"""

from __future__ import annotations

import multiprocessing
import platform
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import torch

from edge.contract import KindContract
from edge.engines import Engine, open_engine
from landmarknet.baselines import mean_position, shuffled
from landmarknet.compare import comparison_row, comparison_table
from landmarknet.evaluate import HEADLINE_PX, Finding, chance_along_the_row, find, score
from landmarknet.figures import box_plot, pck_plot, reliability_plot, sigma_plot
from landmarknet.folds import (
    FoldResult,
    KnownPatient,
    accept_all,
    accepted_findings,
    evaluate_fold,
    evaluate_known_patient,
    unseen_findings,
)
from landmarknet.goals import alarm_goals, goal_table, visible_joints
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
from landmarknet.simulate_files import EMPTY_FIELDS
from landmarknet.study import Study

Say = Callable[[str], None]
PROCESSES = 2


def write_accuracy(study: Study, study_path: Path, release: Path, output: Path, say: Say) -> None:
    """Evaluate everything and write the document and its figures (``<output>/../accuracy/*.png``)."""
    engine = open_engine(release, threads=1)
    test_patients = [p for p in study.patients if p not in engine.contract.trained_on and p not in study.validation]
    demand_unseen(engine.contract.trained_on, study.test_negatives)
    say(f"{len(study.folds)} folds, {PROCESSES} at once; then {len(study.comparison.variants)} networks")
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        unseen = list(pool.map(partial(unseen_findings, study), study.folds))
        evaluated = pool.map(partial(evaluate_fold, study, unseen=unseen), study.folds)
        compared = pool.map(partial(comparison_row, study), study.comparison.rows)
        known = pool.submit(evaluate_known_patient, study)
        results, comparison = list(evaluated), comparison_table(study, list(compared))
    accepted = accepted_findings(results)
    everything = [f for r in results for f in (*r.test, *r.under_jaws, *r.negatives)]
    figures, kinds = output.parent / "accuracy", accept_all(results[0].reading.kinds)
    box_plot(accepted, kinds, figures / "deviation.png")
    pck_plot(accepted, kinds, figures / "pck.png")
    reliability_plot(everything, kinds, figures / "reliability.png")
    sigma_plot([(r.test, r.reading.kinds) for r in results], figures / "sigma.png")
    say("shipped release")
    sections = [
        _head(study_path, release),
        *fold_sections(study, results, known.result()),
        _release(study, engine, test_patients),
        f"## Comparison\n\n{comparison}",
    ]
    output.write_text("\n\n".join(sections) + "\n")


def fold_sections(study: Study, results: list[FoldResult], known: KnownPatient | None) -> list[str]:
    """Return what the folds say, a section each."""
    accepted, kinds = accepted_findings(results), accept_all(results[0].reading.kinds)
    return [
        _goals(study, results, accepted, kinds),
        _cross_validation(study, results, accepted, kinds),
        _floors(results, known),
        _false_alarms(study, results, kinds),
        _calibration(results),
        _scale(results),
        _robustness(results),
    ]


def _head(study_path: Path, release: Path) -> str:
    return f"""# Accuracy

**{NOTICE}** No figure here is a clinical one.

Written by `landmarknet-train accuracy {study_path} --release {release}` on {datetime.now(UTC):%Y-%m-%d},
{platform.machine()}, CPU only. Images: `landmarknet-train simulate`; read, preprocessed, inferred and decoded by the
room's own code. Distances in px are of the whole image fitted into 384 x 384, as in the paper; a landmark counts as
right within {HEADLINE_PX:.0f} px of a true one, one to one."""


def _goals(study: Study, results: list[FoldResult], accepted: list[Finding], kinds: tuple[KindContract, ...]) -> str:
    joints = visible_joints(Path(study.recipe().ct_folder), study.patients)
    anatomy = [f for f in accepted_findings(results, nothing_shown=True) if f.patient != EMPTY_FIELDS]
    guessed = [f for r in results for f in mean_position(r.known, r.test)]
    return f"""## What was wanted, and what is reached

All {len(study.patients)} labelled patients, each tested on by a network that never saw it; 95 %: patients drawn again
(bootstrap). Choices of the recipe were made on {", ".join(study.validation)}: one column leaves them out, but no
patient is wholly untouched (docs/adr/0009: variants were dropped after a look at all folds). Chance: the mean place in
the patients trained on; for spinous processes a peak anywhere along their row. Against the best other network: see
[Comparison](#comparison).

{goal_table(accepted, guessed, kinds, joints, study.validation)}

Images without thorax: {", ".join(study.test_negatives)}, by each of {len(results)} networks; empty fields are below.
Out of sight: outside the field, or under a jaw that was closed over it (`landmarknet/closed_jaw.py`).

{alarm_goals(anatomy, kinds)}"""


def _cross_validation(
    study: Study, results: list[FoldResult], accepted: list[Finding], kinds: tuple[KindContract, ...]
) -> str:
    operating = {(p, k.kind): k for r in results for p in r.fold.test for k in r.reading.kinds}
    per_patient = per_patient_table([f for r in results for f in r.test], lambda p, kind: operating[p, kind])
    folds = markdown(
        ["fold", "trained on", "validation", "tested on", "thresholds (sp, tb, la, line)"],
        [
            [r.fold.name, str(len(r.trained_on)), ", ".join(r.fold.validation), ", ".join(r.fold.test),
             ", ".join(f"{k.threshold:.2f}" for k in r.reading.kinds)]
            for r in results
        ],
    )  # fmt: skip
    untouched = [f for f in accepted if f.patient not in study.validation]
    return f"""## Cross-validation over patients

Grouped folds of the shipped recipe, {study.fold_steps} steps each (the shipped model had {study.recipe().steps},
and more patients): every patient is tested on once. Thresholds and uncertainties of a fold are chosen on its validation
patient and on what the networks of the other folds found in their own test patients, as the images are and with jaws
closed over landmarks.

{folds}

{accuracy_table(accepted, kinds)}

Without {", ".join(study.validation)}, on which choices of the recipe were made:

{accuracy_table(untouched, kinds)}

`spine_line` is the row of spinous processes as a line: its deviation is sideways, its PCK the share of the true line.
{chance_line(accepted)}

{per_patient}

![PCK against distance](accuracy/pck.png)
![Deviation](accuracy/deviation.png)"""


def _floors(results: list[FoldResult], known: KnownPatient | None) -> str:
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
    if known is not None:
        name = f"trained on {known.patient} alone, and tested on it in other poses and bodies (no accuracy)"
        rows.append((name, [_pck(known.found, k) for k in known.reading.kinds]))
    names = list(dict.fromkeys(name for name, _ in rows))
    means = {name: np.mean([values for n, values in rows if n == name], axis=0) for name in names}
    header = ["PCK@8, mean of the folds", *(k.kind for k in results[0].reading.kinds)]
    return "## Floors and ceiling\n\n" + markdown(header, [[n, *(percent(v) for v in means[n])] for n in names])


def _pck(findings: list[Finding], promise: KindContract) -> float:
    own = [f for f in findings if f.kind == promise.kind]
    return score(own, promise).pck[HEADLINE_PX] if own else float("nan")


def _false_alarms(study: Study, results: list[FoldResult], kinds: tuple[KindContract, ...]) -> str:
    accepted = accepted_findings(results, nothing_shown=True)
    anatomy, empty = ([f for f in accepted if (f.patient == EMPTY_FIELDS) is empty] for empty in (False, True))
    by_kind = {(r.fold.name, k.kind): k for r in results for k in r.reading.kinds}
    shown = [len(f.kept(by_kind[r.fold.name, f.kind])) for r in results for f in r.out_of_view]
    return f"""## False alarms

Images without it: {", ".join(study.test_negatives)}, which no network saw and no choice was made on (spine kinds
are not judged in an abdomen); each image counts once for each of the {len(results)} networks. Images that hide it: of a
patient who has the landmark, outside the field; and, of single landmarks, each image once more with a jaw closed over
it.

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
            "`sigma_px` = a + b w from the width w of the peak, fitted where thresholds are chosen, judged on test "
            "patients (landmarks within 20 mm; what lies farther is wrong, not uncertain). The rank correlation "
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
    }
    return "## Scale\n\n" + _pck_table("scale (PCK@8, mean of the folds)", results, rows)


def _robustness(results: list[FoldResult]) -> str:
    nuisances = {name: [r.changed[name] for r in results] for name in results[0].changed}
    renderers = {name: [r.other_renderer[name] for r in results] for name in results[0].other_renderer}
    return f"""## Robustness

Every third image of all patients, changed in one thing; PCK@8, mean of the folds, and the change in points:

{_pck_table("nuisance", results, nuisances)}

Another renderer: a parallel beam through the volume as scanned, without scatter, detector or geometry in the file (2
views, 2 energies a patient), and through other curves from CT numbers to attenuation:

{_pck_table("curve", results, renderers)}"""


def _pck_table(title: str, results: list[FoldResult], rows: dict[str, list[list[Finding]]]) -> str:
    """Return PCK@8 per row and kind as the mean of the folds; from the second row on with the change in points."""
    values = {name: _mean_pck(results, found) for name, found in rows.items()}
    first = next(iter(values.values()))
    table = [
        [name, *(percent(v) if row is first else _changed(v, u) for v, u in zip(row, first, strict=True))]
        for name, row in values.items()
    ]
    return markdown([title, *(k.kind for k in results[0].reading.kinds)], table)


def _changed(value: float, before: float) -> str:
    return f"{percent(value)} ({100 * (value - before):+.0f})"


def _mean_pck(results: list[FoldResult], found: list[list[Finding]]) -> list[float]:
    values = [[_pck(findings, k) for k in r.reading.kinds] for r, findings in zip(results, found, strict=True)]
    return [float(v) for v in np.nanmean(values, axis=0)]
