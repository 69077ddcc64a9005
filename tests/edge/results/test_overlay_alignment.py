import io
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFont

from edge.preprocess import fit_into_square
from edge.results.overlay import LINE, draw_overlay
from edge.results.overlay_alignment import arrow_head, figures
from edge.results.wording import Alignment

WHITE = (255, 255, 255)
ZOOM = 4  # page px a detector px: the picture is 1024 px wide, the image 256
FONT = ImageFont.load_default(18)
KINDS = 3


@pytest.fixture
def picture(portal, kinds):
    """Return a function: the page as (H, W, 3) int, with the shadow of a collimator that leaves the middle grey."""
    shown = portal()

    def draw(landmarks=(), alignment=None, *, image=shown.image):
        placement, _ = fit_into_square(image.pixels.shape, 48)
        heatmaps = np.zeros((KINDS, 36, 36), np.float32)
        png = draw_overlay(image, landmarks, heatmaps, placement, kinds, alignment)
        return np.asarray(Image.open(io.BytesIO(png))).astype(int)

    draw.shown = shown
    return draw


def on_page(x, y):
    return np.array(((x + 0.5) * ZOOM - 0.5, (y + 0.5) * ZOOM - 0.5))


def new_white(page, plain):
    """Return (m, 2) x, y of the picture's pixels that have become white."""
    height = 192 * ZOOM
    return np.argwhere((page[:height] >= 250).all(-1) & (plain[:height] < 250).any(-1))[:, ::-1]


def middle(points):
    return (points.min(axis=0) + points.max(axis=0)) / 2


def test_without_a_reference_the_page_has_the_lines_of_the_kinds_and_the_warning(picture):
    assert picture().shape[0] == 192 * ZOOM + LINE * (KINDS + 1) + 4


def test_with_a_reference_a_line_explains_its_marks_and_three_give_the_shift(picture, registered):
    page = picture((), Alignment((), registered()))
    assert page.shape[0] == 192 * ZOOM + LINE * (KINDS + 1 + 3 + 1) + 4


@pytest.mark.parametrize("place", [(60, 70), (200.25, 130.5)])
def test_a_reference_mark_lies_where_the_plan_has_the_landmark(picture, withheld, place):
    planned = [picture.shown.landmark("spinous_process", *place)]
    marks = new_white(picture((), Alignment(planned, withheld)), picture())
    assert middle(marks) == pytest.approx(on_page(*place), abs=1.0)  # page px; marks are drawn on whole pixels
    assert np.ptp(marks, axis=0) == pytest.approx((17, 17), abs=2)


def test_a_planned_line_is_drawn_as_a_line(picture, withheld):
    planned = [picture.shown.landmark("spine_line", 70, y) for y in (60, 90, 120)]
    marks = new_white(picture((), Alignment(planned, withheld)), picture())
    assert np.ptp(marks[:, 0]) <= 1
    assert (marks[:, 1].min(), marks[:, 1].max()) == pytest.approx((on_page(0, 60)[1], on_page(0, 120)[1]), abs=1.5)


def test_a_planned_place_off_the_image_is_not_drawn(picture, withheld):
    planned = [picture.shown.landmark("spinous_process", 100, y) for y in (-4, 193)]
    assert len(new_white(picture((), Alignment(planned, withheld)), picture())) == 0


def test_what_runs_out_of_the_picture_is_not_in_the_legend(picture, registered):
    far = picture.shown.landmark("spinous_process", 100, 191)
    pages = [picture((), Alignment(planned, registered())) for planned in ((), [far])]
    legends = [page[192 * ZOOM :] for page in pages]
    assert np.array_equal(*legends)
    assert not np.array_equal(*(page[: 192 * ZOOM] for page in pages))


def test_what_was_found_lies_above_what_was_planned(picture, withheld):
    found = [picture.shown.landmark("spine_line", 100, y) for y in (40, 80, 120)]
    alone, both = picture(found), picture(found, Alignment(found, withheld))
    assert np.array_equal(both[200:400, 380:430], alone[200:400, 380:430])


def test_the_arrow_leads_from_the_isocentre_by_the_shift(picture, registered):
    """16 mm to the right at 0.8 mm / 1.5 per detector px are 30 of them; the panel is centred on the isocentre."""
    marks = new_white(picture((), Alignment((), registered(shift_mm=(16.0, 0.0)))), picture())
    start = on_page(127.5, 95.5)
    assert marks[:, 0].min() == pytest.approx(start[0], abs=2.5)  # page px; half the stroke's width, and rounding
    assert marks[:, 0].max() == pytest.approx(start[0] + 30 * ZOOM, abs=2.5)
    assert middle(marks)[1] == pytest.approx(start[1], abs=1.5)
    head = marks[marks[:, 0] > start[0] + 30 * ZOOM - 8]
    shaft = marks[marks[:, 0] < start[0] + 30 * ZOOM - 15]
    assert np.ptp(head[:, 1]) > 2 * np.ptp(shaft[:, 1])


def test_a_withheld_shift_has_no_arrow(picture, registered):
    shown = picture((), Alignment((), registered(status="withheld")))
    assert len(new_white(shown, picture())) == 0


def test_no_shift_at_all_is_drawn_without_an_error(picture, registered):
    marks = new_white(picture((), Alignment((), registered(shift_mm=(0.0, 0.0)))), picture())
    assert np.ptp(marks, axis=0).max(initial=0) <= 6


def test_without_a_geometry_nothing_of_the_reference_is_drawn(picture, registered):
    planned = [picture.shown.landmark("spinous_process", 60, 70)]
    image = replace(picture.shown.image, geometry=None, geometry_reason="test")
    assert len(new_white(picture((), Alignment(planned, registered()), image=image), picture())) == 0


def test_a_ring_holds_a_landmark_with_95_percent(picture):
    """Of two independent normal errors, the radius that 95 % stay within is sqrt(-2 ln 0.05) sigma (Rayleigh)."""
    landmark = picture.shown.landmark("spinous_process", 100, 90, sigma_px=5.0)
    plain, ringed = picture([replace(landmark, sigma_px=None)]), picture([landmark])
    rows, columns = np.nonzero(np.abs(ringed[: 192 * ZOOM] - plain[: 192 * ZOOM]).max(-1) > 20)
    radius = 5.0 * math.sqrt(-2 * math.log(0.05)) * ZOOM
    x, y = on_page(100, 90)
    edges = columns.min() - x, columns.max() - x, rows.min() - y, rows.max() - y
    assert edges == pytest.approx((-radius, radius, -radius, radius), abs=2.0)  # page px; the stroke is 3 wide


def test_rings_are_explained_where_there_are_some(picture):
    """A landmark of unknown uncertainty has none, and nor has a point of a line."""
    without = [picture.shown.landmark("spinous_process", 100, 90, sigma_px=None)]
    without += [picture.shown.landmark("spine_line", 100, y) for y in (40, 80)]
    ringed = [*without, picture.shown.landmark("spinous_process", 120, 60)]
    assert [picture(one).shape[0] - picture().shape[0] for one in (without, ringed)] == [0, LINE]


# --- the lines below ---


def test_a_long_reason_is_broken_to_the_page_and_loses_no_word(registered):
    reason = "another alignment fits nearly as well " * 6
    lines = figures(Alignment((), registered(status="withheld", reason=reason)), FONT, 400)
    assert len(lines) > 3
    assert max(FONT.getlength(line) for line in lines) <= 400
    assert " ".join(lines).split() == f"registration withheld: {reason}".split()


def test_figures_have_signs_units_and_their_interval(registered):
    lines = figures(Alignment((), registered(rotation_deg=None)), FONT, 2000)
    assert lines[0] == "shift from the reference: x +8.2 +- 0.8 mm, y -5.5 +- 0.9 mm (95 %); rotation not given"
    assert "one vertebra" not in lines[1]
    assert lines[2].startswith("x right, y up in the image")


def test_a_zero_has_no_minus(registered):
    (line, *_) = figures(Alignment((), registered(shift_mm=(-0.04, 0.04), rotation_deg=-0.01)), FONT, 2000)
    assert line == "shift from the reference: x +0.0 +- 0.8 mm, y +0.0 +- 0.9 mm (95 %); rotation +0.0 deg"


# --- the arrow's head ---

PLACES = st.tuples(st.floats(-500, 500), st.floats(-500, 500)).map(np.array)


@given(PLACES, PLACES, st.floats(1, 50))
def test_an_arrow_s_head_leans_back_by_45_degrees_and_is_no_longer_than_the_arrow(start, end, reach):
    shaft = start - end
    length = np.linalg.norm(shaft)
    for tip in arrow_head(start, end, reach):
        assert np.linalg.norm(tip - end) == pytest.approx(min(reach, length), abs=1e-6)
        assert (tip - end) @ shaft == pytest.approx(min(reach, length) * length * math.sqrt(0.5), rel=1e-6, abs=1e-6)
