"""What a file says of its geometry, attribute by attribute: the same millimetres, or none and the reason."""

from dataclasses import fields

import numpy as np
import pytest

from edge.errors import ImplausibleGeometry
from edge.geometry import ISOCENTRE_UNCERTAIN, GeometryTags, ImageGeometry
from edge.portal_image import read_portal_image

NEGATIVE = {  # every attribute that geometry is made of, with a negative value
    "RTImageSID": "-1500",
    "RadiationMachineSAD": "-1000",
    "ImagePlanePixelSpacing": "-0.8\\-0.8",
    "RTImagePosition": "102\\-76.4",
    "XRayImageReceptorTranslation": "0\\0\\500",
    "XRayImageReceptorAngle": "-90",
    "RTImageOrientation": "-1\\0\\0\\0\\1\\0",
    "RTImagePlane": "-1",
    "GantryAngle": "-90",
    "PatientSupportAngle": "-90",
}
NO_NUMBERS = ["about a metre", "1000,0", "nan", "1_000"]
DEMANDED = ["RTImageSID", "RadiationMachineSAD", "ImagePlanePixelSpacing"]
ANGLES = ["GantryAngle", "PatientSupportAngle"]  # they move no millimetre
SOME_PX = [[0.0, 0.0], [200.25, 10.5]]


@pytest.fixture
def read(dicom, write, collimated):
    """Return a function: read a file of the same pixels with these attributes."""
    return lambda **changes: read_portal_image(write(dicom(collimated(), **changes)))


@pytest.fixture
def right_mm(read):
    """Return where `SOME_PX` lie by a file of which nothing is wrong."""
    return read().geometry.to_isoplane(SOME_PX)


def test_the_table_has_every_attribute():
    assert len(NEGATIVE) == len(fields(GeometryTags))


def test_the_geometry_is_the_file_s(read):
    geometry = read().geometry
    assert isinstance(geometry, ImageGeometry)
    assert geometry.to_isoplane([127.5, 95.5]) == pytest.approx([0, 0], abs=1e-9)  # mm
    assert geometry.mm_per_px_at_isocentre == pytest.approx((0.8 / 1.5, 0.8 / 1.5))
    assert geometry.gantry_deg == 90


@pytest.mark.parametrize("attribute", DEMANDED)
@pytest.mark.parametrize("value", [None, "", *NO_NUMBERS])
def test_without_a_distance_or_spacing_there_are_pixels_only_and_the_reason(read, collimated, attribute, value):
    image = read(**{attribute: value})
    assert image.geometry is None
    assert attribute in image.geometry_reason
    np.testing.assert_array_equal(image.pixels, collimated())


@pytest.mark.parametrize("attribute", sorted(NEGATIVE.keys() - DEMANDED))
@pytest.mark.parametrize("value", [None, ""])
def test_what_is_left_out_changes_no_millimetre(read, right_mm, attribute, value):
    np.testing.assert_allclose(read(**{attribute: value}).geometry.to_isoplane(SOME_PX), right_mm, atol=1e-9)


@pytest.mark.parametrize("attribute", sorted(NEGATIVE.keys() - {*DEMANDED, *ANGLES}))
@pytest.mark.parametrize("value", NO_NUMBERS)
def test_what_is_no_number_gives_no_millimetre_and_names_the_attribute(read, attribute, value):
    image = read(**{attribute: value})
    assert image.geometry is None
    assert attribute in image.geometry_reason


@pytest.mark.parametrize("attribute", ANGLES)
@pytest.mark.parametrize("value", NO_NUMBERS)
def test_an_angle_that_is_no_number_is_not_known(read, right_mm, attribute, value):
    geometry = read(**{attribute: value}).geometry
    np.testing.assert_allclose(geometry.to_isoplane(SOME_PX), right_mm, atol=1e-9)
    assert {"GantryAngle": geometry.gantry_deg, "PatientSupportAngle": geometry.support_deg}[attribute] is None


@pytest.mark.parametrize("attribute", sorted(NEGATIVE.keys() - {"RTImageSID", *ANGLES}))
def test_a_negative_value_gives_no_millimetre_and_names_the_attribute(read, attribute):
    image = read(**{attribute: NEGATIVE[attribute]})
    assert image.geometry is None
    assert attribute in image.geometry_reason


def test_a_negative_image_distance_is_refused(read):
    with pytest.raises(ImplausibleGeometry, match="RTImageSID is -1500 mm"):
        read(RTImageSID="-1500")


def test_a_negative_angle_is_one_below_360(read, right_mm):
    turned = [read(**{angle: NEGATIVE[angle]}).geometry for angle in ANGLES]
    assert (turned[0].gantry_deg, turned[1].support_deg) == (270, 270)
    for geometry in turned:
        np.testing.assert_allclose(geometry.to_isoplane(SOME_PX), right_mm, atol=1e-9)


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_position_the_isocentre_is_uncertain(read, value):
    assert ISOCENTRE_UNCERTAIN in read(RTImagePosition=value).geometry.warnings
