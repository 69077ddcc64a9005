"""Graph -> engine: by TensorRT, by TensorRT-RTX, or the ONNX file itself. What comes out computes what was asked for.

Precision lives in the graph, see `build_engine.quantize` and `build_engine.half`. A compiler may still do otherwise,
so the layers are counted again in what it made of the graph, and a difference is an error.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import onnx

from build_engine.compiled import Compiled, CompileError, CompileSettings, Progress, demand_delivered
from build_engine.quantize import count_precisions
from edge.backends.onnxruntime import import_onnxruntime

CPU_INT8 = {"QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulIntegerToFloat", "MatMulInteger"}
CPU_FLOAT = {"Conv", "FusedConv", "NhwcFusedConv", "MatMul", "FusedMatMul", "Gemm", "FusedGemm"}


def compile_engine(graph: bytes, settings: CompileSettings, progress: Progress) -> Compiled:
    """Compile a graph whose precision is written in it; raise `CompileError` where the engine would be another."""
    if settings.flavour == "onnxruntime":
        return compile_onnxruntime(graph)
    from build_engine.tensorrt_flavours import compile_tensorrt, tensorrt_module

    return compile_tensorrt(tensorrt_module(settings.flavour), graph, settings, progress)


def compile_onnxruntime(graph: bytes) -> Compiled:
    """Return the graph itself, after ONNX Runtime opened it; what it computes is read from its own optimised graph.

    INT8 must arrive as integer kernels. float16 need not: on processors without it float16 is stored and float32
    computed, which ``delivered`` and a note say.
    """
    version = str(import_onnxruntime().__version__)
    delivered, requested = _count_optimised(graph), count_precisions(graph)
    if requested["int8"] != delivered["int8"]:
        hint = 'Q/DQ of another form? quantise(..., form="onnxruntime") has the one that ONNX Runtime fuses'
        demand_delivered(requested, delivered, hint)
    notes: tuple[str, ...] = ()
    if requested["fp16"] != delivered["fp16"]:
        notes = (f"ONNX Runtime {version} computes the {requested['fp16']} fp16 layers in float32 on this processor",)
    return Compiled(graph, "model.onnx", "onnxruntime", version, delivered, notes=notes)


def _count_optimised(graph: bytes) -> dict[str, int]:
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 4  # it warns that a graph optimised for this processor is for this processor
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        try:
            ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as exc:  # ONNX Runtime raises bare exceptions of its own kinds
            named = f" at {', '.join(_nodes_of(graph, str(exc)))}" if "not a registered function/op" in str(exc) else ""
            raise CompileError(f"ONNX Runtime {ort.__version__} cannot open the graph{named}: {exc}") from exc
        optimised = onnx.load(options.optimized_model_filepath).graph
    half = {t.name for t in optimised.initializer if t.data_type == onnx.TensorProto.FLOAT16}
    counts = Counter({"int8": 0, "fp16": 0, "fp32": 0})
    for node in optimised.node:
        if node.op_type in CPU_INT8:
            counts["int8"] += 1
        elif node.op_type in CPU_FLOAT:
            counts["fp16" if half & set(node.input) else "fp32"] += 1
    return dict(counts)


def _nodes_of(graph: bytes, complaint: str) -> list[str]:
    """Return the names of the nodes whose operator ONNX Runtime complains of: it names no node."""
    nodes = onnx.load_from_string(graph).graph.node
    return [node.name for node in nodes if f"{node.domain}:{node.op_type}(" in complaint]
