"""What can go wrong while the TensorRT backend runs."""

import threading

import numpy as np
import pytest

from edge.errors import InferenceFailed
from tests.edge.backends.stand_ins import BATCH


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
