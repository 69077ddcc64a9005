"""The picture for people: the image, heatmaps as a shade, landmarks with kind and score, and the warning line.

With a reference also the planned places, the shift, and its figures (`edge.results.overlay_alignment`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from math import ceil, floor

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from edge.contract import KindContract
from edge.preprocess import Placement, equalising_curve, normalise
from edge.records import Landmark, PortalImage
from edge.results.overlay_alignment import (
    Font,
    draw_reference,
    draw_shift,
    draw_uncertainty,
    figures,
    planned_px,
    reference_mark,
)
from edge.results.png import png_of
from edge.results.wording import WARNING, Alignment

LONG_SIDE = 1024
LINE = 26  # the height of one line of the legend
FOOTER = WARNING
REFERENCE_LEGEND = "planned place, from the reference"
UNCERTAINTY_LEGEND = "thin ring: holds the landmark with 95 %"
SHADE = 0.55  # opacity of a heatmap at its full height
CURVE_STEP = 3  # px of the picture between those that its grey curve is made of
TABLE = 4096  # entries from the darkest to the brightest
TABLE_FROM_PX = 256  # of the shorter side; of fewer, a ninth is no fair sample
SMALLEST, LARGEST = 1e-30, 1e30  # ranges of grey for which single precision does
CLEAR = 4  # of 255: an opacity that nobody sees, and that covers most of a picture
COLOURS = ((255, 96, 96), (64, 220, 255), (255, 214, 64), (160, 255, 120), (255, 140, 255))
MARKS = ("circle", "cross", "diamond", "square", "circle")  # colour is never the only carrier
WHITE, DARK, RIM = (255, 255, 255), (16, 16, 16), (0, 0, 0)
REACH = 8  # of a mark, from its middle


@dataclass(frozen=True)
class _Page:
    """Where things go: the picture above, the legend below."""

    pen: ImageDraw.ImageDraw
    font: Font
    shape: tuple[int, int]  # (height, width) of the portal image, px
    size: tuple[int, int]  # (width, height) of the picture, page px

    def at(self, xy_px: np.ndarray) -> np.ndarray:
        """Map (..., 2) detector px to (..., 2) page px."""
        return np.asarray((xy_px + 0.5) * self.size / (self.shape[1], self.shape[0]) - 0.5)

    def line(self, number: int) -> int:
        """Return the page px of the top of a line of the legend."""
        return self.size[1] + LINE * number


def draw_overlay(
    image: PortalImage,
    landmarks: Sequence[Landmark],
    heatmaps: np.ndarray,
    placement: Placement,
    kinds: Sequence[KindContract],
    alignment: Alignment | None = None,
    film: Image.Image | None = None,
) -> bytes:
    """Return a PNG. Less dose is drawn brighter, as on film: bone is white. Grey levels are the network's.

    ``heatmaps`` is (n, S, S) on sample sites, ``kinds`` names its rows. A line is drawn through its points, and a
    point of known uncertainty has the ellipse that holds it with 95 %. An ``alignment`` adds the planned places, the
    shift, and their lines in the legend. A ``film`` is the image's `film_of`, where it was made before; it is drawn on.
    """
    canvas = _shaded(film or film_of(image.pixels), heatmaps, placement, image.pixels.shape)
    font = ImageFont.load_default(18)
    page_width = max(canvas.width, ceil(font.getlength(FOOTER)) + 16)
    told = [] if alignment is None else [REFERENCE_LEGEND, *figures(alignment, font, page_width - 16)]
    points = {promise.kind for promise in kinds if promise.shape == "point"}
    if any(one.kind in points and one.sigma_px is not None for one in landmarks):
        told.append(UNCERTAINTY_LEGEND)
    paper = Image.new("RGB", (page_width, canvas.height + LINE * (len(kinds) + len(told) + 1) + 4), DARK)
    paper.paste(canvas, (0, 0))
    page = _Page(ImageDraw.Draw(paper), font, image.pixels.shape, canvas.size)
    if alignment is not None:
        lines = {promise.kind for promise in kinds if promise.shape == "line"}
        draw_reference(page.pen, planned_px(alignment, image.geometry, page.shape), lines, page.at)
    _lines(page, landmarks, kinds)
    _points(page, landmarks, kinds)
    if alignment is not None:
        draw_shift(page.pen, alignment.registration, image.geometry, page.at)
        page.pen.rectangle((0, page.line(0), paper.width, paper.height), fill=DARK)  # what ran out of the picture
    _legend(page, landmarks, kinds)
    _told(page, told, len(kinds))
    page.pen.text((8, page.line(len(kinds) + len(told)) + 2), FOOTER, fill=WHITE, font=font)
    return png_of(np.asarray(paper))


def _lines(page: _Page, landmarks: Sequence[Landmark], kinds: Sequence[KindContract]) -> None:
    for index, promise in enumerate(kinds):
        if promise.shape == "line":
            _line(page.pen, index, [page.at(_xy(one)).round() for one in landmarks if one.kind == promise.kind])


def _points(page: _Page, landmarks: Sequence[Landmark], kinds: Sequence[KindContract]) -> None:
    order = {promise.kind: index for index, promise in enumerate(kinds) if promise.shape == "point"}
    for landmark in landmarks:
        if landmark.kind not in order:
            continue
        index, score = order[landmark.kind], f"{landmark.score:.2f}"
        x, y = page.at(_xy(landmark)).round().astype(int).tolist()
        draw_uncertainty(page.pen, landmark, page.at, _colour(index))
        _mark(page.pen, index, x, y)
        where = _beside(x, y, page.font.getlength(score), page.size)
        page.pen.text(where, score, fill=_colour(index), font=page.font, stroke_width=2, stroke_fill=RIM)


def _legend(page: _Page, landmarks: Sequence[Landmark], kinds: Sequence[KindContract]) -> None:
    for index, promise in enumerate(kinds):
        y = page.line(index) + LINE // 2
        count = sum(one.kind == promise.kind for one in landmarks)
        if promise.shape == "line":
            _line(page.pen, index, [np.array((6, y)), np.array((26, y))])
        else:
            _mark(page.pen, index, 16, y)
        unit = " points along it" if promise.shape == "line" else ""
        text = f"{promise.kind.replace('_', ' ')}: {count}{unit}"
        page.pen.text((34, y - 11), text, fill=_colour(index), font=page.font)


def _told(page: _Page, told: Sequence[str], first: int) -> None:
    """Write the lines of the registration and the uncertainty."""
    for number, text in enumerate(told):
        if text == REFERENCE_LEGEND:
            reference_mark(page.pen, 16, page.line(first + number) + LINE // 2)
        left = 34 if text == REFERENCE_LEGEND else 8
        page.pen.text((left, page.line(first + number) + 2), text, fill=WHITE, font=page.font)


def _xy(landmark: Landmark) -> np.ndarray:
    return np.array(landmark.xy_px)


def _shaded(canvas: Image.Image, heatmaps: np.ndarray, placement: Placement, shape: tuple[int, int]) -> Image.Image:
    """Lay the heatmaps over the film, and return it."""
    for colour, heatmap in zip(cycle(COLOURS), heatmaps, strict=False):
        _tint(canvas, colour, Image.fromarray(over_image(heatmap, placement, shape)))
    return canvas


def _tint(canvas: Image.Image, colour: tuple[int, int, int], shade: Image.Image) -> None:
    """Lay a colour over the picture, as opaque as ``shade`` says, which covers all of it at any size.

    Only over the box that is not clear, which is small.
    """
    seen = shade.getbbox()
    if seen is None:
        return
    zoom_x, zoom_y = canvas.width / shade.width, canvas.height / shade.height
    left, top = max(0, floor((seen[0] - 1) * zoom_x)), max(0, floor((seen[1] - 1) * zoom_y))
    right = min(canvas.width, ceil((seen[2] + 1) * zoom_x))
    bottom = min(canvas.height, ceil((seen[3] + 1) * zoom_y))
    part = left / zoom_x, top / zoom_y, right / zoom_x, bottom / zoom_y
    mask = shade.resize((right - left, bottom - top), Image.Resampling.BILINEAR, part)
    canvas.paste(colour, (left, top, right, bottom), mask)


def film_of(pixels: np.ndarray, long_side: int = LONG_SIDE) -> Image.Image:
    """Return the picture without its marks; ``long_side`` is its longer one.

    Equalised as for the network: a linear window gives nearly all greys to a collimator's shadow.
    """
    zoom = long_side / max(pixels.shape)
    height, width = (max(1, round(side * zoom)) for side in pixels.shape)
    if zoom < 1:
        pixels = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
    return Image.fromarray(_greys(pixels)).resize((width, height), Image.Resampling.BILINEAR).convert("RGB")


def _greys(pixels: np.ndarray) -> np.ndarray:
    """Return uint8, dark for more dose: by a table of a curve that some rows and columns give, where that does."""
    curve = equalising_curve(pixels[::CURVE_STEP, ::CURVE_STEP])
    if curve is None or min(pixels.shape) < TABLE_FROM_PX or not SMALLEST < np.ptp(curve[0]) < LARGEST:
        return ((1 - normalise(pixels)) * 127.5).astype(np.uint8)
    low, high = curve[0][[0, -1]]
    table = ((1 - np.interp(np.linspace(low, high, TABLE), *curve)) * 127.5).astype(np.uint8)
    entry = (pixels - np.float32(low)) * np.float32((TABLE - 1) / (high - low))
    return np.asarray(table[np.clip(entry, 0, TABLE - 1, out=entry).astype(np.uint16)])


def over_image(heatmap: np.ndarray, placement: Placement, shape: tuple[int, int]) -> np.ndarray:
    """Return how opaque a heatmap (S, S) lies over an image (height, width): (h, w) uint8, a value for a network px."""
    rows, columns = (_pixels_of_site(sites) for sites in heatmap.shape)
    opacity = (np.clip(heatmap, 0, 1) * SHADE * 255).astype(np.uint8)
    opacity[opacity <= CLEAR] = 0
    full = np.repeat(np.repeat(opacity, rows, axis=0), columns, axis=1)
    x, y = placement.offset
    return full[y : y + round(shape[0] * placement.scale[1]), x : x + round(shape[1] * placement.scale[0])]


def _pixels_of_site(sites: int) -> np.ndarray:
    return np.tile((1, 2, 1), sites // 3)


def _colour(index: int) -> tuple[int, int, int]:
    return COLOURS[index % len(COLOURS)]


def _beside(x: int, y: int, length_px: float, size: tuple[int, int]) -> tuple[float, int]:
    """Return the left top of a score's letters: right of its mark, or left of it where the image ends."""
    right = x + REACH + 5
    left = right if right + length_px < size[0] else x - REACH - 5 - length_px
    return left, max(1, min(y - 11, size[1] - 24))


def _mark(pen: ImageDraw.ImageDraw, index: int, x: int, y: int) -> None:
    """Draw the kind's mark twice: a wider one in dark below it, so that it stands out on white, too."""
    mark = MARKS[index % len(MARKS)]
    for r, colour, width in ((REACH + 1, RIM, 5), (REACH, _colour(index), 3)):
        box = (x - r, y - r, x + r, y + r)
        if mark == "circle":
            pen.ellipse(box, outline=colour, width=width)
        elif mark == "diamond":
            pen.polygon(((x, y - r), (x + r, y), (x, y + r), (x - r, y)), outline=colour, width=width)
        elif mark == "square":
            pen.rectangle(box, outline=colour, width=width)
        else:
            pen.line((x - r, y, x + r, y), fill=colour, width=width)
            pen.line((x, y - r, x, y + r), fill=colour, width=width)


def _line(pen: ImageDraw.ImageDraw, index: int, points: Sequence[np.ndarray]) -> None:
    """Draw the line through a kind's points, dark below it as for a mark."""
    if len(points) > 1:
        path = [(float(x), float(y)) for x, y in points]
        pen.line(path, fill=RIM, width=5)
        pen.line(path, fill=_colour(index), width=3)
