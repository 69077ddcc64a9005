"""What both flavours of TensorRT are asked, and what is read back from what they built."""

import ast
import sys
from pathlib import Path

import pytest
import tensorrt_rtx_bindings

from build_engine.compile import compile_engine
from build_engine.compiled import CompileError, CompileSettings, SilentProgress
from build_engine.tensorrt_flavours import (
    cache_key,
    compile_tensorrt,
    demand_types,
    engine_layers,
    engine_types,
    read_timing_cache,
    tensorrt_module,
    write_timing_cache,
)
from edge.backends.cuda import DeviceFacts
from tests.build_engine.compiling import RTX, gpu

REPOSITORY = Path(__file__).parents[2]


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
