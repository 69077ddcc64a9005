import math
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from edge.constancy import GoldenDrift, KindDrift, due, judge

BERLIN = ZoneInfo("Europe/Berlin")
FIVE = time(5)
NOW_UTC = datetime(2026, 6, 1, 3, tzinfo=UTC)
TOLERANCE_NET_PX, TOLERANCE_SCORE = 0.05, 0.005


def at(day, hour, minute=0, month=6):
    return datetime(2026, month, day, hour, minute, tzinfo=BERLIN)


def judged(*kinds):
    return judge(GoldenDrift(kinds), TOLERANCE_NET_PX, TOLERANCE_SCORE, "r1", NOW_UTC)


# --- when ---


def test_the_first_run_is_due_at_once():
    assert due(None, at(1, 12), FIVE)


def test_without_a_time_of_day_there_is_none():
    assert not due(None, at(1, 12), None)


def test_a_run_is_due_once_a_day_from_its_time_on():
    last = at(1, 5, 1)
    assert not due(last, at(1, 23, 59), FIVE)
    assert not due(last, at(2, 4, 59), FIVE)
    assert due(last, at(2, 5), FIVE)
    assert not due(at(2, 5), at(2, 5, 0), FIVE)


def test_a_run_by_hand_before_its_time_does_not_replace_the_day_s():
    assert due(at(1, 4), at(1, 5), FIVE)


def test_what_was_missed_is_due_at_the_start_even_before_the_time_of_day():
    assert due(at(1, 5, 1), at(3, 2), FIVE)


def test_a_last_run_in_the_future_proves_nothing():
    """The clock was wrong then, or is now."""
    assert due(at(2, 5), at(1, 12), FIVE)


def test_the_last_run_may_be_given_in_utc():
    assert not due(datetime(2026, 6, 1, 3, 1, tzinfo=UTC), at(1, 6), FIVE)  # 5:01 in Berlin
    assert due(datetime(2026, 6, 1, 2, 59, tzinfo=UTC), at(1, 6), FIVE)


@pytest.mark.parametrize(("month", "saturday"), [(3, 28), (10, 24)])
def test_a_change_of_the_clocks_neither_skips_nor_doubles_a_run(month, saturday):
    runs, last = [], at(saturday, 5, month=month)
    moment = last.astimezone(UTC)
    for _ in range(3 * 24 * 4):  # three days by quarters of an hour of real time
        moment += timedelta(minutes=15)
        if due(last, moment.astimezone(BERLIN), FIVE):
            last = moment
            runs.append(moment.astimezone(BERLIN))
    expected = [at(saturday, 5, month=month).date() + timedelta(days=n) for n in (1, 2, 3)]
    assert [run.date() for run in runs] == expected[: len(runs)]
    assert [run.time() for run in runs] == [FIVE] * len(runs)
    assert len(runs) >= 2


# --- what it shows ---


def test_answers_as_accepted_pass():
    run = judged(KindDrift("spinous_process", 0.0, 0.0), KindDrift("louis_angle", 0.0, 0.0))
    assert (run.passed, run.reason, run.release, run.when_utc) == (True, None, "r1", NOW_UTC)


def test_a_run_carries_the_worst_of_all_kinds_for_the_trend():
    run = judged(KindDrift("spinous_process", 0.01, 0.004), KindDrift("louis_angle", 0.03, 0.001))
    assert (run.worst_shift_net_px, run.worst_score_change, run.passed) == (0.03, 0.004, True)


def test_the_tolerance_itself_passes_and_more_does_not():
    assert judged(KindDrift("spinous_process", TOLERANCE_NET_PX, TOLERANCE_SCORE)).passed
    assert not judged(KindDrift("spinous_process", math.nextafter(TOLERANCE_NET_PX, 1), 0.0)).passed
    assert not judged(KindDrift("spinous_process", 0.0, math.nextafter(TOLERANCE_SCORE, 1))).passed


def test_the_points_of_a_line_have_their_allowance_besides():
    assert judged(KindDrift("spine_line", 0.5, 0.0, allowance_net_px=0.5)).passed
    assert not judged(KindDrift("spine_line", 0.56, 0.0, allowance_net_px=0.5)).passed


@pytest.mark.parametrize(
    ("drift", "said"),
    [
        (KindDrift("spinous_process", 0.0, 0.0, lost=1), "spinous_process: 1 lost"),
        (KindDrift("spinous_process", 0.0, 0.0, gained=2), "spinous_process: 2 gained"),
        (KindDrift("spinous_process", 0.3, 0.0), "spinous_process: moved by 0.3 px of the network, 0.05 are allowed"),
        (KindDrift("spinous_process", 0.0, 0.02), "spinous_process: score changed by 0.02, 0.005 are allowed"),
        (KindDrift("spinous_process", math.nan, 0.0), "spinous_process: moved by nan"),
        (KindDrift("spinous_process", 0.0, math.nan), "spinous_process: score changed by nan"),
    ],
)
def test_a_drift_is_named_with_the_release_and_what_to_do(drift, said):
    run = judged(KindDrift("louis_angle", 0.0, 0.0), drift)
    assert not run.passed
    assert said in run.reason
    assert "release r1" in run.reason
    assert "rollback" in run.reason


def test_a_run_that_compared_nothing_has_not_passed():
    run = judged()
    assert (run.passed, run.worst_shift_net_px) == (False, 0.0)
    assert "nothing was compared" in run.reason


def test_a_figure_that_is_no_number_is_the_worst_of_all():
    run = judged(KindDrift("spinous_process", math.nan, 0.0), KindDrift("louis_angle", 0.01, math.nan))
    assert (run.worst_shift_net_px, run.worst_score_change) == (math.inf, math.inf)
