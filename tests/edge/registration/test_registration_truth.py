"""A small part of benchmarks/registration_truth.py (`make registration`), whose full tables are in docs/adr/0013."""

import importlib.util
import math
import sys
from pathlib import Path

import pytest

from edge.registration.register import Rules

TRIALS = 40
SCRIPT = Path(__file__).parents[3] / "benchmarks" / "registration_truth.py"


@pytest.fixture(scope="module")
def truth():
    spec = importlib.util.spec_from_file_location("registration_truth", SCRIPT)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.parametrize("index", [0, 1, 2, 3])  # AP and lateral; both again with nothing missed and nothing false
def test_the_interval_covers_the_truth_and_no_vertebra_is_mistaken(truth, index):
    scenario = truth.SCENARIOS[index]
    assert (scenario.view, scenario.is_perfect) == (("ap", "lateral")[index % 2], index > 1)
    figures = truth.summary(list(truth.trials(scenario, TRIALS, seed=11)), Rules().margin)
    assert figures["wrong"] == 0
    published = figures["published"] * TRIALS
    assert published >= TRIALS / 2
    least = 0.95 - 3 * math.sqrt(0.95 * 0.05 / published)  # three standard deviations of a count at 95 %
    assert min(figures["covered x"], figures["covered y"]) >= least
    assert max(figures["half x"], figures["half y"]) <= Rules().widest_interval_mm


def test_the_same_seed_gives_the_same_trials(truth):
    one, other = (next(truth.trials(truth.SCENARIOS[0], 1, seed=5)) for _ in range(2))
    assert one == other


@pytest.mark.parametrize(
    ("wrong", "covered_x", "covered_y", "held"),
    [(0, 0.93, 0.97, True), (0, 0.92, 0.95, False), (0, 0.95, 0.98, False), (1, 0.95, 0.95, False)],
)
def test_what_the_figures_must_be(truth, wrong, covered_x, covered_y, held):
    assert truth.holds({"wrong": wrong, "covered x": covered_x, "covered y": covered_y}) is held


def test_where_nothing_is_published_a_row_has_no_figure(truth):
    assert truth.row("AP", truth.summary(list(truth.trials(truth.SCENARIOS[0], 1, seed=5)), math.inf)).count("-") == 5
