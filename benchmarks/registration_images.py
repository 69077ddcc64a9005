"""Measure the registration of simulated portal images with the DRRs of other poses, through a release's own network.

    python benchmarks/registration_images.py IMAGES PATIENT [--release FOLDER] [--row-sigma NET_PX] [--widest MM]

IMAGES is a set of `landmarknet-train simulate`; PATIENT must be one that the release was not trained on. Every DRR of a
view is the reference of every portal image of it whose true shift is within +-20 mm along each axis and whose beam has
the same angle within 2 deg. The truth is the rigid motion between the true landmarks of the two.
--row-sigma says what uncertainty a release without one would have had to state for spinous processes, --widest up to
which half interval a shift is published: figures made with them are what-ifs. Prints a Markdown table, and why the
others were withheld.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edge.by_hand import see
from edge.engines import Engine, open_engine
from edge.registration.register import Registration, Rules, register
from edge.registration.rigid_fit import ANY_ROTATION_SIGMA_DEG, Pairs, fit_rigid
from edge.registration.sighting import Sighting, sighting

ANOTHER_VERTEBRA_MM = 10.0
SETUP_MM = 20.0
COLUMNS = (
    *("view", "pairs", "published", "wrong vertebra", "median error x, y mm", "95th x, y mm"),
    *("half interval x, y mm", "covered x, y"),
)


@dataclass(frozen=True)
class Trial:
    """One pair with its true shift."""

    view: str
    made: Registration
    true_mm: np.ndarray  # (2,)


def main() -> None:
    """Print how many pairs are published, their errors, and how often the interval covers the truth."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("patient")
    parser.add_argument("--release", type=Path)
    parser.add_argument("--row-sigma", type=float)
    parser.add_argument("--widest", type=float, default=Rules().widest_interval_mm)
    asked = parser.parse_args()
    engine = open_engine(asked.release, threads=1)
    if asked.patient in engine.contract.trained_on:
        parser.error(f"{asked.patient} was trained on: no figure on it is an accuracy")
    engine = engine if asked.row_sigma is None else with_row_sigma(engine, asked.row_sigma)
    trials = list(all_trials(asked.images / asked.patient, engine, Rules(widest_interval_mm=asked.widest)))
    print(f"| {' | '.join(COLUMNS)} |")
    print("| --- " * len(COLUMNS) + "|")
    for view in ("ap", "lateral"):
        print(row(view, [one for one in trials if one.view == view]))
    reasons = Counter(re.sub(r"[0-9][0-9.]*", "#", one.made.reason or "published") for one in trials)
    for reason, count in reasons.most_common():
        print(f"* {count}: {reason}")


def with_row_sigma(engine: Engine, sigma_net_px: float) -> Engine:
    """Return the engine as if its contract stated an uncertainty for every kind that has none."""
    kinds = tuple(
        one.model_copy(update={"sigma": (sigma_net_px, 0.0)}) if one.sigma is None else one
        for one in engine.contract.kinds
    )
    return replace(engine, contract=engine.contract.model_copy(update={"kinds": kinds}))


def all_trials(folder: Path, engine: Engine, rules: Rules) -> Iterator[Trial]:
    """Register each portal image of a patient with each DRR of its view."""
    truth = json.loads((folder / "truth.json").read_text())["images"]
    seen = {name: shown(folder / name, engine) for name in sorted(truth)}
    for planned, reference in seen.items():
        for name, detected in seen.items():
            one, other = truth[planned], truth[name]
            if (one["modality"], other["modality"]) == ("kv", "mv") and one["view"] == other["view"]:
                trial = Trial(one["view"], register(reference, detected, rules), true_shift(one, other))
                if np.abs(trial.true_mm).max() <= SETUP_MM and "gantry angle" not in (trial.made.reason or ""):
                    yield trial


def shown(path: Path, engine: Engine) -> Sighting | str:
    """Return what an image shows in mm."""
    seen = see(path, engine)
    return sighting(seen.image, seen.landmarks, engine.contract.kinds)


def true_shift(planned: dict, found: dict) -> np.ndarray:
    """Return the shift (2,) of the rigid motion between the true landmarks, hidden ones included, row by row."""
    one, other = points(planned), points(found)
    common = sorted(one.keys() & other.keys())
    here, there = (np.array([side[key] for key in common]) for side in (one, other))
    pairs = Pairs(here, there, np.ones(len(common)), np.zeros((len(common), 2)))
    return fit_rigid(pairs, ANY_ROTATION_SIGMA_DEG).shift_mm


def points(image: dict) -> dict[tuple[str, int], tuple[float, float]]:
    """Return true points by kind and number down the body; a row is numbered from its top, which all images have."""
    rows: dict[str, list[tuple[float, float]]] = {}
    for one in (*image["landmarks"], *image["hidden"]):
        if one["kind"] != "spine_line":
            rows.setdefault(one["kind"], []).append((one["x_mm"], one["y_mm"]))
    return {(kind, i): xy for kind, found in rows.items() for i, xy in enumerate(sorted(found, key=lambda p: -p[1]))}


def row(view: str, trials: list[Trial]) -> str:
    """Return one line of the table."""
    good = [one for one in trials if one.made.status == "ok"]
    if not good:
        return f"| {view} | {len(trials)} | 0 | - | - | - | - | - |"
    error = np.array([np.subtract(one.made.shift_mm, one.true_mm) for one in good])
    half = np.array([one.made.interval95_mm for one in good])
    slips = int((np.abs(error[:, 1]) > ANOTHER_VERTEBRA_MM).sum())
    figures = (np.median(np.abs(error), axis=0), np.percentile(np.abs(error), 95, axis=0), np.median(half, axis=0))
    told = " | ".join(", ".join(f"{value:.1f}" for value in pair) for pair in figures)
    covered = ", ".join(f"{share:.0%}" for share in (np.abs(error) <= half).mean(axis=0))
    return f"| {view} | {len(trials)} | {len(good)} | {slips} | {told} | {covered} |"


if __name__ == "__main__":
    main()
