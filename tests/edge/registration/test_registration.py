import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edge.geometry import ISOCENTRE_UNCERTAIN, RECEPTOR_TRANSLATION_ASSUMED
from edge.registration.register import NORMAL_95, PARALLAX, PARALLAX_LATERAL, Rules, register
from edge.registration.sighting import PlaneLandmark, Sighting

ARITHMETIC_MM = 1e-6
WINDOW = (-130.0, -130.0, 130.0, 130.0)
# Tips of spinous processes from the top, as irregular as in a thorax, and two named points.
TIPS = np.array(
    [(4, 118), (3, 96), (1, 77), (-1, 53), (-2, 26), (0, 3), (2, -24), (3, -55), (2, -80), (0, -112)], float
)
CARINA, LOUIS = (6.0, 30.0), (70.0, 45.0)
LAW = settings(derandomize=True, max_examples=10, database=None, deadline=None)
SHIFTS = st.tuples(st.floats(-20, 20), st.floats(-20, 20))


def tip(xy, sigma=2.0):
    return PlaneLandmark("spinous_process", "row", (float(xy[0]), float(xy[1])), sigma)


def named(kind, xy, sigma=2.0):
    return PlaneLandmark(kind, "point", (float(xy[0]), float(xy[1])), sigma)


def line(xy, sigma=3.0):
    return [PlaneLandmark("spine_line", "line", (float(x), float(y)), sigma) for x, y in xy]


def sight(*landmarks, window=WINDOW, gantry_deg=180.0, **more):
    return Sighting(tuple(landmarks), window, "axes of the image", gantry_deg=gantry_deg, **more)


POINTS = "spinous_process", "tracheal_bifurcation", "louis_angle"
SPINE_Y = np.arange(110, -111, -12.0)
SPINE = np.stack((np.interp(SPINE_Y, TIPS[::-1, 1], TIPS[::-1, 0]), SPINE_Y), axis=1)
PLAN = sight(*map(tip, TIPS), named("tracheal_bifurcation", CARINA), named("louis_angle", LOUIS), *line(SPINE))


def moved(sighting, shift=(0, 0), angle_deg=0.0, scale=1.0):
    """Return the sighting with every landmark turned about the isocentre, magnified, and then shifted."""
    angle = math.radians(angle_deg)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    xy = [tuple((scale * turn @ one.xy_mm + shift).tolist()) for one in sighting.landmarks]
    return replace(
        sighting, landmarks=tuple(replace(o, xy_mm=at) for o, at in zip(sighting.landmarks, xy, strict=True))
    )


def only(sighting, *kinds):
    return replace(sighting, landmarks=tuple(one for one in sighting.landmarks if one.kind in kinds))


def shift_of(reference, detected, **rules):
    answer = register(reference, detected, replace(Rules(), **rules))
    assert answer.status == "ok", answer.reason
    return answer


def reason(reference, detected, **rules):
    answer = register(reference, detected, replace(Rules(), **rules))
    assert answer.status == "withheld"
    assert answer.shift_mm is answer.rotation_deg is answer.interval95_mm is answer.covariance is None
    return answer.reason


# --- laws ---


def test_an_image_registered_with_itself_has_not_moved():
    same = shift_of(PLAN, PLAN)
    assert same.shift_mm == pytest.approx((0, 0), abs=ARITHMETIC_MM)
    assert same.rotation_deg == pytest.approx(0, abs=1e-6)
    assert same.residual_mm == pytest.approx(0, abs=ARITHMETIC_MM)
    assert same.n_used == 12


@LAW
@given(SHIFTS)
def test_the_shift_is_detected_minus_planned(shift):
    answer = shift_of(PLAN, moved(PLAN, shift))
    assert answer.shift_mm == pytest.approx(shift, abs=1e-3)
    assert answer.rotation_deg == pytest.approx(0, abs=1e-3)


@LAW
@given(SHIFTS, st.floats(-4, 4))
def test_shifting_the_image_by_d_shifts_the_result_by_d(d, angle_deg):
    start = moved(PLAN, (1, -2), angle_deg)
    before, after = shift_of(PLAN, start), shift_of(PLAN, moved(start, d))
    assert np.subtract(after.shift_mm, before.shift_mm) == pytest.approx(d, abs=1e-3)


@LAW
@given(SHIFTS)
def test_swapping_image_and_reference_negates_a_shift(shift):
    there, back = shift_of(PLAN, moved(PLAN, shift)), shift_of(moved(PLAN, shift), PLAN)
    assert np.negative(back.shift_mm) == pytest.approx(there.shift_mm, abs=1e-3)


@LAW
@given(SHIFTS, st.floats(-4, 4))
def test_swapping_image_and_reference_inverts_the_whole_motion(shift, angle_deg):
    points = only(PLAN, *POINTS)
    there, back = shift_of(points, moved(points, shift, angle_deg)), shift_of(moved(points, shift, angle_deg), points)
    assert there.rotation_deg == pytest.approx(angle_deg, abs=1e-3)
    assert back.rotation_deg == pytest.approx(-angle_deg, abs=1e-3)
    angle = math.radians(-angle_deg)  # the inverse of R x + t is R' x - R' t
    turned_back = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) @ shift
    assert np.negative(back.shift_mm) == pytest.approx(turned_back, abs=1e-2)


@LAW
@given(st.randoms(use_true_random=False), SHIFTS)
def test_the_order_of_landmarks_changes_nothing(random, shift):
    detected = moved(PLAN, shift)
    mixed = [list(one.landmarks) for one in (PLAN, detected)]
    for landmarks in mixed:
        random.shuffle(landmarks)
    reference, image = (replace(o, landmarks=tuple(m)) for o, m in zip((PLAN, detected), mixed, strict=True))
    assert shift_of(reference, image).shift_mm == pytest.approx(shift_of(PLAN, detected).shift_mm, abs=1e-4)


@LAW
@given(st.floats(0.5, 2), st.tuples(st.floats(-10, 10), st.floats(-10, 10)))
def test_scaling_all_millimetres_scales_the_shift(factor, shift):
    """As a wrong source distance in both files would: nothing but the limits in mm notices."""
    assume(factor * np.linalg.norm(shift) < 25)

    def scaled(sighting):
        enlarged = moved(sighting, scale=factor)
        larger = tuple(replace(one, sigma_mm=one.sigma_mm * factor) for one in enlarged.landmarks)
        return replace(enlarged, landmarks=larger, window_mm=tuple(factor * edge for edge in sighting.window_mm))

    detected = moved(PLAN, shift)
    answer = shift_of(scaled(PLAN), scaled(detected), margin=0, widest_interval_mm=50)
    assert answer.shift_mm == pytest.approx(np.multiply(shift, factor), abs=2e-3)


# --- the uncertainty ---


def test_the_interval_of_two_equal_points_about_the_isocentre_is_that_of_their_mean():
    """sqrt(2) * 2 mm of a difference, over sqrt(2) points; a turn about their middle costs nothing."""
    pair = sight(named("tracheal_bifurcation", (0, 40)), named("louis_angle", (0, -40)))
    assert shift_of(pair, pair).interval95_mm == pytest.approx((NORMAL_95 * 2, NORMAL_95 * 2), rel=1e-4)


@pytest.mark.parametrize(("gantry_deg", "share"), [(0.0, PARALLAX), (None, PARALLAX), (90.0, PARALLAX_LATERAL)])
def test_a_shift_is_less_certain_the_larger_it_is(gantry_deg, share):
    plan = replace(PLAN, gantry_deg=gantry_deg)
    near, far = shift_of(plan, plan), shift_of(plan, moved(plan, (20, 0)))
    expected = math.hypot(near.interval95_mm[0], NORMAL_95 * share * 20)
    assert far.interval95_mm[0] == pytest.approx(expected, rel=0.01)


def test_more_certain_landmarks_weigh_more():
    """One is right, the other 3 mm off with three times the sigma: the mean weighs them 9 to 1, less what turns."""
    plan = sight(named("tracheal_bifurcation", (0, 1), 1e-3), named("louis_angle", (0, -1), 1e-3))
    seen = sight(named("tracheal_bifurcation", (0, 1), 1.0), named("louis_angle", (3, -1), 3.0))
    assert shift_of(plan, seen, margin=0).shift_mm[0] == pytest.approx(3 * 0.1, abs=0.02)


def test_residuals_beyond_chance_widen_the_interval_and_say_so():
    rng = np.random.default_rng(4)
    noisy = replace(
        PLAN,
        landmarks=tuple(replace(one, xy_mm=tuple(np.add(one.xy_mm, rng.normal(0, 4, 2)))) for one in PLAN.landmarks),
    )
    answer = shift_of(PLAN, noisy, margin=0)
    assert answer.interval95_mm[1] > 1.3 * shift_of(PLAN, PLAN).interval95_mm[1]
    assert any("times wider" in warning for warning in answer.warnings)


# --- the line ---


def test_a_line_fixes_the_shift_across_itself_and_not_along():
    plan = sight(named("tracheal_bifurcation", CARINA, 4.0), named("louis_angle", LOUIS, 4.0), *line(SPINE, 1.0))
    points = only(plan, "tracheal_bifurcation", "louis_angle")
    with_line, without = (shift_of(one, one, widest_interval_mm=20) for one in (plan, points))
    assert with_line.interval95_mm[0] < 0.7 * without.interval95_mm[0]
    assert with_line.interval95_mm[1] > 0.9 * without.interval95_mm[1]


def test_sliding_a_bent_line_along_itself_moves_nothing():
    points = only(PLAN, *POINTS)
    bent = [(10 * math.sin(y / 40), y) for y in SPINE_Y]
    slid = [(10 * math.sin(y / 40), y) for y in SPINE_Y - 5]
    plan, seen = (replace(points, landmarks=(*points.landmarks, *line(xy))) for xy in (bent, slid))
    assert shift_of(plan, seen).shift_mm == pytest.approx((0, 0), abs=0.3)  # mm: the line is the same curve


def test_a_line_alone_gives_no_shift():
    alone = only(PLAN, "spine_line")
    assert "apart from lines" in reason(alone, alone)


def test_a_line_off_to_the_side_is_named_and_left_out():
    wrong = replace(
        PLAN, landmarks=(*only(PLAN, "spinous_process", "louis_angle").landmarks, *line(np.add(SPINE, (40, 0))))
    )
    answer = shift_of(PLAN, wrong)
    assert answer.outliers == ("spine_line",)
    assert answer.shift_mm == pytest.approx((0, 0), abs=ARITHMETIC_MM)


# --- the row of spinous processes ---


def test_a_regular_row_alone_may_be_one_vertebra_off_and_is_withheld():
    row = sight(*(tip((0, y)) for y in range(110, -111, -22)))
    assert "one vertebra off" in reason(row, moved(row, (0, 4)))


def test_even_an_irregular_row_alone_is_withheld():
    """That its irregularity is recognised after missed and false tips is not sure enough (docs/adr/0013)."""
    row = only(PLAN, "spinous_process", "spine_line")
    assert "begins" in reason(row, moved(row, (2, 3)), margin=0)


def test_a_tip_far_from_where_it_is_expected_hardly_pulls():
    """8 mm off is 2.8 sigma of the difference; a tip is found in 0.7, and a false one lies on 1 of 300 x 20 mm^2."""
    off = tuple(replace(o, xy_mm=(0.0, 11.0)) if o.xy_mm == (0.0, 3.0) else o for o in only(PLAN, *POINTS).landmarks)
    sigma, expected = math.hypot(2, 2), 0.0
    for _ in range(20):  # how likely it is right depends on how far it still is from where it is expected
        right = 0.7 * math.exp(-(((8 - expected) / sigma) ** 2) / 2) / (2 * math.pi * sigma**2)
        share = right / (right + 1 / 6000)
        expected = share * 8 / (11 + share)
    pull = shift_of(only(PLAN, *POINTS), replace(PLAN, landmarks=off)).shift_mm[1]
    assert pull == pytest.approx(expected, rel=0.1)
    assert pull < 0.8 * 8 / 12  # as if it were right


def test_a_named_point_tells_which_vertebra_a_regular_row_begins_with():
    row = [tip((0, y)) for y in range(110, -111, -22)]
    plan = sight(*row, named("tracheal_bifurcation", CARINA))
    answer = shift_of(plan, moved(plan, (0, 4)))
    assert answer.shift_mm == pytest.approx((0, 4), abs=1e-3)
    assert abs(answer.runner_up.shift_mm[1] - 4) == pytest.approx(22, abs=4)  # mm: the next vertebra
    assert answer.runner_up.margin >= Rules().margin


def test_an_irregular_row_with_gaps_and_a_false_tip_is_aligned():
    seen = moved(sight(*map(tip, TIPS[[1, 3, 4, 6, 7, 8]]), named("tracheal_bifurcation", CARINA)), (3, -14))
    seen = replace(seen, landmarks=(*seen.landmarks, tip((2, 26))))
    answer = shift_of(PLAN, seen)
    assert answer.shift_mm == pytest.approx((3, -14), abs=1e-3)
    assert answer.n_used == 7
    assert answer.outliers == ("spinous_process at (2.0, 26.0) mm",)


def test_a_wrong_named_point_is_outvoted_and_named():
    seen = replace(
        PLAN,
        landmarks=tuple(
            replace(one, xy_mm=(50.0, -60.0)) if one.kind == "tracheal_bifurcation" else one for one in PLAN.landmarks
        ),
    )
    answer = shift_of(PLAN, seen)
    assert answer.outliers == ("tracheal_bifurcation at (50.0, -60.0) mm",)
    assert answer.shift_mm == pytest.approx((0, 0), abs=ARITHMETIC_MM)


# --- what is withheld ---


def test_two_points_that_contradict_each_other_are_withheld():
    pair = only(PLAN, "tracheal_bifurcation", "louis_angle")
    seen = replace(pair, landmarks=(pair.landmarks[0], replace(pair.landmarks[1], xy_mm=(LOUIS[0], LOUIS[1] - 25))))
    assert "contradict" in reason(pair, seen)


def test_one_point_is_checked_by_nothing():
    one = only(PLAN, "tracheal_bifurcation", "spine_line")
    assert "nothing checks it" in reason(one, one)
    assert shift_of(one, moved(one, (2, 3)), fewest_points=1, widest_interval_mm=20).shift_mm == pytest.approx(
        (2, 3), abs=1e-3
    )


def test_a_rotation_is_given_only_where_the_landmarks_fix_it():
    near = sight(named("tracheal_bifurcation", (0, 10)), named("louis_angle", (20, 10)))
    answer = shift_of(near, moved(near, (1, 1)))
    assert answer.rotation_deg is None  # 2.8 mm over 20 mm is 8 deg
    assert shift_of(PLAN, moved(PLAN, angle_deg=3)).rotation_deg == pytest.approx(3, abs=1e-3)


def test_no_millimetres_no_registration():
    assert reason("PNG files carry no geometry", PLAN) == "the reference cannot be used: PNG files carry no geometry"
    assert "the image has no millimetres" in reason(PLAN, "RTImageSID is missing")


@pytest.mark.parametrize("which", [0, 1])
def test_an_uncertain_isocentre_withholds_the_shift(which):
    both = [PLAN, PLAN]
    both[which] = replace(PLAN, warnings=(ISOCENTRE_UNCERTAIN,))
    assert "uncertain" in reason(*both)


def test_a_reference_of_another_gantry_or_couch_angle_is_refused():
    assert "gantry angle" in reason(PLAN, replace(PLAN, gantry_deg=90.0))
    assert "couch angle" in reason(replace(PLAN, support_deg=0.0), replace(PLAN, support_deg=10.0))
    assert shift_of(replace(PLAN, gantry_deg=359.5), replace(PLAN, gantry_deg=0.5)).status == "ok"


def test_landmarks_without_a_stated_uncertainty_are_not_weighed():
    unknown = replace(PLAN, landmarks=tuple(replace(one, sigma_mm=None) for one in PLAN.landmarks))
    assert "the image has no landmark of a known uncertainty" in reason(PLAN, unknown)


def test_other_kinds_have_nothing_in_common():
    assert "same kind" in reason(only(PLAN, "louis_angle"), only(PLAN, "tracheal_bifurcation"))


def test_a_shift_beyond_any_setup_is_withheld():
    assert "belong together" in reason(PLAN, replace(moved(PLAN, (0, -45)), window_mm=(-130, -180, 130, 130)), margin=0)


def test_a_shift_too_uncertain_to_use_is_withheld_with_its_axis():
    vague = replace(
        PLAN, landmarks=tuple(replace(one, sigma_mm=15.0) for one in PLAN.landmarks if one.shape == "point")
    )
    assert "along x" in reason(vague, vague, margin=0)


def test_warnings_of_the_geometry_and_unchecked_gantries_are_passed_on():
    doubted = replace(PLAN, gantry_deg=None, warnings=(RECEPTOR_TRANSLATION_ASSUMED,))
    warnings = shift_of(PLAN, doubted).warnings
    assert f"image: {RECEPTOR_TRANSLATION_ASSUMED}" in warnings
    assert any("could not be checked" in one for one in warnings)


def test_the_patient_s_place_along_the_beam_does_not_pass_for_a_shift():
    """20 mm nearer the source everything is 2 % larger about the beam axis."""
    answer = shift_of(PLAN, moved(PLAN, scale=1.02))
    assert np.abs(answer.shift_mm).max() < 0.3  # mm


COORDINATES = st.one_of(st.sampled_from([0.0, 1.0, 1e6]), st.floats(-150, 150))
SIGMAS = st.sampled_from([None, 1e-6, 0.5, 2.0, 50.0, 1e5])
KINDS = st.sampled_from([("tip", "row"), ("carina", "point"), ("louis", "point"), ("spine", "line")])


@st.composite
def sightings(draw):
    drawn = draw(st.lists(st.tuples(KINDS, COORDINATES, COORDINATES, SIGMAS), max_size=10))
    return sight(*(PlaneLandmark(*kind, (x, y), sigma) for kind, x, y, sigma in drawn))


@settings(derandomize=True, max_examples=200, database=None, deadline=None)
@given(sightings(), sightings())
def test_whatever_is_seen_there_is_a_result_or_a_reason(reference, detected):
    answer = register(reference, detected)
    assert (answer.status == "ok") == (answer.reason is None) == (answer.shift_mm is not None)
    if answer.status == "ok":
        assert np.isfinite([*answer.shift_mm, *answer.interval95_mm]).all()
        assert max(answer.interval95_mm) <= Rules().widest_interval_mm
