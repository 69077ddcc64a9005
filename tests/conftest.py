"""What tests of several stages need: a small contract, an engine under a fake backend, the samples, the command."""

import hashlib
import io
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from edge.backends import Inference
from edge.backends.function import FunctionBackend
from edge.contract import CONTRACT_SCHEMA, Contract, KindContract
from edge.engines import Engine, open_engine

ROOT = Path(__file__).parents[1]
ZEROS = "0" * 64
SIZE = 48  # network px: the small contract's input


def small_contract(**changes):
    """Return the contract of a 48 px network for two kinds, 4 rows each; ``changes`` replace entries."""
    entries = {
        "release": "small-1",
        "model_file": "model.onnx",
        "model_sha256": ZEROS,
        "golden_sha256": ZEROS,
        "checkpoint_sha256": ZEROS,
        "calibration_set_sha256": None,
        "flavour": "onnxruntime",
        "precision": "fp32",
        "input_size": SIZE,
        "heatmap_size": SIZE * 3 // 4,
        "rows_per_kind": 4,
        "nms_radius_net_px": 4,
        "mm_per_net_px": None,  # the whole image fills the square
        "assumed_longer_side_mm": (),
        "golden_tolerance_net_px": 0.05,
        "golden_tolerance_score": 0.005,
        "trained_on": (),
        "kinds": (
            KindContract(kind="spinous_process", threshold=0.35, at_most=3),
            KindContract(kind="tracheal_bifurcation", threshold=0.5, at_most=1),
        ),
    }
    return Contract.model_validate({"schema": CONTRACT_SCHEMA} | entries | changes)


def peak_rows(*kinds, rows=4):
    """Return peaks (n, rows, 3) float32: one list of (x, y, score) for each kind, best first, padded with -1."""
    peaks = np.full((len(kinds), rows, 3), -1, np.float32)
    for number, found in enumerate(kinds):
        if found:
            peaks[number, : len(found)] = found
    return peaks


class PaintedBackend:
    """A `FunctionBackend` with heatmaps: ``function(batch) -> (peaks, heatmaps)``; keeps the batches it was asked."""

    def __init__(self, function):
        self.function, self.asked = function, []

    def infer(self, batch):
        self.asked.append(batch)
        return Inference(*self.function(batch))

    def describe(self):
        return {"flavour": "painted", "version": "0", "precision": "fp32", "device": "none"}


@pytest.fixture(scope="session")
def painted():
    """Return `PaintedBackend`."""
    return PaintedBackend


@pytest.fixture(scope="session")
def contract():
    """Return `small_contract`."""
    return small_contract


@pytest.fixture(scope="session")
def rows():
    """Return `peak_rows`."""
    return peak_rows


@pytest.fixture(scope="session")
def engine():
    """Return a function: an engine of the small contract that always answers with the given `peak_rows`."""

    def answering(*kinds, **changes):
        promise = small_contract(**changes)
        return Engine(FunctionBackend(lambda _: peak_rows(*kinds), promise.heatmap_size), promise, "c" * 64)

    return answering


@pytest.fixture(scope="session")
def shipped():
    """Return the engine of the release that is shipped with the package."""
    return open_engine(None, threads=1)


@pytest.fixture(scope="session")
def samples():
    """Return the folder of sample images."""
    return ROOT / "samples"


@pytest.fixture(scope="session")
def as_nobody():
    """Return a context manager: a folder that whoever runs the tests may not look into meanwhile, root neither."""

    @contextmanager
    def shut(folder):
        who, mode = os.geteuid(), folder.stat().st_mode
        folder.chmod(0)
        try:
            if who == 0:
                os.seteuid(65534)
            yield
        finally:
            os.seteuid(who)
            folder.chmod(mode)

    return shut


@pytest.fixture
def own_state(tmp_path):
    """Return the environment of a user who keeps state in ``state home``, not in that of whoever runs the tests."""
    return os.environ | {"PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(tmp_path / "state home")}


@pytest.fixture
def landmarknet_edge(own_state):
    """Return a function that runs the command in a process of its own, and returns it when it has ended."""

    def run(*arguments, cwd, **options):
        return subprocess.run(
            [sys.executable, "-m", "edge.cli", *map(str, arguments)],
            cwd=cwd,
            env=own_state,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            **options,
        )

    return run


@pytest.fixture(scope="session")
def tiny_model():
    """Return a function: the bytes of an ONNX model of the small contract's form that always answers ``peaks``."""
    from onnx import TensorProto, helper, numpy_helper

    def model(peaks, size=SIZE):
        kinds, rows, _ = peaks.shape
        sites = size * 3 // 4
        shapes = {"image": (1, 1, size, size), "peaks": (kinds, rows, 3), "heatmaps": (kinds, sites, sites)}
        value = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()}
        zeros = np.zeros(shapes["heatmaps"], np.float32)
        constants = [numpy_helper.from_array(peaks, "p"), numpy_helper.from_array(zeros, "h")]
        nodes = [helper.make_node("Identity", [c], [name]) for c, name in (("p", "peaks"), ("h", "heatmaps"))]
        graph = helper.make_graph(nodes, "tiny", [value["image"]], [value["peaks"], value["heatmaps"]], constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()

    return model


@pytest.fixture(scope="session")
def quick_release(tmp_path_factory, tiny_model):
    """Return the folder of a release that opens at once and always finds the same landmarks.

    For tests of what a service does around the network: the shipped one takes seconds to give its golden answers.
    """
    folder, golden = tmp_path_factory.mktemp("quick release"), io.BytesIO()
    peaks = peak_rows([(20.0, 10.0, 0.9), (20.0, 30.0, 0.6)], [(24.0, 20.0, 0.8)])
    np.savez(golden, batches=np.zeros((2, 1, 1, SIZE, SIZE), np.int8), peaks=np.stack([peaks, peaks]))
    model = tiny_model(peaks)
    hashes = {
        "model_sha256": hashlib.sha256(model).hexdigest(),
        "golden_sha256": hashlib.sha256(golden.getvalue()).hexdigest(),
    }
    document = json.loads(small_contract().model_dump_json(by_alias=True)) | hashes
    (folder / "model.onnx").write_bytes(model)
    (folder / "golden.npz").write_bytes(golden.getvalue())
    (folder / "contract.json").write_text(json.dumps(document))
    return folder
