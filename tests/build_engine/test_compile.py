"""Real builds by TensorRT-RTX, which needs no GPU for them, and by ONNX Runtime, of the shipped release's graph."""

from collections import Counter

import numpy as np
import onnx
import pytest
import tensorrt_rtx_bindings
from onnx import TensorProto, helper, numpy_helper

from build_engine.compile import compile_engine
from build_engine.compiled import CompileError, CompileSettings, SilentProgress, demand_delivered
from build_engine.quantize import HEATMAPS, count_precisions, quantisable_layers
from build_engine.tensorrt_flavours import network_precisions
from tests.build_engine.compiling import CPU, RTX, gpu, parsed

PRECISIONS = ("fp32", "fp16", "int8", "int8+fp16")


def one_node(operator, kind=TensorProto.FLOAT, **where):
    """Return a model of a single node from "image" to the heatmaps."""
    graph = helper.make_graph(
        [helper.make_node(operator, ["image"], [HEATMAPS], name="node_of_ours", **where)],
        "one",
        [helper.make_tensor_value_info("image", kind, [1, 1, 8, 8])],
        [helper.make_tensor_value_info(HEATMAPS, TensorProto.FLOAT, None)],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("our.domain", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_rtx_parses_the_precision_that_is_asked_for(graphs, precision):
    graph = graphs[precision]
    network, _owners = parsed(graph)
    assert network_precisions(tensorrt_rtx_bindings, network) == count_precisions(graph)
    nodes = Counter(node.op_type for node in onnx.load_from_string(graph).graph.node)
    layers = Counter(network.get_layer(index).type.name for index in range(network.num_layers))
    assert layers["CONVOLUTION"] == nodes["Conv"]
    assert layers["MATRIX_MULTIPLY"] == nodes["MatMul"] + nodes["Gemm"]
    assert layers["QUANTIZE"] == nodes["QuantizeLinear"]
    assert layers["DEQUANTIZE"] == nodes["DequantizeLinear"]
    assert (layers["QUANTIZE"] > 0) == precision.startswith("int8")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_rtx_compiles_every_precision_without_a_gpu(graphs, precision):
    compiled = compile_engine(graphs[precision], RTX, SilentProgress())
    assert len(compiled.data) > 100_000
    assert (compiled.file_name, compiled.flavour) == ("model.plan", "tensorrt_rtx")
    assert compiled.version == tensorrt_rtx_bindings.__version__
    assert compiled.delivered == count_precisions(graphs[precision])
    assert compiled.compute_capability is None, "the plan is for all GPUs from 8.0 on"
    assert (compiled.gpu is None) == (gpu() is None)


def test_rtx_compiles_for_one_compute_capability(graphs):
    settings = CompileSettings(flavour="tensorrt_rtx", compute_capability="8.9", workspace_mib=256, builder_level=1)
    assert compile_engine(graphs["fp16"], settings, SilentProgress()).compute_capability == "8.9"


def test_a_compute_capability_that_rtx_does_not_know_is_refused_with_those_it_does(graphs):
    settings = CompileSettings(flavour="tensorrt_rtx", compute_capability="6.1")
    with pytest.raises(CompileError, match=r"for compute capability 6\.1, but for .*8\.9.*12\.0"):
        compile_engine(graphs["fp32"], settings, SilentProgress())


@pytest.mark.parametrize(("precision", "kernels"), [("int8 for CPUs", "all"), ("some int8 for CPUs", "some")])
def test_onnxruntime_computes_int8_in_integers_where_asked_and_nowhere_else(graphs, precision, kernels):
    graph = graphs[precision]
    compiled = compile_engine(graph, CPU, SilentProgress())
    assert compiled.data == graph
    assert (compiled.file_name, compiled.flavour) == ("model.onnx", "onnxruntime")
    assert compiled.delivered == count_precisions(graph)
    layers = len(quantisable_layers(graphs["fp32"]))
    assert compiled.delivered["int8"] == (layers if kernels == "all" else layers - len(range(0, layers, 2)))


def test_onnxruntime_says_where_it_computes_float16_in_float32(graphs):
    compiled = compile_engine(graphs["fp16"], CPU, SilentProgress())
    layers = count_precisions(graphs["fp16"])["fp16"]
    assert compiled.delivered["fp16"] in (0, layers)
    assert bool(compiled.notes) == (compiled.delivered["fp16"] == 0)


def test_int8_that_onnxruntime_would_compute_in_float_is_refused(graphs):
    layers = len(quantisable_layers(graphs["fp32"]))
    others = count_precisions(graphs["fp32"])["fp32"] - layers
    assert others > 0
    told = f"requested {layers} int8, {others} fp32, delivered {layers + others} fp32"
    with pytest.raises(CompileError, match=told):
        compile_engine(graphs["int8"], CPU, SilentProgress())


def test_a_difference_of_precision_says_what_was_asked_and_what_came():
    demand_delivered({"int8": 3, "fp16": 0, "fp32": 2}, {"int8": 3, "fp32": 2}, "")
    with pytest.raises(CompileError, match="requested 3 int8, 2 fp32, delivered 2 int8, 3 fp32: look there"):
        demand_delivered({"int8": 3, "fp32": 2}, {"int8": 2, "fp32": 3}, "look there")


@pytest.mark.parametrize("settings", [CPU, RTX])
def test_an_unsupported_node_is_named(settings):
    with pytest.raises(CompileError, match=r"node_of_ours.*Frobnicate|Frobnicate.*node_of_ours"):
        compile_engine(one_node("Frobnicate", domain="our.domain"), settings, SilentProgress())


def test_rtx_names_an_input_of_an_unsupported_type():
    with pytest.raises(CompileError, match="at image: UNSUPPORTED_NODE"):
        compile_engine(one_node("Cast", TensorProto.UINT16, to=TensorProto.FLOAT), RTX, SilentProgress())


@pytest.mark.parametrize("settings", [CPU, RTX])
@pytest.mark.parametrize("graph", [b"", b"no graph at all"])
def test_what_is_no_graph_is_refused(settings, graph):
    with pytest.raises(CompileError, match="cannot"):
        compile_engine(graph, settings, SilentProgress())


def test_a_convolution_with_only_its_input_dequantised_is_not_int8():
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["image", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["x"]),
            helper.make_node("Conv", ["x", "w"], [HEATMAPS], name="conv"),
        ],
        "one",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info(HEATMAPS, TensorProto.FLOAT, [1, 1, 8, 8])],
        [
            numpy_helper.from_array(np.float32(0.1), "s"),
            numpy_helper.from_array(np.int8(0), "z"),
            numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "w"),
        ],
    )
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    network, _owners = parsed(model)
    expected = {"int8": 0, "fp16": 0, "fp32": 1}
    assert count_precisions(model) == expected
    assert network_precisions(tensorrt_rtx_bindings, network) == expected
