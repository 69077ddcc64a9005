"""Draw docs/images/geometry.png: the room, the beam and the image, with their axes and the sign of a shift."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Circle, Ellipse, Rectangle

INK, ROOM, IMAGE, PLANNED, FOUND, MOVE = "#222222", "#0b6e99", "#8a3ffc", "#888888", "#d1495b", "#2a7d2e"


def main() -> None:
    """Write the picture."""
    figure, (room, beam, image) = plt.subplots(1, 3, figsize=(16, 6.2), width_ratios=(1.15, 0.85, 1.1))
    draw_room(room)
    draw_beam(beam)
    draw_image(image)
    for axes in (room, beam, image):
        axes.set_aspect("equal")
        axes.axis("off")
    figure.tight_layout()
    figure.savefig(Path(__file__).parent / "images" / "geometry.png", dpi=110, metadata={"Software": None})


def arrow(
    axes: Any, start: tuple[float, float], by: tuple[float, float], colour: str, text: str, **options: Any
) -> None:
    """Draw an arrow with a word at its tip."""
    end = start[0] + by[0], start[1] + by[1]
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2.2})
    offset = options.pop("offset", (0.0, 0.0))
    axes.text(end[0] + offset[0], end[1] + offset[1], text, color=colour, fontsize=11, **options)


def draw_room(axes: Any) -> None:
    """Draw what an observer sees who faces the gantry, patient head first and supine."""
    axes.set_title("The room (IEC 61217 fixed)\nobserver at the foot of the couch, facing the gantry", fontsize=11)
    axes.add_patch(Circle((0, 0), 6, fill=False, ls=":", color=INK))
    for angle, (x, z), where in (
        (0, (0, 6), {"ha": "center", "va": "bottom"}),
        (90, (6, 0), {"ha": "left", "va": "center"}),
        (180, (0, -6), {"ha": "center", "va": "top"}),
        (270, (-6, 0), {"ha": "right", "va": "center"}),
    ):
        axes.plot(x, z, "*", color="#e0a100", ms=13)
        axes.text(1.1 * x, 1.1 * z, f"source at\ngantry {angle}", fontsize=9, **where)
    axes.add_patch(Rectangle((-3, -2.3), 6, 0.35, color="#bbbbbb"))
    axes.add_patch(Ellipse((0, -0.5), 4.6, 2.9, fill=False, color=INK))
    axes.text(
        0,
        -3.3,
        "patient on the couch, head first supine:\nhead towards the gantry, left side on the right here",
        fontsize=8,
        ha="center",
        va="center",
        color=INK,
    )
    arrow(axes, (0, 0), (3.6, 0), ROOM, "x  lateral", offset=(-0.9, 0.25))
    arrow(axes, (0, 0), (0, 3.4), ROOM, "z  vertical", offset=(0.15, 0))
    axes.plot(0, 0, "o", ms=13, mfc="white", mec=ROOM, mew=2)
    axes.plot(0, 0, "x", ms=8, color=ROOM, mew=2)
    axes.text(-0.5, 1.3, "y  longitudinal,\ninto the page:\ntowards the gantry", color=ROOM, fontsize=9, ha="right")
    axes.annotate(
        "", (4.4, 4.0), (1.6, 5.7), arrowprops={"arrowstyle": "-|>", "connectionstyle": "arc3,rad=-0.18", "color": INK}
    )
    axes.text(3.5, 5.2, "gantry turns\nclockwise", fontsize=9)
    axes.set_xlim(-9.2, 9.2)
    axes.set_ylim(-8.2, 8)


def draw_beam(axes: Any) -> None:
    """Draw the way from the source through the isocentre plane to the receptor."""
    axes.set_title("The beam\nmillimetres are told in the isocentre plane", fontsize=11)
    source, iso, receptor = (0, 10), 0, -5
    axes.plot(*source, "*", color="#e0a100", ms=15)
    axes.text(0.4, 10, "source", fontsize=10, va="center")
    axes.plot([-4.2, 4.2], [iso, iso], color=IMAGE, lw=2)
    axes.text(4.4, iso - 0.7, "isocentre\nplane", color=IMAGE, fontsize=9, va="center")
    axes.plot([-4.6, 4.6], [receptor, receptor], color=INK, lw=4)
    axes.text(4.7, receptor, "receptor", fontsize=9, va="center")
    axes.plot([0, 0], [10, receptor], ls="--", color=INK, lw=1)
    axes.plot([0, 3], [10, receptor], color=FOUND, lw=1.4)
    axes.plot([3], [receptor], "o", color=FOUND)
    axes.plot([2], [iso], "o", color=FOUND)
    axes.text(2.3, 0.4, "x · SAD/SID", color=FOUND, fontsize=9)
    axes.text(2.4, receptor - 0.9, "x at the receptor", color=FOUND, fontsize=9, ha="center")
    for x, low, name in ((-5.4, iso, "SAD"), (-6.9, receptor, "SID")):
        axes.annotate("", (x, low), (x, 10), arrowprops={"arrowstyle": "<|-|>", "color": INK})
        axes.text(x - 0.2, 4, name, rotation=90, ha="right", va="center", fontsize=10)
    axes.set_xlim(-8.5, 8)
    axes.set_ylim(-7, 11.5)


def draw_image(axes: Any) -> None:
    """Draw an image as seen from the source, with a planned and a detected landmark."""
    axes.set_title("The image, seen from the source (here gantry 0)\nIEC 61217 X-ray image receptor", fontsize=11)
    axes.add_patch(Rectangle((-6, -5), 12, 10, fill=False, color=INK))
    axes.add_patch(Rectangle((-6, 4.5), 0.5, 0.5, color="#dddddd", ec=INK))
    axes.plot(-5.75, 4.75, ".", color=INK)
    axes.text(
        -5.4,
        4.3,
        "pixel (0, 0): its centre is the origin of px;\ncolumns count right, rows count down",
        fontsize=8,
        va="top",
    )
    arrow(axes, (0, 0), (4.6, 0), IMAGE, "+x", offset=(0.1, -0.1), va="center")
    arrow(axes, (0, 0), (0, 3.0), IMAGE, "+y\ntowards\nthe gantry", offset=(0.25, 0.0), va="top")
    axes.text(-0.2, 0.2, "isocentre", color=IMAGE, fontsize=9, ha="right")
    axes.text(5.9, -4.8, "gantry 0, head first supine:\nright = patient's left, up = head", fontsize=8, ha="right")
    planned, found = (-3.4, -2.6), (-1.2, -1.4)
    axes.plot(*planned, "o", mfc="none", mec=PLANNED, ms=12, mew=2)
    axes.text(planned[0] - 0.1, planned[1] - 0.85, "planned", color=PLANNED, fontsize=10, ha="center")
    axes.plot(*found, "+", color=FOUND, ms=14, mew=2.5)
    axes.text(found[0] - 0.2, found[1] - 0.9, "detected", color=FOUND, fontsize=10)
    arrow(axes, planned, (2.0, 1.09), FOUND, "shift = detected − planned\nhere (+x, +y)", offset=(-3.9, 0.6))
    arrow(
        axes,
        (4.4, -2.3),
        (-2.0, -1.09),
        MOVE,
        "to undo it the PATIENT,\nand the couch with them,\nmoves the other way",
        offset=(-1.75, 1.35),
    )
    axes.set_xlim(-6.6, 6.6)
    axes.set_ylim(-5.6, 5.6)


if __name__ == "__main__":
    main()
