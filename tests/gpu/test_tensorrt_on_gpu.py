"""The shipped release as TensorRT plans, compiled here and run by the room's own backend.

Under LANDMARKNET_REQUIRE_GPU=1 nothing that TensorRT-RTX needs may be missing. Full TensorRT is tried where it is
installed: no package index holds it.
"""

import importlib.util
import os
import sys
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from functools import cache

import numpy as np
import pytest

from edge.backends.cuda import CudaDevice, device_facts
from edge.backends.tensorrt import MODULES, TensorRTBackend
from edge.engines import SHIPPED_RELEASE, read_golden, require_golden_answers
from edge.errors import BackendFailed, InferenceFailed

pytestmark = pytest.mark.gpu

WARM_RUNS = 200
COLUMNS = (
    "date | GPU | compute capability | driver | library | precision | golden answers | median ms | 99th percentile ms"
)


def missing(reason):
    """Fail where a GPU is required, skip elsewhere."""
    if os.environ.get("LANDMARKNET_REQUIRE_GPU") == "1":
        pytest.fail(f"LANDMARKNET_REQUIRE_GPU=1, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="module")
def facts():
    try:
        return device_facts()
    except BackendFailed as exc:
        return missing(str(exc))


@pytest.fixture(scope="module", params=["tensorrt_rtx", "tensorrt"])
def flavour(request, facts):
    if importlib.util.find_spec(MODULES[request.param]) is None:
        if request.param == "tensorrt":
            pytest.skip("full TensorRT is not installed; package indexes do not hold it")
        missing("tensorrt_rtx_bindings is not installed")
    return request.param


@cache
def compiled(flavour, precision, compute_capability=None):
    """Return the plan of the shipped model; for TensorRT-RTX without a compute capability, for all from 8.0 on."""
    from build_engine.compile import compile_engine
    from build_engine.compiled import CompileSettings, SilentProgress
    from build_engine.half import to_half

    model = (SHIPPED_RELEASE / "model.onnx").read_bytes()
    settings = CompileSettings(flavour=flavour, compute_capability=compute_capability)
    return compile_engine(to_half(model) if precision == "fp16" else model, settings, SilentProgress()).data


@pytest.fixture
def opened(flavour):
    """Return a function that compiles and opens a precision; it is closed when the test ends."""
    with ExitStack() as stack:
        yield lambda precision, device=None: stack.enter_context(
            closing(TensorRTBackend(compiled(flavour, precision), flavour, precision, device=device))
        )


def expectations(shipped, precision):
    """Return the shipped contract with the tolerances that a release of that precision gets, and its golden answers."""
    from build_engine.golden import TOLERANCES

    net_px, score = TOLERANCES[precision]
    changes = {"golden_tolerance_net_px": net_px, "golden_tolerance_score": score}
    return shipped.contract.model_copy(update=changes), read_golden(SHIPPED_RELEASE, shipped.contract)


@pytest.fixture
def batch(shipped):
    return read_golden(SHIPPED_RELEASE, shipped.contract).batches[0]


def random_batch(like, seed):
    return np.random.default_rng(seed).normal(size=like.shape).astype(np.float32)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_golden_answers_of_the_shipped_release_are_reproduced_and_the_latency_printed(
    opened, shipped, facts, batch, precision, capsys
):
    device = CudaDevice()
    backend = opened(precision, device)
    require_golden_answers(backend, *expectations(shipped, precision))
    latency_ms = [device.elapsed_ms(lambda: backend.infer(batch)) for _ in range(WARM_RUNS)]
    about = backend.describe()
    row = (
        datetime.now(UTC).date(), facts.gpu, facts.compute_capability, facts.driver,
        f"{about['flavour']} {about['version']}", precision, "reproduced",
        f"{np.median(latency_ms):.2f}", f"{np.percentile(latency_ms, 99):.2f}",
    )  # fmt: skip
    with capsys.disabled():
        sys.stdout.write(f"\n| {COLUMNS} |\n| {' | '.join(map(str, row))} |\n")


def test_the_same_batch_gives_the_same_answer_twice(opened, batch):
    backend = opened("fp32")
    one, _, other = backend.infer(batch), backend.infer(random_batch(batch, 0)), backend.infer(batch)
    assert np.array_equal(one.peaks, other.peaks)
    assert np.array_equal(one.heatmaps, other.heatmaps)


def test_two_backends_of_one_thread_do_not_disturb_each_other(opened, batch):
    # an old release serves while a new one is tried
    old, new = opened("fp32"), opened("fp16")
    alone = old.infer(batch), new.infer(batch)
    for seed in range(3):
        old.infer(random_batch(batch, seed))
        new.infer(random_batch(batch, seed + 10))
    assert np.array_equal(old.infer(batch).heatmaps, alone[0].heatmaps)
    assert np.array_equal(new.infer(batch).heatmaps, alone[1].heatmaps)


def test_a_gpu_that_was_given_back_can_be_taken_again(opened, batch):
    first = opened("fp32")
    answer = first.infer(batch)
    first.close()
    first.close()
    with pytest.raises(InferenceFailed, match="closed"):
        first.infer(batch)
    assert np.array_equal(opened("fp32").infer(batch).peaks, answer.peaks)


def test_the_backend_says_where_it_runs(opened, facts, flavour):
    about = opened("fp16").describe()
    assert (about["flavour"], about["precision"], about["device"]) == (flavour, "fp16", facts.gpu)


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_truncated_plan_is_refused(flavour, kept):
    plan = compiled(flavour, "fp32")
    with pytest.raises(BackendFailed):
        TensorRTBackend(plan[: int(kept * len(plan))], flavour, "fp32")


def test_a_plan_for_another_compute_capability_is_refused_by_its_name(facts, flavour):
    if flavour == "tensorrt":
        pytest.skip("full TensorRT compiles for the GPU that is here, only")
    other = "12.0" if facts.compute_capability != "12.0" else "8.6"
    with pytest.raises(BackendFailed, match="compute capability"):
        TensorRTBackend(compiled(flavour, "fp32", other), flavour, "fp32")
