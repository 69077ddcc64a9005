"""Stand-ins for pycuda and TensorRT.

They note each call, and what is queued on the stream happens only when it is waited for.
"""

import enum

import numpy as np
import pytest

from edge.backends.cuda import CudaDevice
from edge.backends.tensorrt import DIAGNOSES, TensorRTBackend
from edge.errors import BackendFailed

PLAN = b"a plan"
SIZE, KINDS, ROWS = 48, 2, 4
SHAPES = {"image": (1, 1, SIZE, SIZE), "peaks": (KINDS, ROWS, 3), "heatmaps": (KINDS, SIZE * 3 // 4, SIZE * 3 // 4)}
BATCH = np.random.default_rng(0).normal(size=SHAPES["image"]).astype(np.float32)
ONE_INFERENCE = ["push", "upload", "execute", "download", "download", "synchronize", "pop"]


class Gpu:
    """What both stand-ins share: the calls in order, memory by address, the stream's queue, the faults to inject."""

    def __init__(self):
        self.calls, self.queue, self.memory, self.pinned = [], [], {}, 0
        self.failing = set()
        self.on_synchronize = lambda: None

    def call(self, name):
        self.calls.append(name)
        if name in self.failing:
            raise FakeDriver.Error(f"{name} failed: unspecified launch failure")


class FakeDriver:
    """In the place of `pycuda.driver`."""

    class Error(Exception):
        pass

    class MemoryError(Error):  # noqa: A001 — pycuda's name
        pass

    def __init__(self, gpu, devices=1, version=13000):
        self.gpu, self.stack, self.version, self.retained = gpu, [], version, 0
        driver = self

        class Device:
            def __init__(self, number):
                assert number == 0

            count = staticmethod(lambda: devices)
            name = staticmethod(lambda: "Quadro Test")
            compute_capability = staticmethod(lambda: (8, 9))

            def retain_primary_context(self):
                gpu.call("retain")
                driver.retained += 1
                return Context()

        class Context:
            def push(self):
                gpu.call("push")
                driver.stack.append(self)

            def pop(self):
                gpu.calls.append("pop")
                driver.stack.pop()

            def detach(self):
                gpu.calls.append("detach")
                assert not driver.stack, "pycuda would abort the process"
                driver.retained -= 1

        self.Device = Device

    def init(self):
        self.gpu.call("init")

    def get_driver_version(self):
        return self.version

    def in_context(self, name):
        if not self.stack:
            raise self.Error(f"{name}: no currently active context")
        self.gpu.call(name)

    def Stream(self):
        self.in_context("stream")
        return FakeStream(self)

    def Event(self):
        return FakeEvent(self)

    def mem_alloc(self, size):
        self.in_context("allocate")
        return FakeMemory(self, size)

    def pagelocked_empty(self, shape, dtype):
        self.in_context("pin")
        return np.asarray(FakePinned(self, shape, dtype))

    def memcpy_htod_async(self, target, source, stream):
        self.in_context("upload")
        self.gpu.queue.append(lambda: self.gpu.memory.__setitem__(int(target), source.copy()))

    def memcpy_dtoh_async(self, target, source, stream):
        self.in_context("download")
        self.gpu.queue.append(lambda: target.__setitem__(..., self.gpu.memory[int(source)]))


class FakeStream:
    handle = 77

    def __init__(self, driver):
        self.driver = driver

    def synchronize(self):
        self.driver.gpu.on_synchronize()
        self.driver.in_context("synchronize")
        while self.driver.gpu.queue:
            self.driver.gpu.queue.pop(0)()


class FakeEvent:
    def __init__(self, driver):
        self.driver = driver

    def record(self, stream):
        self.driver.in_context("record")
        self.at = len(self.driver.gpu.calls)

    def synchronize(self):
        self.driver.in_context("wait")

    def time_since(self, other):
        return self.at - other.at


class FakeMemory:
    def __init__(self, driver, size):
        self.driver, self.address = driver, 4096 * (len(driver.gpu.memory) + 1)
        driver.gpu.memory[self.address] = bytes(size)

    def __int__(self):
        return self.address

    def free(self):
        self.driver.in_context("free")
        del self.driver.gpu.memory[self.address]


class FakePinned:
    def __init__(self, driver, shape, dtype):
        self.driver, self.array = driver, np.full(shape, np.nan, dtype)
        self.__array_interface__ = self.array.__array_interface__
        driver.gpu.pinned += 1

    def free(self):
        self.driver.in_context("unpin")
        self.driver.gpu.pinned -= 1


class FakeLibrary:
    """In the place of `tensorrt`; `FakeRtx` has what TensorRT-RTX has besides."""

    __version__ = "11.4.0"
    DataType = enum.Enum("DataType", "FLOAT HALF")
    TensorIOMode = enum.Enum("TensorIOMode", "INPUT OUTPUT")

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING = range(3)

    class IErrorRecorder:
        pass

    def __init__(self, gpu, network):
        self.gpu, self.network = gpu, network
        self.shapes, self.doubles, self.inputs = dict(SHAPES), set(), {"image"}
        self.failing = set()  # names of calls that answer None or False
        self.raising = set()
        self.contexts = []
        self.recorder, self.logs = None, True

    def Runtime(self, logger):
        self.logger = logger
        self.refuses("Runtime")
        return FakeRuntime(self)

    def refuses(self, name):
        """Note the call; raise, or complain and return True, where it is to fail."""
        self.gpu.calls.append(name)
        if name in self.raising:
            raise TypeError(f"{name}: factory function returned nullptr")
        if name in self.failing:
            self.logger.log(self.ILogger.WARNING, "just so you know")
            self.complain(f"{name}: Error Code 1")
        return name in self.failing

    def complain(self, text):
        if self.logs:
            self.logger.log(self.ILogger.ERROR, text)
        if self.recorder is not None:
            self.recorder.report_error(0, text)


class FakeRtx(FakeLibrary):
    __version__ = "1.7.1"
    CudaGraphStrategy = enum.Enum("CudaGraphStrategy", "DISABLED WHOLE_GRAPH_CAPTURE")
    EngineValidity = enum.Enum("EngineValidity", "VALID SUBOPTIMAL INVALID")
    EngineInvalidityDiagnostics = enum.IntFlag("EngineInvalidityDiagnostics", list(DIAGNOSES))
    validity = EngineValidity.VALID, 0


class FakeRuntime:
    def __init__(self, library):
        self._library = library

    @property
    def error_recorder(self):
        return self._library.recorder

    @error_recorder.setter
    def error_recorder(self, value):
        self._library.recorder = value

    def get_engine_validity(self, buffer):
        self._library.refuses("get_engine_validity")
        return self._library.validity

    def deserialize_cuda_engine(self, serialized_engine):
        assert serialized_engine == PLAN
        refused = self._library.refuses("deserialize")
        return None if refused else FakeEngine(self._library)

    def __del__(self):
        self._library.gpu.calls.append("release runtime")


class FakeEngine:
    def __init__(self, library):
        self._library = library

    @property
    def num_io_tensors(self):
        return len(self._library.shapes)

    def get_tensor_name(self, index):
        return list(self._library.shapes)[index]

    def get_tensor_shape(self, name):
        return self._library.shapes[name]

    def get_tensor_dtype(self, name):
        return self._library.DataType.HALF if name in self._library.doubles else self._library.DataType.FLOAT

    def get_tensor_mode(self, name):
        mode = self._library.TensorIOMode
        return mode.INPUT if name in self._library.inputs else mode.OUTPUT

    def create_runtime_config(self):
        return FakeRuntimeConfig()

    def create_execution_context(self, runtime_config=None):
        if self._library.refuses("create_execution_context"):
            return None
        self._library.contexts.append(runtime_config)
        return FakeExecutionContext(self._library)

    def __del__(self):
        self._library.gpu.calls.append("release engine")


class FakeRuntimeConfig:
    cuda_graph_strategy = None


class FakeExecutionContext:
    def __init__(self, library):
        self._library, self._addresses = library, {}

    def set_tensor_address(self, name, memory):
        self._addresses[name] = memory
        return not self._library.refuses("set_tensor_address")

    def execute_async_v3(self, stream_handle):
        assert stream_handle == FakeStream.handle
        refused = self._library.refuses("execute")
        if not refused:
            self._library.gpu.queue.append(self._run)
        return not refused

    def _run(self):
        memory = self._library.gpu.memory
        for name, values in zip(
            ("peaks", "heatmaps"), self._library.network(memory[self._addresses["image"]]), strict=True
        ):
            memory[self._addresses[name]] = values

    def __del__(self):
        self._library.gpu.calls.append("release context")


def network(image):
    """Answer with what shows that the input arrived: its sum, and itself."""
    peaks = np.full(SHAPES["peaks"], image.sum(), np.float32)
    return peaks, np.repeat(image[0, :, :36, :36], KINDS, axis=0)


def flavour_of(library):
    return "tensorrt_rtx" if isinstance(library, FakeRtx) else "tensorrt"


def assert_given_back(gpu, driver):
    assert (gpu.memory, gpu.pinned, driver.stack, driver.retained) == ({}, 0, [], 0)


def refused(library, gpu, driver):
    """Return the message with which opening fails; all that was taken of the GPU is given back."""
    with pytest.raises(BackendFailed) as caught:
        TensorRTBackend(PLAN, flavour_of(library), "fp16", library=library, device=CudaDevice(driver))
    assert_given_back(gpu, driver)
    message = str(caught.value)
    assert any(todo in message for todo in ("rebuild", "update", "install", "see ", "publish")), message
    return message
