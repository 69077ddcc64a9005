"""float16 for the network and its head, float32 for the decode: one Cast at the input, one at the heatmaps.

Around INT8 the type stays float32: Q/DQ, the convolutions between them, and what only handles their results before the
next Q. Few of these numbers are ever written to memory; a float16 scale would be rounded (TensorRT-RTX turns it back
into float32 and warns); and ONNX Runtime 1.32 rounds a bias to the product of two float16 scales, which made 8 % error
in the heatmaps out of 2 %.

An own pass, not ``onnxruntime.transformers.float16``: that one clips weights which do not fit and says so in a warning;
here they keep their layer in float32. What the graph computes from weights alone (the fast head sums them) is computed
first, in float32: a runtime that folds it would add in float16.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from build_engine.quantize import HEATMAPS, drop_unused_weights, insert, int8_layers, upstream

WELL_KEPT = 2.0**-9  # of a tensor's norm; rounding to 11 bits changes less than 2**-11, losing small values more
ALWAYS_FLOAT32 = {("Resize", 1), ("Resize", 2)}  # inputs that the operator defines as float32
QUANTISERS = ("QuantizeLinear", "DequantizeLinear")
HANDLERS = ("Relu", "Add", "MaxPool", "Resize")  # what stands between INT8 convolutions
MOVERS = ("Slice", "Concat")  # what puts the image beside its mirror image


def to_half(model: bytes) -> bytes:
    """Return the model with network and head in float16; inputs and outputs stay float32, INT8 layers stay INT8.

    Layers whose weights float16 does not hold stay in float32: `unfit_for_half` names them.
    """
    proto = onnx.load_from_string(model)
    graph = proto.graph
    _fold_constants(proto)
    stays = _around_int8(graph) | _unfit(graph).keys()
    inside = {n.name for n in upstream(graph, HEATMAPS) if n.name not in stays and n.op_type != "Cast"}
    _convert(proto, inside)
    onnx.checker.check_model(proto, full_check=True)
    return proto.SerializeToString()


def unfit_for_half(model: bytes) -> dict[str, str]:
    """Return the layers that `to_half` keeps in float32, with the reason."""
    proto = onnx.load_from_string(model)
    _fold_constants(proto)
    return _unfit(proto.graph)


def _around_int8(graph: GraphProto) -> set[str]:
    """Return what computes in INT8, its Q/DQ, and what only handles its results or moves what it reads."""
    int8 = {node.name for node in int8_layers(graph)}
    found, tensors = set[str](), {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        handles = node.op_type in HANDLERS and tensors.issuperset(t for t in node.input if t)
        if node.op_type in QUANTISERS or node.name in int8 or handles:
            found.add(node.name)
            tensors.update(node.output)
    for node in reversed(graph.node):
        readers = {reader.name for reader in graph.node if set(node.output) & set(reader.input)}
        if node.op_type in MOVERS and readers and readers <= found:
            found.add(node.name)
    return found


def _fold_constants(proto: ModelProto) -> None:
    """Replace the nodes before the decode that read only weights by what they compute; not a weight's own Q/DQ."""
    graph = proto.graph
    known = {tensor.name for tensor in graph.initializer}
    folded: list[NodeProto] = []
    for node in upstream(graph, HEATMAPS):
        if node.op_type not in QUANTISERS and all(tensor in known for tensor in node.input if tensor):
            known.update(node.output)
            folded.append(node)
    gone = {node.name for node in folded}
    kept = [node for node in graph.node if node.name not in gone]
    read = {tensor for node in kept for tensor in node.input}
    names = [tensor for node in folded for tensor in node.output if tensor in read]
    outputs = [helper.make_empty_tensor_value_info(name) for name in names]
    part = helper.make_graph(folded, "constants", [], outputs, initializer=list(graph.initializer))
    values = ReferenceEvaluator(helper.make_model(part, opset_imports=list(proto.opset_import))).run(None, {})
    del graph.node[:]
    graph.node.extend(kept)
    graph.initializer.extend(numpy_helper.from_array(v, n) for v, n in zip(values, names, strict=True))
    drop_unused_weights(graph)


def _unfit(graph: GraphProto) -> dict[str, str]:
    """Map the nodes before the decode that read a weight which float16 does not hold to the reason."""
    reasons = {t.name: why for t in graph.initializer if t.data_type == TensorProto.FLOAT and (why := _misfit(t))}
    around_int8 = _around_int8(graph)
    return {
        node.name: f"{tensor}: {reasons[tensor]}"
        for node in upstream(graph, HEATMAPS)
        for position, tensor in enumerate(node.input)
        if tensor in reasons and node.name not in around_int8 and (node.op_type, position) not in ALWAYS_FLOAT32
    }


def _misfit(tensor: TensorProto) -> str | None:
    values = numpy_helper.to_array(tensor).astype(np.float64)
    largest = np.abs(values).max(initial=0)
    if not largest <= np.finfo(np.float16).max:
        return f"{largest:.3g} is beyond {np.finfo(np.float16).max:.0f}"
    if np.linalg.norm(values - values.astype(np.float16)) > WELL_KEPT * np.linalg.norm(values):
        return f"values up to {largest:.3g} are too small"
    return None


def _convert(proto: ModelProto, inside: Collection[str]) -> None:
    """Compute the nodes ``inside`` in float16; a tensor that crosses the border gets one Cast."""
    graph = proto.graph
    border = _rename(graph, inside, _float32_tensors(proto))
    weights = [tensor for tensor in graph.initializer if tensor.name in border.read]
    values = ((numpy_helper.to_array(tensor).astype(np.float16), _half(tensor.name)) for tensor in weights)
    graph.initializer.extend(numpy_helper.from_array(value, name) for value, name in values)
    entering = border.read - border.made - {tensor.name for tensor in weights}
    casts = {t: [_cast(t, _half(t), TensorProto.FLOAT16)] for t in entering}
    casts |= {_half(t): [_cast(_half(t), t, TensorProto.FLOAT)] for t in border.made & border.needed}
    insert(graph, {}, casts)
    drop_unused_weights(graph)
    del graph.value_info[:]


class Border(NamedTuple):
    """Names of float32 tensors: ``read`` or ``made`` in float16, ``needed`` in float32."""

    read: set[str]
    made: set[str]
    needed: set[str]


def _rename(graph: GraphProto, inside: Collection[str], float32: Collection[str]) -> Border:
    """Let the nodes ``inside`` read and write the halves of float32 tensors."""
    border = Border(set(), set(), {entry.name for entry in graph.output})
    for node in graph.node:
        for position, tensor in enumerate(node.input):
            if tensor in float32 and node.name in inside and (node.op_type, position) not in ALWAYS_FLOAT32:
                node.input[position] = _half(tensor)
                border.read.add(tensor)
            else:
                border.needed.add(tensor)
        for position, tensor in enumerate(node.output):
            if tensor in float32 and node.name in inside:
                node.output[position] = _half(tensor)
                border.made.add(tensor)
    return border


def _float32_tensors(proto: ModelProto) -> set[str]:
    graph = shape_inference.infer_shapes(proto, strict_mode=True).graph
    entries = (*graph.input, *graph.output, *graph.value_info)
    weights = {t.name for t in graph.initializer if t.data_type == TensorProto.FLOAT}
    return weights | {e.name for e in entries if e.type.tensor_type.elem_type == TensorProto.FLOAT}


def _half(tensor: str) -> str:
    return f"{tensor}/half"


def _cast(tensor: str, result: str, to: int) -> NodeProto:
    return helper.make_node("Cast", [tensor], [result], name=f"{result}/cast", to=to)
