import json

import numpy as np
import pytest

from edge.contract import KindContract
from landmarknet.evaluate import Finding
from landmarknet.goals import GOALS, alarm_goals, goal_table, visible_joints

KINDS = (
    KindContract(kind="spinous_process", threshold=0.0, at_most=16),
    KindContract(kind="tracheal_bifurcation", threshold=0.0, at_most=1),
    KindContract(kind="louis_angle", threshold=0.0, at_most=1),
)
REACHES, WITHOUT, CHANCE = -4, -3, -2  # columns
TRUTH = {"spinous_process": [(192.0, 40.0 * i) for i in range(1, 8)]}


def finding(kind, view, modality, *, off_px=0.0, extra=0, patient="p", labelled=True, shown=True):
    """What was found lies ``off_px`` to the right of the truth; ``extra`` more lie far from any."""
    truth = np.array(TRUTH.get(kind, [(192.0, 200.0)]) if shown and labelled else []).reshape(-1, 2)
    found = np.concatenate((truth + np.array((off_px, 0.0)), np.full((extra, 2), 5.0)))
    ones = np.ones(len(found))
    return Finding(
        kind=kind, patient=patient, view=view, modality=modality, image="i.dcm", labelled=labelled, truth_px=truth,
        found_px=found, scores=ones, widths_px=ones, size_px=(384, 384), mm_per_px=1.0, net_per_px=0.5,
    )  # fmt: skip


def all_cells(**changes):
    cells = sorted({(goal.kind, goal.view, goal.modality) for goal in GOALS})
    return [finding(*cell, **changes) for cell in cells]


def rows(table):
    return {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ") for line in table.splitlines()[2:]}


def test_a_goal_is_reached_by_what_lies_near_and_not_by_what_lies_far():
    near = rows(goal_table(all_cells(off_px=7.9), all_cells(off_px=50.0), KINDS, frozenset("p")))
    assert {name: row[-1] for name, row in near.items()} == {goal.name: "yes" for goal in GOALS}
    far = rows(goal_table(all_cells(off_px=8.1), all_cells(off_px=50.0), KINDS, frozenset("p")))
    assert {name: row[-1] for name, row in far.items()} == {goal.name: "no" for goal in GOALS}


def test_chance_stands_beside_each_goal():
    table = rows(goal_table(all_cells(off_px=50.0), all_cells(), KINDS, frozenset("p")))
    assert table["tracheal bifurcation, AP MV"][CHANCE] == "100.0 %"  # whoever guesses at the mean place is right here
    assert table["spinous processes, AP MV, one to one"][CHANCE] == "40.0 %"  # 16 of 40 px lie within 8 px of a tip


def test_single_tips_bought_with_false_ones_do_not_reach_the_goal():
    table = rows(goal_table(all_cells(extra=1), all_cells(), KINDS, frozenset("p")))
    row = table["spinous processes, AP kV, one to one"]
    assert row[REACHES].startswith("100.0 % (100 to 100, 1 images); 1.00 extra per image")
    assert row[-1] == "no"


def test_a_joint_that_cannot_be_seen_counts_for_all_alone():
    findings = [*all_cells(), finding("louis_angle", "lateral", "kv", off_px=90.0, patient="fused")]
    table = rows(goal_table(findings, findings, KINDS, frozenset("p")))
    assert table["Louis angle, lateral kV, joint visible"][REACHES].startswith("100.0 %")
    assert table["Louis angle, lateral kV, all"][REACHES].startswith("50.0 % (0 to 100, 2 images)")


def test_false_landmarks_are_held_against_their_limits():
    clean = [*(finding(k.kind, "ap", "kv", labelled=False) for k in KINDS),
             *(finding(k.kind, "ap", "kv", shown=False) for k in KINDS)]  # fmt: skip
    dirty = [*clean, finding("louis_angle", "ap", "kv", labelled=False, extra=1)]
    assert [row[-1] for row in rows(alarm_goals(dirty, KINDS)).values()] == ["yes", "yes", "no"]
    assert rows(alarm_goals(dirty, KINDS))["louis_angle"][1] == "0.500 of 2"


def test_a_rate_over_no_images_is_none():
    table = rows(alarm_goals([finding("louis_angle", "ap", "kv", labelled=False)], KINDS))
    assert table["louis_angle"][1:] == ["0.000 of 1", "no such image", "yes"]


def test_patients_of_choices_are_left_out_in_a_column_of_their_own():
    findings = [*all_cells(), *all_cells(off_px=90.0, patient="chosen on")]
    table = rows(goal_table(findings, findings, KINDS, frozenset("p"), ["chosen on"]))
    row = table["tracheal bifurcation, AP MV"]
    assert row[REACHES].startswith("50.0 %")
    assert row[WITHOUT] == "100.0 %"


def test_the_labels_say_which_joints_are_visible(tmp_path):
    labels_say = {"fused": "low: joint fused", "blurred": "low-medium: blurred", "clear": "high: joint line visible"}
    for patient, confidence in labels_say.items():
        labels = [
            {"name": "carina", "confidence": "low: weak"},
            {"name": "sternal_angle_anterior", "confidence": confidence},
        ]
        (tmp_path / f"{patient}.landmarks.json").write_text(json.dumps({"landmarks": labels}))
    assert visible_joints(tmp_path, [*labels_say]) == {"blurred", "clear"}
    with pytest.raises(ValueError, match=r"nobody\.landmarks\.json: no labels"):
        visible_joints(tmp_path, ["nobody"])
