"""Builders of portal image files. They write the bytes themselves, so that a test can write what no library would."""

import struct
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.encaps import encapsulate, generate_frames

RT_IMAGE = "1.2.840.10008.5.1.4.1.1.481.1"
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
LONG_FORM = {"OB", "OW", "SQ", "UN"}  # PS3.5 7.1.2: these have a 32-bit length


def element(keyword, value, implicit, fragments=1):
    """Return one data element. ``value`` is the text as written, an integer (US, SS, UL), or raw bytes."""
    tag, vr = tag_for_keyword(keyword), dictionary_VR(tag_for_keyword(keyword)).split(" ")[0]
    undefined = isinstance(value, list)  # frames to encapsulate
    if undefined:
        vr, value = "OB", encapsulate(value, fragments_per_frame=fragments) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    elif isinstance(value, int):
        value = struct.pack({"US": "<H", "SS": "<h", "UL": "<I"}[vr], value)
    elif isinstance(value, str):
        value = value.encode()
    value += (b"\0" if vr in {"UI", "OB", "OW"} else b" ") * (len(value) % 2)
    length = 0xFFFFFFFF if undefined else len(value)
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    if implicit:
        return head + struct.pack("<I", length) + value
    if vr in LONG_FORM:
        return head + vr.encode() + struct.pack("<HI", 0, length) + value
    return head + vr.encode() + struct.pack("<H", length) + value


def dicom_bytes(pixels, *, syntax=EXPLICIT, headless=False, frames=None, fragments=1, **changes):
    """Return the bytes of an RT Image of (H, W) integer ``pixels``; ``changes`` replace or (None) remove attributes."""
    rows, columns = pixels.shape
    bits = pixels.dtype.itemsize * 8
    attributes = {
        "SOPClassUID": RT_IMAGE,
        "SOPInstanceUID": "1.2.3.4",
        "Modality": "RTIMAGE",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": rows,
        "Columns": columns,
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PixelIntensityRelationshipSign": 1,
        "RescaleIntercept": "0",
        "RescaleSlope": "1",
        "XRayImageReceptorTranslation": "0\\0\\-500",
        "XRayImageReceptorAngle": "0",
        "RTImagePlane": "NORMAL",
        "RTImageOrientation": "1\\0\\0\\0\\-1\\0",
        "ImagePlanePixelSpacing": "0.8\\0.8",
        "RTImagePosition": f"{-0.4 * (columns - 1)}\\{0.4 * (rows - 1)}",
        "RadiationMachineSAD": "1000",
        "RTImageSID": "1500",
        "GantryAngle": "90",
        "PixelData": frames if frames is not None else pixels.tobytes(),
    } | changes
    ordered = sorted((k for k, v in attributes.items() if v is not None), key=tag_for_keyword)
    body = b"".join(element(k, attributes[k], syntax == IMPLICIT, fragments) for k in ordered)
    if headless:
        return body
    meta = element("MediaStorageSOPClassUID", changes.get("SOPClassUID") or RT_IMAGE, implicit=False)
    meta += element("TransferSyntaxUID", syntax, implicit=False)
    return bytes(128) + b"DICM" + element("FileMetaInformationGroupLength", len(meta), implicit=False) + meta + body


def soft_step(distance_px):
    """Return 0..1 across an edge with a penumbra of about 4 px, 0 far on the negative side."""
    return 1 / (1 + np.exp(-np.asarray(distance_px, float)))


def thorax_dose(height=192, width=256):
    """Return (H, W) transmitted dose, 0..1: an AP chest that fills the image; spine darker than the lungs beside it."""
    y, x = np.mgrid[0:height, 0:width]
    u, v = (x - width / 2) / width, (y - height / 2) / height
    lungs = ((np.abs(u) - 0.22) / 0.16) ** 2 + (v / 0.42) ** 2
    spine = np.exp(-((u / 0.05) ** 2)) * (1 + 0.2 * np.cos(40 * v))
    return np.exp(-0.9 - 0.3 * v + 0.5 * np.clip(1 - lungs, 0, 1) - 0.5 * spine)


@pytest.fixture(scope="session")
def dicom():
    """Return `dicom_bytes`."""
    return dicom_bytes


@pytest.fixture(scope="session")
def thorax():
    """Return `thorax_dose`."""
    return thorax_dose


@pytest.fixture(scope="session")
def collimated():
    """Return a function: (H, W) uint16 dose of a thorax behind jaws at the given rows and columns, with a shadow."""

    def image(height=192, width=256, jaws=(30, 160, 40, 215), shadow=400):
        y, x = np.mgrid[0:height, 0:width]
        top, bottom, left, right = jaws
        opened = soft_step(y - top) * soft_step(bottom - y) * soft_step(x - left) * soft_step(right - x)
        return np.rint(shadow + 40000 * opened * thorax_dose(height, width)).astype("<u2")

    return image


@pytest.fixture
def write(tmp_path):
    """Return a function that writes bytes to a file of the given name and returns its path."""

    def to_file(data, name="RI.1.dcm"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return to_file


@pytest.fixture
def lossless_jpeg(write):
    """Return a function: one frame as a lossless JPEG codestream, by GDCM, the only encoder of it here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its bindings warn on import
        import gdcm

    def encode(pixels, syntax):
        path = write(dicom_bytes(pixels), "to_encode.dcm")
        reader = gdcm.ImageReader()
        reader.SetFileName(str(path))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        dataset = pydicom.dcmread(path)
        assert dataset.file_meta.TransferSyntaxUID == syntax
        return next(generate_frames(dataset.PixelData, number_of_frames=1))

    return encode


@pytest.fixture(scope="session")
def real_file():
    """Return a function: the only file in ../shared/portal/<folder>; skips where the folder is absent."""

    def find(folder):
        place = Path(__file__).parents[2].parent / "shared" / "portal" / folder
        if not place.is_dir():
            pytest.skip(f"real portal images are not part of the project and {place} is absent")
        (path,) = place.iterdir()
        return path

    return find
