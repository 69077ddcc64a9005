import math
import re
from dataclasses import fields, replace

import numpy as np
import pytest

from edge.errors import ImplausibleGeometry
from edge.geometry import (
    GANTRY_UNTRUSTED,
    ISOCENTRE_UNCERTAIN,
    POSITION_CONVENTION_ASSUMED,
    RECEPTOR_TRANSLATION_ASSUMED,
    SID_BELOW_SAD,
    GeometryTags,
    ImageGeometry,
    decimal,
    image_geometry,
    stated_angle,
    with_gantry_evidence,
)

ROWS, COLUMNS = 768, 1024
SHAPE = ROWS, COLUMNS
EXACT_MM = 1e-9  # arithmetic only


def texts(*values):
    return tuple(f"{value}" for value in values)


# A Varian aS1000 panel at SID 1500: 0.392 mm pixels, position of the CENTRE of the first pixel.
TAGS = GeometryTags(
    sid_mm=texts(1500),
    sad_mm=texts(1000),
    spacing_mm=texts(0.392, 0.392),
    position_mm=texts(-0.392 * (COLUMNS - 1) / 2, 0.392 * (ROWS - 1) / 2),
    translation_mm=texts(0, 0, -500),
    receptor_deg=texts(0),
    orientation=texts(1, 0, 0, 0, -1, 0),
    plane=("NORMAL",),
    gantry_deg=texts(180),
)
CENTRE_PX = np.array([(COLUMNS - 1) / 2, (ROWS - 1) / 2])
SOME_PX = np.array([[0.0, 0.0], [1023.0, 767.0], [300.25, 10.5]])


def known(**changes):
    geometry = image_geometry(replace(TAGS, **changes), SHAPE)
    assert isinstance(geometry, ImageGeometry), geometry
    return geometry


def reason(**changes):
    answer = image_geometry(replace(TAGS, **changes), SHAPE)
    assert isinstance(answer, str), answer
    return answer


def test_the_middle_of_a_centred_panel_is_the_isocentre():
    np.testing.assert_allclose(known().to_isoplane(CENTRE_PX), [0, 0], atol=EXACT_MM)


def test_right_in_the_image_is_plus_x_and_up_is_plus_y():
    right, up = known().to_isoplane(np.add(CENTRE_PX, [[1, 0], [0, -1]]))
    step = 0.392 * 1000 / 1500  # spacing at the receptor, demagnified
    np.testing.assert_allclose([right, up], [[step, 0], [0, step]], atol=EXACT_MM)


def test_row_spacing_is_vertical_and_column_spacing_is_horizontal():
    tall = known(spacing_mm=texts(0.4, 0.2), position_mm=texts(-0.2 * (COLUMNS - 1) / 2, 0.4 * (ROWS - 1) / 2))
    assert tall.mm_per_px_at_isocentre == pytest.approx((0.2 / 1.5, 0.4 / 1.5))
    np.testing.assert_allclose(tall.to_isoplane(CENTRE_PX + 3), [3 * 0.2 / 1.5, -3 * 0.4 / 1.5], atol=EXACT_MM)


def test_pixels_come_back_from_millimetres():
    moved = known(translation_mm=texts(12.5, -3, 1435 - 1500), sad_mm=texts(1435))
    np.testing.assert_allclose(moved.to_pixels(moved.to_isoplane(SOME_PX)), SOME_PX, atol=1e-9)


def test_the_source_axis_distance_is_taken_from_the_file():
    far = known(sad_mm=texts(1435), translation_mm=texts(0, 0, 1435 - 1500))
    np.testing.assert_allclose(far.to_isoplane(SOME_PX), known().to_isoplane(SOME_PX) * 1.435, atol=EXACT_MM)


def test_the_receptor_translation_is_added_at_the_receptor_plane():
    moved = known(translation_mm=texts(30, -15, -500)).to_isoplane(SOME_PX) - known().to_isoplane(SOME_PX)
    np.testing.assert_allclose(moved, np.tile([30 / 1.5, -15 / 1.5], (3, 1)), atol=EXACT_MM)


def test_a_corner_position_gives_the_same_millimetres_as_a_centre_position():
    corner = known(position_mm=texts(-0.392 * COLUMNS / 2, 0.392 * ROWS / 2))
    np.testing.assert_allclose(corner.to_isoplane(SOME_PX), known().to_isoplane(SOME_PX), atol=EXACT_MM)
    assert "corner" in corner.sources["first_pixel_mm"]
    assert "centre" in known().sources["first_pixel_mm"]
    assert corner.warnings == known().warnings == ()


def test_a_position_of_neither_convention_is_taken_as_centre_and_the_isocentre_is_uncertain():
    cropped = known(position_mm=texts(-150, 120))
    assert cropped.first_pixel_mm == (-150, 120)
    assert cropped.warnings == (POSITION_CONVENTION_ASSUMED, ISOCENTRE_UNCERTAIN)


@pytest.mark.parametrize("nothing", [None, ()])
def test_without_a_position_the_scale_is_right_and_the_isocentre_uncertain(nothing):
    centred = known(position_mm=nothing)
    assert centred.warnings == (ISOCENTRE_UNCERTAIN,)
    assert "centred" in centred.sources["first_pixel_mm"]
    np.testing.assert_allclose(centred.to_isoplane(CENTRE_PX), [0, 0], atol=EXACT_MM)
    assert centred.mm_per_px_at_isocentre == known().mm_per_px_at_isocentre


def test_a_position_that_already_holds_the_translation_gives_no_millimetres():
    shift = 160.0  # mm: a panel moved aside; adding it twice would be 107 mm at the isocentre
    twice = texts(-0.392 * (COLUMNS - 1) / 2 + shift, 0.392 * (ROWS - 1) / 2)
    assert "already" in reason(position_mm=twice, translation_mm=texts(shift, 0, -500))


@pytest.mark.parametrize("sid", ["0", "-1500", "-0.0"])
def test_an_image_distance_that_is_not_positive_is_refused_by_name(sid):
    with pytest.raises(ImplausibleGeometry, match=r"RI\.7\.dcm.*RTImageSID"):
        image_geometry(replace(TAGS, sid_mm=(sid,)), SHAPE, "RI.7.dcm")


def test_a_receptor_nearer_than_the_isocentre_is_warned_of_and_magnifies():
    near = known(sid_mm=texts(800), translation_mm=texts(0, 0, 200))
    assert near.warnings == (SID_BELOW_SAD,)
    assert near.mm_per_px_at_isocentre[0] == pytest.approx(0.392 / 0.8)
    assert known(sid_mm=texts(1000), translation_mm=texts(0, 0, 0)).warnings == ()


def test_scaling_the_image_distance_scales_the_millimetres_the_other_way():
    twice = known(sid_mm=texts(3000), translation_mm=texts(0, 0, -2000))
    np.testing.assert_allclose(twice.to_isoplane(SOME_PX), known().to_isoplane(SOME_PX) / 2, atol=EXACT_MM)


@pytest.mark.parametrize("z", [500, -400, -506, 0.5])
def test_a_receptor_that_is_not_where_the_image_distance_says_gives_no_millimetres(z):
    assert "XRayImageReceptorTranslation" in reason(translation_mm=texts(0, 0, z))


@pytest.mark.parametrize("z", [-495.5, -504.5])
def test_a_receptor_within_5_mm_of_the_image_distance_is_believed(z):
    assert known(translation_mm=texts(0, 0, z)).warnings == ()


@pytest.mark.parametrize("nothing", [None, (), texts(0, 0, 0)])
def test_a_translation_that_is_not_stated_is_taken_as_zero_and_flagged(nothing):
    geometry = known(translation_mm=nothing)
    assert geometry.warnings == (RECEPTOR_TRANSLATION_ASSUMED,)
    assert "taken as zero" in geometry.sources["receptor_translation_mm"]


@pytest.mark.parametrize(("sid", "sad"), [("150", "1000"), ("1500", "100"), ("499", "1000"), ("4001", "1000")])
def test_distances_in_different_units_give_no_millimetres(sid, sad):
    assert "do not belong together" in reason(sid_mm=(sid,), sad_mm=(sad,), translation_mm=None)


MISSING, EMPTY = None, ()
WORDS = ("not a number",)
NO_MILLIMETRES = [
    *[("sid_mm", value, "RTImageSID") for value in (MISSING, EMPTY, WORDS, ("1500,0",), ("1_500",), ("inf",))],
    *[("sid_mm", ("1500", "1500"), "RTImageSID")],
    *[("sad_mm", value, "RadiationMachineSAD") for value in (MISSING, EMPTY, WORDS, ("-1000",), ("0",), ("nan",))],
    *[("spacing_mm", value, "ImagePlanePixelSpacing") for value in (MISSING, EMPTY, WORDS, ("0.4",))],
    *[("spacing_mm", value, "ImagePlanePixelSpacing") for value in (("-0.4", "0.4"), ("0", "0"), ("0.4", "x"))],
    *[("position_mm", value, "RTImagePosition") for value in (WORDS, ("-200",), ("-200", ""), ("a", "b"))],
    ("position_mm", texts(200.508, -150.332), "RTImagePosition"),  # the wrong sign
    ("position_mm", texts(-20.0508, -15.0332), "RTImagePosition"),  # centimetres, and y downwards
    *[("translation_mm", value, "XRayImageReceptorTranslation") for value in (WORDS, ("0", "0"), ("0", "", "0"))],
    ("translation_mm", texts(-500, 0, 0), "XRayImageReceptorTranslation"),  # off the panel
    *[("receptor_deg", value, "XRayImageReceptorAngle") for value in (WORDS, ("-90",), ("90",), ("180",), ("0.5",))],
    *[("orientation", value, "RTImageOrientation") for value in (WORDS, ("1", "0", "0"))],
    ("orientation", texts(-1, 0, 0, 0, -1, 0), "RTImageOrientation"),  # mirrored
    ("orientation", texts(0, 1, 0, 1, 0, 0), "RTImageOrientation"),
    ("plane", ("NON_NORMAL",), "RTImagePlane"),
]


@pytest.mark.parametrize(("field", "value", "named"), NO_MILLIMETRES)
def test_what_cannot_be_trusted_gives_a_reason_instead_of_millimetres(field, value, named):
    assert named in reason(**{field: value})


OPTIONAL = ["translation_mm", "receptor_deg", "orientation", "plane", "gantry_deg", "support_deg"]


@pytest.mark.parametrize("field", OPTIONAL)
@pytest.mark.parametrize("nothing", [MISSING, EMPTY])
def test_what_may_be_left_out_changes_no_millimetre(field, nothing):
    np.testing.assert_allclose(
        known(**{field: nothing}).to_isoplane(SOME_PX), known().to_isoplane(SOME_PX), atol=EXACT_MM
    )


@pytest.mark.parametrize("field", [one.name for one in fields(GeometryTags)])
@pytest.mark.parametrize(
    "value", [None, (), ("",), ("-1",), ("0",), ("about 1",), ("nan",), ("1e400",), ("1",) * 7, ("", "1")]
)
def test_no_bad_attribute_gives_a_wrong_millimetre(field, value):
    try:
        answer = image_geometry(replace(TAGS, **{field: value}), SHAPE)
    except ImplausibleGeometry:
        assert field == "sid_mm"
    else:
        if isinstance(answer, ImageGeometry):
            np.testing.assert_allclose(answer.to_isoplane(SOME_PX), known().to_isoplane(SOME_PX), atol=EXACT_MM)
        else:
            assert re.search("RTImage|RadiationMachine|ImagePlane|XRayImageReceptor", answer)


def test_a_slightly_turned_panel_is_level_within_a_third_of_a_millimetre():
    turned = known(receptor_deg=("359.95",))
    reach_mm = 0.392 * COLUMNS / 2 * 1000 / 1500  # the panel's edge in the isocentre plane
    assert reach_mm * math.radians(0.05) < 0.35
    np.testing.assert_allclose(turned.to_isoplane(SOME_PX), known().to_isoplane(SOME_PX), atol=EXACT_MM)


@pytest.mark.parametrize(("written", "angle"), [("270", 270.0), ("-90", 270.0), ("359.9535", 359.9535)])
def test_a_gantry_angle_is_given_between_0_and_360(written, angle):
    assert known(gantry_deg=(written,)).gantry_deg == pytest.approx(angle)
    assert GANTRY_UNTRUSTED not in known(gantry_deg=(written,)).warnings


@pytest.mark.parametrize("zero", ["0", "0.0", "360", "-0"])
def test_a_gantry_angle_of_zero_may_be_a_default_and_is_not_trusted(zero):
    geometry = known(gantry_deg=(zero,))
    assert geometry.gantry_deg is None
    assert geometry.warnings == (GANTRY_UNTRUSTED,)
    assert "untrusted" in geometry.sources["gantry_deg"]
    assert "unknown gantry" in geometry.axes


@pytest.mark.parametrize("value", [MISSING, EMPTY, WORDS, ("1", "2")])
def test_a_gantry_angle_that_is_not_there_costs_no_millimetre_and_no_warning(value):
    geometry = known(gantry_deg=value)
    assert geometry.gantry_deg is None
    assert geometry.warnings == ()


def test_a_gantry_angle_of_zero_is_trusted_where_the_plan_says_so_too():
    file = replace(TAGS, gantry_deg=("0.0",))
    believed = with_gantry_evidence(known(gantry_deg=("0.0",)), stated_angle(file.gantry_deg), planned_deg=359.6)
    assert believed.gantry_deg == 0
    assert believed.warnings == ()
    assert "gantry 0.00 deg" in believed.axes
    assert "as planned" in believed.sources["gantry_deg"]


@pytest.mark.parametrize("written", ["0", "90"])
def test_a_gantry_angle_other_than_the_planned_one_is_not_trusted(written):
    doubted = with_gantry_evidence(known(gantry_deg=(written,)), float(written), planned_deg=270)
    assert doubted.gantry_deg is None
    assert doubted.warnings == (GANTRY_UNTRUSTED,)
    assert "the plan's beam has 270" in doubted.sources["gantry_deg"]


def test_a_plan_gives_no_gantry_angle_to_a_file_that_states_none():
    geometry = known(gantry_deg=())
    assert with_gantry_evidence(geometry, stated_angle(()), planned_deg=90) == geometry


@pytest.mark.parametrize(("written", "angle"), [(("0",), 0), (("-10",), 350), ((), None), (None, None), (("x",), None)])
def test_the_turn_of_the_couch_is_what_the_file_states(written, angle):
    assert known(support_deg=written).support_deg == angle


def test_no_patient_axis_is_claimed_from_one_projection():
    assert "no patient axis" in known().axes
    assert "gantry 180" in known().axes


def test_every_number_names_its_source():
    assert known().sources.keys() == {
        *("sid_mm", "sad_mm", "spacing_mm", "first_pixel_mm"),
        *("receptor_translation_mm", "gantry_deg", "support_deg"),
    }


@pytest.mark.parametrize(("text", "value"), [("1500", 1500), ("-1.5E+2", -150), (".5", 0.5), ("+4.", 4)])
def test_decimal_strings_of_the_standard_are_numbers(text, value):
    assert decimal(text) == value


@pytest.mark.parametrize("text", ["", "nan", "inf", "-infinity", "1e999", "1_0", "1,5", "0x1", "١", "1 5", "1.2.3"])
def test_other_texts_are_no_numbers(text):
    assert decimal(text) is None
