"""TensorRT (10.16 and later) and TensorRT-RTX, by one adapter: their Python modules have the same classes.

What differs: RTX compiles without a GPU, for GPUs that are not here, and keeps no timing cache; TensorRT compiles on
the GPU that it compiles for. TensorRT 11 and RTX are always strongly typed; TensorRT 10 has a flag for it, which they
ignore. Sources: the modules' docstrings, and docs.nvidia.com/deeplearning/tensorrt-rtx, "CPU-Only AOT".
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from build_engine.compiled import (
    Compiled,
    CompileError,
    CompileSettings,
    Progress,
    demand_delivered,
    in_words,
)
from build_engine.quantize import count_precisions
from edge.backends.cuda import DeviceFacts, device_facts
from edge.backends.tensorrt import MODULES
from edge.contract import Flavour
from edge.errors import BackendFailed

if TYPE_CHECKING:  # the stubs of both are in typings/
    import tensorrt as trt
    import tensorrt_rtx_bindings as rtx

OLDEST = {"tensorrt": (10, 16), "tensorrt_rtx": (1, 7)}
INTERRUPTIBLE_S = 0.2  # how often a waiting thread looks for an interrupt
TYPES = {"int8": "int8", "fp16": "fp16", "half": "fp16", "fp32": "fp32", "float": "fp32"}  # words of the inspector


def compile_tensorrt(
    module: Any,
    graph: bytes,
    settings: CompileSettings,
    progress: Progress,
    look: Callable[[], DeviceFacts] = device_facts,
) -> Compiled:
    """Compile with the module of a flavour; raise `CompileError` naming the node, or what was delivered instead.

    An exception of ``progress``, and an interrupt of this thread, stop the compiler at its next step and go on.
    ``look`` tells the GPU of this machine, or raises `BackendFailed`.
    """
    device = _device(settings, look)
    builder = module.Builder(_log(module))
    network = _parse(module, builder, graph)
    requested, delivered = count_precisions(graph), network_precisions(module, network)
    demand_delivered(requested, delivered, f"{module.__name__} {module.__version__} reads the graph otherwise")
    config = _config(module, builder, settings)
    key = cache_key(module, device)
    notes = _use_timing_cache(config, settings, key)
    plan = _build(module, builder, network, config, progress)
    if settings.flavour == "tensorrt" and settings.timing_cache is not None:
        notes += write_timing_cache(settings.timing_cache, key, _bytes(config.get_timing_cache().serialize()))
    told = None if device is None else _inspect(module, plan)
    notes.append(_read_back(told, requested, settings))
    device = _made_on(settings, device, loads=told is not None)
    return Compiled(
        data=plan,
        file_name="model.plan",
        flavour=settings.flavour,
        version=str(module.__version__),
        delivered=delivered,
        compute_capability=_compiled_for(settings, device),
        gpu=None if device is None else device.gpu,
        driver=None if device is None else device.driver,
        notes=tuple(notes),
    )


def tensorrt_module(flavour: Flavour) -> Any:
    """Import the Python module of a flavour; raise `CompileError` saying what to install."""
    name, oldest = MODULES[flavour], OLDEST[flavour]
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError) as exc:
        raise CompileError(
            f"flavour {flavour} needs the Python module {name} and its libraries ({exc}): install them (the extra "
            "'rtx' has those of tensorrt_rtx), or choose another flavour"
        ) from exc
    if tuple(int(part) for part in module.__version__.split(".")[:2]) < oldest:
        raise CompileError(f"{name} {module.__version__} is too old: install {oldest[0]}.{oldest[1]} or later")
    return module


def _device(settings: CompileSettings, look: Callable[[], DeviceFacts]) -> DeviceFacts | None:
    """Return the GPU of this machine, or None; TensorRT needs one, and compiles for no other."""
    asked = settings.compute_capability
    try:
        device = look()
    except BackendFailed as exc:
        if settings.flavour == "tensorrt_rtx":
            return None
        raise CompileError(
            f"tensorrt compiles on the GPU that it compiles for: {exc}; tensorrt_rtx needs none"
        ) from exc
    if settings.flavour == "tensorrt" and asked not in (None, device.compute_capability):
        raise CompileError(
            f"tensorrt compiles for the GPU that is here, {device.gpu} of compute capability "
            f"{device.compute_capability}, not for {asked}: build on such a machine, or with tensorrt_rtx"
        )
    return device


def _compiled_for(settings: CompileSettings, device: DeviceFacts | None) -> str | None:
    if settings.flavour == "tensorrt_rtx" or device is None:
        return settings.compute_capability
    return device.compute_capability


def _made_on(settings: CompileSettings, device: DeviceFacts | None, *, loads: bool) -> DeviceFacts | None:
    """Return this machine's GPU, or None where the plan is for others: then it was compiled as if there were none."""
    if device is None or settings.flavour == "tensorrt":
        return device
    asked = settings.compute_capability
    return device if asked == device.compute_capability or (asked is None and loads) else None


@cache  # the library holds on to a process's first logger, and crashes where Python has let go of it
def _log(module: Any) -> Any:
    """Return a logger that keeps the ``errors``, texts, and drops thousands of other messages."""

    class Log(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity == module.ILogger.ERROR:
                self.errors.append(msg)

    return Log()


def _parse(module: Any, builder: trt.Builder, graph: bytes) -> trt.INetworkDefinition:
    network = builder.create_network(1 << int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    if network is None:
        raise CompileError(f"{module.__name__} {module.__version__} makes no network; is there memory?")
    parser = module.OnnxParser(network, _log(module))
    if not parser.parse(graph) or not network.num_outputs:
        faults = [_fault(parser.get_error(index)) for index in range(parser.num_errors)] or ["it has no outputs"]
        raise CompileError(
            f"{module.__name__} {module.__version__} cannot compile this graph: {'; '.join(faults)}. Write the network "
            "without it, or choose flavour onnxruntime"
        )
    return network


def _fault(error: Any) -> str:
    where = f"node {error.node_name()} ({error.node_operator()})" if error.node_name() else f"at {error.file()}"
    return f"{where}: {error.code().name}, {error.desc().rstrip('.')}"


def network_precisions(module: Any, network: trt.INetworkDefinition) -> dict[str, int]:
    """Return how many layers of a parsed network multiply in int8, fp16 and fp32, as `count_precisions` does."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    dequantised = {layer.get_output(0).name for layer in layers if layer.type == module.LayerType.DEQUANTIZE}
    counts = {"int8": 0, "fp16": 0, "fp32": 0}
    for layer in layers:
        if layer.type in (module.LayerType.CONVOLUTION, module.LayerType.MATRIX_MULTIPLY):
            factors = [layer.get_input(index) for index in range(min(2, layer.num_inputs))]
            int8 = len(factors) == 2 and dequantised.issuperset(tensor.name for tensor in factors)
            half = factors[0].dtype == module.DataType.HALF
            counts["int8" if int8 else "fp16" if half else "fp32"] += 1
    return counts


def _config(module: Any, builder: trt.Builder, settings: CompileSettings) -> trt.IBuilderConfig:
    config: trt.IBuilderConfig = builder.create_builder_config()
    config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, settings.workspace_mib << 20)
    config.builder_optimization_level = settings.builder_level
    config.clear_flag(module.BuilderFlag.TF32)  # float32 as asked for: TF32 keeps 10 of its 23 bits in a product
    config.profiling_verbosity = module.ProfilingVerbosity.DETAILED  # else the engine inspector tells names alone
    if settings.flavour == "tensorrt_rtx" and settings.compute_capability is not None:
        _aim(module, config, settings.compute_capability)
    return config


def _aim(module: Any, config: Any, capability: str) -> None:
    """Compile for one compute capability, instead of for all from 8.0 on."""
    aimed: rtx.IBuilderConfig = config
    known = {name: value for name, value in module.ComputeCapability.__members__.items() if name.startswith("SM")}
    name = f"SM{capability.replace('.', '')}"
    if name not in known:
        named = ", ".join(f"{n[2:-1]}.{n[-1]}" for n in known)
        raise CompileError(
            f"TensorRT-RTX {module.__version__} does not compile for compute capability {capability}, but for {named}; "
            "leave compute_capability out for a plan for all GPUs from 8.0 on"
        )
    aimed.num_compute_capabilities = 1
    aimed.set_compute_capability(known[name], 0)


@dataclass
class _Watch:
    """Passes on what the compiler tells; a failure there stops it, as no exception may cross its C++."""

    progress: Progress
    stop: threading.Event = field(default_factory=threading.Event)
    failures: list[BaseException] = field(default_factory=list)

    def tell(self, what: Callable[..., None], *values: object) -> None:
        try:
            if not self.stop.is_set():
                what(*values)
        except BaseException as exc:  # noqa: BLE001  raised again by `_build`
            self.failures.append(exc)
            self.stop.set()


def _monitor(module: Any, watch: _Watch) -> trt.IProgressMonitor:
    class Monitor(module.IProgressMonitor):  # type: ignore[misc]
        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:  # noqa: ARG002
            watch.tell(watch.progress.phase, phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            watch.tell(watch.progress.step, phase_name, step + 1)
            return not watch.stop.is_set()

        def phase_finish(self, phase_name: str) -> None:
            watch.tell(watch.progress.finished, phase_name)

    return Monitor()


def _build(
    module: Any, builder: trt.Builder, network: trt.INetworkDefinition, config: trt.IBuilderConfig, progress: Progress
) -> bytes:
    """Compile on a thread of its own, so that this one can be interrupted."""
    errors = _log(module).errors
    errors.clear()
    watch = _Watch(progress)
    config.progress_monitor = _monitor(module, watch)
    with ThreadPoolExecutor(1) as pool:
        building = pool.submit(builder.build_serialized_network, network, config)
        try:
            while not wait([building], INTERRUPTIBLE_S).done:
                pass
        finally:
            watch.stop.set()
    if watch.failures:
        raise watch.failures[0]
    plan = building.result()
    if plan is None:
        raise CompileError(
            f"{module.__name__} {module.__version__} cannot compile this graph: {'; '.join(errors)}. "
            "Try another workspace_mib, builder_level or compute_capability, or flavour onnxruntime"
        )
    return _bytes(plan)


def _bytes(memory: Any) -> bytes:
    """Copy what has a buffer, though its stub does not show it."""
    return bytes(memory)


def _inspect(module: Any, plan: bytes) -> str | None:
    """Return what the built engine tells of itself on this GPU, JSON; None where it does not load."""
    engine = module.Runtime(_log(module)).deserialize_cuda_engine(plan)
    if engine is None:
        return None
    told: str = engine.create_engine_inspector().get_engine_information(module.LayerInformationFormat.JSON)
    return told


def _read_back(told: str | None, requested: Mapping[str, int], settings: CompileSettings) -> str:
    """Return a note on the precision of the built engine; raise `CompileError` where it is another."""
    if told is None:
        where = settings.compute_capability or "all GPUs from 8.0 on"
        return (
            "layers by precision are those of the parsed network, not read from the built engine: no GPU here that "
            f"loads the plan for {where}"
        )
    types, layers = engine_types(told), engine_layers(told)
    demand_types(requested, types)
    return (
        f"the built engine has tensors of {in_words(types) if types else 'types it does not tell'}; its layers, fused, "
        f"read {in_words(layers) if layers else 'what it does not tell'}; asked for: {in_words(requested)}"
    )


def demand_types(requested: Mapping[str, int], built: Mapping[str, int]) -> None:
    """Raise `CompileError` where a built engine lacks a precision, or has one that nobody asked for.

    Layers are fused when built, so that only what there is can be compared, not how much. float32 is always there, for
    the decode; float16 may be beside INT8 unasked. An engine that tells nothing is not refused.
    """
    int8, fp16 = requested.get("int8", 0), requested.get("fp16", 0)
    missing = [name for name in ("int8", "fp16") if requested.get(name) and not built.get(name)]
    unasked = [name for name, asked in (("int8", int8), ("fp16", int8 + fp16)) if built.get(name) and not asked]
    if built and (missing or unasked):
        raise CompileError(
            f"asked for {in_words(requested)}: {', '.join(missing) or 'nothing'} is missing in, and "
            f"{', '.join(unasked) or 'nothing'} was added to the built engine, whose tensors are {in_words(built)}; "
            "try another builder_level, precision or version of the library"
        )


def engine_layers(information: str) -> Counter[str]:
    """Count the layers in the engine inspector's JSON by the type of their first input; empty where it tells none."""
    try:
        layers = json.loads(information)["Layers"]
    except (ValueError, KeyError, TypeError):
        return Counter()
    first = (layer["Inputs"][:1] for layer in layers if isinstance(layer, dict) and layer.get("Inputs"))
    return sum((engine_types(json.dumps(inputs)) for inputs in first), Counter())


def engine_types(information: str) -> Counter[str]:
    """Count the types of tensors in the engine inspector's JSON; empty where it tells none."""
    formats = re.findall(r'"Format/Datatype"\s*:\s*"([^"]*)"', information)
    words = (word for text in formats for word in re.findall(r"int8|fp16|half|fp32|float", text.lower())[:1])
    return Counter(TYPES[word] for word in words)


def cache_key(module: Any, device: DeviceFacts | None) -> str:
    """Return what a timing cache is good for."""
    where = None if device is None else (device.gpu, device.compute_capability)
    return json.dumps([module.__name__, module.__version__, where])


def _use_timing_cache(config: trt.IBuilderConfig, settings: CompileSettings, key: str) -> list[str]:
    if settings.timing_cache is None:
        return []
    if settings.flavour == "tensorrt_rtx":
        return ["TensorRT-RTX keeps no timing cache: timing_cache is ignored"]
    data, notes = read_timing_cache(settings.timing_cache, key)
    config.set_timing_cache(config.create_timing_cache(data), ignore_mismatch=False)
    return notes


def read_timing_cache(path: Path, key: str) -> tuple[bytes, list[str]]:
    """Return a stored cache, or an empty one with a note where it is of another key, or damaged."""
    try:
        header, _, data = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return b"", []
    except OSError as exc:
        return b"", [f"{path}: cannot be read ({exc.strerror}); compiling without a timing cache"]
    if header != _cache_header(key, data):
        return b"", [f"{path}: not a timing cache of this library and GPU ({key}), or damaged; it is replaced"]
    return data, []


def write_timing_cache(path: Path, key: str, data: bytes) -> list[str]:
    """Store a cache, whole or not at all; return a note where that fails: the engine is none the worse."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(_cache_header(key, data) + b"\n" + data)
        partial.replace(path)
    except OSError as exc:
        with suppress(OSError):
            partial.unlink()
        return [f"{path}: cannot be written ({exc.strerror}); the next build measures again"]
    return []


def _cache_header(key: str, data: bytes) -> bytes:
    return json.dumps({"timing cache of": key, "sha256": hashlib.sha256(data).hexdigest()}).encode()
