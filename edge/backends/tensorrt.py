"""Plans that TensorRT compiled, in two flavours: full TensorRT (10.16 or later) and TensorRT-RTX (1.7).

A plan is code: hand over only bytes whose signature was checked. The calls are those that both flavours share, by the
names of TensorRT 11; `typings/` holds them, generated, for mypy.
"""

from __future__ import annotations

import importlib
from collections import deque
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from edge.backends import Inference
from edge.backends.cuda import Buffer, CudaDevice
from edge.errors import BackendFailed, EdgeError, InferenceFailed

if TYPE_CHECKING:
    import tensorrt as trt
    import tensorrt_rtx_bindings as rtx

Flavour = Literal["tensorrt", "tensorrt_rtx"]
Shapes = dict[str, tuple[int, ...]]
NAMES: Final = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
MODULES: Final = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt_rtx_bindings"}
INSTALL: Final = {
    "tensorrt": "install TensorRT 10.16 or later with its Python bindings from NVIDIA; package indexes do not hold it",
    "tensorrt_rtx": "install the extra 'rtx'",
}
REBUILD: Final = "rebuild the release on this machine, or use one of flavour onnxruntime"
DIAGNOSES: Final = {  # tensorrt_rtx_bindings.EngineInvalidityDiagnostics: what it means and what to do
    "VERSION_MISMATCH": "it was built by another version of TensorRT-RTX: rebuild the release",
    "UNSUPPORTED_CC": "it was not built for this GPU's compute capability: rebuild the release on this machine",
    "OLD_CUDA_DRIVER": "the NVIDIA driver is too old for it: update the driver",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old for it: update TensorRT-RTX",
    "INSUFFICIENT_GPU_MEMORY": "the GPU has too little memory for it: free some, or rebuild with a smaller workspace",
    "MALFORMED_ENGINE": "it is no plan of TensorRT-RTX, or damaged: publish the release again",
    "CUDA_ERROR": "the CUDA driver or runtime is not installed correctly: see what nvidia-smi says",
}
WARM_UP_RUNS = 3  # the first compiles kernels or loads them, the second may record a CUDA graph
INPUT, OUTPUTS = "image", ("peaks", "heatmaps")


class TensorRTBackend:
    """Run a plan on GPU 0, one inference at a time, on the thread that opened it; `close` gives the GPU back.

    Opening checks that the plan loads here and has our tensors, and warms up; it raises `BackendFailed`. ``library``
    and ``device`` are the flavour's Python module and the GPU, or what a test puts in their place.
    """

    def __init__(
        self,
        plan: bytes,
        flavour: Flavour,
        precision: str,
        *,
        library: Any = None,
        device: CudaDevice | None = None,
    ) -> None:
        self._library = library or _import_library(flavour)
        self._heard = _listeners(self._library)
        self._flavour, self._precision = flavour, precision
        self._one_at_a_time = Lock()
        self._runtime: trt.Runtime | None = None
        self._engine: trt.ICudaEngine | None = None
        self._context: trt.IExecutionContext | None = None
        self._buffers: dict[str, Buffer] = {}
        self._device = device or CudaDevice()
        try:
            with self._device.current(BackendFailed, "loading the plan"):
                self._load(plan)
            for _ in range(WARM_UP_RUNS):
                self.infer(np.zeros(self._buffers[INPUT].host.shape, np.float32))
        except BackendFailed:
            self.close()
            raise
        except InferenceFailed as exc:
            self.close()
            raise BackendFailed(f"the plan loads, but does not run: {exc}; {REBUILD}") from exc
        except Exception as exc:  # the bindings raise bare exceptions of many kinds
            self.close()
            raise BackendFailed(f"{self._name} cannot load the plan ({exc}); {self._heard.said()}; {REBUILD}") from exc

    def infer(self, batch: np.ndarray) -> Inference:
        if not self._one_at_a_time.acquire(blocking=False):
            raise InferenceFailed("an inference is in flight, and a TensorRT context runs one at a time: wait for it")
        try:
            with self._device.current(InferenceFailed, "running the network"):
                return self._run(batch)
        except EdgeError:
            raise
        except Exception as exc:  # as above
            raise InferenceFailed(f"{self._name} failed ({exc}); {self._heard.said()}; restart the service") from exc
        finally:
            self._one_at_a_time.release()

    def describe(self) -> dict[str, str]:
        return {
            "flavour": self._flavour,
            "version": str(self._library.__version__),
            "precision": self._precision,
            "device": self._device.facts.gpu,
        }

    def close(self) -> None:
        """Release execution context, engine and runtime, then the GPU. Closing twice is once."""
        if not self._one_at_a_time.acquire(blocking=False):
            raise InferenceFailed("an inference is in flight: close the backend after it")
        try:
            self._device.close(first=self._release)
        finally:
            self._one_at_a_time.release()

    @property
    def _name(self) -> str:
        return f"{NAMES[self._flavour]} {self._library.__version__}"

    def _load(self, plan: bytes) -> None:
        self._heard.errors.clear()
        runtime: Any = self._library.Runtime(self._heard.logger)  # either flavour's: each use below says which it needs
        runtime.error_recorder = self._heard.recorder  # engine and context report to it, too
        self._runtime = runtime
        if self._flavour == "tensorrt_rtx":
            self._demand_valid(runtime, plan)
        self._engine = self._deserialised(runtime, plan)
        shapes = demand_our_tensors(self._engine, self._library)
        self._context = _new_context(self._engine, self._library)
        if self._context is None:
            raise BackendFailed(
                f"{self._name} cannot run the plan: {self._heard.said()}; free GPU memory, or {REBUILD}"
            )
        for name, shape in shapes.items():
            self._buffers[name] = self._device.buffer(shape)
            if not self._context.set_tensor_address(name, self._buffers[name].address):
                raise BackendFailed(f"{self._name} refuses the buffer of {name!r}: {self._heard.said()}; {REBUILD}")

    def _demand_valid(self, runtime: rtx.Runtime, plan: bytes) -> None:
        validity, diagnostics = runtime.get_engine_validity(plan)
        if validity == self._library.EngineValidity.INVALID:
            words = "; ".join(diagnoses(int(diagnostics), self._library))
            raise BackendFailed(f"{self._name} refuses the plan ({self._heard.said()}): {words}")

    def _deserialised(self, runtime: trt.Runtime, plan: bytes) -> trt.ICudaEngine:
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise BackendFailed(f"{self._name} cannot load the plan: {self._heard.said()}; {REBUILD}")
        return engine

    def _run(self, batch: np.ndarray) -> Inference:
        image, context = self._buffers[INPUT], self._context
        if context is None or batch.shape != image.host.shape or batch.dtype != np.float32:
            raise InferenceFailed(
                f"the plan takes {image.host.shape} float32, not {batch.shape} {batch.dtype}: as its contract says"
            )
        self._heard.errors.clear()
        image.host[...] = batch
        self._device.upload(image)
        if not context.execute_async_v3(self._device.stream):
            self._device.synchronize()
            raise InferenceFailed(
                f"{self._name} did not run: {self._heard.said()}; if it stays so, restart the service"
            )
        for name in OUTPUTS:
            self._device.download(self._buffers[name])
        self._device.synchronize()
        peaks, heatmaps = (self._buffers[name].host.copy() for name in OUTPUTS)
        return Inference(peaks, heatmaps)

    def _release(self) -> None:
        self._buffers = {}
        self._context = None
        self._engine = None
        self._runtime = None


def _new_context(engine: trt.ICudaEngine, library: Any) -> trt.IExecutionContext | None:
    if not hasattr(library, "CudaGraphStrategy"):
        return engine.create_execution_context()
    config: Any = engine.create_runtime_config()
    _record_a_graph(config, library)
    return engine.create_execution_context(runtime_config=config)


def _record_a_graph(config: rtx.IRuntimeConfig, library: Any) -> None:
    config.cuda_graph_strategy = library.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE


def demand_our_tensors(engine: trt.ICudaEngine, library: Any) -> Shapes:
    """Return the shapes of image (1, 1, S, S), peaks (n, K, 3) and heatmaps (n, 3S/4, 3S/4), all float32.

    Raises `BackendFailed` where the plan has other tensors.
    """
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    shapes: Shapes = {name: tuple(engine.get_tensor_shape(name)) for name in names}
    inputs = {name for name in names if engine.get_tensor_mode(name) == library.TensorIOMode.INPUT}
    doubles = [name for name in names if engine.get_tensor_dtype(name) != library.DataType.FLOAT]
    found = ", ".join(f"{name} {shape}{' in' if name in inputs else ''}" for name, shape in shapes.items())
    if inputs != {INPUT} or set(names) != {INPUT, *OUTPUTS}:
        fault = "its tensors are others"
    elif doubles:
        fault = f"{', '.join(doubles)} is not float32"
    elif not _fit(**shapes):
        fault = "the shapes are others"
    else:
        return shapes
    raise BackendFailed(
        f"the plan is not of our networks, whose tensors are image (1, 1, S, S) in, peaks (n, K, 3) and heatmaps "
        f"(n, 3S/4, 3S/4), all float32: {fault} (found: {found or 'none'}); rebuild the release from its checkpoint"
    )


def _fit(image: tuple[int, ...], peaks: tuple[int, ...], heatmaps: tuple[int, ...]) -> bool:
    if (len(image), len(peaks), len(heatmaps)) != (4, 3, 3) or min(*image, *peaks, *heatmaps) < 1:
        return False
    kinds, side = peaks[0], image[3]
    return image == (1, 1, side, side) and peaks[2] == 3 and heatmaps == (kinds, side * 3 // 4, side * 3 // 4)


def diagnoses(diagnostics: int, library: Any) -> tuple[str, ...]:
    """Return in words why TensorRT-RTX holds a plan for invalid here; without a GPU it sets no bit."""
    members = library.EngineInvalidityDiagnostics.__members__.items()
    bits = {name: int(member) for name, member in members if diagnostics & int(member)}
    unknown = diagnostics & ~sum(bits.values())
    words = [DIAGNOSES.get(name, name) for name in bits]
    if unknown:
        words.append(f"for a reason that only a later version knows ({unknown:#x}): {REBUILD}")
    return tuple(words) or ("most often the NVIDIA driver is missing or too old: see what nvidia-smi says",)


@dataclass(frozen=True, eq=False)
class _Listeners:
    """Where TensorRT reports to. ``errors`` holds the last three, for our own messages."""

    logger: Any
    recorder: Any
    errors: deque[str]

    def said(self) -> str:
        return f"it says: {' / '.join(self.errors)}" if self.errors else "it gives no reason"


@cache  # TensorRT keeps the first logger of a process for ever, ignores any later one, and crashes where it is freed
def _listeners(library: Any) -> _Listeners:
    errors: deque[str] = deque(maxlen=3)
    worth_telling = library.ILogger.INTERNAL_ERROR, library.ILogger.ERROR

    def keep(message: str) -> None:
        if message not in errors:  # most are reported both ways; some, one way only
            errors.append(message)

    def log(_logger: Any, severity: Any, msg: str) -> None:
        if severity in worth_telling:
            keep(msg)

    def report_error(_recorder: Any, _code: Any, desc: str) -> bool:
        keep(desc)
        return False  # the library decides whether it can go on

    recorder = {
        "report_error": report_error,
        "clear": lambda _: errors.clear(),
        "num_errors": lambda _: len(errors),
        "has_overflowed": lambda _: False,
    }
    logger_class = type("Logger", (library.ILogger,), {"log": log})
    return _Listeners(logger_class(), type("Recorder", (library.IErrorRecorder,), recorder)(), errors)


def _import_library(flavour: Flavour) -> Any:
    try:
        return importlib.import_module(MODULES[flavour])
    except ImportError as exc:
        raise BackendFailed(f"{NAMES[flavour]} cannot be imported ({exc}): {INSTALL[flavour]}") from exc
