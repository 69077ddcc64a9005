"""Which reference an image has, and what that says of its gantry angle."""

from dataclasses import replace

import pytest

from edge.config import ReferenceRule
from edge.portal_image import read_portal_image
from edge.registration.alignment import References, align, with_plan
from edge.registration.reference import add_reference, reference_from_sighting
from edge.registration.sighting import PlaneLandmark, Sighting

BEAM, BY_NAME = "a" * 64, "b" * 64
SEEN = Sighting((PlaneLandmark("tracheal_bifurcation", "point", (1.0, 30.0), 1.5),), (-99, -99, 99, 99), "axes", 0.0)


def reference(key=BEAM, gantry_deg=0.0):
    return reference_from_sighting(key, replace(SEEN, gantry_deg=gantry_deg), release="r1")


@pytest.fixture
def image(write, dicom, collimated):
    """Return a function: an image of a beam that states a gantry angle."""

    def of(stated, beam=BEAM):
        return replace(read_portal_image(write(dicom(collimated(), GantryAngle=stated), "X.dcm")), beam=beam)

    return of


@pytest.fixture
def kept(tmp_path):
    """Return the references of a room: one of a beam, one that a rule names for files whose name begins with X."""
    for key in (BEAM, BY_NAME):
        add_reference(tmp_path, reference(key))
    return References(tmp_path, (ReferenceRule(image_name="X.*", reference=BY_NAME),))


def test_the_plan_tells_before_a_rule_does(kept, image):
    assert kept.of(image("0")).key == BEAM


@pytest.mark.parametrize("beam", [None, "c" * 64], ids=["no plan", "a beam without a reference"])
def test_where_the_plan_does_not_tell_a_rule_does(kept, image, beam):
    assert kept.of(image("0", beam)).key == BY_NAME


def test_without_plan_and_rule_there_is_none(kept, image):
    assert replace(kept, rules=()).of(image("0", None)) is None


@pytest.mark.parametrize(
    ("stated", "planned", "believed"),
    [
        ("0", 0.0, 0.0),
        ("360", 0.4, 0.0),  # within a degree
        ("0", 90.0, None),  # some exports always write 0
        ("90", 0.0, 90.0),  # it says what it is; the registration is withheld for it
        ("90", 90.0, 90.0),
        ("0", None, None),
        (None, 0.0, None),
    ],
)
def test_a_stated_0_is_believed_where_the_plan_says_so(image, stated, planned, believed):
    seen = with_plan(image(stated), reference(gantry_deg=planned))
    assert seen.geometry.gantry_deg == believed


def test_a_rule_is_no_evidence_of_an_angle(image):
    assert with_plan(image("0"), reference(BY_NAME)).geometry.gantry_deg is None


def test_an_image_of_another_angle_than_its_beam_is_withheld(image, contract):
    seen = with_plan(image("90"), reference(gantry_deg=0.0))
    made = align(seen, (), contract().kinds, reference(gantry_deg=0.0), "r1")
    assert made.registration.status == "withheld"
    assert "another gantry angle" in made.registration.reason


def test_a_reference_that_cannot_be_used_is_the_reason(image, contract):
    made = align(image("0"), (), contract().kinds, "it is damaged", "r1")
    assert (made.reference, made.registration.reason) == (None, "the reference cannot be used: it is damaged")
