"""What was wanted of the landmarks, beside what they reach on unseen patients and what chance would."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge.contract import KindContract
from landmarknet.evaluate import HEADLINE_PX, Finding, Score, chance_along_the_row, false_alarms, score
from landmarknet.operating_point import MOST_EXTRA, MOST_PER_HIDDEN, MOST_PER_NEGATIVE
from landmarknet.pose import View
from landmarknet.report import markdown, percent
from landmarknet.simulate import Modality

DRAWS = 1000


@dataclass(frozen=True)
class Goal:
    """A PCK@8 to reach. ``paper``: on 8054 private pairs; ``probe``: a first training of 15 minutes, on one patient."""

    name: str
    kind: str
    view: View
    modality: Modality
    least: float
    paper: str
    probe: str
    visible_joint: bool = False  # only patients whose Louis angle is to be seen in the CT


GOALS = (
    Goal("tracheal bifurcation, AP MV", "tracheal_bifurcation", "ap", "mv", 0.9895, "98.95 %", "96 %"),
    Goal("tracheal bifurcation, AP kV", "tracheal_bifurcation", "ap", "kv", 0.9895, "98.95 %", "86 %"),
    Goal("tracheal bifurcation, lateral MV", "tracheal_bifurcation", "lateral", "mv", 0.93, "-", "84 %"),
    Goal("tracheal bifurcation, lateral kV", "tracheal_bifurcation", "lateral", "kv", 0.93, "-", "79 %"),
    Goal("Louis angle, lateral kV, joint visible", "louis_angle", "lateral", "kv", 0.8561, "85.61 %", "66 %", True),
    Goal("Louis angle, lateral kV, all", "louis_angle", "lateral", "kv", 0.78, "85.61 %", "66 %"),
    Goal("spinous processes, AP MV, one to one", "spinous_process", "ap", "mv", 0.81, "81.24 %", "chance"),
    Goal("spinous processes, AP kV, one to one", "spinous_process", "ap", "kv", 0.81, "85.61 %", "chance"),
)


def visible_joints(ct_folder: Path, patients: Sequence[str]) -> frozenset[str]:
    """Return the patients whose label of the Louis angle does not say that the joint is fused ("low: ...")."""
    return frozenset(patient for patient in patients if not _joint_is_weak(ct_folder / f"{patient}.landmarks.json"))


def _joint_is_weak(labels: Path) -> bool:
    try:
        document = json.loads(labels.read_text())
        own = [one for one in document["landmarks"] if one["name"] == "sternal_angle_anterior"]
        return any(str(one["confidence"]).startswith("low:") for one in own)
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ValueError(f"{labels}: no labels with their confidence ({exc}); name the folder of the CT") from exc


def goal_table(
    accepted: Sequence[Finding],
    guessed: Sequence[Finding],
    kinds: Sequence[KindContract],
    joints: frozenset[str],
    chosen_on: Sequence[str] = (),
) -> str:
    """Return one row per goal. ``accepted``: what was accepted in unseen patients; ``guessed``: without looking.

    ``chosen_on``: the patients that a choice of the recipe was made on; one column leaves them out.
    """
    by_kind = {promise.kind: promise for promise in kinds}
    others = [f for f in accepted if f.patient not in chosen_on]
    rows = []
    for goal in GOALS:
        promise = by_kind[goal.kind]
        row = _row(goal, promise, accepted, guessed, joints)
        rows.append([*row[:-2], _without(_concerned(goal, others, joints), promise), *row[-2:]])
    header = ["PCK@8", "paper", "probe", "wanted", "unseen patients (95 %)", "without those of choices", "chance"]
    return markdown([*header, "reached"], rows)


def _row(
    goal: Goal,
    promise: KindContract,
    accepted: Sequence[Finding],
    guessed: Sequence[Finding],
    joints: frozenset[str],
) -> list[str]:
    own, wanted = _concerned(goal, accepted, joints), f">= {100 * goal.least:.4g} %"
    if not any(len(f.truth_px) for f in own):
        return [goal.name, goal.paper, goal.probe, wanted, "no such image", "-", "-"]
    result = score(own, promise)
    pck, several = result.pck[HEADLINE_PX], promise.kind == "spinous_process"
    chance = chance_along_the_row(own)[1] if several else score(_concerned(goal, guessed, joints), promise).pck[8.0]
    reached = pck >= goal.least and (not several or result.extra_per_image <= MOST_EXTRA)
    low, high = _interval(own, promise)
    images = f", {result.images} images"
    shown = f"{percent(pck)} ({100 * low:.0f} to {100 * high:.0f}{images}){_beside(result) if several else ''}"
    return [goal.name, goal.paper, goal.probe, wanted, shown, percent(chance), "yes" if reached else "no"]


def _without(findings: Sequence[Finding], promise: KindContract) -> str:
    return percent(score(findings, promise).pck[HEADLINE_PX]) if findings else "-"


def _interval(findings: Sequence[Finding], promise: KindContract) -> tuple[float, float]:
    """Return the middle 95 % of the PCK when as many patients are drawn again, with replacement (bootstrap)."""
    by_patient = {p: [f for f in findings if f.patient == p] for p in sorted({f.patient for f in findings})}
    rng, drawn = np.random.default_rng(0), []
    for _ in range(DRAWS):
        patients = rng.choice(sorted(by_patient), len(by_patient))
        drawn.append(score([f for p in patients for f in by_patient[p]], promise).pck[HEADLINE_PX])
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def _beside(result: Score) -> str:
    return f"; {result.extra_per_image:.2f} extra per image, F1 {percent(result.f1)}"


def _concerned(goal: Goal, findings: Sequence[Finding], joints: frozenset[str]) -> list[Finding]:
    return [
        f
        for f in findings
        if (f.kind, f.view, f.modality) == (goal.kind, goal.view, goal.modality)
        and (not goal.visible_joint or f.patient in joints)
    ]


def alarm_goals(accepted: Sequence[Finding], kinds: Sequence[KindContract]) -> str:
    """Return one row per kind: false landmarks per image, in how many, and whether that is as few as wanted.

    Give it images of anatomy alone: empty fields are easy, and would water the rate down.
    """
    rows = []
    for promise in kinds:
        alarms = false_alarms([f for f in accepted if f.kind == promise.kind], promise)
        counted = (
            (alarms.negatives, alarms.per_negative, MOST_PER_NEGATIVE),
            (alarms.hidden, alarms.per_hidden, MOST_PER_HIDDEN),
        )
        cells = [f"{rate:.3f} of {n}" if n else "no such image" for n, rate, _ in counted]
        reached = all(rate <= limit for n, rate, limit in counted if n)
        rows.append([promise.kind, *cells, "yes" if reached else "no"])
    negative, hidden = f"without it, wanted <= {MOST_PER_NEGATIVE}", f"out of sight, wanted <= {MOST_PER_HIDDEN}"
    return markdown(["false per image", negative, hidden, "reached"], rows)
