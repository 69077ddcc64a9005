import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.registration.couch import IEC61217, VARIAN_IEC, VARIAN_STANDARD, CouchMove, couch_move, table_axes
from edge.registration.register import NORMAL_95, Registration
from edge.registration.two_views import RoomShift, room_shift

LAW = settings(derandomize=True, max_examples=50, database=None, deadline=None)
ROOM = st.tuples(*[st.floats(-20, 20)] * 3)
SIGMA = 1.0


def seen(x, y, gantry_deg, sigma=SIGMA, support_deg=0.0):
    return Registration(
        status="ok",
        reason=None,
        shift_mm=(x, y),
        rotation_deg=None,
        interval95_mm=(NORMAL_95 * sigma, NORMAL_95 * sigma),
        covariance=((sigma**2, 0.0), (0.0, sigma**2)),
        axes="",
        n_used=8,
        residual_mm=1.0,
        runner_up=None,
        gantry_deg=gantry_deg,
        support_deg=support_deg,
    )


def projected(room_mm, gantry_deg):
    """Return what a view measures of a shift in the room: turn it by -gantry about y, look down the z axis."""
    angle = math.radians(gantry_deg)
    x, y, z = room_mm
    return seen(x * math.cos(angle) - z * math.sin(angle), y, gantry_deg)


# --- which way is which: somebody faces the gantry ---


@pytest.mark.parametrize(
    ("gantry_deg", "image_shift", "axis", "value"),
    [
        (0, (5, 0), 0, 5),  # from above, the image's right is the observer's right
        (180, (5, 0), 0, -5),  # from below, it is the left
        (90, (5, 0), 2, -5),  # from the observer's right, the image's right is down
        (270, (5, 0), 2, 5),  # from the left, it is up
    ],
)
def test_right_in_the_image_lies_in_the_room_where_the_gantry_puts_it(gantry_deg, image_shift, axis, value):
    other = seen(0, 0, gantry_deg + 90)
    room = room_shift(seen(*image_shift, gantry_deg), other)
    expected = [0.0, 0.0, 0.0]
    expected[axis] = value
    assert room.shift_mm == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("gantry_deg", [0, 90, 180, 270])
def test_up_in_the_image_is_towards_the_gantry_at_every_gantry_angle(gantry_deg):
    room = room_shift(seen(0, 4, gantry_deg), seen(0, 4, gantry_deg + 90))
    assert room.shift_mm == pytest.approx((0, 4, 0), abs=1e-9)


@LAW
@given(ROOM, st.floats(0, 360), st.floats(60, 120))
def test_two_views_give_back_the_shift_of_the_room(room_mm, gantry_deg, apart_deg):
    both = projected(room_mm, gantry_deg), projected(room_mm, gantry_deg + apart_deg)
    assert room_shift(*both).shift_mm == pytest.approx(room_mm, abs=1e-6)
    assert room_shift(*reversed(both)).shift_mm == pytest.approx(room_mm, abs=1e-6)


# --- how certain ---


def test_perpendicular_views_know_the_shared_axis_better_by_the_root_of_two():
    room = room_shift(seen(1, 2, 0), seen(3, 2, 90))
    half = NORMAL_95 * SIGMA
    assert room.interval95_mm == pytest.approx((half, half / math.sqrt(2), half))


def test_the_more_certain_view_counts_more_along_the_shared_axis():
    room = room_shift(seen(0, 0, 0, sigma=1), seen(0, 3, 90, sigma=2))
    assert room.shift_mm[1] == pytest.approx((0 / 1 + 3 / 4) / (1 / 1 + 1 / 4))


def test_the_difference_along_the_shared_axis_is_reported_with_its_uncertainty():
    room = room_shift(seen(0, 1, 0), seen(0, 3, 90))
    assert room.status == "ok"
    assert room.shared_axis_mm == pytest.approx(-2)
    assert room.shared_axis_sigma_mm == pytest.approx(math.sqrt(2))


# --- what is withheld ---


def test_views_that_contradict_each_other_give_no_shift_but_their_difference():
    room = room_shift(seen(0, 0, 0), seen(0, 5, 90))  # 5 mm are more than 3 * sqrt(2)
    assert room.status == "withheld"
    assert "-5.0 mm" in room.reason
    assert room.shift_mm is room.interval95_mm is None
    assert room.shared_axis_mm == pytest.approx(-5)


@pytest.mark.parametrize("second_deg", [0.0, 180.0, 45.0, 229.0])
def test_beams_that_are_not_apart_give_no_third_axis(second_deg):
    assert "apart" in room_shift(seen(0, 0, 0), seen(0, 0, second_deg)).reason


@pytest.mark.parametrize("which", [0, 1])
def test_a_view_of_unknown_gantry_angle_is_not_combined(which):
    both = [seen(0, 0, 0), seen(0, 0, 90)]
    both[which] = replace(both[which], gantry_deg=None)
    assert "gantry angle" in room_shift(*both).reason


def test_a_withheld_view_is_not_combined():
    withheld = replace(seen(0, 0, 90), status="withheld", reason="too few", shift_mm=None, covariance=None)
    assert room_shift(seen(0, 0, 0), withheld).reason == "the second view was withheld: too few"


def test_a_couch_turned_between_the_views_is_noticed():
    assert "turned by 10.0 deg" in room_shift(seen(0, 0, 0), seen(0, 0, 90, support_deg=350.0)).reason


# --- the couch ---


def in_room(x, y, z, support_deg=0.0):
    return RoomShift("ok", None, (x, y, z), (1, 1, 1), 0.0, 1.0, (0.0, 90.0), support_deg)


def test_the_couch_moves_against_the_shift():
    """The anatomy lies right, towards the gantry and high: the couch goes left, away from the gantry and down."""
    assert couch_move(in_room(3, 4, 5)) == CouchMove(-3, -4, -5, IEC61217.name)


def test_moving_the_couch_as_told_undoes_the_shift():
    move = couch_move(in_room(3, 4, 5))
    np.testing.assert_allclose(np.add((3, 4, 5), (move.lateral_mm, move.longitudinal_mm, move.vertical_mm)), 0)


def test_varian_s_iec_scale_counts_downwards():
    assert couch_move(in_room(3, 4, 5), VARIAN_IEC) == CouchMove(-3, -4, 5, VARIAN_IEC.name)
    assert couch_move(in_room(3, 4, 5), VARIAN_STANDARD) == CouchMove(-3, -4, -5, VARIAN_STANDARD.name)


def test_only_the_standard_s_own_scale_needs_no_trial():
    assert [scale.is_standard for scale in (IEC61217, VARIAN_IEC, VARIAN_STANDARD)] == [True, False, False]


def test_a_couch_turned_counter_clockwise_by_90_deg_has_its_lateral_axis_towards_the_gantry():
    assert table_axes((0, 4, 0), 90) == pytest.approx((4, 0, 0))
    assert table_axes((3, 0, 0), 90) == pytest.approx((0, -3, 0))


@LAW
@given(ROOM, st.floats(2, 358))
def test_turning_the_couch_keeps_the_length_and_the_height(room_mm, support_deg):
    turned = table_axes(room_mm, support_deg)
    assert np.linalg.norm(turned) == pytest.approx(np.linalg.norm(room_mm))
    assert turned[2] == room_mm[2]


def test_a_couch_of_unknown_turn_gets_no_move():
    assert "PatientSupportAngle" in couch_move(replace(in_room(1, 2, 3), support_deg=None))


def test_a_withheld_shift_moves_no_couch():
    withheld = replace(in_room(0, 0, 0), status="withheld", reason="the views differ", shift_mm=None)
    assert couch_move(withheld) == "the views differ"
