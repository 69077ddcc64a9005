import json
from dataclasses import replace

import numpy as np
import pytest

from edge.backends.function import FunctionBackend
from edge.contract import KindContract
from landmarknet.baselines import mean_position, shuffled
from landmarknet.evaluate import Finding, chance_along_the_row, false_alarms, find, match, score, sideways
from landmarknet.network import NetworkConfig
from landmarknet.operating_point import (
    best_threshold,
    fit_sigma,
    inside_shares,
    operating_point,
    reading_of,
    width_correlation,
)
from landmarknet.report import accuracy_table, demand_unseen, false_alarm_table, per_patient_table
from landmarknet.rt_image import write_rt_image, write_truth
from landmarknet.simulate_files import empty_fields

CARINA = KindContract(kind="tracheal_bifurcation", threshold=0.5, at_most=1)
SPINOUS = KindContract(kind="spinous_process", threshold=0.5, at_most=10)
LINE = KindContract(kind="spine_line", threshold=0.5, at_most=64, shape="line")


def finding(truth, peaks, kind="tracheal_bifurcation", *, labelled=True, patient="p", mm_per_px=0.5, width=2.0):
    """Peaks are x, y, score on a 384 x 384 image, whose px are the paper's."""
    peaks = np.array(peaks, float).reshape(-1, 3)
    peaks = peaks[np.argsort(-peaks[:, 2])]
    return Finding(
        kind=kind, patient=patient, view="ap", modality="kv", image="i.dcm", labelled=labelled,
        truth_px=np.array(truth, float).reshape(-1, 2), found_px=peaks[:, :2], scores=peaks[:, 2],
        widths_px=np.full(len(peaks), width), size_px=(384, 384), mm_per_px=mm_per_px, net_per_px=0.5,
    )  # fmt: skip


def test_one_peak_cannot_serve_two_landmarks():
    assert match(np.array(((0.0, 0.0), (4.0, 0.0))), np.array(((2.0, 0.0),)), 8.0).tolist() == [2.0]


def test_matching_prefers_more_pairs_to_a_nearer_one():
    truth, found = np.array(((0.0, 0.0), (6.0, 0.0))), np.array(((5.0, 0.0), (11.0, 0.0)))
    assert sorted(match(truth, found, 8.0)) == [5.0, 5.0]


def test_a_match_must_lie_within_the_limit():
    assert len(match(np.zeros((1, 2)), np.array(((8.01, 0.0),)), 8.0)) == 0


def test_score_counts_as_defined():
    findings = [
        finding([(10, 10), (50, 50)], [(13, 14, 0.9), (200, 200, 0.8), (50, 59, 0.2)], "spinous_process"),
        finding([], [(5, 5, 0.7)], "spinous_process"),  # all of them hidden: one more that is not there
        finding([], [(5, 5, 0.7)], "spinous_process", labelled=False),  # judged as a negative, not here
    ]
    result = score(findings, SPINOUS)
    assert (result.images, result.landmarks) == (1, 2)
    assert result.pck == {4.0: 0.0, 6.0: 0.5, 8.0: 0.5, 10.0: 0.5, 12.0: 0.5}
    assert result.patient_pck == 1.0
    assert result.precision == pytest.approx(1 / 3)
    assert result.f1 == pytest.approx(2 / 5)
    assert result.mean_px == pytest.approx(5.0)
    assert result.median_mm == pytest.approx(2.5)
    assert result.extra_per_image == pytest.approx(1.0)
    assert result.count_error == 0.0
    assert result.given == 1.0


def test_distances_are_in_px_of_the_fitted_image():
    large = replace(finding([(100, 100)], [(118, 100, 0.9)]), size_px=(768, 1024))  # 18 px of 1024 are 6.75 of 384
    result = score([large], CARINA)
    assert result.pck[6.0] == 0.0
    assert result.pck[8.0] == 1.0
    assert result.mean_px == pytest.approx(6.75)


def test_abstention_shows_in_given():
    result = score([finding([(10, 10)], [(10, 10, 0.9)]), finding([(10, 10)], [(10, 10, 0.4)])], CARINA)
    assert result.given == 0.5
    assert result.pck[8.0] == 0.5
    assert result.precision == 1.0


def test_false_alarms_tell_negatives_from_hidden_landmarks():
    findings = [
        finding([], [(1, 1, 0.9), (9, 9, 0.8)], labelled=False),
        finding([], [], labelled=False),
        finding([], [(1, 1, 0.9)]),
        finding([(10, 10)], [(100, 100, 0.9)]),  # wrong, but the image shows one
    ]
    alarms = false_alarms(findings, CARINA)
    assert (alarms.negatives, alarms.per_negative) == (2, 0.5)
    assert (alarms.hidden, alarms.per_hidden) == (1, 1.0)


def test_sideways_is_measured_across_and_only_where_a_line_was_found():
    truth = np.array([(10.0, y) for y in range(0, 101, 10)])
    found = np.array([(13.0, 20.0), (13.0, 30.0), (15.0, 40.0)])
    off = sideways(truth, found)
    assert off[2:5].tolist() == [3.0, 3.0, 5.0]
    assert np.isinf(off[0])
    assert np.isinf(off[-1])
    assert np.isinf(sideways(truth, found[:1])).all(), "one point is no line"


def ridge(scores, x=12.0):
    """A finding whose line lies at x, 2 px beside the true one, a step of 16 px apart."""
    y = 16.0 * np.arange(len(scores))
    one = finding([(10.0, float(y)) for y in range(16 * len(scores) - 15)], [], "spine_line")
    net = np.stack((np.full(len(y), x / 2), y / 2, scores), axis=1)
    return replace(
        one, found_px=np.stack((np.full(len(y), x), y), axis=1), scores=np.array(scores), ridge_net=net,
        widths_px=np.full(len(y), 3.0), judged=np.ones(len(y), bool),
    )  # fmt: skip


def test_a_line_is_scored_by_how_much_of_it_was_found():
    result = score([ridge([0.9] * 5 + [0.1] * 4)], LINE)
    assert 0.5 <= result.pck[8.0] <= 0.65  # 64 of 128 px, and one step beyond the last point
    assert result.precision == 1.0
    assert result.mean_px == pytest.approx(2.0)


def test_a_line_is_read_as_the_room_reads_it():
    broken = ridge([0.9, 0.9, 0.1, 0.9, 0.9, 0.9, 0.9, 0.1, 0.9])
    assert broken.chosen(LINE).tolist() == [3, 4, 5, 6], "the longest stretch without a gap"
    assert len(ridge([0.9, 0.9, 0.9, 0.1]).chosen(LINE)) == 0, "a spot is no line"
    outside = replace(broken, judged=np.arange(9) >= 5)
    assert outside.chosen(LINE).tolist() == [5, 6], "judged only after it was read"
    assert broken.accepted(LINE).kept(LINE).tolist() == broken.kept(LINE).tolist()


def test_a_line_counts_once_as_a_false_alarm():
    negative = replace(ridge([0.9] * 6), labelled=False, truth_px=np.zeros((0, 2)))
    assert false_alarms([negative], LINE).per_negative == 1.0


def test_threshold_separates_right_from_wrong():
    findings = [finding([(10, 10)], [(10, 10, 0.6)]) for _ in range(5)]
    findings += [finding([], [(100, 100, 0.4)], labelled=False) for _ in range(5)]
    assert 0.4 < best_threshold(findings, "tracheal_bifurcation") <= 0.6


def test_limits_on_false_alarms_come_before_f1():
    findings = [finding([(10, 10)], [(10, 10, s)]) for s in (0.5, 0.5, 0.5, 0.9)]
    findings += [finding([], [(9, 9, 0.6)], labelled=False) for _ in range(2)]
    assert best_threshold(findings, "tracheal_bifurcation") > 0.6, "better to miss three than to claim two"


def test_sigma_is_that_of_the_errors_and_follows_the_width():
    rng = np.random.default_rng(0)
    findings = []
    for _ in range(800):
        width = rng.uniform(2, 10)  # px; half as many network px
        error = rng.normal(0, 1.5 * width / 2, 2) / 0.5  # sigma is 1.5 w in network px
        findings.append(finding([(100, 100)], [(*(100 + error), 0.9)], width=width))
    a, b = fit_sigma(findings, CARINA)
    assert a + b * 3 == pytest.approx(4.5, rel=0.15)
    assert b == pytest.approx(1.5, rel=0.2)
    one, two = inside_shares(findings, CARINA.model_copy(update={"sigma": (a, b)}))
    assert one == pytest.approx(0.39, abs=0.06)
    assert two == pytest.approx(0.86, abs=0.06)


def test_landmarks_that_are_mistaken_for_one_another_have_no_sigma():
    many = [finding([(10, 10), (10, 30)], [(11, 10, 0.9), (10, 31, 0.9)], "spinous_process") for _ in range(20)]
    assert fit_sigma(many, SPINOUS) is None


def test_the_correlation_of_error_and_width_says_whether_sigma_knows_anything():
    rng = np.random.default_rng(0)

    def made(informed):
        width = rng.uniform(2, 10)
        error = rng.normal(0, width if informed else 6.0, 2)
        return finding([(100, 100)], [(*(100 + error), 0.9)], width=width)

    assert width_correlation([made(True) for _ in range(400)], CARINA) > 0.3
    assert abs(width_correlation([made(False) for _ in range(400)], CARINA)) < 0.15


def test_too_few_landmarks_give_no_sigma():
    assert fit_sigma([finding([(10, 10)], [(10, 10, 0.9)])], CARINA) is None


def test_chance_is_the_share_of_the_row_near_a_landmark():
    rows = [finding([(0, 0), (0, 32), (0, 64)], []), finding([(5, 10), (5, 22)], [])]
    # gaps 32, 32 and 12 px: 8 px about each end cover 16 + 16 + 12 of 76
    assert chance_along_the_row(rows) == (32.0, pytest.approx(44 / 76))


def test_labels_of_other_images_give_chance():
    rng = np.random.default_rng(0)
    right = [finding([xy := rng.uniform(0, 384, 2)], [(*xy, 0.9)]) for _ in range(200)]
    assert score(right, CARINA).pck[8.0] == 1.0
    assert score(shuffled(right, seed=0), CARINA).pck[8.0] < 0.03  # a disc of 8 px in 384 x 384 is 0.14 % of it


def test_the_mean_position_is_that_of_the_training_patients():
    known = [finding([(90, 110)], []), finding([(110, 90)], [])]
    (answer,) = mean_position(known, [finding([(300, 300)], [])])
    assert answer.found_px == pytest.approx(np.array(((100.0, 100.0),)))
    assert score([answer], CARINA).pck[8.0] == 0.0


def test_tables_have_a_row_per_cell_and_a_spread_over_patients():
    findings = [finding([(10, 10)], [(10, 10, 0.9)]), finding([(10, 10)], [], patient="q")]
    assert accuracy_table(findings, [CARINA]).splitlines()[2].startswith("| tracheal_bifurcation | ap | kv | 2 | 2 |")
    table = per_patient_table(findings, lambda _patient, _kind: CARINA)
    assert "| p | 100.0 % |" in table
    assert "| q | 0.0 % |" in table
    assert "| **mean** | 50.0 % |" in table
    assert "| spread (sd) | 70.7 % |" in table
    assert "| tracheal_bifurcation | 0 | - | 0 | - |" in false_alarm_table(findings, [CARINA])


def test_training_patients_are_refused():
    with pytest.raises(ValueError, match="trained on p: a figure on these is no accuracy"):
        demand_unseen(("p", "q"), ("p", "r"))
    demand_unseen(("p",), ("r",))


@pytest.fixture
def data_set(tmp_path):
    folder = tmp_path / "empty_field"
    folder.mkdir()
    images = list(empty_fields(2, seed=0))
    for image in images:
        write_rt_image(image, folder)
    path = write_truth(images, folder)
    truth = json.loads(path.read_text())
    for entry in truth["images"].values():  # as if a patient had a carina in the middle, and tips that nobody labelled
        x = y = 100.0
        entry["landmarks"] = [{"kind": "tracheal_bifurcation", "x_px": x, "y_px": y, "x_mm": 0, "y_mm": 0}]
        entry["unlabelled"] = ["spinous_process"]
    path.write_text(json.dumps(truth))
    return tmp_path


def test_findings_come_through_the_rooms_own_pipeline(data_set):
    reading = reading_of(NetworkConfig(input_size=192, mm_per_net_px=1.6))
    seen = []

    def answer(batch):
        seen.append(batch.shape)
        peaks = np.full((4, reading.rows_per_kind, 3), -1.0)
        peaks[:, 0] = (96, 96, 0.8)  # the middle of the network's square is that of the image
        return peaks

    findings = find(FunctionBackend(answer, reading.heatmap_size), reading, data_set, ["empty_field"])
    assert seen == [(1, 1, 192, 192)] * 4
    assert {f.kind for f in findings} == {"tracheal_bifurcation", "louis_angle", "spine_line"}, "one may not be judged"
    for f in (f for f in findings if f.kind == "tracheal_bifurcation"):
        assert f.labelled
        assert f.truth_px.tolist() == [[100.0, 100.0]]
        height, width = f.size_px
        assert f.found_px[0] == pytest.approx((width / 2, height / 2), abs=1 / f.net_per_px)
        assert f.scores.tolist() == [pytest.approx(0.8)]


def test_what_lies_beyond_the_labels_is_not_judged_but_answered(data_set):
    path = data_set / "empty_field" / "truth.json"
    truth = json.loads(path.read_text())
    for entry in truth[
        "images"
    ].values():  # the only label is at the top; the peak, in the middle, is farther than 12 mm
        entry["unlabelled"] = []
        entry["landmarks"] = [{"kind": "spinous_process", "x_px": 50.0, "y_px": 0.0, "x_mm": 0, "y_mm": 0}]
    path.write_text(json.dumps(truth))
    reading = reading_of(NetworkConfig(input_size=192, mm_per_net_px=1.6))
    peaks = np.full((4, reading.rows_per_kind, 3), -1.0)
    peaks[:, 0] = (96, 96, 0.8)
    findings = find(FunctionBackend(lambda _: peaks, reading.heatmap_size), reading, data_set, ["empty_field"])
    spinous = [f for f in findings if f.kind == "spinous_process"]
    assert len(spinous) == 4
    for f in spinous:
        height, width = f.size_px
        assert height / 2 * f.mm_per_px > 12
        assert len(f.kept(SPINOUS)) == 0
        points, scores = f.answered(SPINOUS)
        assert points[0] == pytest.approx((width / 2, height / 2), abs=1 / f.net_per_px)
        assert scores.tolist() == [pytest.approx(0.8)]


def test_what_is_answered_is_the_best_of_all_as_in_the_room():
    one = replace(
        finding([(10, 10)], [(10, 10, 0.9), (10, 30, 0.6), (10, 50, 0.4)], "spinous_process"),
        beyond=np.array([(10.0, 90.0, 0.7), (10.0, 99.0, 0.3)]),
    )
    points, scores = one.answered(SPINOUS.model_copy(update={"at_most": 2}))
    assert scores.tolist() == [0.9, 0.7]
    assert points.tolist() == [[10.0, 10.0], [10.0, 90.0]]
    assert one.answered(SPINOUS)[1].tolist() == [0.9, 0.7, 0.6], "0.5 is the threshold"
    assert len(one.silent().answered(SPINOUS)[0]) == 0


@pytest.mark.parametrize("lateral_only", [False, True])
def test_a_louis_angle_in_an_ap_view_is_one_too_many_where_asked_for(data_set, lateral_only):
    path = data_set / "empty_field/truth.json"
    truth = json.loads(path.read_text())
    for entry in truth["images"].values():
        entry |= {"view": "ap", "unlabelled": ["louis_angle"]}
    path.write_text(json.dumps(truth))
    reading = reading_of(NetworkConfig(input_size=192, mm_per_net_px=1.6))
    kinds = [k.model_copy(update={"lateral_only": lateral_only and k.kind == "louis_angle"}) for k in reading.kinds]
    reading = reading.model_copy(update={"kinds": tuple(kinds)})
    peaks = np.full((4, reading.rows_per_kind, 3), -1.0)
    peaks[:, 0] = (96, 96, 0.8)
    backend = FunctionBackend(lambda _: peaks, reading.heatmap_size)
    assert "louis_angle" not in {f.kind for f in find(backend, reading, data_set, ["empty_field"])}
    asked = find(backend, reading, data_set, ["empty_field"], unlabelled_views=True)
    louis = [f for f in asked if f.kind == "louis_angle"]
    assert all(f.unlabelled_view for f in louis)
    promise = next(k for k in kinds if k.kind == "louis_angle")
    alarms = false_alarms(louis, promise)
    # the gantry of these stands at exactly 0, which is not believed: what is not known holds nothing back
    assert (alarms.hidden, alarms.per_hidden) == (4, 1.0)


def test_an_operating_point_names_every_kind(data_set):
    kinds = operating_point([finding([(10, 10)], [(10, 10, 0.7)])], ["tracheal_bifurcation", "spine_line"])
    assert [(k.kind, k.shape) for k in kinds] == [("tracheal_bifurcation", "point"), ("spine_line", "line")]


def test_a_missing_data_set_is_named(tmp_path):
    with pytest.raises(ValueError, match="landmarknet-train simulate"):
        find(FunctionBackend(lambda b: b), reading_of(NetworkConfig()), tmp_path, ["nobody"])
