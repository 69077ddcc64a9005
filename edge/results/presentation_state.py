"""The landmarks as marks on the image itself: a grayscale softcopy presentation state (PS3.3 A.33.1).

A viewer that opens it beside the image shows the marks, the reference, the shift and the warning over grey levels in
which less dose is brighter, as on film and in the PNG. The image is not changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from highdicom import ModalityLUTTransformation, PresentationLUTTransformation, pr

from edge.contract import KindContract
from edge.records import Landmark, PortalImage
from edge.registration.register import Registration
from edge.results.dicom_common import Making, finished
from edge.results.dicom_source import DicomSource
from edge.results.overlay_alignment import EXPLAINED, RADIUS95_SIGMA, arrow_head, planned_px
from edge.results.wording import WARNING, Alignment, ascii_text, shift_line, shift_of, support_line

PURPOSE = "presentation state"
LABEL = "LANDMARKS"  # CS: 16 characters
REACH = 1 / 120  # of a mark, in the longer side of the image
CIRCLE_POINTS = 32
WINDOW_PERCENTILES = 1.0, 99.0
_UNITS = "PIXEL"  # PS3.3 C.10.5.1.2: the corner of the first pixel is (0, 0)


def presentation_state(
    source: DicomSource,
    making: Making,
    image: PortalImage,
    landmarks: Sequence[Landmark],
    kinds: Sequence[KindContract],
    alignment: Alignment | None = None,
) -> bytes:
    """Return the bytes of a presentation state for the image ``source``; possible wherever there is a `DicomSource`.

    The reference of an ``alignment`` and its shift are drawn where the image has a geometry.
    """
    drawn: list[tuple[str, list[Any], list[Any]]] = [
        ("LANDMARKS", list(_marks(landmarks, kinds, image)), _scores(landmarks, kinds, image)),
        ("REFERENCE", list(_reference_marks(alignment, kinds, image)), _figures(alignment)),
        ("WARNING", [], [_line_of_text(WARNING, 0.955)]),
    ]
    layers = [pr.GraphicLayer(name, order) for order, (name, *_) in enumerate(drawn, 1)]
    images = [source.reference()]
    made = pr.GrayscaleSoftcopyPresentationState(
        referenced_images=images,
        content_label=LABEL,
        content_description="Landmarks found by LandmarkNet Edge: research use only",
        graphic_annotations=[
            pr.GraphicAnnotation(images, layer, graphic_objects=marks, text_objects=texts)
            for layer, (_, marks, texts) in zip(layers, drawn, strict=True)
            if marks or texts
        ],
        graphic_layers=layers,
        series_description="LandmarkNet Edge marks: research use only",
        **_greys(image),
        **making.series(PURPOSE),
        **making.equipment,
    )
    made.Laterality = None  # PS3.3 C.7.3.1, type 2C: nobody told us of a paired part of the body
    return finished(made, source, making, PURPOSE)


def _greys(image: PortalImage) -> dict[str, Any]:
    """Return the transformations (PS3.3 C.11): the image's own rescale, a window, and less dose brighter.

    The window spans the middle half of the image, so that the shadow of a collimator does not take the greys. highdicom
    finds no rescale type in an RT Image and fails, so all are given.
    """
    rescale, (height, width) = image.rescale, image.pixels.shape
    middle = image.pixels[height // 4 : height - height // 4, width // 4 : width - width // 4]
    values = middle.astype(np.float64) * rescale.sign  # as the file's rescale gives them
    low, high = (float(value) for value in np.percentile(values, WINDOW_PERCENTILES))
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    return {
        "modality_lut_transformation": ModalityLUTTransformation(float(rescale.offset), float(rescale.gain), "US"),
        "voi_lut_transformations": [
            pr.SoftcopyVOILUTTransformation(window_center=(low + high) / 2, window_width=high - low)
        ],
        "presentation_lut_transformation": PresentationLUTTransformation(
            presentation_lut_shape="INVERSE" if rescale.sign > 0 else "IDENTITY"
        ),
    }


def _marks(landmarks: Sequence[Landmark], kinds: Sequence[KindContract], image: PortalImage) -> Iterator[Any]:
    """Yield a circle or polyline per landmark and its uncertainty, and one polyline through the points of a line."""
    reach = _reach_px(image)
    for promise in kinds:
        places = [one for one in landmarks if one.kind == promise.kind]
        if promise.shape == "line":
            yield from _path([one.xy_px for one in places], image)
            continue
        for one in places:
            yield from _cross(one.xy_px, reach, image, turned=False)
            if one.sigma_px is not None:
                yield from _circle(one.xy_px, RADIUS95_SIGMA * one.sigma_px, image)


def _reference_marks(alignment: Alignment | None, kinds: Sequence[KindContract], image: PortalImage) -> Iterator[Any]:
    if alignment is None:
        return
    lines = {promise.kind for promise in kinds if promise.shape == "line"}
    for kind, places in planned_px(alignment, image.geometry, image.pixels.shape).items():
        if kind in lines:
            yield from _path(places, image)
            continue
        for x, y in places.tolist():
            yield from _cross((x, y), _reach_px(image), image, turned=True)
    yield from _arrow(alignment.registration, image)


def _arrow(registration: Registration, image: PortalImage) -> Iterator[Any]:
    """Yield the shift as an arrow that begins at the isocentre, in the image's own scale."""
    shift = shift_of(registration)
    if shift is None or image.geometry is None:
        return
    start, end = image.geometry.to_pixels(np.array([(0.0, 0.0), shift]))
    yield from _path([start, end], image)
    for head in arrow_head(start, end, _reach_px(image)):
        yield from _path([end, head], image)


def _cross(xy_px: tuple[float, float], reach: float, image: PortalImage, *, turned: bool) -> Iterator[Any]:
    x, y = xy_px
    strokes = [((-1, -1), (1, 1)), ((-1, 1), (1, -1))] if turned else [((-1, 0), (1, 0)), ((0, -1), (0, 1))]
    for (dx, dy), (ex, ey) in strokes:
        yield from _path([(x + dx * reach, y + dy * reach), (x + ex * reach, y + ey * reach)], image)


def _circle(xy_px: tuple[float, float], radius_px: float, image: PortalImage) -> Iterator[Any]:
    """Yield a circle as a polyline: a circle that is cut by the border has no graphic type."""
    angle = np.linspace(0, 2 * np.pi, CIRCLE_POINTS + 1)
    yield from _path(np.stack((np.cos(angle), np.sin(angle)), axis=1) * radius_px + xy_px, image)


def _path(places_px: Any, image: PortalImage) -> Iterator[Any]:
    """Yield a polyline of detector px, held to the image (PS3.3 C.10.5.1.2); nothing for fewer than two points."""
    if len(places_px) > 1:
        height, width = image.pixels.shape
        corner_based = np.clip(np.asarray(places_px, float) + 0.5, 0, (width, height))
        yield pr.GraphicObject("POLYLINE", np.round(corner_based, 3), _UNITS)


def _scores(landmarks: Sequence[Landmark], kinds: Sequence[KindContract], image: PortalImage) -> list[Any]:
    points = {promise.kind for promise in kinds if promise.shape == "point"}
    return [_beside(one, image) for one in landmarks if one.kind in points]


def _beside(landmark: Landmark, image: PortalImage) -> Any:
    """Return kind and score, anchored at the landmark."""
    height, width = image.pixels.shape
    x, y = np.clip(np.array(landmark.xy_px) + 0.5, 0, (width, height)).round(3).tolist()
    text = f"{ascii_text(landmark.kind).replace('_', ' ')} {landmark.score:.2f}"
    return pr.TextObject(text, _UNITS, anchor_point=(x, y), anchor_point_visible=False)


def _figures(alignment: Alignment | None) -> list[Any]:
    if alignment is None:
        return []
    lines = [shift_line(alignment.registration)]
    if shift_of(alignment.registration) is not None:
        lines += [support_line(alignment.registration), EXPLAINED]
    return [_line_of_text(line, 0.02 + 0.045 * i) for i, line in enumerate(lines)]


def _line_of_text(text: str, top: float) -> Any:
    """Return one line over the width of the displayed area; ``top`` as a share of its height."""
    return pr.TextObject(text, "DISPLAY", bounding_box=(0.02, top, 0.98, top + 0.04), text_justification="LEFT")


def _reach_px(image: PortalImage) -> float:
    return max(image.pixels.shape) * REACH
