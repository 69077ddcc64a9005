import io
import math

import numpy as np
import pydicom
import pytest
from PIL import Image

from edge.geometry import ImageGeometry
from edge.results.presentation_state import presentation_state
from edge.results.wording import WARNING, Alignment

HEIGHT, WIDTH = 192, 256
REACH = WIDTH / 120  # px; of a mark, from its middle


def layers(data):
    """Return {layer: (list of (n, 2) polylines, list of texts)} of a presentation state."""
    found = {}
    for item in pydicom.dcmread(io.BytesIO(data)).GraphicAnnotationSequence:
        graphics = item.get("GraphicObjectSequence", [])
        assert all((one.GraphicType, one.GraphicAnnotationUnits) == ("POLYLINE", "PIXEL") for one in graphics)
        lines = [np.reshape(one.GraphicData, (-1, 2)) for one in graphics]
        found[item.GraphicLayer] = lines, list(item.get("TextObjectSequence", []))
    return found


def texts(data, layer):
    return [text.UnformattedTextValue for text in layers(data)[layer][1]]


def drawn(shown, making, kinds, landmarks=(), alignment=None):
    return presentation_state(shown.source, making, shown.image, landmarks, kinds, alignment)


def middle(points):
    return (points.min(axis=0) + points.max(axis=0)) / 2


@pytest.mark.parametrize("place", [(100, 40), (33.25, 150.5)])
def test_a_mark_and_its_score_are_half_a_pixel_from_the_index(portal, making, kinds, place):
    """PS3.3 C.10.5.1.2: (0, 0) is the top-left corner of the first pixel; ours is its centre."""
    shown = portal()
    landmark = shown.landmark("spinous_process", *place, score=0.87, sigma_px=None)
    lines, (text,) = layers(drawn(shown, making, kinds, [landmark]))["LANDMARKS"]
    assert middle(np.concatenate(lines)) == pytest.approx(np.array(place) + 0.5, abs=1e-3)  # px; written to 3 decimals
    assert np.ptp(np.concatenate(lines), axis=0) == pytest.approx((2 * REACH, 2 * REACH), abs=2e-3)
    assert text.UnformattedTextValue == "spinous process 0.87"
    assert text.AnchorPoint == pytest.approx(np.array(place) + 0.5, abs=1e-3)


def test_a_ring_holds_a_landmark_with_95_percent(portal, making, kinds):
    """Of two independent normal errors, the radius that 95 % stay within is sqrt(-2 ln 0.05) sigma (Rayleigh)."""
    shown = portal()
    lines, _ = layers(drawn(shown, making, kinds, [shown.landmark("spinous_process", 128, 96, sigma_px=3.0)]))[
        "LANDMARKS"
    ]
    ring = max(lines, key=len)
    assert np.allclose(ring[0], ring[-1], atol=1e-3)
    radius = np.linalg.norm(ring - (128.5, 96.5), axis=1)
    assert radius == pytest.approx(3.0 * math.sqrt(-2 * math.log(0.05)), abs=2e-3)


@pytest.mark.parametrize("corner", [(-0.5, -0.5), (WIDTH - 0.5, HEIGHT - 0.5), (0, HEIGHT - 1), (WIDTH - 0.5, 3)])
def test_a_mark_at_the_border_is_held_to_the_image(portal, making, kinds, corner):
    shown = portal()
    lines, (text,) = layers(drawn(shown, making, kinds, [shown.landmark("spinous_process", *corner)]))["LANDMARKS"]
    for points in (*lines, np.array([text.AnchorPoint])):
        assert points.min() >= 0
        assert np.all(points <= (WIDTH, HEIGHT))


def test_a_line_runs_through_its_points(portal, making, kinds):
    shown, places = portal(), [(100, 40), (104, 80), (101, 120)]
    landmarks = [shown.landmark("spine_line", *place) for place in places]
    (line,), written = layers(drawn(shown, making, kinds, landmarks))["LANDMARKS"]
    assert np.array_equal(line, np.array(places) + 0.5)
    assert written == []


def test_one_point_makes_no_line(portal, making, kinds):
    shown = portal()
    assert set(layers(drawn(shown, making, kinds, [shown.landmark("spine_line", 9, 9)]))) == {"WARNING"}


def test_the_warning_is_always_there(portal, making, kinds):
    assert texts(drawn(portal(), making, kinds), "WARNING") == [WARNING]


# --- the reference ---


def test_the_reference_is_marked_where_the_plan_has_it(portal, making, kinds, registered):
    shown = portal()
    planned = [shown.landmark("spinous_process", 60, 70)]
    withheld = registered(status="withheld", shift_mm=None)
    lines, _ = layers(drawn(shown, making, kinds, (), Alignment(planned, withheld)))["REFERENCE"]
    assert len(lines) == 2  # the strokes of a slanted cross
    assert middle(np.concatenate(lines)) == pytest.approx((60.5, 70.5), abs=1e-3)


def test_a_planned_place_off_the_image_is_not_marked(portal, making, kinds, withheld):
    shown = portal()
    planned = [shown.landmark("spinous_process", -3, 70)]
    assert layers(drawn(shown, making, kinds, (), Alignment(planned, withheld)))["REFERENCE"][0] == []


def test_the_arrow_leads_from_the_isocentre_by_the_shift(portal, making, kinds, registered):
    shown = portal()  # 0.8 mm at SID 1500, SAD 1000; the panel is centred
    lines, _ = layers(drawn(shown, making, kinds, (), Alignment((), registered(shift_mm=(8.0, -4.0)))))["REFERENCE"]
    shaft, *head = lines
    isocentre = np.array((WIDTH / 2, HEIGHT / 2))
    assert shaft == pytest.approx(
        np.array([isocentre, isocentre + np.array((15.0, 7.5))]), abs=1e-3
    )  # y is down in an image
    assert len(head) == 2
    assert all(np.allclose(stroke[0], shaft[1]) for stroke in head)


def test_the_figures_are_written(portal, making, kinds, registered):
    said = texts(drawn(portal(), making, kinds, (), Alignment((), registered())), "REFERENCE")
    assert said[0] == "shift from the reference: x +8.2 +- 0.8 mm, y -5.5 +- 0.9 mm (95 %); rotation +1.5 deg"
    assert said[1] == "5 landmarks; residual 0.6 mm; next best x +8.0 mm, y +21.5 mm, margin 12.5"


def test_a_withheld_shift_gives_its_reason_and_no_arrow(portal, making, kinds, withheld, registered):
    for registration in (withheld, registered(status="withheld", reason="the row may be one vertebra off")):
        lines, written = layers(drawn(portal(), making, kinds, (), Alignment((), registration)))["REFERENCE"]
        assert lines == []
        assert [one.UnformattedTextValue for one in written] == [
            "registration withheld: the row may be one vertebra off"
        ]


def test_without_a_geometry_the_reference_has_no_place(portal, making, kinds, registered):
    shown = portal(RTImageSID=None)
    assert not isinstance(shown.image.geometry, ImageGeometry)
    planned = [portal().landmark("spinous_process", 60, 70)]
    assert layers(drawn(shown, making, kinds, (), Alignment(planned, registered())))["REFERENCE"][0] == []


# --- grey levels ---


def test_the_whole_image_is_shown_and_referred_to(portal, making, kinds):
    state = pydicom.dcmread(io.BytesIO(drawn(portal(), making, kinds)))
    (area,) = state.DisplayedAreaSelectionSequence
    assert list(area.DisplayedAreaBottomRightHandCorner) == [WIDTH, HEIGHT]
    (series,) = state.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == "1.2.3.2"
    assert series.ReferencedImageSequence[0].ReferencedSOPInstanceUID == "1.2.3.4"


@pytest.fixture
def rendered(tool, making, kinds, tmp_path):
    """Return a function: the picture of an image under its presentation state, by DCMTK, (H, W) uint8."""

    def picture(shown):
        done = tool("dcmp2pgm", "dcmtk", "-p", drawn(shown, making, kinds), shown.data, tmp_path / "picture.pgm")
        assert done.returncode == 0, done.stderr
        return np.array(Image.open(tmp_path / "picture.pgm"))

    return picture


def test_less_dose_is_brighter_as_on_film(rendered, portal, collimated):
    shown = portal(collimated())
    grey = rendered(shown).astype(float)
    assert grey.shape == (HEIGHT, WIDTH)
    lung, spine, shadow = grey[96, 80], grey[96, 128], grey[5, 5]
    assert lung < spine < shadow + 1
    dose = shown.image.pixels[40:150, 50:205]
    assert np.corrcoef(dose.ravel(), grey[40:150, 50:205].ravel())[0, 1] < -0.95  # the window clips the outermost


@pytest.mark.parametrize(
    "change",
    [{"PixelIntensityRelationshipSign": -1}, {"RescaleSlope": "-1", "RescaleIntercept": "65535"}],
    ids=["sign", "slope"],
)
def test_the_negative_of_an_image_is_shown_alike(rendered, portal, collimated, change):
    """Both say which way the dose goes: a sign of -1, and a slope that turns the values round."""
    negative = portal(65535 - collimated(), **change)
    assert np.abs(rendered(portal(collimated())).astype(int) - rendered(negative)).max() <= 1  # grey level; rounding
