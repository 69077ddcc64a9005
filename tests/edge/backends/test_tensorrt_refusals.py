"""What the TensorRT backend refuses to open."""

import sys

import pytest

from edge.backends.cuda import CudaDevice
from edge.backends.tensorrt import DIAGNOSES, TensorRTBackend
from edge.errors import BackendFailed, InferenceFailed
from tests.edge.backends.stand_ins import BATCH, PLAN, SHAPES, FakeRtx, network, refused


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
