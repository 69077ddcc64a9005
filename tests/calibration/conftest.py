"""Builders of portal images that say of themselves what a test needs, and of small models with known activations."""

import io

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTImageStorage


def dose_field(seed, side=96):
    """Return (side, side) uint16: a smooth field of its own for each seed."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    waves = sum(a * np.cos(2 * np.pi * (u * x + v * y) + p) for a, u, v, p in rng.uniform(0, 1, (12, 4)) * (1, 6, 6, 7))
    return np.rint(np.interp(waves, (waves.min(), waves.max()), (2000, 60000))).astype("<u2")


def rt_image(pixels, **tags):
    """Return an RT Image; gantry at 90 degrees, de-identified, unless ``tags`` say otherwise (None removes one)."""
    rows, columns = pixels.shape
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    attributes = {
        "SOPClassUID": RTImageStorage,
        "SOPInstanceUID": "1.2.3.4",
        "Modality": "RTIMAGE",
        "ImageType": ["ORIGINAL", "PRIMARY", "PORTAL"],
        "Rows": rows,
        "Columns": columns,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "PixelIntensityRelationshipSign": 1,
        "ImagePlanePixelSpacing": [0.8, 0.8],
        "RTImagePosition": [-0.4 * (columns - 1), 0.4 * (rows - 1)],
        "RadiationMachineSAD": 1000.0,
        "RTImageSID": 1500.0,
        "GantryAngle": 90.0,
        "RadiationMachineName": "LINAC7",
    } | tags
    for keyword, value in attributes.items():
        if value is not None:
            setattr(ds, keyword, value)
    ds.PixelData = pixels.astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    return ds


def exposed(**tags):
    """Return an Exposure Sequence of one item."""
    item = Dataset()
    for keyword, value in tags.items():
        setattr(item, keyword, value)
    return [item]


def small_network(size=48, before=()):
    """Return an ONNX model: image -> ``before`` -> Conv (x 2) -> Relu -> Conv (x -3), + skip -> Add; and a decode.

    Activations: ``fed`` (the image where ``before`` is empty), ``relu``, ``conv2``. Beside them stand what nobody
    should observe: a weight that is computed, 2-D tensors, integers.
    """
    from onnx import TensorProto, helper, numpy_helper

    def weight(value):
        return np.full((1, 1, 1, 1), value, np.float32)

    constants = {
        "w1": weight(2),
        "w2": weight(-3),
        "half": weight(0.5),
        "flat": np.array([size, size], np.int64),
        "one": np.array([1], np.int64),
        "square": np.eye(size, dtype=np.float32),
    }
    fed = "fed" if before else "image"
    nodes = [
        *before,
        helper.make_node("Add", ["w1", "half"], ["computed_weight"]),
        helper.make_node("Sub", ["computed_weight", "half"], ["w"]),
        helper.make_node("Conv", [fed, "w"], ["conv1"]),
        helper.make_node("Relu", ["conv1"], ["relu"]),
        helper.make_node("Conv", ["relu", "w2"], ["conv2"]),
        helper.make_node("Add", ["conv2", "relu"], ["sum"]),
        helper.make_node("Reshape", ["sum", "flat"], ["rows"]),
        helper.make_node("MatMul", ["rows", "square"], ["peaks"]),
        helper.make_node("Cast", ["sum"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Add", ["whole", "one"], ["numbers"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 1, size, size))
    outputs = [
        helper.make_tensor_value_info("peaks", TensorProto.FLOAT, (size, size)),
        helper.make_tensor_value_info("numbers", TensorProto.INT64, (1, 1, size, size)),
    ]
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "small", [image], outputs, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()


@pytest.fixture
def field():
    """Return `dose_field`."""
    return dose_field


@pytest.fixture
def exposure():
    """Return `exposed`."""
    return exposed


@pytest.fixture
def network():
    """Return `small_network`."""
    return small_network


@pytest.fixture
def portal(tmp_path):
    """Return a function that writes an RT Image of a field below ``tmp_path`` and returns its path."""

    def write(name, seed_or_pixels=0, **tags):
        pixels = dose_field(seed_or_pixels) if isinstance(seed_or_pixels, int) else seed_or_pixels
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rt_image(pixels, **tags).save_as(path, enforce_file_format=True)
        return path

    return write


@pytest.fixture
def png(tmp_path):
    """Return a function that writes a 16-bit PNG of a field below ``tmp_path`` and returns its path."""

    def write(name, seed_or_pixels=0):
        pixels = dose_field(seed_or_pixels) if isinstance(seed_or_pixels, int) else seed_or_pixels
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(buffer.getvalue())
        return path

    return write
