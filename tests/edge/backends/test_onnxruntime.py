import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from edge.backends.onnxruntime import OnnxRuntimeBackend
from edge.errors import BackendFailed, InferenceFailed

PEAKS = np.arange(2 * 4 * 3, dtype=np.float32).reshape(2, 4, 3)
BATCH = np.zeros((1, 1, 48, 48), np.float32)


@pytest.fixture(scope="module")
def backend(tiny_model):
    return OnnxRuntimeBackend(tiny_model(PEAKS), threads=1, precision="fp32")


def test_the_graph_s_two_outputs_are_the_inference(backend):
    inference = backend.infer(BATCH)
    assert np.array_equal(inference.peaks, PEAKS)
    assert inference.heatmaps.shape == (2, 36, 36)


def test_it_describes_itself_for_the_provenance(backend):
    assert backend.describe() == {
        "flavour": "onnxruntime",
        "version": onnxruntime.__version__,
        "precision": "fp32",
        "device": "cpu",
    }


@pytest.mark.parametrize("model", [b"", b"\0" * 64, b"not a model " * 99])
def test_what_is_no_model_fails_and_says_which_runtime_said_so(model):
    with pytest.raises(BackendFailed, match=rf"ONNX Runtime {onnxruntime.__version__} cannot load"):
        OnnxRuntimeBackend(model, threads=1, precision="fp32")


def test_half_a_model_fails(tiny_model):
    model = tiny_model(PEAKS)
    with pytest.raises(BackendFailed, match="cannot load"):
        OnnxRuntimeBackend(model[: len(model) // 2], threads=1, precision="fp32")


@pytest.mark.parametrize(
    "batch",
    [np.zeros((1, 1, 47, 48), np.float32), np.zeros((2, 1, 48, 48), np.float32), np.zeros((1, 1, 48, 48), np.float64)],
    ids=["size", "two images", "double precision"],
)
def test_a_batch_of_another_form_fails_and_is_named(backend, batch):
    with pytest.raises(InferenceFailed) as caught:
        backend.infer(batch)
    assert f"{batch.shape}" in str(caught.value)


def test_a_graph_without_our_outputs_fails(tiny_model):
    model = tiny_model(PEAKS).replace(b"heatmaps", b"heetmaps")
    with pytest.raises(InferenceFailed, match="heatmaps"):
        OnnxRuntimeBackend(model, threads=1, precision="fp32").infer(BATCH)


def test_the_shipped_graph_gives_the_same_answer_twice(shipped):
    size = shipped.contract.input_size
    batch = np.random.default_rng(0).normal(size=(1, 1, size, size)).astype(np.float32)
    one, other = shipped.backend.infer(batch), shipped.backend.infer(batch)
    assert np.array_equal(one.peaks, other.peaks)
    assert np.array_equal(one.heatmaps, other.heatmaps)


def test_the_shipped_graph_answers_in_the_form_of_its_contract(shipped):
    promise = shipped.contract
    batch = np.random.default_rng(0).normal(size=(1, 1, promise.input_size, promise.input_size)).astype(np.float32)
    inference = shipped.backend.infer(batch)
    assert inference.peaks.shape == (len(promise.kinds), promise.rows_per_kind, 3)
    assert inference.heatmaps.shape == (len(promise.kinds), promise.heatmap_size, promise.heatmap_size)
    for rows in inference.peaks:
        used = rows[:, 2] >= 0
        assert (rows[~used] == -1).all()
        assert (np.diff(rows[used, 2]) <= 0).all()  # best first
        assert ((rows[used, :2] >= -0.5) & (rows[used, :2] <= promise.input_size - 0.5)).all()


def test_nothing_is_written_into_the_user_s_home_and_no_thread_waits_to_send_it(tiny_model, tmp_path):
    model, home = tmp_path / "model.onnx", tmp_path / "home"
    model.write_bytes(tiny_model(PEAKS))
    home.mkdir()
    script = (
        "import os; from pathlib import Path; from edge.backends.onnxruntime import OnnxRuntimeBackend; "
        f"OnnxRuntimeBackend(Path({str(model)!r}).read_bytes(), 1, 'fp32'); print(len(os.listdir('/proc/self/task')))"
    )
    room = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "ORT_"))}
    # one thread: of this process, and numpy's pool is kept to it
    room |= {"HOME": str(home), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=room, check=True, capture_output=True, text=True)
    assert list(home.rglob("*")) == []
    assert done.stdout.strip() == "1"


def test_every_import_of_onnx_runtime_goes_through_the_one_that_keeps_it_quiet():
    importing = [
        path
        for package in ("edge", "build_engine", "calibration", "landmarknet")
        for path in Path(package).rglob("*.py")
        if re.search(r"^\s*(import|from) onnxruntime", path.read_text(), re.MULTILINE)
    ]
    assert importing == [Path("edge/backends/onnxruntime.py")]
