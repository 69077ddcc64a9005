"""The stand-ins, and the backend itself, against TensorRT-RTX."""

import ctypes

import numpy as np
import pytest

from edge.backends.cuda import CudaDevice
from edge.backends.tensorrt import DIAGNOSES, TensorRTBackend, _listeners
from edge.errors import BackendFailed
from tests.edge.backends.stand_ins import (
    FakeEngine,
    FakeExecutionContext,
    FakeLibrary,
    FakeRtx,
    FakeRuntime,
    FakeRuntimeConfig,
    assert_given_back,
)


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
