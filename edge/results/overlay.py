"""The picture for people: the image, heatmaps as a shade, landmarks with kind and score, and the warning line."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from edge.preprocess import Placement
from edge.records import Landmark, PortalImage

LONG_SIDE = 1024
FOOTER = "Research use only: decision support, not a medical device. Model trained on simulated images."
DISPLAY_PERCENTILES = (0.5, 99.5)
SHADE = 0.55  # opacity of a heatmap at its full height
COLOURS = ((255, 96, 96), (64, 220, 255), (255, 214, 64), (160, 255, 120), (255, 140, 255))
MARKS = ("circle", "cross", "diamond", "square", "circle")  # colour is never the only carrier


def draw_overlay(
    image: PortalImage, landmarks: Sequence[Landmark], heatmaps: np.ndarray, placement: Placement, kinds: Sequence[str]
) -> bytes:
    """Return a PNG. Less dose is drawn brighter, as on film: bone is white.

    ``heatmaps`` is (n, 288, 288) on sample sites, ``kinds`` names its rows.
    """
    height, width = image.pixels.shape
    zoom = LONG_SIDE / max(height, width)
    size = max(1, round(width * zoom)), max(1, round(height * zoom))
    canvas = Image.fromarray(_film(image.pixels)).resize(size, Image.Resampling.BILINEAR).convert("RGB")
    for colour, heatmap in zip(COLOURS, heatmaps, strict=False):
        shade = Image.fromarray(_shade(heatmap, placement, (height, width))).resize(size, Image.Resampling.BILINEAR)
        canvas.paste(Image.new("RGB", size, colour), mask=shade)
    page = Image.new("RGB", (max(size[0], 760), size[1] + 26 * (len(kinds) + 1)), (16, 16, 16))
    page.paste(canvas, (0, 0))
    pen = ImageDraw.Draw(page)
    font = ImageFont.load_default(18)
    for landmark in landmarks:
        index = list(kinds).index(landmark.kind)
        x, y = ((np.array(landmark.xy_px) + 0.5) * zoom).tolist()
        _mark(pen, MARKS[index], x, y, COLOURS[index])
        pen.text((x + 12, y - 10), f"{landmark.score:.2f}", fill=COLOURS[index], font=font)
    for index, kind in enumerate(kinds):
        y = size[1] + 26 * index + 13
        _mark(pen, MARKS[index], 16, y, COLOURS[index])
        count = sum(one.kind == kind for one in landmarks)
        pen.text((34, y - 11), f"{kind.replace('_', ' ')}: {count}", fill=COLOURS[index], font=font)
    pen.text((8, size[1] + 26 * len(kinds) + 2), FOOTER, fill=(255, 255, 255), font=font)
    return _png(page)


def _film(pixels: np.ndarray) -> np.ndarray:
    low, high = np.percentile(pixels[::4, ::4], DISPLAY_PERCENTILES)
    return (np.clip((high - pixels) / max(high - low, 1e-12), 0, 1) * 255).astype(np.uint8)


def _shade(heatmap: np.ndarray, placement: Placement, shape: tuple[int, int]) -> np.ndarray:
    """Return the opacity (h, w) uint8 of one heatmap over the image's part of the network's square."""
    full = np.repeat(np.repeat(heatmap, _pixels_of_site(heatmap.shape[0]), axis=0), _pixels_of_site(heatmap.shape[1]), 1)
    x, y = placement.offset
    placed = full[y : y + round(shape[0] * placement.scale[1]), x : x + round(shape[1] * placement.scale[0])]
    return (np.clip(placed, 0, 1) * SHADE * 255).astype(np.uint8)


def _pixels_of_site(sites: int) -> np.ndarray:
    return np.tile((1, 2, 1), sites // 3)


def _mark(pen: ImageDraw.ImageDraw, mark: str, x: float, y: float, colour: tuple[int, int, int]) -> None:
    r = 8
    if mark == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=2)
    elif mark == "diamond":
        pen.polygon(((x, y - r), (x + r, y), (x, y + r), (x - r, y)), outline=colour, width=2)
    elif mark == "square":
        pen.rectangle((x - r, y - r, x + r, y + r), outline=colour, width=2)
    else:
        pen.line((x - r, y, x + r, y), fill=colour, width=2)
        pen.line((x, y - r, x, y + r), fill=colour, width=2)
    pen.point((x, y), fill=colour)


def _png(page: Image.Image) -> bytes:
    buffer = io.BytesIO()
    page.save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()
