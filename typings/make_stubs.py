"""Write type stubs of the TensorRT bindings: names and signatures, read from the module itself, nothing of its text.

    python typings/make_stubs.py tensorrt_rtx_bindings typings/tensorrt_rtx_bindings/__init__.pyi
    python typings/make_stubs.py tensorrt_cu13_bindings-11.4.0.106-cp311-*.whl typings/tensorrt/__init__.pyi

The full TensorRT's bindings need libraries that are in no package index. A wheel is therefore unpacked into a temporary
folder and imported over stand-ins for them: empty functions, enough to look at the classes, not to call anything.
Needs gcc for that, ruff for the layout, and the wheel: ``pip download tensorrt-cu13-bindings==11.4.0.106 --no-deps``.
"""

from __future__ import annotations

import ast
import ctypes
import importlib
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

# What a stand-in must export for tensorrt.so to load: its undefined symbols, by `nm -D --undefined-only`.
ENTRY_POINTS = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry",
    "getNvOnnxParserVersion", "getPluginRegistry", "initLibNvInferPlugins",
)  # fmt: skip
LIBRARIES = ("libnvinfer.so.11", "libnvinfer_plugin.so.11", "libnvonnxparser.so.11")

# These return None where they fail; the signature does not say so.
NONE_ON_FAILURE = {
    "Builder.build_serialized_network", "Builder.create_network", "Builder.create_optimization_profile",
    "ICudaEngine.create_execution_context", "ICudaEngine.create_engine_inspector", "ICudaEngine.serialize",
    "Runtime.deserialize_cuda_engine",
}  # fmt: skip
PLUMBING = {"attr", "value", "common_enter", "common_exit"}  # left over in the module by its own set-up
KEPT_DUNDERS = {"__init__", "__len__", "__getitem__", "__setitem__", "__call__"}  # with-blocks are deprecated
HEADER = """# Generated from {name} {version} by typings/make_stubs.py: do not edit. Names and signatures only.
# ruff: noqa
# mypy: disable-error-code="overload-cannot-match, override, type-arg"
import builtins
import collections.abc
import typing

import numpy
import typing_extensions

__version__: str

class _Enum:  # what every enumeration of the module has
    __members__: typing.ClassVar[dict[str, typing.Self]]
    def __init__(self, value: typing.SupportsInt) -> None: ...
    def __int__(self) -> int: ...
    def __index__(self) -> int: ...
    def __lt__(self, other: typing.Self) -> builtins.bool: ...
    def __le__(self, other: typing.Self) -> builtins.bool: ...
    def __gt__(self, other: typing.Self) -> builtins.bool: ...
    def __ge__(self, other: typing.Self) -> builtins.bool: ...
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> int: ...
"""
ANYTHING = "(self, *args: typing.Any, **kwargs: typing.Any) -> typing.Any"


def stub_text(module: ModuleType) -> str:
    """Return the stub of a bindings module, before layout."""
    names = [n for n in dir(module) if not n.startswith("_") and n not in PLUMBING]
    members = [(n, getattr(module, n)) for n in names]
    parts = [HEADER.format(name=module.__name__, version=module.__version__)]
    for name, member in members:
        if isinstance(member, type):
            parts.append("\n".join(_class(member, name)))
        elif callable(member):
            parts.append(f"def {name}(*args: typing.Any, **kwargs: typing.Any) -> typing.Any: ...")
        elif not isinstance(member, ModuleType):
            parts.append(f"{name}: {_plain(type(member))}")
    return "\n".join(parts) + "\n"


def _class(cls: type, path: str) -> Iterator[str]:
    bases = [_plain(b) for b in cls.__bases__ if not b.__module__.startswith(("pybind11", "builtins"))]
    if issubclass(cls, Exception):
        bases = bases or ["Exception"]
    members = {n: m for n, m in vars(cls).items() if n in KEPT_DUNDERS or not n.startswith("_")}
    if "__members__" in vars(cls):
        bases = ["_Enum"]
        members = {n: m for n, m in members.items() if isinstance(m, cls)}
    yield f"class {cls.__name__}" + (f"({', '.join(bases)}):" if bases else ":")
    lines = [line for name, member in members.items() for line in _member(name, member, f"{path}.{name}")]
    if "__getitem__" in members and "__len__" in members:  # by which Python iterates, and mypy does not
        lines.append("def __iter__(self) -> collections.abc.Iterator[typing.Any]: ...")
    yield from (f"    {line}" for line in lines or ["..."])


def _member(name: str, member: Any, path: str) -> Iterator[str]:
    if isinstance(member, type):
        yield from _class(member, path)
    elif isinstance(member, property):
        yield from _property(name, member)
    elif callable(member) or isinstance(member, staticmethod):
        yield from _method(name, member, path)
    else:
        yield f"{name}: typing.ClassVar[{_plain(type(member))}]"


def _property(name: str, member: property) -> Iterator[str]:
    yield "@property"
    returns = re.search(r"->\s*(.+)", member.fget.__doc__ or "") if member.fget else None
    yield f"def {name}(self) -> {_checked_type(returns[1] if returns else 'typing.Any')}: ..."
    if member.fset:
        takes = re.match(r"\(arg0: [^,]+, arg1: (.+)\) -> None", member.fset.__doc__ or "")
        yield f"@{name}.setter"
        yield f"def {name}(self, value: {_checked_type(takes[1] if takes else 'typing.Any')}) -> None: ..."


def _method(name: str, member: Any, path: str) -> Iterator[str]:
    is_static = isinstance(member, staticmethod)
    function = member.__func__ if is_static else member
    pattern = rf"^(?:\d+\. )?{re.escape(name)}(\(.*\) -> .+)$"
    found = re.findall(pattern, function.__doc__ or "", re.MULTILINE)
    signatures = list(dict.fromkeys(_signature(s, path) for s in found if s != "(*args, **kwargs)"))
    if not signatures and name == "__init__":
        return  # no constructor is defined
    signatures = signatures or [ANYTHING]
    for signature in signatures:
        if len(signatures) > 1:
            yield "@typing.overload"
        if is_static:
            yield "@staticmethod"
        yield f"def {name}{signature}: ..."


def _signature(text: str, path: str) -> str:
    """Return "(self, a: int = ...) -> str" of pybind11's form of it, or a signature that takes anything."""
    text = re.sub(r"= <[^<>]*(?:<[^<>]*>[^<>]*)*>", "= ...", text)
    text = _types(text)
    text = re.sub(r"\(self: [\w.]+", "(self", text)
    text = re.sub(r"\(arg0: " + re.escape(path.rsplit(".", 1)[0]) + r"\b", "(self", text)
    text = re.sub(r" = (?!\.\.\.)[^,)\[]+(?=[,)])| = \[\]", " = ...", text)
    if path in NONE_ON_FAILURE:
        text += " | None"
    try:
        ast.parse(f"def f{text}: ...")
    except SyntaxError:
        return ANYTHING
    return text


def _types(text: str) -> str:
    text = re.sub(r"\btensorrt(?:_rtx)?_bindings\.tensorrt(?:_rtx)?\.", "", text)
    text = re.sub(r"(?<![\w.])(bool|int|float|str|bytes|object)(?=[\s,)\]|]|$)", r"builtins.\1", text)
    text = re.sub(r"\bnumpy\.ndarray(\[[^\]]*\])?", "numpy.ndarray[typing.Any, typing.Any]", text)
    return re.sub(r"(?<![\w.])(?:capsule|Capsule|types\.CapsuleType)\b", "typing.Any", text)


def _checked_type(text: str) -> str:
    candidate = _types(text.strip())
    try:
        ast.parse(candidate, mode="eval")
    except SyntaxError:
        return "typing.Any"
    return candidate


def _plain(cls: type) -> str:
    if cls.__module__ == "builtins":
        return f"builtins.{cls.__name__}"
    return cls.__qualname__ if cls.__module__.startswith("tensorrt") else "typing.Any"


def load(source: str, scratch: Path) -> ModuleType:
    """Import a bindings module by its name, or from its wheel over stand-ins for its libraries."""
    if not source.endswith(".whl"):
        return importlib.import_module(source)
    zipfile.ZipFile(source).extractall(scratch)
    code = "".join(f"void *{name}(void) {{ return 0; }}\n" for name in ENTRY_POINTS)
    for name in LIBRARIES:
        path = scratch / name
        command = ["gcc", "-shared", "-fPIC", "-xc", "-", "-o", str(path), f"-Wl,-soname,{name}"]
        subprocess.run(command, input=code, text=True, check=True)  # noqa: S603 — our own command
        ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
    sys.path.insert(0, str(scratch))
    return importlib.import_module("tensorrt_bindings")


def laid_out(text: str, name: str) -> str:
    """Return the text as ruff lays it out."""
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", name, "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)  # noqa: S603
    return done.stdout


def main(source: str, target: str) -> None:
    """Write the stub of ``source`` to ``target``."""
    with tempfile.TemporaryDirectory() as folder:
        text = stub_text(load(source, Path(folder)))
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).write_text(laid_out(text, target))


if __name__ == "__main__":
    main(*sys.argv[1:])
