"""From a DICOM file's bytes to stored pixels, their geometry and what the header says of them. pydicom ends here.

RT Image, CR, DX and Secondary Capture, also without preamble and file meta information. Values are taken raw:
pydicom's own conversions warn, guess, and raise too many kinds of errors on hostile or merely odd files.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from pydicom import uid
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.filereader import read_dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.tag import BaseTag

from edge.errors import DamagedImage, EdgeError, NotAnImage, UnsupportedImage
from edge.geometry import GeometryTags, Texts, decimal, image_geometry
from edge.pixel_checks import StoredImage, codestream_shape, demand_plausible_size, is_complete_codestream

KNOWN_MODALITIES = frozenset({"RTIMAGE", "CR", "DX", "OT", "XA", "RF", "RG", "PX", "MG", "CT", "MR"})
KNOWN_COLOURS = frozenset(
    {"MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "HSV", "ARGB", "CMYK", "XYB"}
    | {"YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT"}
)
MAX_ITEMS = 20_000  # a portal image has a few dozen; reading this many takes a quarter of a second
SIGN_TAG = "PixelIntensityRelationshipSign"
ACCEPTED_CLASSES = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.481.1",  # RT Image
        "1.2.840.10008.5.1.4.1.1.1",  # Computed Radiography
        "1.2.840.10008.5.1.4.1.1.1.1",  # Digital X-Ray, for presentation
        "1.2.840.10008.5.1.4.1.1.1.1.1",  # Digital X-Ray, for processing
        "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture
    }
)
_NATIVE = frozenset({uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian})
# Which decoder reads what; named one by one, so that an installed GPL pylibjpeg-libjpeg is never picked up.
_DECODERS = {
    uid.RLELossless: "pydicom",
    uid.JPEGBaseline8Bit: "gdcm",
    uid.JPEGLossless: "gdcm",
    uid.JPEGLosslessSV1: "gdcm",
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "pyjpegls",
    uid.JPEG2000Lossless: "pylibjpeg",
    uid.JPEG2000: "pylibjpeg",
}
_GEOMETRY = {
    "sid_mm": "RTImageSID",
    "sad_mm": "RadiationMachineSAD",
    "spacing_mm": "ImagePlanePixelSpacing",
    "position_mm": "RTImagePosition",
    "translation_mm": "XRayImageReceptorTranslation",
    "receptor_deg": "XRayImageReceptorAngle",
    "orientation": "RTImageOrientation",
    "plane": "RTImagePlane",
    "gantry_deg": "GantryAngle",
    "support_deg": "PatientSupportAngle",
}
_NUMBERS = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
_OTHERS = (
    *("MediaStorageSOPClassUID", "TransferSyntaxUID", "SOPClassUID", "SOPInstanceUID", "Modality", "NumberOfFrames"),
    *("PhotometricInterpretation", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", SIGN_TAG, "PixelData"),
)
_TAGS = {keyword: cast(int, tag_for_keyword(keyword)) for keyword in (*_NUMBERS, *_OTHERS, *_GEOMETRY.values())}
_PIXEL_DATA = _TAGS["PixelData"]
_UNDEFINED_LENGTH = 0xFFFFFFFF
_ITEM_TAG = b"\xfe\xff\x00\xe0"


@dataclass(frozen=True)
class _Header:
    """Raw values by keyword."""

    dataset: Dataset
    name: str

    def raw(self, keyword: str) -> bytes | None:
        element = self.dataset.get_item(_TAGS[keyword]) if _TAGS[keyword] in self.dataset else None
        return (element.value or b"") if isinstance(element, RawDataElement) else None

    def bytes_before(self, keyword: str) -> int:
        """Return how many bytes of the file precede a value that was read."""
        element = self.dataset.get_item(_TAGS[keyword])
        return element.value_tell if isinstance(element, RawDataElement) else 0

    def holds(self, keyword: str) -> bool:
        return _TAGS[keyword] in self.dataset and self.raw(keyword) != b""

    def texts(self, keyword: str) -> Texts:
        raw = self.raw(keyword)
        if raw is None:
            return None
        parts = tuple(part.strip(" \0") for part in raw.decode("latin-1").split("\\"))
        return () if parts == ("",) else parts

    def text(self, keyword: str) -> str | None:
        return "\\".join(self.texts(keyword) or ()) or None

    def number(self, keyword: str, default: float) -> float:
        """Return a decimal string; absent and empty mean ``default``, anything else is damage."""
        text = self.text(keyword)
        value = default if text is None else decimal(text)
        if value is None:
            raise DamagedImage(f"{self.name}: {keyword} is not a number; correct the export and send it again")
        return value

    def integer(self, keyword: str, default: int | None = None) -> int:
        """Return an unsigned 16-bit value."""
        raw = self.raw(keyword)
        if not raw and default is not None:
            return default
        if raw is None or len(raw) != 2:
            raise DamagedImage(f"{self.name}: {keyword} is missing or malformed; send the file again")
        return int.from_bytes(raw, "little")


def read_headless_dicom(data: bytes, name: str) -> StoredImage:
    """Read a data set without preamble: it proves to be DICOM only by naming a SOP class."""
    try:
        header, syntax = _read_header(data, 0, name)
    except EdgeError:
        raise
    except Exception as exc:  # any file may start with these two bytes
        raise NotAnImage(f"{name}: is neither DICOM nor PNG nor TIFF, so it is left alone") from exc
    if header.raw("SOPClassUID") is None:
        raise NotAnImage(f"{name}: has no preamble and names no SOP class, so it is no DICOM image and is left alone")
    return _decode(header, syntax)


def read_dicom(data: bytes, name: str) -> StoredImage:
    """Read a DICOM file (PS3.10): a data set behind a preamble and the letters DICM."""
    return _decode(*_read_header(data, 132, name))


def _read_header(data: bytes, start: int, name: str) -> tuple[_Header, uid.UID]:
    """Read file meta information, if any, then the elements this module knows; both are judged on the way.

    The transfer syntax is judged before the data set is touched: 1 MB of deflated zeros costs `dcmread` 1.9 GB.
    """
    file = io.BytesIO(data)
    file.seek(start)
    meta = _Header(read_dataset(file, False, True, stop_when=_after_file_meta), name)
    _demand_accepted_class(meta.text("MediaStorageSOPClassUID"), name)
    syntax = uid.UID(meta.text("TransferSyntaxUID") or uid.ImplicitVRLittleEndian)
    if syntax not in _NATIVE and syntax not in _DECODERS:
        raise UnsupportedImage(
            f"{name}: transfer syntax {_known_name(syntax)} is not supported; export uncompressed (implicit or "
            "explicit VR little endian) or losslessly compressed"
        )
    implicit = syntax == uid.ImplicitVRLittleEndian
    tags: list[BaseTag | int] = list(_TAGS.values())
    stop = _stop_after_pixel_data(data, name)
    header = _Header(read_dataset(file, implicit, True, stop_when=stop, specific_tags=tags), name)
    _demand_accepted_class(header.text("SOPClassUID"), name)
    return header, syntax


def _after_file_meta(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return int(tag) >> 16 != 2


def _stop_after_pixel_data(data: bytes, name: str) -> Callable[[BaseTag, str | None, int], bool]:
    """Return `read_dataset`'s question whether to stop at an element.

    Sequences of undefined length are walked item by item even where nobody asked for them: 8 MB of empty items took
    25 s. The first such sequence makes the items be counted.
    """
    counted = False

    def is_after(tag: BaseTag, _vr: str | None, length: int) -> bool:
        nonlocal counted
        if length == _UNDEFINED_LENGTH and tag != _PIXEL_DATA and not counted:
            counted = True
            if data.count(_ITEM_TAG) > MAX_ITEMS:
                raise UnsupportedImage(f"{name}: has over {MAX_ITEMS} sequence items in its header; export it anew")
        return int(tag) > _PIXEL_DATA

    return is_after


def _demand_accepted_class(sop_class: str | None, name: str) -> None:
    if sop_class is not None and sop_class not in ACCEPTED_CLASSES:
        raise NotAnImage(f"{name}: holds {_known_name(sop_class)}, not a portal image, so it is left alone")


def _known_name(identifier: str) -> str:
    """Return what a UID stands for. Any other text of a header may be of a patient, and is not passed on."""
    name = uid.UID(identifier).name
    return name[:80] if name != identifier else _identifier(identifier) or "a malformed UID"


def _identifier(text: str | None) -> str | None:
    """Return a UID, also one that is illegal but none the less of figures; text may be of a patient."""
    return text if text and re.fullmatch(r"[0-9A-Fa-f.-]{1,64}", text) else None


def _quotable(texts: Texts) -> Texts:
    """Return texts that a reason may quote: what could have been meant as a number, and terms (PS3.3 C.8.8.2)."""
    if texts is None:
        return None
    return tuple(text if re.fullmatch(r"[0-9.,+\-eE ]*|NORMAL|NON_NORMAL", text) else "(text)" for text in texts)


def _decode(header: _Header, syntax: uid.UID) -> StoredImage:
    name = header.name
    if header.raw("SOPClassUID") is None:
        raise DamagedImage(f"{name}: the DICOM header ends before its SOP class; send the file again")
    shape = _shape(header)
    stored = _native(header, shape) if syntax in _NATIVE else _decompressed(header, syntax, shape)
    slope = header.number("RescaleSlope", 1.0)
    tags = GeometryTags(**{field: _quotable(header.texts(keyword)) for field, keyword in _GEOMETRY.items()})
    return StoredImage(
        stored=stored,
        geometry=image_geometry(tags, shape, name),
        gain=slope,
        offset=header.number("RescaleIntercept", 0.0),
        sign=_sign(header),
        sop_instance_uid=_identifier(header.text("SOPInstanceUID")),  # may be an illegal UID: kept as it is
        modality=modality if (modality := header.text("Modality")) in KNOWN_MODALITIES else None,
        header_bytes=header.bytes_before("PixelData"),
    )


def _sign(header: _Header) -> int | None:
    """Return the polarity attribute, or None where it is absent or neither 1 nor -1.

    PS3.3 C.8.11.3.1.2: +1 = lower values mean less beam intensity. It is applied after rescaling, as software in the
    field does, so that a file and its copy with inverted values and a negative slope are one image.
    MONOCHROME1 and 2 say how to display, and files lie about it: never used.
    """
    raw = header.raw(SIGN_TAG) or b""
    value = int.from_bytes(raw, "little", signed=True) if len(raw) == 2 else 0
    return value if value in {1, -1} else None


def _shape(header: _Header) -> tuple[int, int]:
    """Return (rows, columns) of an image of a sort that is read here, before anything is allocated."""
    name = header.name
    rows, columns = header.integer("Rows"), header.integer("Columns")
    demand_plausible_size((rows, columns), name)
    if header.number("NumberOfFrames", 1) != 1:
        raise UnsupportedImage(f"{name}: has several frames; export one image per file")
    photometric = header.text("PhotometricInterpretation") or "MONOCHROME2"
    if header.integer("SamplesPerPixel", 1) != 1 or photometric not in {"MONOCHROME1", "MONOCHROME2"}:
        said = photometric if photometric in KNOWN_COLOURS else "unknown photometric interpretation"
        raise UnsupportedImage(f"{name}: is a colour image ({said}); export it in grey")
    if header.holds("ModalityLUTSequence"):
        raise UnsupportedImage(f"{name}: has a modality lookup table; export it with rescale slope and intercept")
    return rows, columns


def _bits(header: _Header) -> tuple[int, int, int, bool]:
    """Return bits allocated, bits stored, high bit, and whether values are signed (PS3.5 8.1.1)."""
    allocated = header.integer("BitsAllocated")
    stored = header.integer("BitsStored", allocated)
    high = header.integer("HighBit", stored - 1)
    if allocated not in {8, 16, 32}:
        raise UnsupportedImage(f"{header.name}: has {allocated} bits per pixel; export it with 8, 16 or 32")
    if not 0 < stored <= high + 1 <= allocated:
        raise DamagedImage(f"{header.name}: {stored} bits up to bit {high} do not fit in {allocated}; send it again")
    return allocated, stored, high, header.integer("PixelRepresentation", 0) == 1


def _pixel_bytes(header: _Header) -> bytes:
    value = header.raw("PixelData")
    if not value:
        raise DamagedImage(f"{header.name}: the pixel data are missing; send the file again")
    return value


def _native(header: _Header, shape: tuple[int, int]) -> np.ndarray:
    """Return (H, W) integers of uncompressed pixel data, as a view of the file's bytes where no bit is unused."""
    allocated, bits, high, signed = _bits(header)
    value, expected = _pixel_bytes(header), shape[0] * shape[1] * allocated // 8
    if len(value) not in {expected, expected + expected % 2}:
        cut = "the file was cut short: " if len(value) < expected else ""
        raise DamagedImage(
            f"{header.name}: has {len(value)} bytes of pixel data where {shape[0]} x {shape[1]} pixels need "
            f"{expected}; {cut}send it again"
        )
    array = np.frombuffer(value, f"<{'i' if signed else 'u'}{allocated // 8}", shape[0] * shape[1]).reshape(shape)
    if bits < allocated:  # overlays may use the other bits; shifting back extends the sign
        array = (array << (allocated - 1 - high)) >> (allocated - bits)
    return array


def _decompressed(header: _Header, syntax: uid.UID, shape: tuple[int, int]) -> np.ndarray:
    allocated, bits, _, signed = _bits(header)
    plugin, decoder = _DECODERS[syntax], get_decoder(syntax)
    if plugin not in decoder.available_plugins:
        raise UnsupportedImage(f"{header.name}: reading {syntax.name} needs {plugin}; install the room's requirements")
    value = _pixel_bytes(header)
    stream = next(generate_frames(value, number_of_frames=1))
    _demand_whole_codestream(stream, syntax, shape, header)
    description: dict[str, Any] = {
        "rows": shape[0],
        "columns": shape[1],
        "samples_per_pixel": 1,
        "number_of_frames": 1,
        "bits_allocated": allocated,
        "bits_stored": bits,
        "pixel_representation": int(signed),
        "photometric_interpretation": "MONOCHROME2",
        "pixel_keyword": "PixelData",
    }
    array, _ = decoder.as_array(value, decoding_plugin=plugin, raw=True, **description)
    if array.shape != shape:
        raise DamagedImage(f"{header.name}: decodes to {array.shape} where the header says {shape}; send it again")
    return array


def _demand_whole_codestream(stream: bytes, syntax: uid.UID, shape: tuple[int, int], header: _Header) -> None:
    """Refuse before decoding what is cut short or would decode to another size than the header's."""
    name, native = header.name, shape[0] * shape[1] * header.integer("BitsAllocated") // 8
    if syntax == uid.RLELossless:
        if len(stream) > native + native // 64 + 1024:  # PS3.5 G.3.1: at worst one byte more in 128
            raise DamagedImage(f"{name}: holds more compressed than uncompressed data; send it again")
    elif not is_complete_codestream(stream):
        raise DamagedImage(f"{name}: the compressed pixel data have no end; the file was cut short: send it again")
    elif codestream_shape(stream) != shape:
        raise DamagedImage(
            f"{name}: the compressed pixel data are not of {shape[0]} x {shape[1]} pixels; send it again"
        )
