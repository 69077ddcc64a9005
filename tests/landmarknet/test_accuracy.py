"""The document over synthetic findings: what it says is tested where it is computed, here that it can be written."""

from pathlib import Path

import numpy as np
import pytest

from landmarknet.accuracy import fold_sections
from landmarknet.compare import VARIANTS, ComparisonRow, comparison_table, standing
from landmarknet.evaluate import Finding
from landmarknet.folds import FoldResult, KnownPatient, Unseen, choices_of, found_elsewhere
from landmarknet.network import KINDS, NetworkConfig
from landmarknet.operating_point import reading_of
from landmarknet.simulate_files import EMPTY_FIELDS
from landmarknet.study import read_study

ROOT = Path(__file__).parents[2]
ROW_PX = np.array([(190.0 + 0.01 * y, y) for y in range(40, 340, 30)])


def finding(kind, patient, view="ap", *, labelled=True, shown=True, off_px=2.0):
    line = kind == "spine_line"
    truth = {"spinous_process": ROW_PX, "spine_line": ROW_PX}.get(kind, np.array([(192.0, 150.0)]))
    truth = truth if shown and labelled else np.zeros((0, 2))
    rng = np.random.default_rng([KINDS.index(kind), *patient.encode()])
    found = truth + (off_px, 0.0) * rng.uniform(0.5, 1.0, (len(truth), 2))
    ones, widths = np.ones(len(found)), rng.uniform(1.0, 3.0, len(found))
    ridge = np.column_stack((found, ones)) if line else None
    return Finding(
        kind=kind, patient=patient, view=view, modality="kv", image="i.dcm", labelled=labelled, truth_px=truth,
        found_px=found, scores=ones, widths_px=widths, size_px=(384, 384), mm_per_px=1.0, net_per_px=0.5,
        ridge_net=ridge, judged=np.ones(len(found), bool) if line else None,
    )  # fmt: skip


def patients_findings(patients):
    return [finding(kind, patient, view) for kind in KINDS for patient in patients for view in ("ap", "lateral")]


@pytest.fixture
def study(monkeypatch):
    monkeypatch.chdir(ROOT)
    return read_study(Path("landmarknet/configs/study.toml"))


@pytest.fixture
def results(study):
    def result(fold):
        test = patients_findings(fold.test)
        hidden = [finding("louis_angle", fold.test[0], shown=False)]
        negatives = [
            finding(kind, patient, labelled=False)
            for kind in ("tracheal_bifurcation", "louis_angle")
            for patient in (*study.test_negatives, EMPTY_FIELDS)
        ]
        missed = [f.silent() for f in test]
        given = [Finding(**{**vars(finding("louis_angle", fold.test[0])), "truth_px": np.zeros((0, 2))})]
        return FoldResult(
            fold, reading_of(NetworkConfig(input_size=256, mm_per_net_px=1.2)), ("someone",), [*test, *hidden],
            under_jaws=hidden, without_geometry=test, out_of_view=given,
            other_renderer={"as scanned": test, "noise": missed}, changed={"none": test, "gamma": test},
            negatives=negatives, known=patients_findings(["someone"]),
        )  # fmt: skip

    return [result(fold) for fold in study.folds]


@pytest.fixture
def joints(monkeypatch):
    """Stand in for the labels of the CT, which are not part of the repository."""
    monkeypatch.setattr("landmarknet.accuracy.visible_joints", lambda _, patients: frozenset(patients))


def test_every_section_of_the_folds_can_be_written(study, results, joints):
    known = KnownPatient("lidc0295", results[0].reading, results[0].test)
    goals, folds, floors, alarms, scores, scale, robustness = fold_sections(study, results, known)
    assert "| trained on lidc0295 alone, and tested on it in other poses and bodies (no accuracy) | 100.0 % |" in floors
    assert "| tracheal bifurcation, AP kV | 98.95 % | 86 % | >= 98.95 % | 100.0 % (100 to 100, 11 images)" in goals
    assert folds.count("| lidc0002 | 100.0 %") == 1
    assert "| a peak anywhere along the row | 53.3 % | - | - | - |" in floors
    assert "| mean position of the training patients | 0.0 % | 100.0 % | 100.0 % | 100.0 % |" in floors
    assert "A Louis angle was given in 3 of 3 AP images" in alarms
    assert "rank correlation" in scores
    assert "unknown: chosen by the network" in scale
    assert "| gamma | 100.0 % (+0) | 100.0 % (+0)" in robustness
    assert "| noise | 0.0 % (-100) | 0.0 % (-100)" in robustness
    assert not any(" nan " in section for section in (goals, folds, floors, alarms, scale, robustness))


def test_empty_fields_do_not_water_down_the_goal(study, results, joints):
    goals = fold_sections(study, results, None)[0]
    images = len(study.test_negatives) * len(results)
    assert f"| tracheal_bifurcation | 0.000 of {images} |" in goals


def test_a_jaw_closed_over_a_landmark_counts_as_out_of_sight(study, results, joints):
    table = fold_sections(study, results, None)[0].split("false per image")[1]
    assert f"0.000 of {2 * len(results)} |" in next(line for line in table.splitlines() if "louis_angle" in line)


def test_a_fold_chooses_on_nothing_of_its_own_test_patients(study):
    unseen = [Unseen(fold, patients_findings(fold.validation), patients_findings(fold.test)) for fold in study.folds]
    for fold in study.folds:
        chosen_on = {f.patient for f in choices_of(fold, unseen)}
        assert chosen_on == {*study.patients} - {*fold.test}
    assert {f.patient for f in found_elsewhere(["lidc0002"], unseen)} == {*study.patients} - {"lidc0002"}


def row(name, pck, *, rival=False):
    return ComparisonRow(
        name, {kind: [pck] * 2 for kind in KINDS}, {kind: [1.0, float("nan")] for kind in KINDS}, 0.01, rival
    )


def test_the_best_of_the_others_is_named_with_the_points_between():
    own = row(VARIANTS["landmarknet"][0], 0.5)
    text = standing([own, row("worse", 0.1, rival=True), row("better", 0.6, rival=True), row("ablation", 0.9)])
    assert text.count("LandmarkNet is 10.0 points behind better") == len(KINDS)
    assert "12.5 points ahead of worse" in standing(
        [row(VARIANTS["landmarknet"][0], 0.225), row("worse", 0.1, rival=True)]
    )


def test_a_comparison_says_what_is_missing(study):
    text = comparison_table(study, [row(VARIANTS["landmarknet"][0], 0.5), None])
    assert "1 of 2 are not trained" in text
    assert "| LandmarkNet | 50.0 % +- 0, 1.00 px |" in text
