"""Measure the registration on simulated landmarks with a known truth: coverage, errors, wrong vertebrae by margin.

    python benchmarks/registration_truth.py [TRIALS] [SEED]

Bodies are made of landmarks in three dimensions and seen through a point source at 1 m, so that parallax and the place
along the beam are in it. No image and no network: what a network adds is measured elsewhere. Prints Markdown tables,
those of docs/adr/0013; ends with 1 where the interval of perfect landmarks covers the truth too rarely or too often, or
a vertebra is mistaken with them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from edge.registration.register import Registration, Rules, register
from edge.registration.sighting import PlaneLandmark, Sighting

SAD_MM = 1000.0
COVERED = 0.93, 0.97  # of the truth by a 95 % interval, with perfect landmarks plus noise
MARGINS = (0.0, 3.0, 5.0, 7.0, 9.0, 12.0)
ANOTHER_VERTEBRA_MM = 10.0  # an error along the spine that no noise explains
REFERENCE_WINDOW_MM = (-160.0, -160.0, 160.0, 160.0)


@dataclass(frozen=True)
class Scenario:
    """What varies. Uniform shifts of +-20 mm along all three axes and rotations of +-4 deg in all of them."""

    name: str
    view: Literal["ap", "lateral"] = "ap"
    spacing_sigma_mm: float = 2.5  # how irregular the row is
    named_found: float = 0.95  # of carina (AP, lateral) and Louis angle (lateral)
    named_wrong: float = 0.03  # of those found: somewhere else in the image
    row_found: float = 0.7
    row_false: float = 0.5  # mean number in the row that are none
    sigma_mm: tuple[float, float] = (1.5, 3.0)
    true_over_stated: float = 1.0  # of the noise of the image's landmarks
    line: bool = True

    @property
    def is_perfect(self) -> bool:
        """Whether every landmark is found, none is false, and the noise is as stated."""
        missed = min(self.named_found, self.row_found) < 1
        return not (missed or self.named_wrong or self.row_false) and self.true_over_stated == 1


SCENARIOS = (
    Scenario("AP"),
    Scenario("lateral", view="lateral"),
    Scenario("AP, nothing missed, nothing false", named_found=1, named_wrong=0, row_found=1, row_false=0),
    Scenario(
        "lateral, nothing missed, nothing false", view="lateral", named_found=1, named_wrong=0, row_found=1, row_false=0
    ),
    Scenario("AP, half of the row missed, 2 false", row_found=0.5, row_false=2),
    Scenario("AP, carina wrong in 1 of 5", named_wrong=0.2),
    Scenario("AP, no carina", named_found=0),
    Scenario("AP, no carina, regular row", named_found=0, spacing_sigma_mm=0.5),
    Scenario("AP, regular row", spacing_sigma_mm=0.5),
    Scenario("AP, noise 1.5 times as stated", true_over_stated=1.5),
    Scenario("AP, no carina, noise 1.5 times as stated", named_found=0, true_over_stated=1.5),
)


@dataclass(frozen=True)
class Trial:
    """One registration and its truth."""

    registration: Registration  # with a margin of 0, so that any can be tried
    shift_mm: tuple[float, float]

    @property
    def error_mm(self) -> np.ndarray:
        """Return (2,): found minus true."""
        assert self.registration.shift_mm is not None
        return np.subtract(self.registration.shift_mm, self.shift_mm)

    def published(self, margin: float) -> bool:
        """Whether a rule with this margin publishes it."""
        one = self.registration
        return one.status == "ok" and (one.runner_up is None or one.runner_up.margin >= margin)


def trials(scenario: Scenario, count: int, seed: int) -> Iterator[Trial]:
    """Yield registrations of so many bodies; the same seed gives the same ones."""
    rules = replace(Rules(), margin=0.0)
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        yield simulated_trial(scenario, rng, rules)


def simulated_trial(scenario: Scenario, rng: np.random.Generator, rules: Rules) -> Trial:
    """Plan a body, set it up wrongly, see both, register."""
    row, named = _body(scenario, rng)
    angle = math.radians(rng.uniform(-4, 4))
    shift = rng.uniform(-20, 20, 3)
    sigma = rng.uniform(*scenario.sigma_mm)
    planned = replace(scenario, named_found=1, named_wrong=0, row_found=0.9, row_false=0, true_over_stated=1)
    half = rng.uniform(80, 130, 2)
    window = (-half[0], -half[1], half[0], half[1])
    reference = _seen(planned, rng, (row, named), sigma, REFERENCE_WINDOW_MM)
    moved = tuple(_moved(points, angle, shift) for points in (row, named))
    detected = _seen(scenario, rng, (moved[0], moved[1]), sigma, window)
    return Trial(register(reference, detected, rules), (float(shift[0]), float(shift[1])))


def _body(scenario: Scenario, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the row (n, 3) from the top and the named points (k, 3): x right, y up, z towards the source, mm."""
    steps = rng.uniform(19, 26) + np.linspace(-3, 3, 15) + rng.normal(0, scenario.spacing_sigma_mm, 15)
    y = 170 + rng.uniform(-15, 15) - np.cumsum(steps)
    bend = rng.uniform(-6, 6) * np.sin(y / rng.uniform(60, 120) + rng.uniform(0, 6)) + rng.normal(0, 1, 15)
    carina = [rng.normal(5, 6), rng.uniform(0, 40), rng.normal(0, 20)]
    if scenario.view == "ap":  # tips of the spinous processes lie behind the isocentre
        return np.stack((bend, y, rng.normal(-70, 12) + rng.normal(0, 4, 15)), axis=1), np.array([carina])
    row = np.stack((rng.normal(-70, 12) + 0.1 * y + bend, y, rng.normal(0, 5, 15)), axis=1)
    return row, np.array([carina, [rng.normal(75, 10), carina[1] + rng.normal(10, 10), rng.normal(0, 5)]])


def _moved(points: np.ndarray, angle: float, shift: np.ndarray) -> np.ndarray:
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return np.column_stack((points[:, :2] @ turn.T, points[:, 2])) + shift


def _seen(
    scenario: Scenario,
    rng: np.random.Generator,
    body: tuple[np.ndarray, np.ndarray],
    sigma: float,
    window: tuple[float, float, float, float],
) -> Sighting:
    row, named = (points[:, :2] * (SAD_MM / (SAD_MM - points[:, 2:])) for points in body)
    noise = sigma * scenario.true_over_stated
    found: list[PlaneLandmark] = []
    for kind, xy in zip(("tracheal_bifurcation", "louis_angle"), named, strict=False):
        if rng.random() < scenario.named_found:
            wrong = rng.random() < scenario.named_wrong
            at = _anywhere(rng, window) if wrong else xy + rng.normal(0, noise, 2)
            found.append(PlaneLandmark(kind, "point", _pair(at), sigma))
    tips = row[rng.random(len(row)) < scenario.row_found]
    false_y = rng.uniform(window[1], window[3], rng.poisson(scenario.row_false))
    false = np.stack((np.interp(false_y, row[::-1, 1], row[::-1, 0]) + rng.normal(0, 5, len(false_y)), false_y), axis=1)
    row_found = (*(tips + rng.normal(0, noise, tips.shape)), *false)
    found += [PlaneLandmark("spinous_process", "row", _pair(at), sigma) for at in row_found]
    if scenario.line:
        found += [PlaneLandmark("spine_line", "line", _pair(at), 2 * sigma) for at in _line(row, 2 * noise, rng)]
    left, bottom, right, top = window
    shown = [one for one in found if left <= one.xy_mm[0] <= right and bottom <= one.xy_mm[1] <= top]
    return Sighting(tuple(shown), window, "simulated", gantry_deg=90.0 if scenario.view == "lateral" else 0.0)


def _line(row: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Return places along the row whose errors sideways hang together over 50 mm, (m, 2)."""
    y = np.arange(row[-1, 1], row[0, 1], 12.8)
    together = np.exp(-np.abs(y[:, None] - y) / 50) * sigma**2
    x = np.interp(y, row[::-1, 1], row[::-1, 0]) + rng.multivariate_normal(np.zeros(len(y)), together)
    return np.stack((x, y), axis=1)


def _anywhere(rng: np.random.Generator, window: tuple[float, float, float, float]) -> np.ndarray:
    return rng.uniform(window[:2], window[2:])


def _pair(xy: np.ndarray) -> tuple[float, float]:
    return float(xy[0]), float(xy[1])


def summary(done: list[Trial], margin: float) -> dict[str, float]:
    """Return the figures of what a margin publishes, shares in 1."""
    kept = [one for one in done if one.published(margin)]
    errors = np.abs([one.error_mm for one in kept]).reshape(-1, 2)
    half = np.array([one.registration.interval95_mm for one in kept], float).reshape(-1, 2)
    right = errors[:, 1] <= ANOTHER_VERTEBRA_MM
    figures = {"published": len(kept) / len(done), "wrong vertebra": float((~right).mean()) if kept else math.nan}
    figures["wrong"] = float((~right).sum())
    for axis, name in enumerate("xy"):
        figures[f"covered {name}"] = float((errors[:, axis] <= half[:, axis]).mean()) if kept else math.nan
        figures[f"median {name}"] = float(np.median(errors[:, axis])) if kept else math.nan
        figures[f"95th {name}"] = float(np.percentile(errors[:, axis], 95)) if kept else math.nan
        figures[f"half {name}"] = float(np.median(half[:, axis])) if kept else math.nan
    return figures


def holds(figures: dict[str, float]) -> bool:
    """Tell whether no vertebra is mistaken, and the interval covers the truth as often as it says."""
    return figures["wrong"] == 0 and all(COVERED[0] <= figures[f"covered {axis}"] <= COVERED[1] for axis in "xy")


def row(name: str, f: dict[str, float]) -> str:
    """Return a line of the first table."""
    if not f["published"]:
        return f"| {name} | 0% | - | - | - | - | - |"
    return (
        f"| {name} | {f['published']:.0%} | {f['covered x']:.1%} | {f['covered y']:.1%} | {f['median x']:.1f}, "
        f"{f['median y']:.1f} | {f['95th x']:.1f}, {f['95th y']:.1f} | {f['half x']:.1f}, {f['half y']:.1f} |"
    )


def _run(scenario: Scenario, count: int, seed: int) -> list[Trial]:
    return list(trials(scenario, count, seed))


def main(count: int, seed: int) -> int:
    """Print both tables; return the exit status."""
    margin = Rules().margin
    with ProcessPoolExecutor() as pool:
        done = pool.map(_run, SCENARIOS, [count] * len(SCENARIOS), [seed] * len(SCENARIOS))
        runs = {scenario.name: one for scenario, one in zip(SCENARIOS, done, strict=True)}
    print(f"{count} trials each, seed {seed}, margin {margin:g}\n")
    print(
        "| scenario | published | covered x | covered y | median error x, y mm | 95th x, y mm | half interval x, y mm |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, done in runs.items():
        print(row(name, summary(done, margin)))
    print("\nWrong vertebrae among the published (and how much is published), by margin in nats:\n")
    print("| scenario | " + " | ".join(f"{one:g}" for one in MARGINS) + " |")
    print("| --- |" + " --- |" * len(MARGINS))
    for name, done in runs.items():
        cells = [summary(done, one) for one in MARGINS]
        print(f"| {name} | " + " | ".join(f"{c['wrong']:.0f} ({c['published']:.0%})" for c in cells) + " |")
    return 0 if all(holds(summary(runs[one.name], margin)) for one in SCENARIOS if one.is_perfect) else 1


if __name__ == "__main__":
    sys.exit(main(*(int(text) for text in (*sys.argv[1:], *("2000", "8")[len(sys.argv) - 1 :]))))
