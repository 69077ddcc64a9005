"""What the picture for people shows of a registration: planned places, the shift as an arrow, and its figures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

import numpy as np
from PIL import ImageDraw, ImageFont

from edge.geometry import ImageGeometry
from edge.records import Landmark
from edge.registration.register import Registration
from edge.results.wording import Alignment, shift_line, shift_of, support_line

WHITE, RIM = (255, 255, 255), (0, 0, 0)
REACH = 8  # of a reference mark, from its middle
HEAD = 10  # of the arrow, page px
RADIUS95_SIGMA = 2.4477  # sqrt(chi2 with 2 degrees of freedom, 95 %): the ellipse that holds 95 % of both axes' errors
EXPLAINED = "x right, y up in the image, at the isocentre; the arrow leads from the reference to this image"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
ToPage = Callable[[np.ndarray], np.ndarray]  # (..., 2) detector px to (..., 2) page px


def planned_px(alignment: Alignment, geometry: ImageGeometry | None, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """Return the reference's landmarks that lie on an image (height, width), by kind: (n, 2) detector px.

    Nothing without a geometry, which alone says where they are.
    """
    if geometry is None:
        return {}
    by_kind: dict[str, list[tuple[float, float]]] = {}
    for one in alignment.reference:
        if one.xy_mm is not None:
            by_kind.setdefault(one.kind, []).append(one.xy_mm)
    places = {kind: geometry.to_pixels(np.array(xy_mm)) for kind, xy_mm in by_kind.items()}
    last = np.array((shape[1] - 0.5, shape[0] - 0.5))
    return {kind: px[np.all((px >= -0.5) & (px <= last), axis=1)] for kind, px in places.items()}


def draw_reference(
    pen: ImageDraw.ImageDraw, planned: Mapping[str, np.ndarray], lines: Collection[str], to_page: ToPage
) -> None:
    """Draw where the plan has the landmarks (`planned_px`); the kinds in ``lines`` as a thin line."""
    for kind, places in planned.items():
        on_page = to_page(places).round().astype(int).tolist()
        if kind in lines:
            path = [(x, y) for x, y in on_page]
            pen.line(path, fill=RIM, width=3)
            pen.line(path, fill=WHITE, width=1)
            continue
        for x, y in on_page:
            reference_mark(pen, x, y)


def reference_mark(pen: ImageDraw.ImageDraw, x: int, y: int) -> None:
    """Draw a slanted white cross, which no kind has, over a dark one."""
    for colour, width in ((RIM, 5), (WHITE, 2)):
        pen.line((x - REACH, y - REACH, x + REACH, y + REACH), fill=colour, width=width)
        pen.line((x - REACH, y + REACH, x + REACH, y - REACH), fill=colour, width=width)


def draw_uncertainty(
    pen: ImageDraw.ImageDraw, landmark: Landmark, to_page: ToPage, colour: tuple[int, int, int]
) -> None:
    """Draw the ellipse that holds a point with 95 %; on a page whose axes are scaled alike it is a circle."""
    if landmark.sigma_px is None:
        return
    reach = RADIUS95_SIGMA * landmark.sigma_px
    corners = to_page(np.array(landmark.xy_px) + np.array([(-reach, -reach), (reach, reach)]))
    box = [float(value) for value in corners.ravel()]
    pen.ellipse(box, outline=RIM, width=3)
    pen.ellipse([box[0] + 1, box[1] + 1, box[2] - 1, box[3] - 1], outline=colour, width=1)


def draw_shift(
    pen: ImageDraw.ImageDraw, registration: Registration, geometry: ImageGeometry | None, to_page: ToPage
) -> None:
    """Draw the shift from the isocentre, in the image's own scale; nothing where it is withheld."""
    shift = shift_of(registration)
    if shift is None or geometry is None:
        return
    start, end = to_page(geometry.to_pixels(np.array([(0.0, 0.0), shift])))
    for colour, width in ((RIM, 6), (WHITE, 3)):
        for there in (start, *arrow_head(start, end, HEAD)):
            pen.line([*map(float, there), *map(float, end)], fill=colour, width=width)


def arrow_head(start: np.ndarray, end: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Return where the two strokes of an arrow's head begin, (x, y) each; no longer than the arrow itself."""
    back = np.asarray(start, float) - end
    length = float(np.hypot(*back))
    back = back * min(1.0, reach / length) if length else back
    left, right = (np.array([[1.0, side], [-side, 1.0]]) * np.sqrt(0.5) @ back for side in (1.0, -1.0))
    return end + left, end + right


def figures(alignment: Alignment, font: Font, width_px: int) -> list[str]:
    """Return the lines below the picture, broken to its width."""
    texts = [shift_line(alignment.registration)]
    if shift_of(alignment.registration) is not None:
        texts += [support_line(alignment.registration), EXPLAINED]
    return [line for text in texts for line in _broken(text, font, width_px)]


def _broken(text: str, font: Font, width_px: int) -> Iterator[str]:
    line = ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > width_px:
            yield line
            longer = word
        line = longer
    yield line
