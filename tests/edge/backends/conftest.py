"""The stand-ins for a GPU, its driver and either library, and backends over them."""

import pytest

from edge.backends.cuda import CudaDevice
from edge.backends.tensorrt import TensorRTBackend
from tests.edge.backends.stand_ins import PLAN, FakeDriver, FakeLibrary, FakeRtx, Gpu, flavour_of, network


@pytest.fixture
def gpu():
    return Gpu()


@pytest.fixture
def driver(gpu):
    return FakeDriver(gpu)


@pytest.fixture(params=[FakeLibrary, FakeRtx], ids=["tensorrt", "tensorrt_rtx"])
def library(request, gpu):
    return request.param(gpu, network)


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
