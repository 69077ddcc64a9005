from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from edge.config import ClinicHours
from edge.service.silence import local_zone, silent_for

BERLIN = ZoneInfo("Europe/Berlin")
WORKING = (ClinicHours(begin=time(8), end=time(18), silence_min=120),)  # Monday to Friday
EVERY_DAY = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
LONG_AGO = datetime(2025, 1, 1, tzinfo=UTC)


def at(day, hour, minute=0, month=6):
    """Return a moment of 2026 in Berlin; 1 June is a Monday."""
    return datetime(2026, month, day, hour, minute, tzinfo=BERLIN)


def test_less_than_the_silence_that_is_allowed_is_no_alarm():
    assert silent_for(WORKING, at(1, 9), LONG_AGO, at(1, 10, 59)) is None


def test_the_silence_that_is_allowed_is_an_alarm_to_the_minute():
    assert silent_for(WORKING, at(1, 9), LONG_AGO, at(1, 11)) == timedelta(hours=2)


def test_without_clinic_hours_nothing_is_silence():
    assert silent_for((), at(1, 9), LONG_AGO, at(30, 9)) is None


def test_time_before_the_clinic_opens_does_not_count():
    assert silent_for(WORKING, at(1, 3), LONG_AGO, at(1, 9, 59)) is None
    assert silent_for(WORKING, at(1, 3), LONG_AGO, at(1, 10)) == timedelta(hours=2)


def test_the_night_does_not_count_and_the_evening_before_does():
    # one hour from 17 to 18 on Monday, and one from 8 to 9 on Tuesday
    assert silent_for(WORKING, at(1, 17), LONG_AGO, at(2, 8, 59)) is None
    assert silent_for(WORKING, at(1, 17), LONG_AGO, at(2, 9)) == timedelta(hours=2)


def test_the_weekend_does_not_count():
    friday, monday = 5, 8
    assert silent_for(WORKING, at(friday, 17), LONG_AGO, at(monday, 8, 59)) is None
    assert silent_for(WORKING, at(friday, 17), LONG_AGO, at(monday, 9)) == timedelta(hours=2)


def test_an_alarm_stands_over_night_until_an_image_comes():
    assert silent_for(WORKING, at(1, 15), LONG_AGO, at(1, 23)) == timedelta(hours=3)
    assert silent_for(WORKING, at(1, 23), LONG_AGO, at(2, 1)) is None


def test_time_in_which_nobody_watched_is_no_silence():
    assert silent_for(WORKING, at(1, 8), at(3, 9), at(3, 10, 59)) is None
    assert silent_for(WORKING, at(1, 8), at(3, 9), at(3, 11)) == timedelta(hours=2)


def test_without_any_image_the_silence_counts_from_the_start():
    assert silent_for(WORKING, None, at(1, 9), at(1, 10, 59)) is None
    assert silent_for(WORKING, None, at(1, 9), at(1, 11)) == timedelta(hours=2)


def test_a_last_image_in_the_future_is_no_alarm():
    """The clock was set back."""
    assert silent_for(WORKING, at(2, 9), LONG_AGO, at(1, 17)) is None


def test_times_of_any_zone_are_understood():
    assert silent_for(WORKING, datetime(2026, 6, 1, 7, tzinfo=UTC), LONG_AGO, at(1, 11)) == timedelta(hours=2)


def test_an_evening_that_is_tomorrow_in_utc_is_still_today_s():
    new_york = ZoneInfo("America/New_York")
    late = (ClinicHours(days=("mon",), begin=time(22), end=time(23), silence_min=30),)
    last = datetime(2026, 6, 2, 2, 0, tzinfo=UTC)  # Monday, 22:00 there
    assert silent_for(late, last, LONG_AGO, datetime(2026, 6, 2, 1, tzinfo=new_york)) == timedelta(hours=1)


def test_each_hours_have_their_own_patience():
    hours = (
        ClinicHours(begin=time(8), end=time(12), silence_min=60),
        ClinicHours(begin=time(12), end=time(18), silence_min=240),
    )
    assert silent_for(hours, at(1, 11, 30), LONG_AGO, at(1, 15)) is None  # 30 min of the morning, and then patience
    assert silent_for(hours, at(1, 10, 30), LONG_AGO, at(1, 11, 30)) == timedelta(hours=1)
    assert silent_for(hours, at(1, 11, 30), LONG_AGO, at(1, 15, 30)) == timedelta(hours=4)


@pytest.mark.parametrize("step", [1, -1])
def test_hours_that_overlap_count_once_and_the_stricter_decides_within_its_own(step):
    hours = (
        ClinicHours(begin=time(8), end=time(18), silence_min=240),
        ClinicHours(begin=time(10), end=time(12), silence_min=60),
    )[::step]
    assert silent_for(hours, at(1, 8), LONG_AGO, at(1, 20)) == timedelta(hours=10)
    assert silent_for(hours, at(1, 11, 30), LONG_AGO, at(1, 12, 45)) is None  # 30 min until noon are under 60
    assert silent_for(hours, at(1, 10), LONG_AGO, at(1, 11)) == timedelta(hours=1)
    assert silent_for(hours, at(1, 11, 30), LONG_AGO, at(1, 15, 30)) == timedelta(hours=4)


@pytest.mark.parametrize(
    ("month", "day", "real_h"),
    [
        (3, 29, 5),  # the clock jumps from 2 to 3
        (10, 25, 7),  # it goes from 3 back to 2
        (6, 7, 6),
    ],
)
def test_hours_over_a_change_of_the_clocks_count_as_they_pass(month, day, real_h):
    nightly = (ClinicHours(days=EVERY_DAY, begin=time(0), end=time(6), silence_min=60),)
    silent = silent_for(nightly, None, at(day, 0, month=month), at(day, 7, month=month))
    assert silent == timedelta(hours=real_h)


@pytest.mark.parametrize(("month", "saturday", "monday"), [(3, 28, 30), (10, 24, 26)])
def test_clinic_hours_stay_at_their_local_time_after_a_change_of_the_clocks(month, saturday, monday):
    quiet = silent_for(WORKING, at(saturday, 12, month=month), LONG_AGO, at(monday, 9, 59, month=month))
    assert quiet is None
    loud = silent_for(WORKING, at(saturday, 12, month=month), LONG_AGO, at(monday, 10, month=month))
    assert loud == timedelta(hours=2)


def test_the_zone_of_the_machine_knows_summer_time(tmp_path):
    link = tmp_path / "localtime"
    link.symlink_to("/usr/share/zoneinfo/Europe/Berlin")
    if not link.exists():
        pytest.skip("this machine has no time zone files")
    zone = local_zone("", link)
    assert [datetime(2026, month, 1, tzinfo=zone).utcoffset() for month in (1, 7)] == [
        timedelta(hours=1),
        timedelta(hours=2),
    ]


def test_the_environment_s_zone_comes_first(tmp_path):
    assert local_zone(":Europe/Berlin", tmp_path / "none") == BERLIN


@pytest.mark.parametrize("environment", ["", "No/Where", "../../etc/passwd"])
def test_a_machine_that_names_no_zone_is_in_utc(environment, tmp_path):
    assert local_zone(environment, tmp_path / "none") is UTC
