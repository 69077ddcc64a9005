"""Run the calibration set through a model as the room would, and keep of every activation a histogram, no values."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.calibration_set import CalibrationError, CalibrationSet, images
from calibration.observers import METHODS, Histogram, amax, empty_histogram, observe
from calibration.ranges import ActivationRanges, coarse
from edge.backends.onnxruntime import import_onnxruntime
from edge.contract import Contract, Reading
from edge.detect import scale_ratios
from edge.preprocess import to_network_input

if TYPE_CHECKING:
    from onnx import ModelProto
    from rich.progress import Progress

READERS = frozenset({"Conv", "Gemm", "MatMul", "Add"})
WRITERS = frozenset({"Conv", "Relu"})  # integer kernels on a CPU round what they give, too


def collect(
    model: bytes, reading: Reading, calibration_set: CalibrationSet, progress: Progress, threads: int = 1
) -> ActivationRanges:
    """Return the ranges of a float model's activations over a set; memory does not grow with the number of images.

    An image without geometry is fed at each scale that the room would try. Raises `CalibrationError` for a model that
    is none, an image that is missing or changed, and an activation that is not finite.
    """
    tensors, session = _open(model, threads)
    histograms = dict.fromkeys(tensors, empty_histogram())
    task = progress.add_task("ranges", total=len(calibration_set.entries))
    for path, image in images(calibration_set):
        for ratio in scale_ratios(image, reading):
            batch, _ = to_network_input(image.pixels, reading.input_size, ratio)
            for tensor, values in _activations(session, tensors, batch).items():
                histograms[tensor] = _observed(histograms[tensor], values, tensor, str(path))
        progress.advance(task)
    found = {tensor: amax(histogram) for tensor, histogram in histograms.items()}
    return ActivationRanges(
        onnx_sha256=hashlib.sha256(model).hexdigest(),
        calibration_set_sha256=calibration_set.sha256,
        images=len(calibration_set.entries),
        amax={method: {tensor: found[tensor][method] for tensor in tensors} for method in METHODS},
        histograms={tensor: coarse(histogram) for tensor, histogram in histograms.items()},
    )


def float_model(release: Path, contract: Contract) -> bytes:
    """Return the model of an fp32 ONNX release, after checking its hash; raise `CalibrationError` for another one."""
    path = release / contract.model_file
    if contract.flavour != "onnxruntime" or contract.precision != "fp32":
        raise CalibrationError(
            f"{release}: a release of flavour {contract.flavour} in {contract.precision}; INT8 ranges are collected on "
            "its fp32 ONNX release"
        )
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise CalibrationError(f"{path}: cannot be read ({exc.strerror}); publish the release again") from exc
    if hashlib.sha256(data).hexdigest() != contract.model_sha256:
        raise CalibrationError(f"{path}: is not the model its contract names (SHA-256 differs); publish it again")
    return data


def activation_tensors(model: ModelProto) -> tuple[str, ...]:
    """Return the 4-D float tensors that depend on the input and feed one of `READERS` or come from one of `WRITERS`."""
    from onnx import TensorProto, shape_inference

    graph = shape_inference.infer_shapes(model).graph
    weights = {initializer.name for initializer in graph.initializer}
    types = {value.name: value.type.tensor_type for value in (*graph.input, *graph.value_info, *graph.output)}
    wide = {name for name, of in types.items() if of.elem_type == TensorProto.FLOAT and len(of.shape.dim) == 4}
    alive = {value.name for value in graph.input} - weights
    for node in graph.node:
        if alive.intersection(node.input):
            alive.update(node.output)
    named = (
        name
        for node in graph.node
        for name in (
            *(node.input if node.op_type in READERS else ()),
            *(node.output if node.op_type in WRITERS else ()),
        )
    )
    return tuple(dict.fromkeys(name for name in named if name in wide and name in alive))


def with_outputs(model: ModelProto, tensors: tuple[str, ...]) -> bytes:
    """Return a copy of the model that puts out these tensors, too, each under its name."""
    from onnx import ModelProto, TensorProto, helper

    copy = ModelProto()
    copy.CopyFrom(model)
    there = {value.name for value in (*copy.graph.input, *copy.graph.output)}
    copy.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in tensors if name not in there
    )
    return copy.SerializeToString()


def _open(data: bytes, threads: int) -> tuple[tuple[str, ...], Any]:
    """Return the tensors to observe, and a session of ONNX Runtime that gives them, the graph run as it is written."""
    import onnx

    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        model = onnx.load_from_string(data)
        tensors = activation_tensors(model)
        session = ort.InferenceSession(with_outputs(model, tensors), options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # protobuf, onnx and ONNX Runtime raise kinds of their own
        raise CalibrationError(f"not an ONNX model that can be run ({exc}); export it again") from exc
    if not tensors:
        raise CalibrationError("the model has no Conv, Gemm, MatMul or Add with a 4-D float input: nothing to observe")
    return tensors, session


def _activations(session: Any, tensors: tuple[str, ...], batch: np.ndarray) -> dict[str, np.ndarray]:
    fed = session.get_inputs()[0].name
    names = [tensor for tensor in tensors if tensor != fed]
    try:
        values = dict(zip(names, session.run(names or None, {fed: batch}), strict=False))  # None: all there are
    except Exception as exc:
        raise CalibrationError(
            f"the model does not take one batch of shape {batch.shape} ({exc}); name the contract it was released with"
        ) from exc
    return {tensor: values.get(tensor, batch) for tensor in tensors}


def _observed(histogram: Histogram, values: np.ndarray, tensor: str, image: str) -> Histogram:
    if not np.isfinite(values).all():
        what = "not a number" if np.isnan(values).any() else "infinite"
        raise CalibrationError(
            f"activation {tensor} is {what} on image {image}: its range would be meaningless; look at the image, and "
            "at the model's weights"
        )
    return observe(histogram, values)
