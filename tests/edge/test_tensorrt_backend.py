"""The TensorRT backend over stand-ins for pycuda and TensorRT.

They note each call, and what is queued on the stream happens only when it is waited for.
"""

import ctypes
import enum
import sys
import threading

import numpy as np
import pytest

from edge.backends.cuda import CudaDevice, DeviceFacts, device_facts
from edge.backends.tensorrt import DIAGNOSES, TensorRTBackend, _listeners
from edge.errors import BackendFailed, InferenceFailed

PLAN = b"a plan"
SIZE, KINDS, ROWS = 48, 2, 4
SHAPES = {"image": (1, 1, SIZE, SIZE), "peaks": (KINDS, ROWS, 3), "heatmaps": (KINDS, SIZE * 3 // 4, SIZE * 3 // 4)}
BATCH = np.random.default_rng(0).normal(size=SHAPES["image"]).astype(np.float32)
ONE_INFERENCE = ["push", "upload", "execute", "download", "download", "synchronize", "pop"]


# --- the stand-ins ---


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


@pytest.fixture
def gpu():
    return Gpu()


@pytest.fixture
def driver(gpu):
    return FakeDriver(gpu)


@pytest.fixture(params=[FakeLibrary, FakeRtx], ids=["tensorrt", "tensorrt_rtx"])
def library(request, gpu):
    return request.param(gpu, network)


def flavour_of(library):
    return "tensorrt_rtx" if isinstance(library, FakeRtx) else "tensorrt"


@pytest.fixture
def opened(driver):
    """Return a function that opens a backend over the stand-ins; it is closed when the test ends."""
    backends = []

    def open_backend(library):
        backend = TensorRTBackend(PLAN, flavour_of(library), "fp16", library=library, device=CudaDevice(driver))
        backends.append(backend)
        return backend

    yield open_backend
    for backend in backends:
        backend.close()


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


# --- what it gives ---


def test_what_the_plan_computes_is_the_inference(library, opened):
    inference = opened(library).infer(BATCH)
    assert np.array_equal(inference.peaks, np.full((KINDS, ROWS, 3), BATCH.sum()))
    assert np.array_equal(inference.heatmaps, np.stack([BATCH[0, 0, :36, :36]] * KINDS))


def test_a_later_inference_leaves_an_earlier_one_alone(library, opened):
    backend = opened(library)
    first = backend.infer(BATCH)
    backend.infer(np.zeros_like(BATCH))
    assert first.peaks[0, 0, 0] == BATCH.sum()
    assert np.array_equal(first.heatmaps[0], BATCH[0, 0, :36, :36])


def test_a_batch_that_is_a_view_with_strides_is_taken_as_it_reads(library, opened):
    mirrored = BATCH[:, :, ::-1, ::2].repeat(2, axis=3)[:, :, :, ::-1]
    assert np.array_equal(opened(library).infer(mirrored).heatmaps[0], mirrored[0, 0, :36, :36])


def test_one_inference_is_one_run_of_the_stream(library, opened, gpu):
    backend = opened(library)
    gpu.calls.clear()
    backend.infer(BATCH)
    assert gpu.calls == ONE_INFERENCE


def test_it_has_run_before_it_is_ready(library, opened, gpu):
    opened(library)
    assert gpu.calls[-3 * len(ONE_INFERENCE) :] == ONE_INFERENCE * 3
    assert gpu.calls.count("execute") == 3


def test_the_context_is_current_only_while_it_works(library, opened, driver):
    backend = opened(library)
    assert driver.stack == []
    backend.infer(BATCH)
    assert driver.stack == []


def test_it_describes_itself_for_the_provenance(library, opened):
    assert opened(library).describe() == {
        "flavour": flavour_of(library),
        "version": library.__version__,
        "precision": "fp16",
        "device": "Quadro Test",
    }


def test_tensorrt_rtx_asks_for_validity_first_and_records_a_graph(gpu, opened):
    library = FakeRtx(gpu, network)
    opened(library)
    assert gpu.calls.index("get_engine_validity") < gpu.calls.index("deserialize")
    assert [c.cuda_graph_strategy for c in library.contexts] == [FakeRtx.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE]


def test_full_tensorrt_is_not_asked_for_what_only_rtx_has(gpu, opened):
    library = FakeLibrary(gpu, network)
    opened(library)
    assert "get_engine_validity" not in gpu.calls
    assert library.contexts == [None]


def test_a_plan_that_may_be_slow_here_is_run_all_the_same(gpu, opened):
    library = FakeRtx(gpu, network)
    library.validity = FakeRtx.EngineValidity.SUBOPTIMAL, 0
    assert opened(library).infer(BATCH).peaks[0, 0, 0] == BATCH.sum()


def test_the_time_between_two_events_is_that_of_the_work(library, driver, gpu):
    device = CudaDevice(driver)
    backend = TensorRTBackend(PLAN, flavour_of(library), "fp16", library=library, device=device)
    elapsed = device.elapsed_ms(lambda: backend.infer(BATCH))
    backend.close()
    assert elapsed == len([*ONE_INFERENCE, "record"]), "the fake's clock counts calls"


# --- what it refuses to open ---


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("deserialize", "cannot load the plan: it says: deserialize: Error Code 1; rebuild"),
        ("create_execution_context", "cannot run the plan: it says: create_execution_context: Error Code 1; free GPU"),
        ("set_tensor_address", "refuses the buffer of 'image': it says: set_tensor_address: Error Code 1"),
        ("execute", "the plan loads, but does not run: "),
    ],
)
def test_a_call_of_tensorrt_that_fails_is_told_with_its_words(library, gpu, driver, call, said):
    library.failing.add(call)
    message = refused(library, gpu, driver)
    assert said in message
    assert library.__version__ in message
    assert "just so you know" not in message


def test_its_words_are_heard_where_another_logger_of_the_process_came_first(library, gpu, driver):
    library.failing.add("deserialize")
    library.logs = False  # TensorRT ignores all loggers but the first
    assert "it says: deserialize: Error Code 1; " in refused(library, gpu, driver)


def test_words_that_it_only_logs_are_heard_too(gpu, driver):
    library = FakeRtx(gpu, network)
    library.validity = FakeRtx.EngineValidity.INVALID, 0
    library.failing.add("get_engine_validity")
    library.complain = lambda text: library.logger.log(library.ILogger.INTERNAL_ERROR, text)
    assert "it says: get_engine_validity: Error Code 1): " in refused(library, gpu, driver)


def test_words_about_an_earlier_failure_are_not_repeated(library, opened, gpu):
    backend = opened(library)
    library.failing.add("execute")
    library.complain("an earlier failure")
    with pytest.raises(InferenceFailed, match=r"it says: execute: Error Code 1; "):
        backend.infer(BATCH)


@pytest.mark.parametrize(
    "call", ["Runtime", "deserialize", "create_execution_context", "set_tensor_address", "execute"]
)
def test_an_exception_of_the_bindings_does_not_get_out(library, gpu, driver, call):
    library.raising.add(call)
    assert f"{call}: factory function returned nullptr" in refused(library, gpu, driver)


@pytest.mark.parametrize("call", ["allocate", "pin", "upload", "synchronize"])
def test_a_gpu_that_fails_while_opening_is_told(library, gpu, driver, call):
    gpu.failing.add(call)
    message = refused(library, gpu, driver)
    assert f"{call} failed: unspecified launch failure" in message


@pytest.mark.parametrize("call", ["init", "retain", "push", "stream"])
def test_a_gpu_that_cannot_be_opened_is_told(driver, gpu, call):
    gpu.failing.add(call)
    with pytest.raises(BackendFailed, match=rf"{call} failed: unspecified launch failure.*nvidia-smi"):
        CudaDevice(driver)
    assert (driver.stack, driver.retained) == ([], 0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shapes": {"input": (1, 1, 48, 48), "peaks": (2, 4, 3), "heatmaps": (2, 36, 36)}}, "its tensors are others"),
        ({"shapes": SHAPES | {"extra": (1,)}}, "its tensors are others"),
        ({"shapes": {"image": (1, 1, 48, 48), "peaks": (2, 4, 3)}}, "its tensors are others"),
        ({"shapes": {}}, "found: none"),
        ({"inputs": {"image", "peaks"}}, "its tensors are others"),
        ({"inputs": set()}, "its tensors are others"),
        ({"doubles": {"heatmaps"}}, "heatmaps is not float32"),
        ({"doubles": {"image"}}, "image is not float32"),
        ({"shapes": SHAPES | {"image": (2, 1, 48, 48)}}, "the shapes are others"),
        ({"shapes": SHAPES | {"image": (1, 3, 48, 48)}}, "the shapes are others"),
        ({"shapes": SHAPES | {"image": (1, 1, 44, 48)}}, "the shapes are others"),
        ({"shapes": SHAPES | {"image": (-1, 1, 48, 48)}}, "the shapes are others"),
        ({"shapes": SHAPES | {"image": (1, 48, 48)}}, "the shapes are others"),
        ({"shapes": SHAPES | {"peaks": (2, 4, 2)}}, "the shapes are others"),
        ({"shapes": SHAPES | {"peaks": (2, -1, 3)}}, "the shapes are others"),
        ({"shapes": SHAPES | {"peaks": (3, 4, 3)}}, "the shapes are others"),
        ({"shapes": SHAPES | {"heatmaps": (2, 48, 48)}}, "the shapes are others"),
        ({"shapes": SHAPES | {"heatmaps": (2, 36)}}, "the shapes are others"),
    ],
)
def test_a_plan_of_other_tensors_is_refused(library, gpu, driver, changes, said):
    for name, value in changes.items():
        setattr(library, name, value)
    message = refused(library, gpu, driver)
    assert said in message
    assert "execute" not in gpu.calls


@pytest.mark.parametrize("name", list(DIAGNOSES))
def test_a_diagnosis_of_tensorrt_rtx_is_told_in_words(gpu, driver, name):
    library = FakeRtx(gpu, network)
    library.validity = FakeRtx.EngineValidity.INVALID, int(FakeRtx.EngineInvalidityDiagnostics[name])
    message = refused(library, gpu, driver)
    assert DIAGNOSES[name] in message
    assert [other for other in DIAGNOSES.values() if other in message] == [DIAGNOSES[name]]
    assert "deserialize" not in gpu.calls


@pytest.mark.parametrize(
    ("bits", "said"),
    [
        (0, "most often the NVIDIA driver is missing"),
        (1024, "a later version knows (0x400): rebuild"),
        (1 + 2, DIAGNOSES["UNSUPPORTED_CC"]),
    ],
)
def test_a_diagnosis_that_is_none_one_or_several_is_told(gpu, driver, bits, said):
    library = FakeRtx(gpu, network)
    library.validity = FakeRtx.EngineValidity.INVALID, bits
    assert said in refused(library, gpu, driver)


@pytest.mark.parametrize(
    ("flavour", "module", "said"),
    [
        ("tensorrt", "tensorrt", "install TensorRT 10.16 or later"),
        ("tensorrt_rtx", "tensorrt_rtx_bindings", "install the extra 'rtx'"),
    ],
)
def test_a_missing_library_is_named_with_what_to_install(monkeypatch, driver, flavour, module, said):
    monkeypatch.setitem(sys.modules, module, None)  # Python's own way to say: not there
    with pytest.raises(BackendFailed) as caught:
        TensorRTBackend(PLAN, flavour, "fp16", device=CudaDevice(driver))
    assert module in str(caught.value)
    assert said in str(caught.value)


def test_a_missing_pycuda_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycuda", None)
    with pytest.raises(BackendFailed, match=r"pycuda is not installed .* install the extra 'gpu'"):
        device_facts()


def test_pycuda_without_a_driver_says_that_the_driver_is_missing(monkeypatch, tmp_path):
    package = tmp_path / "pycuda"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "driver.py").write_text("raise ImportError('libcuda.so.1: cannot open shared object file')")
    for name in ("pycuda", "pycuda.driver"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BackendFailed, match=r"finds no NVIDIA driver .libcuda.so.1.* install the driver"):
        device_facts()
    sys.modules.pop("pycuda", None)


# --- what can go wrong while it runs ---


@pytest.mark.parametrize("call", ["push", "upload", "download", "synchronize"])
def test_a_fault_of_the_gpu_says_that_the_service_must_be_restarted_and_stays(library, opened, gpu, call):
    backend = opened(library)
    gpu.failing.add(call)
    with pytest.raises(InferenceFailed, match=rf"{call} failed: unspecified launch failure.*restart the service"):
        backend.infer(BATCH)
    gpu.failing.clear()
    gpu.calls.clear()
    with pytest.raises(InferenceFailed, match=r"some time ago.*restart the service"):
        backend.infer(BATCH)
    assert gpu.calls == [], "a lost GPU is not touched again"


@pytest.mark.parametrize("call", ["synchronize", "push"])
def test_a_lost_gpu_can_be_closed(library, opened, gpu, driver, call):
    backend = opened(library)
    gpu.failing |= {call, "free", "unpin"}
    with pytest.raises(InferenceFailed):
        backend.infer(BATCH)
    backend.close()
    assert (driver.stack, driver.retained) == ([], 0)


def test_a_run_that_tensorrt_refuses_is_told_and_the_next_may_work(library, opened, gpu):
    backend = opened(library)
    library.failing.add("execute")
    with pytest.raises(InferenceFailed, match="did not run: it says: execute: Error Code 1; if it stays so, restart"):
        backend.infer(BATCH)
    assert gpu.queue == [], "what was queued before is over"
    library.failing.clear()
    assert backend.infer(BATCH).peaks[0, 0, 0] == BATCH.sum()


def test_an_exception_of_a_run_does_not_get_out(library, opened, driver):
    backend = opened(library)
    library.raising.add("execute")
    with pytest.raises(InferenceFailed, match=r"factory function returned nullptr.*restart the service"):
        backend.infer(BATCH)
    assert driver.stack == []


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((1, 1, 47, 48), np.float32),
        np.zeros((2, 1, 48, 48), np.float32),
        np.zeros((1, 1, 48, 48)),
        np.float32(0),
    ],
    ids=["size", "two images", "double precision", "a number"],
)
def test_a_batch_of_another_form_fails_and_is_named(library, opened, gpu, batch):
    backend = opened(library)
    gpu.calls.clear()
    with pytest.raises(InferenceFailed) as caught:
        backend.infer(batch)
    assert f"{batch.shape} {batch.dtype}" in str(caught.value)
    assert gpu.calls == ["push", "pop"]


def in_another_thread(work):
    """Return the `InferenceFailed` that ``work`` raises in a thread of its own, or None."""
    raised = []

    def run():
        try:
            work()
        except InferenceFailed as exc:
            raised.append(str(exc))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return raised[0] if raised else None


def test_another_thread_may_neither_infer_nor_close(library, opened, gpu):
    backend = opened(library)
    gpu.calls.clear()
    for work in (lambda: backend.infer(BATCH), backend.close):
        assert "opened by another thread" in in_another_thread(work)
    assert gpu.calls == []
    assert backend.infer(BATCH).peaks[0, 0, 0] == BATCH.sum()


def test_a_second_inference_while_one_is_in_flight_is_refused(library, opened, gpu):
    backend = opened(library)
    refusals = []

    def again():
        for work in (lambda: backend.infer(BATCH), backend.close):
            with pytest.raises(InferenceFailed, match="in flight") as caught:
                work()
            refusals.append(caught.value)

    gpu.on_synchronize = again
    assert backend.infer(BATCH).peaks[0, 0, 0] == BATCH.sum()
    assert len(refusals) == 2


# --- how it ends ---


def test_closing_releases_tensorrt_then_memory_then_the_context(library, opened, gpu, driver):
    backend = opened(library)
    gpu.calls.clear()
    backend.close()
    releases = ["release context", "release engine", "release runtime"]
    assert gpu.calls == ["push", *releases, *["free", "unpin"] * 3, "pop", "detach"]
    assert_given_back(gpu, driver)


def test_closing_twice_is_closing_once_and_nothing_runs_after(library, opened, gpu):
    backend = opened(library)
    backend.close()
    gpu.calls.clear()
    backend.close()
    with pytest.raises(InferenceFailed, match="closed"):
        backend.infer(BATCH)
    assert gpu.calls == []


def test_a_gpu_that_was_closed_can_be_opened_again(library, opened, gpu, driver):
    opened(library).close()
    assert opened(library).infer(BATCH).peaks[0, 0, 0] == BATCH.sum()


# --- what the GPU is ---


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 07:12:54 UTC 2025\n", "580.65.06, "),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.124.06  Release Build  (x)\n", "570.124.06, "),
        ("something else", ""),
        (None, ""),
    ],
)
def test_the_gpu_says_what_it_is(driver, tmp_path, text, said):
    path = tmp_path / "version"
    if text is not None:
        path.write_text(text)
    assert device_facts(driver, path) == DeviceFacts("Quadro Test", "8.9", f"{said}CUDA 13.0")


def test_the_driver_s_cuda_version_is_read_with_its_second_figure(gpu, tmp_path):
    # cuDriverGetVersion: 1000 * major + 10 * minor
    assert device_facts(FakeDriver(gpu, version=12080), tmp_path / "none").driver == "CUDA 12.8"


def test_a_driver_that_does_not_start_is_told(driver, gpu):
    gpu.failing.add("init")
    with pytest.raises(BackendFailed, match=r"does not start .init failed.*nvidia-smi"):
        device_facts(driver)


def test_a_driver_without_a_gpu_is_told(gpu):
    with pytest.raises(BackendFailed, match=r"shows no GPU.*CUDA_VISIBLE_DEVICES"):
        device_facts(FakeDriver(gpu, devices=0))


# --- the stand-ins against the library itself ---


@pytest.fixture(scope="module")
def rtx():
    return pytest.importorskip("tensorrt_rtx_bindings")


@pytest.mark.parametrize(
    ("stand_in", "name"),
    [
        (FakeRuntime, "Runtime"),
        (FakeEngine, "ICudaEngine"),
        (FakeExecutionContext, "IExecutionContext"),
        (FakeRuntimeConfig, "IRuntimeConfig"),
        (FakeLibrary.ILogger, "ILogger"),
        (FakeLibrary.IErrorRecorder, "IErrorRecorder"),
        (FakeRtx.CudaGraphStrategy, "CudaGraphStrategy"),
        (FakeRtx.EngineValidity, "EngineValidity"),
        (FakeLibrary.TensorIOMode, "TensorIOMode"),
        (FakeLibrary.DataType, "DataType"),
    ],
)
def test_the_stand_ins_have_no_name_that_tensorrt_rtx_lacks(rtx, stand_in, name):
    public = {n for n in vars(stand_in) if not n.startswith("_")}
    assert public <= set(dir(getattr(rtx, name)))


def test_what_listens_overrides_what_tensorrt_rtx_calls(rtx, library):
    listeners = _listeners(library)
    for listener, name in ((listeners.logger, "ILogger"), (listeners.recorder, "IErrorRecorder")):
        public = {n for n in vars(type(listener)) if not n.startswith("_")}
        assert public
        assert public <= set(dir(getattr(rtx, name)))


def test_every_diagnosis_of_tensorrt_rtx_has_its_words(rtx):
    assert set(DIAGNOSES) == set(rtx.EngineInvalidityDiagnostics.__members__)


def test_tensorrt_rtx_itself_finds_that_bytes_are_no_plan(rtx, gpu, driver):
    with pytest.raises(BackendFailed) as caught:
        TensorRTBackend(b"no plan " * 40, "tensorrt_rtx", "fp32", device=CudaDevice(driver))
    assert DIAGNOSES["MALFORMED_ENGINE"] in str(caught.value)
    assert f"TensorRT-RTX {rtx.__version__} refuses the plan" in str(caught.value)
    assert_given_back(gpu, driver)


def has_driver():
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


@pytest.mark.skipif(has_driver(), reason="this machine has an NVIDIA driver: see tests/gpu")
def test_a_real_plan_without_a_driver_is_refused_and_the_driver_named(rtx, gpu, driver, tiny_model):
    logger = rtx.Logger(rtx.Logger.ERROR)
    builder = rtx.Builder(logger)
    network, config = builder.create_network(), builder.create_builder_config()
    assert rtx.OnnxParser(network, logger).parse(tiny_model(np.zeros((2, 4, 3), np.float32)))
    plan = bytes(builder.build_serialized_network(network, config))
    with pytest.raises(
        BackendFailed, match=r"refuses the plan .*: most often the NVIDIA driver is missing or too old: see"
    ):
        TensorRTBackend(plan, "tensorrt_rtx", "fp32", device=CudaDevice(driver))
    assert_given_back(gpu, driver)
