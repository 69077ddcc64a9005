import numpy as np
import pytest

from landmarknet.dataset import Case
from landmarknet.evaluate import Finding, best_threshold, chance_along_the_row, match, score


def finding(truth, peaks, mm_per_net_px=0.5):
    truth = np.array(truth, float).reshape(-1, 2)
    case = Case(np.zeros((1, 1, 384, 384)), {"k": truth}, {"k": np.ones(len(truth), bool)}, "ap", mm_per_net_px)
    return Finding("k", "p", "kv", case, truth, np.array(peaks, float).reshape(-1, 3))


def test_one_peak_cannot_serve_two_landmarks():
    assert match(np.array(((0.0, 0.0), (4.0, 0.0))), np.array(((2.0, 0.0),)), 8.0).tolist() == [2.0]


def test_matching_prefers_more_pairs_to_a_nearer_one():
    truth, found = np.array(((0.0, 0.0), (6.0, 0.0))), np.array(((5.0, 0.0), (11.0, 0.0)))
    assert sorted(match(truth, found, 8.0)) == [5.0, 5.0]


def test_a_match_must_lie_within_the_limit():
    assert len(match(np.zeros((1, 2)), np.array(((8.01, 0.0),)), 8.0)) == 0


def test_score_counts_as_defined():
    findings = [
        finding([(10, 10), (50, 50)], [(13, 14, 0.9), (200, 200, 0.8), (50, 59, 0.2)]),  # 5 px off; extra; below
        finding([], [(5, 5, 0.7)]),  # extra on a negative
    ]
    result = score(findings, threshold=0.5, at_most=10)
    assert result.landmarks == 2
    assert result.pck == {4.0: 0.0, 6.0: 0.5, 8.0: 0.5, 10.0: 0.5, 12.0: 0.5}
    assert result.precision == pytest.approx(1 / 3)
    assert result.f1 == pytest.approx(2 / 5)
    assert result.mean_px == pytest.approx(5.0)
    assert result.median_mm == pytest.approx(2.5)


def test_threshold_separates_right_from_wrong():
    findings = [finding([(10, 10)], [(10, 10, 0.6), (100, 100, 0.4)]) for _ in range(5)]
    assert 0.4 < best_threshold(findings, at_most=5) <= 0.6


def test_chance_is_the_share_of_the_row_near_a_landmark():
    rows = [finding([(0, 0), (0, 32), (0, 64)], []), finding([(5, 10), (5, 22)], [])]
    # gaps 32, 32 and 12 px: 8 px about each end cover 16 + 16 + 12 of 76
    assert chance_along_the_row(rows) == (32.0, pytest.approx(44 / 76))


def test_shuffled_answers_score_by_chance():
    rng = np.random.default_rng(0)
    right = [finding([xy := rng.uniform(0, 384, 2)], [(*xy, 0.9)]) for _ in range(200)]
    truths = [f.truth_net for f in right]
    rng.shuffle(truths)
    wrong = [finding(t, f.peaks) for t, f in zip(truths, right, strict=True)]
    assert score(right, 0.5, 1).pck[8.0] == 1.0
    # a disc of 8 px in 384 x 384: 0.14 % by chance, and one or two left in their place by the shuffle
    assert score(wrong, 0.5, 1).pck[8.0] < 0.03
