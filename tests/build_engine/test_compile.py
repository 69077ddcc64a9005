"""Real builds by TensorRT-RTX, which needs no GPU for them, and by ONNX Runtime, of the shipped release's graph."""

import ast
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import tensorrt_rtx_bindings
from onnx import TensorProto, helper, numpy_helper

from build_engine.compile import compile_engine
from build_engine.compiled import CompileError, CompileSettings, SilentProgress, demand_delivered
from build_engine.half import to_half
from build_engine.quantize import HEATMAPS, count_precisions, quantisable_layers, quantise, quantised_tensors
from build_engine.tensorrt_flavours import (
    cache_key,
    compile_tensorrt,
    demand_types,
    engine_layers,
    engine_types,
    network_precisions,
    read_timing_cache,
    tensorrt_module,
    write_timing_cache,
)
from edge.backends.cuda import DeviceFacts, device_facts
from edge.engines import SHIPPED_RELEASE
from edge.errors import BackendFailed

REPOSITORY = Path(__file__).parents[2]
RTX = CompileSettings(flavour="tensorrt_rtx")
CPU = CompileSettings()
PRECISIONS = ("fp32", "fp16", "int8", "int8+fp16")


def gpu():
    try:
        return device_facts()
    except BackendFailed:
        return None


@pytest.fixture(scope="module")
def graphs():
    """The shipped network in every precision; what counts here is the form, so any range will do."""
    model = (SHIPPED_RELEASE / "model.onnx").read_bytes()
    amax = dict.fromkeys(quantised_tensors(model, (), "onnxruntime"), 10.0)
    int8 = quantise(model, amax)
    return {
        "fp32": model,
        "fp16": to_half(model),
        "int8": int8,
        "int8+fp16": to_half(int8),
        "int8 for CPUs": quantise(model, amax, (), "onnxruntime"),
        "some int8 for CPUs": quantise(model, amax, quantisable_layers(model)[::2], "onnxruntime"),
    }


def parsed(graph):
    """Return the network as TensorRT-RTX understands a graph, and what must outlive it."""
    logger = tensorrt_rtx_bindings.Logger(tensorrt_rtx_bindings.Logger.INTERNAL_ERROR)
    builder = tensorrt_rtx_bindings.Builder(logger)
    network = builder.create_network()
    parser = tensorrt_rtx_bindings.OnnxParser(network, logger)
    assert parser.parse(graph)
    return network, (builder, logger, parser)


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


class Heard(SilentProgress):
    """Writes down what it hears; ``act`` is called at every step."""

    def __init__(self, act=lambda: None):
        self.begun, self.ended, self.done, self.act = [], [], {}, act

    def phase(self, name, steps):
        self.begun.append((name, steps))

    def step(self, name, done):
        self.done.setdefault(name, []).append(done)
        self.act()

    def finished(self, name):
        self.ended.append(name)


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


def a2000():
    return DeviceFacts("NVIDIA RTX A2000", "8.6", "580.65.06")


@pytest.mark.skipif(gpu() is not None, reason="this machine has a GPU")
@pytest.mark.parametrize(
    ("asked", "made_on"),
    [("8.9", None), ("8.6", "NVIDIA RTX A2000"), (None, None)],
    ids=["for another GPU", "for the GPU that is here", "for all, and does not load here"],
)
def test_a_plan_that_is_not_for_the_gpu_that_is_here_was_made_without_one(graphs, asked, made_on):
    """TensorRT-RTX loads no plan on this machine, so the last stands for a GPU that it does not take."""
    settings = CompileSettings(flavour="tensorrt_rtx", compute_capability=asked)
    compiled = compile_tensorrt(tensorrt_rtx_bindings, graphs["fp16"], settings, SilentProgress(), a2000)
    assert compiled.gpu == made_on
    assert (compiled.driver is None) == (made_on is None)
    assert compiled.compute_capability == asked
    assert any("not read from the built engine" in note for note in compiled.notes)


@pytest.mark.skipif(gpu() is not None, reason="this machine has a GPU")
def test_what_was_not_read_from_a_built_engine_is_said(graphs):
    (note,) = compile_engine(graphs["fp16"], RTX, SilentProgress()).notes
    assert "not read from the built engine" in note


@pytest.mark.parametrize(
    ("asked", "built", "said"),
    [
        ({"int8": 3, "fp16": 2}, {"int8": 1, "fp16": 1, "fp32": 4}, None),  # counts differ: layers are fused
        ({"int8": 3, "fp16": 2}, {"fp16": 5, "fp32": 1}, "int8"),
        ({"int8": 3, "fp16": 2}, {"int8": 5, "fp32": 1}, "fp16"),
        ({"fp16": 2, "fp32": 1}, {"fp32": 9}, "fp16"),
        ({"fp16": 2}, {"fp16": 2, "int8": 1}, "int8"),
        ({"fp32": 9}, {"fp32": 4, "fp16": 1}, "fp16"),
        ({"fp32": 9}, {"fp32": 4}, None),
        ({"int8": 9}, {}, None),  # the inspector tells nothing
    ],
)
def test_a_built_engine_has_every_precision_that_was_asked_for_and_no_other(asked, built, said):
    if said is None:
        demand_types(asked, built)
    else:
        with pytest.raises(CompileError, match=f"{said}.*the built engine"):
            demand_types(asked, built)


def test_layers_of_an_engine_are_counted_by_what_they_read():
    told = """{"Layers": [
        {"Name": "a", "Inputs": [{"Format/Datatype": "Row major Int8 format"}, {"Format/Datatype": "Row major FP32"}]},
        {"Name": "b", "Inputs": [{"Format/Datatype": "Row major Int8 format"}]},
        {"Name": "c", "Inputs": [{"Format/Datatype": "Channel major FP16 format"}]},
        {"Name": "d", "Inputs": []}, "e"]}"""
    assert engine_layers(told) == {"int8": 2, "fp16": 1}
    assert not engine_layers('{"Layers": ["a", "b"]}')
    assert not engine_layers("not JSON")


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
    with pytest.raises(CompileError, match=rf"requested {layers} int8, 19 fp32, delivered {layers + 19} fp32"):
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


def test_what_the_compiler_says_is_passed_on(graphs):
    heard = Heard()
    compile_engine(graphs["fp32"], RTX, heard)
    assert len(heard.begun) > 3
    assert sorted(heard.ended) == sorted(name for name, _ in heard.begun)
    steps = dict(heard.begun)
    for name, done in heard.done.items():
        assert done[0] >= 1
        assert max(done) <= steps[name]


def test_an_exception_of_the_progress_stops_the_compiler_and_comes_through(graphs):
    def fail():
        raise ZeroDivisionError("at the first step")

    heard = Heard(fail)
    with pytest.raises(ZeroDivisionError, match="at the first step"):
        compile_engine(graphs["fp32"], RTX, heard)
    assert sum(map(len, heard.done.values())) == 1


def test_an_interrupt_stops_the_compiler(graphs):
    heard = Heard()

    def interrupt():
        if sum(map(len, heard.done.values())) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    heard.act = interrupt
    with pytest.raises(KeyboardInterrupt):
        compile_engine(graphs["fp32"], RTX, heard)
    assert "Building engine" in dict(heard.begun)


def test_a_compiler_that_was_stopped_compiles_the_next_graph(graphs):
    def stop():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        compile_engine(graphs["fp16"], RTX, Heard(stop))
    assert compile_engine(graphs["fp16"], RTX, SilentProgress()).delivered["fp16"] > 0


def test_a_flavour_that_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # as Python has it where an import is known to fail
    with pytest.raises(CompileError, match="needs the Python module tensorrt"):
        tensorrt_module("tensorrt")


@pytest.mark.parametrize(("version", "accepted"), [("10.15.9", False), ("10.16.0.1", True), ("11.4.0", True)])
def test_tensorrt_before_10_16_is_refused(tmp_path, monkeypatch, version, accepted):
    (tmp_path / "tensorrt.py").write_text(f'__version__ = "{version}"\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    try:
        if accepted:
            assert tensorrt_module("tensorrt").__version__ == version
        else:
            with pytest.raises(CompileError, match=r"10\.15\.9 is too old: install 10\.16 or later"):
                tensorrt_module("tensorrt")
    finally:
        sys.modules.pop("tensorrt", None)


@pytest.mark.skipif(gpu() is not None, reason="this machine has a GPU")
def test_tensorrt_needs_the_gpu_that_it_compiles_for(graphs):
    settings = CompileSettings(flavour="tensorrt")
    with pytest.raises(CompileError, match="tensorrt compiles on the GPU that it compiles for"):
        compile_tensorrt(tensorrt_rtx_bindings, graphs["fp32"], settings, SilentProgress())


def test_rtx_says_that_it_keeps_no_timing_cache(graphs, tmp_path):
    settings = CompileSettings(flavour="tensorrt_rtx", timing_cache=tmp_path / "cache")
    compiled = compile_engine(graphs["fp32"], settings, SilentProgress())
    assert any("keeps no timing cache" in note for note in compiled.notes)
    assert not (tmp_path / "cache").exists()


def attributes(tree, name):
    """Yield the dotted names that code reads from a variable, longest first in each chain."""
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in inner:
            parts, base = [], node
            while isinstance(base, ast.Attribute):
                parts.insert(0, base.attr)
                base = base.value
            if isinstance(base, ast.Name) and base.id == name:
                yield ".".join(parts)


def of_tensorrt(path):
    used = set(attributes(ast.parse(path.read_text()), "module"))
    return {name for name in used if not name.startswith("__")}


def test_every_name_that_the_adapter_uses_is_in_rtx_and_but_for_rtx_s_own_in_tensorrt_11():
    used = of_tensorrt(REPOSITORY / "build_engine" / "tensorrt_flavours.py")
    assert {"Builder", "OnnxParser", "LayerType.DEQUANTIZE", "NetworkDefinitionCreationFlag.STRONGLY_TYPED"} <= used
    for name in used:
        here = tensorrt_rtx_bindings
        for part in name.split("."):
            assert hasattr(here, part), name
            here = getattr(here, part)
    stub = ast.parse((REPOSITORY / "typings" / "tensorrt" / "__init__.pyi").read_text())
    classes = {node.name: node for node in stub.body if isinstance(node, ast.ClassDef)}
    for name in used - {"ComputeCapability.__members__.items"}:
        first, *rest = name.split(".")
        assert first in classes, name
        members = {n.target.id for n in ast.walk(classes[first]) if isinstance(n, ast.AnnAssign)}
        members |= {n.name for n in ast.walk(classes[first]) if isinstance(n, ast.FunctionDef)}
        assert set(rest[:1]) <= members, name


def test_a_timing_cache_comes_back_under_its_key(tmp_path):
    path = tmp_path / "folder" / "cache"
    assert read_timing_cache(path, "key") == (b"", [])
    assert write_timing_cache(path, "key", b"\n\x00measured\n") == []
    assert read_timing_cache(path, "key") == (b"\n\x00measured\n", [])
    assert [p.name for p in path.parent.iterdir()] == ["cache"]


def test_a_timing_cache_of_another_key_or_damaged_is_not_used_and_that_is_said(tmp_path):
    path = tmp_path / "cache"
    write_timing_cache(path, "key", b"measured")
    data, notes = read_timing_cache(path, "other key")
    assert data == b""
    assert "other key" in notes[0]
    path.write_bytes(path.read_bytes()[:-1] + b"D")
    assert read_timing_cache(path, "key")[0] == b""
    path.write_bytes(b"something else")
    assert read_timing_cache(path, "key")[0] == b""


def test_a_timing_cache_that_cannot_be_stored_is_a_note(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (note,) = write_timing_cache(tmp_path / "file" / "cache", "key", b"measured")
    assert "cannot be written" in note


def test_a_timing_cache_belongs_to_a_library_and_a_gpu():
    one = DeviceFacts("NVIDIA RTX A2000", "8.6", "580.65.06")
    keys = {
        cache_key(tensorrt_rtx_bindings, device)
        for device in (None, one, DeviceFacts("NVIDIA RTX A4000", "8.6", "580.65.06"))
    }
    assert len(keys) == 3
    assert cache_key(tensorrt_rtx_bindings, DeviceFacts(one.gpu, "8.6", "590.1")) in keys, "a driver may change"


def test_the_types_in_an_engine_are_read_from_its_inspector():
    told = """{"Layers": [{"Inputs": [{"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
        "Outputs": [{"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}]},
        {"Outputs": [{"Format/Datatype": "Row major linear FP32"}, {"Format/Datatype": "Int64"}]}]}"""
    assert engine_types(told) == {"int8": 1, "fp16": 1, "fp32": 1}
    assert not engine_types('{"Layers": ["a", "b"]}')


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
