"""From detector pixels to millimetres in the isocentre plane, or the reason why there are none. Knows no DICOM object.

    x = (px + c * dcol + Tx) * SAD / SID        +x right
    y = (py - r * drow + Ty) * SAD / SID        +y up

in the IEC 61217 X-ray image receptor frame, with the spacing at the receptor plane. Checked on jaw edges: +-75 mm
measured at SID 1500, -60/80 mm at SID 1050. Frames, signs and a worked example: docs/geometry.md.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from edge.errors import ImplausibleGeometry

# What a physicist must know before trusting the millimetres.
ISOCENTRE_UNCERTAIN = "isocentre_uncertain"  # scale can be trusted, absolute shift cannot (4.3 mm seen)
SID_BELOW_SAD = "sid_below_sad"  # the receptor is nearer than the isocentre
POSITION_CONVENTION_ASSUMED = "position_convention_assumed"  # half a pixel of bias is possible
GANTRY_UNTRUSTED = "gantry_untrusted"  # GantryAngle is 0, which some exports always write
RECEPTOR_TRANSLATION_ASSUMED = "receptor_translation_assumed"  # taken as 0; a sag of 1.3 mm seen where it was left out

Texts = tuple[str, ...] | None  # a DICOM value as written: None = absent, () = present but empty

_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)  # PS3.5 6.2, value representation DS
_ANGLE_TOLERANCE_DEG = 0.1  # 0.35 mm at 200 mm from the beam axis
_COSINE_TOLERANCE = math.sin(math.radians(_ANGLE_TOLERANCE_DEG))
_POSITION_TOLERANCE = 0.1  # of a pixel; the two conventions differ by half a pixel
_RECEPTOR_TOLERANCE_MM = 5.0  # of SID against SAD - z: a third of a percent in scale, 0.3 mm at 100 mm from the axis
_SID_PER_SAD = 0.5, 4.0  # nearer, the receptor is inside the treatment head; farther, it is in the pit below the floor
_SAME_ANGLE_DEG = 1.0  # a planned and a measured gantry angle of the same beam


@dataclass(frozen=True)
class GeometryTags:
    """What an image file says of its geometry, as written (PS3.3 C.8.8.2). Lengths in mm, angles in degrees."""

    sid_mm: Texts = None  # RTImageSID
    sad_mm: Texts = None  # RadiationMachineSAD
    spacing_mm: Texts = None  # ImagePlanePixelSpacing (row, column)
    position_mm: Texts = None  # RTImagePosition (x, y)
    translation_mm: Texts = None  # XRayImageReceptorTranslation (x, y, z)
    receptor_deg: Texts = None  # XRayImageReceptorAngle
    orientation: Texts = None  # RTImageOrientation, six cosines
    plane: Texts = None  # RTImagePlane
    gantry_deg: Texts = None  # GantryAngle
    support_deg: Texts = None  # PatientSupportAngle


@dataclass(frozen=True)
class ImageGeometry:
    """One image's way from pixels to the isocentre plane."""

    sid_mm: float
    sad_mm: float
    spacing_mm: tuple[float, float]  # (row, column), receptor plane
    first_pixel_mm: tuple[float, float]  # (x, y) of the CENTRE of pixel (0, 0), receptor plane, from the beam axis
    gantry_deg: float | None  # 0..360, only where it can be trusted
    axes: str  # the frame of the millimetres
    sources: Mapping[str, str]  # field -> the attribute it came from
    warnings: tuple[str, ...]
    support_deg: float | None = None  # 0..360, the turn of the couch about the vertical; None: not stated
    stated_gantry_deg: float | None = None  # GantryAngle as written, trusted or not: for `with_gantry_evidence`

    @property
    def mm_per_px_at_isocentre(self) -> tuple[float, float]:
        """Size of one pixel in the isocentre plane, (x, y) in mm."""
        scale = self.sad_mm / self.sid_mm
        return self.spacing_mm[1] * scale, self.spacing_mm[0] * scale

    def to_isoplane(self, xy_px: np.ndarray) -> np.ndarray:
        """Map (..., 2) detector px to (..., 2) mm in the isocentre plane."""
        first, step = self._first_and_step_mm()
        return np.asarray(first + np.asarray(xy_px, float) * step)

    def to_pixels(self, xy_mm: np.ndarray) -> np.ndarray:
        """Map (..., 2) mm in the isocentre plane to (..., 2) detector px: the inverse of `to_isoplane`."""
        first, step = self._first_and_step_mm()
        return np.asarray((np.asarray(xy_mm, float) - first) / step)

    def _first_and_step_mm(self) -> tuple[np.ndarray, np.ndarray]:
        x, y = self.mm_per_px_at_isocentre
        return np.array(self.first_pixel_mm) * (self.sad_mm / self.sid_mm), np.array([x, -y])


class _NoGeometry(Exception):
    """The millimetres cannot be trusted; the text says why."""


def decimal(text: str) -> float | None:
    """Return a decimal string's value, or None where it is not a finite number. Stricter than ``float``."""
    value = float(text) if _DECIMAL.fullmatch(text) else math.nan
    return value if math.isfinite(value) else None


def image_geometry(tags: GeometryTags, shape: tuple[int, int], name: str = "image") -> ImageGeometry | str:
    """Return the geometry of a (rows, columns) image, or the reason why it has pixels only.

    Raise `ImplausibleGeometry` for a source to image distance that is not positive; ``name`` goes into its message.
    """
    try:
        return _geometry(tags, shape, name)
    except _NoGeometry as reason:
        return str(reason)


def _geometry(tags: GeometryTags, shape: tuple[int, int], name: str) -> ImageGeometry:
    (sid,) = _required(tags.sid_mm, "RTImageSID", 1)
    if sid <= 0:
        raise ImplausibleGeometry(
            f"{name}: RTImageSID is {sid:g} mm, so the receptor would be at or behind the source; "
            "correct the export of the imaging system and send the image again"
        )
    (sad,) = _positive(tags.sad_mm, "RadiationMachineSAD", 1)
    drow, dcol = _positive(tags.spacing_mm, "ImagePlanePixelSpacing", 2)
    _demand_upright_panel(tags)
    translation, translation_source = _translation(tags.translation_mm, sid, sad)
    first, position_source, warnings = _first_pixel(tags, shape, (drow, dcol), translation)
    gantry, gantry_source = _gantry(tags.gantry_deg)
    support, support_source = _angle(tags.support_deg, "PatientSupportAngle")
    if translation is None:
        warnings = (*warnings, RECEPTOR_TRANSLATION_ASSUMED)
    if sid < sad:
        warnings = (*warnings, SID_BELOW_SAD)
    if gantry is None and "untrusted" in gantry_source:
        warnings = (*warnings, GANTRY_UNTRUSTED)
    geometry = ImageGeometry(
        sid_mm=sid,
        sad_mm=sad,
        spacing_mm=(drow, dcol),
        first_pixel_mm=first,
        gantry_deg=gantry,
        axes=_axes(gantry),
        sources={
            "sid_mm": "RTImageSID",
            "sad_mm": "RadiationMachineSAD",
            "spacing_mm": "ImagePlanePixelSpacing",
            "first_pixel_mm": position_source,
            "receptor_translation_mm": translation_source,
            "gantry_deg": gantry_source,
            "support_deg": support_source,
        },
        warnings=warnings,
        support_deg=support,
        stated_gantry_deg=stated_angle(tags.gantry_deg),
    )
    _demand_beam_axis_on_panel(geometry, shape)
    return geometry


def _axes(gantry_deg: float | None) -> str:
    seen_from = "at an unknown gantry angle" if gantry_deg is None else f"at gantry {gantry_deg:.2f} deg"
    return (
        f"isocentre plane, +x right and +y up in the image (IEC 61217 X-ray image receptor) {seen_from}; "
        "nothing is known along the beam, and no patient axis is claimed"
    )


def _optional(texts: Texts, keyword: str, count: int) -> tuple[float, ...] | None:
    """Return ``count`` numbers, or None where the attribute is absent or empty. Garbage is no geometry."""
    if not texts or not any(texts):
        return None
    values = [decimal(text) for text in texts]
    if len(values) != count or None in values:
        written = "\\".join(texts)[:40]
        raise _NoGeometry(f"{keyword} is {written!r} where {count} number{'s' * (count > 1)} should be")
    return tuple(value for value in values if value is not None)


def _required(texts: Texts, keyword: str, count: int) -> tuple[float, ...]:
    values = _optional(texts, keyword, count)
    if values is None:
        raise _NoGeometry(f"{keyword} is {'missing' if texts is None else 'empty'}")
    return values


def _positive(texts: Texts, keyword: str, count: int) -> tuple[float, ...]:
    values = _required(texts, keyword, count)
    if min(values) <= 0:
        raise _NoGeometry(f"{keyword} is {' x '.join(f'{v:g}' for v in values)} mm, which is not a length")
    return values


def _demand_upright_panel(tags: GeometryTags) -> None:
    """Refuse millimetres where image rows and columns are not the receptor's -y and +x, seen along the beam."""
    if tags.plane and tags.plane[0] not in {"", "NORMAL"}:
        raise _NoGeometry(f"RTImagePlane is {tags.plane[0][:20]!r}: the panel is not normal to the beam")
    angle = (_optional(tags.receptor_deg, "XRayImageReceptorAngle", 1) or (0.0,))[0]
    if abs(math.remainder(angle, 360.0)) > _ANGLE_TOLERANCE_DEG:
        raise _NoGeometry(f"XRayImageReceptorAngle is {angle:g} deg: a rotated panel is not supported")
    upright = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
    orientation = _optional(tags.orientation, "RTImageOrientation", 6) or upright
    if max(abs(a - b) for a, b in zip(orientation, upright, strict=True)) > _COSINE_TOLERANCE:
        raise _NoGeometry("RTImageOrientation is flipped or tilted: only 1, 0, 0, 0, -1, 0 is supported")


def _translation(texts: Texts, sid_mm: float, sad_mm: float) -> tuple[tuple[float, ...] | None, str]:
    """Return the receptor's (x, y, z) from the isocentre, or None where it has to be taken as zero; and the source.

    By PS3.3 C.8.8.2 z is SAD - SID; a file in which it is not contradicts itself, and its scale is anybody's guess.
    """
    low, high = _SID_PER_SAD
    if not low <= sid_mm / sad_mm <= high:
        raise _NoGeometry(f"RTImageSID {sid_mm:g} mm and RadiationMachineSAD {sad_mm:g} mm do not belong together")
    translation = _optional(texts, "XRayImageReceptorTranslation", 3)
    if translation is None:
        return None, f"taken as zero, XRayImageReceptorTranslation is {'missing' if texts is None else 'empty'}"
    if abs(translation[2] - (sad_mm - sid_mm)) <= _RECEPTOR_TOLERANCE_MM:
        return translation, "XRayImageReceptorTranslation"
    if translation == (0.0, 0.0, 0.0):
        return None, "taken as zero, XRayImageReceptorTranslation is all zeros, also where SAD - SID is not"
    raise _NoGeometry(
        f"XRayImageReceptorTranslation puts the receptor {-translation[2]:g} mm beyond the isocentre, RTImageSID "
        f"{sid_mm - sad_mm:g} mm"
    )


def _first_pixel(
    tags: GeometryTags, shape: tuple[int, int], spacing: tuple[float, float], translation: tuple[float, ...] | None
) -> tuple[tuple[float, float], str, tuple[str, ...]]:
    """Return (x, y) of pixel (0, 0)'s centre from the beam axis, where it came from, and warnings."""
    shift = translation[:2] if translation else (0.0, 0.0)
    moved = " + XRayImageReceptorTranslation" if translation else ""
    step = (spacing[1], -spacing[0])  # one pixel right, one pixel down
    centred = (-step[0] * (shape[1] - 1) / 2, -step[1] * (shape[0] - 1) / 2)
    position = _optional(tags.position_mm, "RTImagePosition", 2)
    warnings: tuple[str, ...] = ()
    if position is None:
        position, source, warnings = (
            centred,
            "panel taken as centred, RTImagePosition is missing",
            (ISOCENTRE_UNCERTAIN,),
        )
    elif _same(position, centred, step):
        source = "RTImagePosition (centre of the first pixel)"
    elif _same(_moved(position, step, 0.5), centred, step):
        position, source = _moved(position, step, 0.5), "RTImagePosition (corner of the first pixel)"
    elif any(_same(_moved((position[0] - shift[0], position[1] - shift[1]), step, f), centred, step) for f in (0, 0.5)):
        raise _NoGeometry(
            "RTImagePosition seems to hold XRayImageReceptorTranslation already: adding it would be a guess"
        )
    else:
        # Not one of about 240 real files did this: a cropped panel, or a wrong unit.
        source = "RTImagePosition (assumed centre of the first pixel)"
        warnings = (POSITION_CONVENTION_ASSUMED, ISOCENTRE_UNCERTAIN)
    return (position[0] + shift[0], position[1] + shift[1]), source + moved, warnings


def _moved(xy: tuple[float, ...], step: tuple[float, float], pixels: float) -> tuple[float, float]:
    return xy[0] + pixels * step[0], xy[1] + pixels * step[1]


def _same(a: tuple[float, ...], b: tuple[float, ...], step: tuple[float, float]) -> bool:
    return all(abs(p - q) < _POSITION_TOLERANCE * abs(s) for p, q, s in zip(a, b, step, strict=True))


def with_gantry_evidence(geometry: ImageGeometry, stated_deg: float | None, planned_deg: float) -> ImageGeometry:
    """Return the geometry with its gantry angle trusted where the file's and the plan's agree within a degree.

    ``stated_deg`` is GantryAngle as the file has it, ``planned_deg`` that of the beam that the file refers to in its RT
    Plan (first control point). A file that states 0 is believed on the plan's word only; one that states another
    angle than its plan is not believed at all.
    """
    if stated_deg is None:
        return geometry
    agree = abs(math.remainder(stated_deg - planned_deg, 360.0)) <= _SAME_ANGLE_DEG
    gantry = stated_deg % 360.0 if agree else None
    source = (
        f"GantryAngle, as planned ({planned_deg:g})"
        if agree
        else f"GantryAngle {stated_deg:g}, untrusted: the plan's beam has {planned_deg:g}"
    )
    others = tuple(warning for warning in geometry.warnings if warning != GANTRY_UNTRUSTED)
    return replace(
        geometry,
        gantry_deg=gantry,
        axes=_axes(gantry),
        sources={**geometry.sources, "gantry_deg": source},
        warnings=others if agree else (*others, GANTRY_UNTRUSTED),
    )


def stated_angle(texts: Texts) -> float | None:
    """Return an angle as a file states it, degrees, or None where it states none."""
    return decimal(texts[0]) if texts and len(texts) == 1 else None


def _angle(texts: Texts, keyword: str) -> tuple[float | None, str]:
    if not texts or not any(texts):
        return None, f"{keyword} is {'missing' if texts is None else 'empty'}"
    angle = stated_angle(texts)
    return (None, f"{keyword} is not a number") if angle is None else (angle % 360.0, keyword)


def _gantry(texts: Texts) -> tuple[float | None, str]:
    angle, source = _angle(texts, "GantryAngle")
    if angle is not None and math.remainder(angle, 360.0) == 0:
        return None, f"GantryAngle {stated_angle(texts):g}, untrusted: some exports always write it"
    return angle, source


def _demand_beam_axis_on_panel(geometry: ImageGeometry, shape: tuple[int, int]) -> None:
    """Refuse a position of the wrong sign or unit: it puts the beam axis off the image."""
    x, y = geometry.to_pixels(np.zeros(2))
    if not (-0.5 <= x <= shape[1] - 0.5 and -0.5 <= y <= shape[0] - 0.5):
        raise _NoGeometry(
            f"RTImagePosition and XRayImageReceptorTranslation put the beam axis at pixel ({x:.0f}, {y:.0f}), "
            "outside the image"
        )
