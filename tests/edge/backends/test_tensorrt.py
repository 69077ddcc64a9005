"""What the TensorRT backend gives, and how it ends."""

import numpy as np
import pytest

from edge.backends.cuda import CudaDevice
from edge.backends.tensorrt import TensorRTBackend
from edge.errors import InferenceFailed
from tests.edge.backends.stand_ins import (
    BATCH,
    KINDS,
    ONE_INFERENCE,
    PLAN,
    ROWS,
    FakeLibrary,
    FakeRtx,
    assert_given_back,
    flavour_of,
    network,
)


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
