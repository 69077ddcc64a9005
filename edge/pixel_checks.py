"""Stored pixels before polarity, and the signs that they are not what their writer wrote.

Cut short, preallocated, sent as text, constant, not finite, too large.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from edge.errors import DamagedImage, UnsupportedImage
from edge.geometry import ImageGeometry

MAX_SIDE_PX = 8192

_EDGE_PX = 2  # dead rows and columns at a panel's edge prove nothing
_STEADY_ROWS = 4


@dataclass(frozen=True, eq=False)
class StoredImage:
    """What a file holds. ``gain * stored + offset`` is proportional to dose, or to its negative."""

    stored: np.ndarray  # (H, W)
    geometry: ImageGeometry | str  # or the reason why there is none
    gain: float = 1.0
    offset: float = 0.0
    sign: int | None = None  # +1: bright is more dose after rescaling, -1: less; None: nothing says so
    sop_instance_uid: str | None = None
    modality: str | None = None
    header_bytes: int = 0  # of the file, before its pixel data; 0 where it has no header of DICOM


def rescale(pixels: np.ndarray, gain: float, offset: float) -> None:
    """Rescale float32 pixels in place."""
    if gain != 1.0:
        np.multiply(pixels, np.float32(gain), out=pixels)
    if offset:
        np.add(pixels, np.float32(offset), out=pixels)


def demand_plausible_size(shape: tuple[int, int], name: str) -> None:
    """Refuse from the header alone what no imager makes; 65535 x 65535 pixels would be 8 GB."""
    if max(shape) > MAX_SIDE_PX:
        raise UnsupportedImage(f"{name}: has {shape[0]} x {shape[1]} pixels, the limit is {MAX_SIDE_PX} a side")
    if min(shape) < 1:
        raise DamagedImage(f"{name}: has {shape[0]} rows and {shape[1]} columns; send it again")


def demand_trustworthy_pixels(image: StoredImage, name: str) -> None:
    """Refuse pixels that are not finite, all the same, or partly never written."""
    extremes = np.array([image.stored.min(), image.stored.max()], np.float32)  # rescaling is affine: they suffice
    with np.errstate(all="ignore"):
        rescale(extremes, image.gain, image.offset)
    if not np.isfinite(extremes).all():
        raise DamagedImage(f"{name}: pixel values are not finite after rescaling; correct the export and send it again")
    if extremes[0] == extremes[1]:
        raise DamagedImage(f"{name}: every pixel has the same value, so nothing was imaged; acquire or send it again")
    share = zero_tail_share(image.stored)
    if share:
        raise DamagedImage(
            f"{name}: the last {share:.0%} of the pixels are zero, as in a file that was allocated but not fully "
            "written; send it again"
        )


def was_sent_as_text(data: bytes) -> bool:
    """Whether a text-mode transfer put a carriage return before every line feed (LF -> CRLF, seen on Eclipse DRRs).

    In 8 KiB of honest pixel data a line feed is preceded by something else about 32 times.
    """
    line_feeds = data.count(b"\n")
    return line_feeds >= 32 and data.count(b"\r\n") == line_feeds


def zero_tail_share(stored: np.ndarray) -> float:
    """Return the share of (H, W) stored values that a preallocated, half-written file left zero; 0.0 for none.

    A collimator's shadow or a DRR's background can be exactly zero down to the last row as well. A tail of at least
    one row in a hundred counts as unwritten
    * where nothing else is zero (neither the first rows nor one side above the tail): if the rows above it do not
      fade towards it;
    * where zeros also lie elsewhere: if it begins in the middle of something whose straight side goes on above.
    """
    height, width = stored.shape
    if min(height, width) < 4 * _STEADY_ROWS or stored[-max(_EDGE_PX + 1, height // 100) :].any():
        return 0.0
    row = int(np.flatnonzero(stored.any(axis=1))[-1])
    column = int(np.flatnonzero(stored[row])[-1])
    judge = _begins_inside if _zero_elsewhere(stored, row) else _is_abrupt
    unwritten = row < 2 * _STEADY_ROWS or judge(stored, row, column)
    return 1.0 - (row * width + column + 1) / stored.size if unwritten else 0.0


def _zero_elsewhere(stored: np.ndarray, row: int) -> bool:
    height, width = stored.shape
    top = stored[_EDGE_PX : _EDGE_PX + max(1, height // 100)]
    above = stored[max(0, row - _STEADY_ROWS) : row]
    band = max(1, width // 100)
    sides = above[:, _EDGE_PX : _EDGE_PX + band], above[:, -_EDGE_PX - band : -_EDGE_PX]
    return not top.any() or any(not side.any() for side in sides)


def _is_abrupt(stored: np.ndarray, row: int, _column: int) -> bool:
    """Whether the last full row does not approach zero: at least half of the level 3 rows, or a dozen, above it.

    Below 8 grey levels it may: there noise and slow scatter reach zero in equal steps.
    """
    last, near, far = (float(np.median(np.abs(stored[max(0, row - n)].astype(np.float64)))) for n in (1, 4, 13))
    return last >= 8 and (last >= far / 2 or last >= near / 2)


def _begins_inside(stored: np.ndarray, row: int, column: int) -> bool:
    """Whether the rows above go on past the last written pixel, and all end at the same column."""
    above = stored[row - _STEADY_ROWS : row] != 0
    ends = above.shape[1] - 1 - above[:, ::-1].argmax(axis=1)
    goes_on = above[:, column + 1 : column + 9]
    return bool(above.any(axis=1).all() and np.ptp(ends) <= 1 and goes_on.shape[1] == 8 and goes_on.all())


def is_complete_codestream(stream: bytes) -> bool:
    """Whether a JPEG, JPEG-LS or JPEG 2000 codestream has its end marker (EOI and EOC are both FFD9)."""
    return stream.rstrip(b"\0").endswith(b"\xff\xd9")


def codestream_shape(stream: bytes) -> tuple[int, int] | None:
    """Return (height, width) as a JPEG, JPEG-LS or JPEG 2000 codestream states it, or None where none is found.

    Read before decoding: a decoder allocates what the codestream says, whatever the DICOM header says.
    """
    size = stream.find(b"\xff\x4f\xff\x51")  # SOC, SIZ (ISO/IEC 15444-1 A.5.1)
    if size >= 0 and len(stream) >= size + 24:
        width, height, left, top = struct.unpack_from(">4I", stream, size + 8)
        return height - top, width - left
    return _jpeg_shape(stream)


def _jpeg_shape(stream: bytes) -> tuple[int, int] | None:
    """Walk the marker segments up to the frame header: SOF0, 1, 3 (ISO/IEC 10918-1 B.2.2) or SOF55 (14495-1)."""
    at = 2
    while at + 9 <= len(stream) and stream[at] == 0xFF:
        if stream[at + 1] in {0xC0, 0xC1, 0xC3, 0xF7}:
            height, width = struct.unpack_from(">HH", stream, at + 5)
            return height, width
        at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    return None
