"""From the bytes of a portal image file to pixels that are brighter for more dose, and their geometry.

DICOM, PNG or TIFF; the file is read once. Everything that its header gives away is refused before decoding.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from edge.dicom_image import SIGN_TAG, read_dicom, read_headless_dicom
from edge.errors import DamagedImage, EdgeError, FileTooLarge, ImageUnreadable, NotAnImage, UnsupportedImage
from edge.geometry import ImageGeometry
from edge.pixel_checks import (
    MAX_SIDE_PX,
    StoredImage,
    demand_plausible_size,
    demand_trustworthy_pixels,
    rescale,
    was_sent_as_text,
)
from edge.planned_beam import beam_of_image
from edge.polarity import dose_sign
from edge.records import ImageIdentity, PortalImage, Rescale

MAX_FILE_BYTES = 256 * 2**20  # real portal images have 0.4 to 3.3 MB
_GROWTH_BYTES = 2**16  # asked for past the expected end; `os.read` allocates what it is asked for
MAX_CHANNEL_DIFFERENCE = 8  # of 255: colour noise of a grey picture that went through JPEG


def read_portal_image(path: Path, max_bytes: int = MAX_FILE_BYTES, *, name: str | None = None) -> PortalImage:
    """Read one file. ``name`` stands in messages and results where the file lies under another one (a spool).

    Raises `NotAnImage`, `UnsupportedImage`, `FileTooLarge`, `DamagedImage` or `ImplausibleGeometry` for the file, and
    `ImageUnreadable` where the operating system fails; nothing else.
    """
    name = name or path.name
    data = _read_bytes(path, name, max_bytes)
    with warnings.catch_warnings():  # pydicom and pillow warn of odd files that are good enough
        warnings.simplefilter("ignore")
        try:
            return _portal_image(_decoder_for(data, name)(data, name), data, name)
        except DamagedImage as exc:
            if was_sent_as_text(data):
                raise DamagedImage(
                    f"{exc} (every line feed follows a carriage return, as after a text-mode transfer: "
                    "set the transfer to binary)"
                ) from exc
            raise
        except EdgeError:
            raise
        except MemoryError as exc:
            raise ImageUnreadable(f"{name}: no memory to decode it just now; it is tried again") from exc
        except Exception as exc:  # hostile files raise anything; foreign errors end here
            raise _undecodable(name, exc) from exc


def _undecodable(name: str, exc: Exception) -> DamagedImage:
    """Return what is said of a file that a library gave up on, whose own words may quote it, and with it a patient."""
    return DamagedImage(f"{name}: cannot be decoded ({type(exc).__name__}); send it again")


def _read_bytes(path: Path, name: str, max_bytes: int) -> bytes:
    try:
        # O_NONBLOCK: opening a named pipe must not wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise NotAnImage(f"{name}: is not a regular file, so it is left alone")
            if status.st_size <= max_bytes:
                data = _read_up_to(descriptor, status.st_size, max_bytes)
                if len(data) <= max_bytes:
                    return data
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise ImageUnreadable(f"{name}: cannot be read just now ({exc.strerror}); it is tried again") from exc
    raise FileTooLarge(
        f"{name}: has {status.st_size} bytes, the limit is {max_bytes}; a portal image has a few million: "
        "check what was exported"
    )


def _read_up_to(descriptor: int, expected: int, max_bytes: int) -> bytes:
    """Read all, but never more than one byte past the limit, even of a file that grows."""
    data = os.read(descriptor, min(expected, max_bytes) + 1)
    while len(data) <= max_bytes and (more := os.read(descriptor, min(_GROWTH_BYTES, max_bytes + 1 - len(data)))):
        data += more
    return data


def _decoder_for(data: bytes, name: str) -> Callable[[bytes, str], StoredImage]:
    if data[128:132] == b"DICM":
        return read_dicom
    if data.startswith((b"\x89PNG", b"II*\0", b"MM\0*")):
        return _read_picture
    if data.startswith((b"\x08\0", b"\x02\0")):  # group 0008 or 0002, little endian: MOSAIQ exports
        return read_headless_dicom
    raise NotAnImage(f"{name}: is neither DICOM nor PNG nor TIFF, so it is left alone")


def _portal_image(image: StoredImage, data: bytes, name: str) -> PortalImage:
    """Check, rescale and orient the stored values; bright becomes more dose."""
    demand_trustworthy_pixels(image, name)
    pixels, source, sign = _dose_pixels(image)
    return PortalImage(
        pixels=pixels,
        polarity_source=source,
        geometry=image.geometry if isinstance(image.geometry, ImageGeometry) else None,
        geometry_reason=None if isinstance(image.geometry, ImageGeometry) else image.geometry,
        identity=ImageIdentity(
            name=name,
            sha256=hashlib.sha256(data).hexdigest(),
            sop_instance_uid=image.sop_instance_uid,
            modality=image.modality,
            rows=pixels.shape[0],
            columns=pixels.shape[1],
        ),
        rescale=Rescale(image.gain, image.offset, sign),
        beam=beam_of_image(data[: image.header_bytes]),
    )


def _dose_pixels(image: StoredImage) -> tuple[np.ndarray, str, int]:
    """Return (H, W) float32, read-only, bright = more dose; what decided that; and the sign that makes it so."""
    pixels = image.stored.astype(np.float32)
    sign, source = image.sign, SIGN_TAG
    rescale(pixels, image.gain * (sign or 1), image.offset * (sign or 1))
    if sign is None:
        sign, source = dose_sign(pixels)
        rescale(pixels, sign, 0.0)
    pixels.setflags(write=False)
    return pixels, source, sign


def _read_picture(data: bytes, name: str) -> StoredImage:
    """Read a grey PNG or TIFF, or a coloured one whose channels agree."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "TIFF")) as image:
            kind, frames = str(image.format), getattr(image, "n_frames", 1)
            demand_plausible_size((image.height, image.width), name)
            if frames != 1:
                raise UnsupportedImage(f"{name}: has several frames; export one image per file")
            if image.mode not in {"L", "I", "I;16", "I;16L", "I;16B", "RGB"}:
                raise UnsupportedImage(f"{name}: has {image.mode} pixels; export it in grey with 8 or 16 bits")
            stored = np.asarray(image)
    except Image.DecompressionBombError as exc:
        raise UnsupportedImage(f"{name}: is far too large; the limit is {MAX_SIDE_PX} pixels a side") from exc
    except OSError as exc:  # pillow's word for a damaged file: the bytes are in memory
        raise _undecodable(name, exc) from exc
    if stored.ndim == 3:
        if int((stored.max(axis=2) - stored.min(axis=2)).max()) > MAX_CHANNEL_DIFFERENCE:
            raise UnsupportedImage(f"{name}: is a colour image; export it in grey")
        stored = stored.mean(axis=2, dtype=np.float32)
    return StoredImage(stored=stored, geometry=f"{kind} files carry no geometry")
