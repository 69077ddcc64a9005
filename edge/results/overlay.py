"""The picture for people: the image, heatmaps as a shade, landmarks with kind and score, and the warning line."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import cycle
from math import ceil

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from edge.contract import KindContract
from edge.preprocess import Placement, normalise
from edge.records import Landmark, PortalImage

LONG_SIDE = 1024
LINE = 26  # the height of one line of the legend
FOOTER = "Research use only: decision support, not a medical device. Model trained on simulated images."
SHADE = 0.55  # opacity of a heatmap at its full height
COLOURS = ((255, 96, 96), (64, 220, 255), (255, 214, 64), (160, 255, 120), (255, 140, 255))
MARKS = ("circle", "cross", "diamond", "square", "circle")  # colour is never the only carrier
WHITE, DARK, RIM = (255, 255, 255), (16, 16, 16), (0, 0, 0)
REACH = 8  # of a mark, from its middle


def draw_overlay(
    image: PortalImage,
    landmarks: Sequence[Landmark],
    heatmaps: np.ndarray,
    placement: Placement,
    kinds: Sequence[KindContract],
) -> bytes:
    """Return a PNG. Less dose is drawn brighter, as on film: bone is white. Grey levels are the network's.

    ``heatmaps`` is (n, S, S) on sample sites, ``kinds`` names its rows. A line is drawn through its points.
    """
    height, width = image.pixels.shape
    zoom = LONG_SIDE / max(height, width)
    size = max(1, round(width * zoom)), max(1, round(height * zoom))
    canvas = _film(image.pixels, size)
    for colour, heatmap in zip(cycle(COLOURS), heatmaps, strict=False):
        shade = Image.fromarray(_shade(heatmap, placement, (height, width))).resize(size, Image.Resampling.BILINEAR)
        canvas.paste(Image.new("RGB", size, colour), mask=shade)
    font = ImageFont.load_default(18)
    page_width = max(size[0], ceil(font.getlength(FOOTER)) + 16)
    page = Image.new("RGB", (page_width, size[1] + LINE * (len(kinds) + 1) + 4), DARK)
    page.paste(canvas, (0, 0))
    pen = ImageDraw.Draw(page)
    order = {promise.kind: index for index, promise in enumerate(kinds)}
    on_page = [((np.array(one.xy_px) + 0.5) * size / (width, height) - 0.5).round() for one in landmarks]
    for promise in kinds:
        if promise.shape == "line":
            through = [at for at, one in zip(on_page, landmarks, strict=True) if one.kind == promise.kind]
            _line(pen, order[promise.kind], through)
    points = {promise.kind for promise in kinds if promise.shape == "point"}
    for at, landmark in zip(on_page, landmarks, strict=True):
        if landmark.kind not in points:
            continue
        index, score = order[landmark.kind], f"{landmark.score:.2f}"
        x, y = at.astype(int).tolist()
        _mark(pen, index, x, y)
        where = _beside(x, y, font.getlength(score), size)
        pen.text(where, score, fill=_colour(index), font=font, stroke_width=2, stroke_fill=RIM)
    for index, promise in enumerate(kinds):
        y = size[1] + LINE * index + LINE // 2
        count = sum(one.kind == promise.kind for one in landmarks)
        if promise.shape == "line":
            _line(pen, index, [np.array((6, y)), np.array((26, y))])
        else:
            _mark(pen, index, 16, y)
        unit = " points along it" if promise.shape == "line" else ""
        pen.text((34, y - 11), f"{promise.kind.replace('_', ' ')}: {count}{unit}", fill=_colour(index), font=font)
    pen.text((8, size[1] + LINE * len(kinds) + 2), FOOTER, fill=WHITE, font=font)
    return _png(page)


def _film(pixels: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Equalise as for the network: a linear window gives nearly all greys to a collimator's shadow."""
    if max(pixels.shape) > LONG_SIDE:
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
    grey = ((1 - normalise(pixels)) * 127.5).astype(np.uint8)
    return Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR).convert("RGB")


def _shade(heatmap: np.ndarray, placement: Placement, shape: tuple[int, int]) -> np.ndarray:
    """Return the opacity (h, w) uint8 of one heatmap over the image's part of the network's square."""
    rows, columns = (_pixels_of_site(sites) for sites in heatmap.shape)
    full = np.repeat(np.repeat(heatmap, rows, axis=0), columns, axis=1)
    x, y = placement.offset
    placed = full[y : y + round(shape[0] * placement.scale[1]), x : x + round(shape[1] * placement.scale[0])]
    return (np.clip(placed, 0, 1) * SHADE * 255).astype(np.uint8)


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


def _png(page: Image.Image) -> bytes:
    buffer = io.BytesIO()
    page.save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()
