"""INT8 by explicit quantise and dequantise nodes (Q/DQ) around the network's convolutions, in one of two forms.

Both: weights per output channel, stored as int8; activations per tensor, symmetric; biases, head and decode in float.

``tensorrt``: int8 with zero point 0. Nothing stands between a Conv or Add and its ReLU, so that they can be fused. Of
an Add that a quantised convolution feeds only the other operand, the skip, is quantised: the convolution's own output
goes into the sum unrounded, as in a fused kernel.

``onnxruntime``: its integer convolutions round their output, too, and take a ReLU only into unsigned numbers: a graph
of the other form is computed in float32, slower than without Q/DQ. So outputs are quantised as well, as uint8 with zero
point 0 where nothing is negative, else 128. Weights take 7 of 8 bits: without VNNI, x86 processors saturate sums of two
products of full size, and answers would depend on the machine.

An own pass, not ``onnxruntime.quantization``: that one decides per operator type, so the skip operand needs a second
pass over its result anyway; it wants files and a calibration reader of its own; its Entropy equals MinMax at the
default bins. These rules take no more lines than its options would, and each has a test.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

HEATMAPS = "heatmaps"  # the output of the network and its head; what follows is the decode
DEQUANTISED = "/dequantised"  # what a tensor's name gets once it went through Q/DQ
MULTIPLIERS = ("Conv", "MatMul", "Gemm")
Form = Literal["tensorrt", "onnxruntime"]
Uses = dict[str, set[tuple[str, int]]]  # tensor: the node inputs (name, position) that read it quantised


class BuildError(Exception):
    """A stage of the engine builder that cannot go on; the message says where and what to do."""


class QuantiseError(BuildError):
    """The graph or the ranges do not allow what is asked for; the message names the tensor or layer."""


@dataclass(frozen=True)
class Grid:
    """The whole numbers that stand for a tensor: ``largest`` above ``zero_point`` stands for its range."""

    zero_point: np.ndarray  # 0-d, of the numbers' type
    largest: int


INT8 = Grid(np.zeros((), np.int8), 127)
UINT8, UINT8_SIGNED = Grid(np.zeros((), np.uint8), 255), Grid(np.full((), 128, np.uint8), 127)
LARGEST_WEIGHT: Mapping[Form, int] = {"tensorrt": 127, "onnxruntime": 63}


def quantisable_layers(model: bytes) -> tuple[str, ...]:
    """Return the names of the convolutions that INT8 may take, in graph order."""
    return tuple(node.name for node in _convolutions(onnx.load_from_string(model).graph, ()))


def quantised_tensors(model: bytes, keep_float: Collection[str] = (), form: Form = "tensorrt") -> tuple[str, ...]:
    """Return the tensors whose ranges `quantise` needs."""
    return tuple(_uses(onnx.load_from_string(model).graph, keep_float, form))


def quantise(
    model: bytes, amax: Mapping[str, float], keep_float: Collection[str] = (), form: Form = "tensorrt"
) -> bytes:
    """Return the model with every quantisable layer but ``keep_float`` in INT8.

    ``amax`` is per tensor the largest absolute value that is kept; what exceeds it saturates. Raises `QuantiseError`
    where a range is missing, zero or not finite, or a name in ``keep_float`` is no quantisable layer.
    """
    proto = onnx.load_from_string(model)
    graph = proto.graph
    layers = _convolutions(graph, ())
    if unknown := sorted(set(keep_float) - {node.name for node in layers}):
        raise QuantiseError(f"{', '.join(unknown)}: no layer that INT8 may take; quantisable_layers names them")
    uses = _uses(graph, keep_float, form)
    grids = _grids(graph, uses, form)
    after = {tensor: _pair(graph, tensor, _scale(tensor, amax, grids[tensor]), grids[tensor]) for tensor in uses}
    for node in graph.node:
        for position, tensor in enumerate(node.input):
            if (node.name, position) in uses.get(tensor, ()):
                node.input[position] = after[tensor][-1].output[0]
    before = {n.name: _int8_weights(graph, n, LARGEST_WEIGHT[form]) for n in layers if n.name not in keep_float}
    if form == "onnxruntime":
        before |= {n.name: _apart(graph, n) for n in layers if n.name in keep_float}
    insert(graph, before, after)
    drop_unused_weights(graph)
    onnx.checker.check_model(proto, full_check=True)
    return proto.SerializeToString()


def count_precisions(model: bytes) -> dict[str, int]:
    """Return how many Conv, MatMul and Gemm nodes compute in int8 (both factors come dequantised), fp16 and fp32."""
    graph = shape_inference.infer_shapes(onnx.load_from_string(model)).graph
    int8 = {node.name for node in int8_layers(graph)}
    half = {t.name for t in graph.initializer if t.data_type == TensorProto.FLOAT16}
    half |= {e.name for e in graph.value_info if e.type.tensor_type.elem_type == TensorProto.FLOAT16}
    counts = {"int8": 0, "fp16": 0, "fp32": 0}
    for node in graph.node:
        if node.op_type in MULTIPLIERS:
            counts["int8" if node.name in int8 else "fp16" if half.issuperset(node.input[:2]) else "fp32"] += 1
    return counts


def int8_layers(graph: GraphProto) -> list[NodeProto]:
    """Return the Conv, MatMul and Gemm nodes whose factors both come dequantised."""
    dequantised = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return [n for n in graph.node if n.op_type in MULTIPLIERS and dequantised.issuperset(n.input[:2])]


def upstream(graph: GraphProto, tensor: str) -> list[NodeProto]:
    """Return the nodes that a tensor is computed from, in graph order."""
    needed, found = {tensor}, []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            found.append(node)
    return found[::-1]


def insert(
    graph: GraphProto, before: Mapping[str, Sequence[NodeProto]], after: Mapping[str, Sequence[NodeProto]]
) -> None:
    """Put nodes ``before`` a node, by its name, and ``after`` a tensor exists, be it an input or computed."""
    ordered: list[NodeProto] = [new for entry in graph.input for new in after.get(entry.name, ())]
    for node in graph.node:
        ordered += [*before.get(node.name, ()), node]
        ordered += [new for tensor in node.output for new in after.get(tensor, ())]
    del graph.node[:]
    graph.node.extend(ordered)


def drop_unused_weights(graph: GraphProto) -> None:
    """Remove initialisers that no node reads any more."""
    read = {tensor for node in graph.node for tensor in node.input} | {entry.name for entry in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _convolutions(graph: GraphProto, keep_float: Collection[str]) -> list[NodeProto]:
    weights = {tensor.name for tensor in graph.initializer}
    convolutions = (n for n in upstream(graph, HEATMAPS) if n.op_type == "Conv" and n.input[1] in weights)
    return [node for node in convolutions if node.name not in keep_float]


def _uses(graph: GraphProto, keep_float: Collection[str], form: Form) -> Uses:
    convolutions = _convolutions(graph, keep_float)
    uses: Uses = defaultdict(set)
    for node in convolutions:
        uses[node.input[0]].add((node.name, 0))
    int8 = {node.output[0] for node in convolutions}
    for ends, skip, use in _sums(graph, {node.output[0] for node in _convolutions(graph, ())}):
        if ends in int8:
            uses[skip].add(use)
    if form == "onnxruntime":
        for tensor, readers in _outputs(graph, convolutions):
            uses[tensor] |= readers
    return dict(uses)


def _sums(graph: GraphProto, convolved: set[str]) -> Iterator[tuple[str, str, tuple[str, int]]]:
    """Yield of each Add the convolution that it ends (of two, the deeper), the other operand, and who reads that."""
    depth = dict.fromkeys((entry.name for entry in graph.input), 0)
    for node in graph.node:
        computed = [tensor for tensor in node.input if tensor in depth]
        if computed:
            depth.update(dict.fromkeys(node.output, 1 + max(depth[tensor] for tensor in computed)))
        if node.op_type == "Add" and len(computed) == len(node.input) and convolved & set(computed):
            ends = max(convolved & set(computed), key=depth.__getitem__)
            skip = 1 - computed.index(ends)
            yield ends, computed[skip], (node.name, skip)


def _outputs(graph: GraphProto, convolutions: Sequence[NodeProto]) -> Iterator[tuple[str, set[tuple[str, int]]]]:
    """Yield what each convolution's kernel gives, after its ReLU if it has one, and everything that reads it."""
    readers: Uses = defaultdict(set)
    for node in upstream(graph, HEATMAPS):
        for position, tensor in enumerate(node.input):
            readers[tensor].add((node.name, position))
    relus = {node.name: node.output[0] for node in graph.node if node.op_type == "Relu"}
    for node in convolutions:
        names = [name for name, _ in readers[node.output[0]]]
        given = relus.get(names[0], node.output[0]) if len(names) == 1 else node.output[0]
        yield given, readers[given]


def _grids(graph: GraphProto, tensors: Collection[str], form: Form) -> dict[str, Grid]:
    if form == "tensorrt":
        return dict.fromkeys(tensors, INT8)
    positive = set[str]()
    for node in graph.node:
        if node.op_type == "Relu" or (node.op_type == "MaxPool" and node.input[0] in positive):
            positive.update(node.output)
    return {tensor: UINT8 if tensor in positive else UINT8_SIGNED for tensor in tensors}


def _scale(tensor: str, amax: Mapping[str, float], grid: Grid) -> np.ndarray:
    if tensor not in amax:
        raise QuantiseError(f"tensor {tensor} has no range; collect the ranges of this model again")
    scale = np.asarray(amax[tensor] / grid.largest, np.float32)
    if not (np.isfinite(scale) and scale > 0):
        raise QuantiseError(
            f"tensor {tensor} has the range {amax[tensor]}, which no scale fits: it was constant or not finite on the "
            "calibration set; choose another set, or keep the layers around it in float"
        )
    return scale


def _pair(graph: GraphProto, tensor: str, scale: np.ndarray, grid: Grid) -> tuple[NodeProto, NodeProto]:
    """Add scale and zero point to the graph; return QuantizeLinear and DequantizeLinear, not yet in it."""
    parts = {f"{tensor}/scale": scale, f"{tensor}/zero_point": grid.zero_point}
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in parts.items())
    whole, result = f"{tensor}/int8", f"{tensor}{DEQUANTISED}"
    return (
        helper.make_node("QuantizeLinear", [tensor, *parts], [whole], name=f"{tensor}/quantise"),
        helper.make_node("DequantizeLinear", [whole, *parts], [result], name=f"{tensor}/dequantise"),
    )


def _int8_weights(graph: GraphProto, node: NodeProto, largest: int) -> tuple[NodeProto, ...]:
    """Store a convolution's weights as int8 and let it read them through the DequantizeLinear that is returned."""
    name = node.input[1]
    weights = numpy_helper.to_array(next(t for t in graph.initializer if t.name == name))
    channels = (-1, *[1] * (weights.ndim - 1))
    scale = (np.abs(weights).reshape(len(weights), -1).max(axis=1) / largest).astype(np.float32)
    scale[scale < np.finfo(np.float32).tiny] = 1  # a channel of zeros
    parts: dict[str, np.ndarray] = {
        f"{name}/int8": np.round(weights / scale.reshape(channels)).astype(np.int8),
        f"{name}/scale": scale,
        f"{name}/zero_point": np.zeros(scale.shape, np.int8),
    }
    graph.initializer.extend(numpy_helper.from_array(value, part) for part, value in parts.items())
    node.input[1] = f"{name}{DEQUANTISED}"
    return (helper.make_node("DequantizeLinear", [*parts], [node.input[1]], name=f"{name}/dequantise", axis=0),)


def _apart(graph: GraphProto, node: NodeProto) -> tuple[NodeProto, ...]:
    """Let a float convolution read a DequantizeLinear of its own, that has a scale per channel, all of them equal.

    ONNX Runtime (1.32, WeightBiasQuantization) else quantises the weights of one that reads per-tensor INT8.
    """
    if not node.input[0].endswith(DEQUANTISED):
        return ()
    tensor = node.input[0].removesuffix(DEQUANTISED)
    stored = {t.name: t for t in graph.initializer}
    group = next((a.i for a in node.attribute if a.name == "group"), 1)
    channels = stored[node.input[1]].dims[1] * group
    scale, zero = (numpy_helper.to_array(stored[f"{tensor}/{part}"]) for part in ("scale", "zero_point"))
    parts = {f"{node.name}/scale": np.full(channels, scale), f"{node.name}/zero_point": np.full(channels, zero)}
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in parts.items())
    inputs = [f"{tensor}/int8", *parts]
    node.input[0] = f"{node.name}/input"
    return (helper.make_node("DequantizeLinear", inputs, [node.input[0]], name=f"{node.name}/dequantise", axis=1),)
