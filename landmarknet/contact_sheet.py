"""One picture of a data set: a few images of each patient, with what is labelled in them. Look at it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from edge.portal_image import read_portal_image
from edge.preprocess import normalise

TILE = 160
PER_PATIENT = 8
COLOURS = {"spinous_process": "#ff6060", "tracheal_bifurcation": "#40dcff", "louis_angle": "#ffd640"}


def contact_sheet(folders: Sequence[Path], output: Path, seed: int) -> None:
    """Write a PNG with a row of images per patient, drawn at random; circles are labels that the image shows."""
    rng = np.random.default_rng(seed)
    sheet = Image.new("RGB", (TILE * PER_PATIENT, TILE * len(folders)), "#101010")
    for row, folder in enumerate(folders):
        images = json.loads((folder / "truth.json").read_text())["images"]
        names = sorted(rng.permutation(sorted(images))[:PER_PATIENT])
        for column, name in enumerate(names):
            sheet.paste(_tile(folder / name, images[name]["landmarks"]), (column * TILE, row * TILE))
        pen = ImageDraw.Draw(sheet)
        pen.text((4, row * TILE + 2), folder.name, fill="white", font=ImageFont.load_default(14), stroke_width=2,
                 stroke_fill="black")  # fmt: skip
    sheet.save(output)


def _tile(path: Path, landmarks: Sequence[dict[str, float | str]]) -> Image.Image:
    pixels = read_portal_image(path).pixels
    zoom = (TILE - 4) / max(pixels.shape)
    size = max(1, round(pixels.shape[1] * zoom)), max(1, round(pixels.shape[0] * zoom))
    small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
    film = Image.fromarray(((1 - normalise(small)) * 127.5).astype(np.uint8)).convert("RGB")
    pen = ImageDraw.Draw(film)
    for one in landmarks:
        x, y = (float(one[key]) * zoom for key in ("x_px", "y_px"))
        pen.ellipse((x - 3, y - 3, x + 3, y + 3), outline=COLOURS[str(one["kind"])])
    tile = Image.new("RGB", (TILE, TILE), "#101010")
    tile.paste(film, ((TILE - size[0]) // 2, (TILE - size[1]) // 2))
    return tile
