import hashlib
import io
import json

import numpy as np
import pytest

from edge.backends.function import FunctionBackend
from edge.config import Config
from edge.constancy import KindDrift
from edge.contract import read_contract
from edge.engines import LINE_TOLERANCE_NET_PX, SHIPPED_RELEASE, Engine, Golden, open_configured
from edge.errors import InferenceFailed
from edge.pipeline import Pipeline
from edge.processes.worker_child import begin, golden_drift
from edge.signature import generate_key, sign
from edge.store import Store

SPINOUS = [(20.0, 10.0, 0.9), (20.0, 30.0, 0.6)]
CARINA = [(24.0, 20.0, 0.8)]


def sha256(data):
    return hashlib.sha256(data).hexdigest()


# --- an engine on a device ---


class OnDevice:
    """A backend that holds a device, and fails."""

    def infer(self, batch):
        raise InferenceFailed("the GPU failed while running the network (700)")

    def describe(self):
        return {"flavour": "tensorrt", "version": "0", "precision": "fp32", "device": "GPU"}

    def close(self):
        pass


class OnHost(OnDevice):
    """One without anything to give back."""

    close = None


@pytest.mark.parametrize(("backend", "kind"), [(OnDevice(), "DeviceLost"), (OnHost(), "InferenceFailed")])
@pytest.mark.parametrize("does", ["make", "golden"])
def test_a_device_that_fails_is_lost_and_a_processor_is_not(contract, write, dicom, collimated, does, backend, kind):
    path = write(dicom(collimated()))
    asked = {"do": does, "copy": str(path), "name": "X.dcm", "sha256": None, "final": True}
    golden = Golden(np.zeros((1, 1, 1, 48, 48), np.float32), np.zeros((1, 2, 4, 3), np.float32))
    engine = Engine(backend, contract(), "c" * 64, golden=golden)
    header, blobs = begin(asked, Pipeline(engine, "d" * 64))()
    assert (header["error"], blobs) == (kind, ())
    assert "GPU failed" in header["message"]


# --- the golden images of what was opened ---


@pytest.fixture
def in_store(tmp_path, contract, rows, tiny_model):
    """Return a function: a configuration whose store has a release in use, with this model or one that is right."""

    def make(model=None):
        staged, golden = tmp_path / "staged" / "small-1", io.BytesIO()
        staged.mkdir(parents=True)
        peaks = rows(SPINOUS, CARINA)
        model = tiny_model(peaks) if model is None else model
        np.savez(golden, batches=np.zeros((1, 1, 1, 48, 48), np.int8), peaks=peaks[None])
        promise = contract(model_sha256=sha256(model), golden_sha256=sha256(golden.getvalue()))
        (staged / "model.onnx").write_bytes(model)
        (staged / "golden.npz").write_bytes(golden.getvalue())
        (staged / "contract.json").write_text(promise.model_dump_json(by_alias=True))
        generate_key(tmp_path / "site", tmp_path / "site.pub")
        store = Store.for_publishing(tmp_path / "store", tmp_path / "site")
        store.add(signed(staged, tmp_path / "site"))
        store.use("small-1")
        return Config(store=tmp_path / "store", release_key=tmp_path / "site.pub", stale="fallback")

    return make


def test_the_golden_images_are_those_of_the_signed_release_in_use(in_store):
    settings = in_store()
    engine = open_configured(settings)
    assert engine.manifest_sha256 == sha256((settings.store / "current" / "manifest.json").read_bytes())
    assert [kind.lost + kind.gained for kind in golden_drift(engine)] == [0, 0]


def test_an_engine_without_golden_images_shows_nothing(engine):
    assert golden_drift(engine(SPINOUS, CARINA)) == ()  # which `edge.constancy.judge` does not pass


def test_the_golden_images_are_those_of_the_shipped_release_where_that_stands_in(in_store):
    engine = open_configured(in_store(model=b"no model"))
    assert engine.contract == read_contract(SHIPPED_RELEASE / "contract.json")[0]
    assert engine.golden.batches.shape[-1] == engine.contract.input_size


def signed(folder, key):
    """Sign a release folder under its own name, and return it."""
    entries = {
        "release": folder.name, "software": "landmarknet-edge 0", "created_utc": "2026-01-02T03:04:05Z",
        "files": {path.name: sha256(path.read_bytes()) for path in folder.iterdir()}, "checkpoint_sha256": "0" * 64,
        "onnx_sha256": "0" * 64, "calibration_set_sha256": None, "ranges_sha256": None, "recipe_sha256": "0" * 64,
        "flavour": "onnxruntime", "flavour_version": "1.0", "gpu": None, "compute_capability": None, "driver": None,
        "precision": "fp32", "delivered": {}, "gate": {"passed": True},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(entries))
    (folder / "manifest.sig").write_bytes(sign((folder / "manifest.json").read_bytes(), key))
    return folder


@pytest.fixture
def drift(contract, rows):
    """Return a function: the drift by kind of an engine that answers ``have`` where ``want`` was golden."""

    def of(want, have, **changes):
        promise = contract(**changes)
        golden = Golden(np.zeros((1, 1, 1, 48, 48), np.float32), rows(*want)[None])
        backend = FunctionBackend(lambda _: rows(*have), promise.heatmap_size)
        return golden_drift(Engine(backend, promise, "c" * 64, golden=golden))

    return of


def test_a_shift_is_the_distance_and_a_score_change_its_size(drift):
    spinous, carina = drift((SPINOUS, CARINA), ([(20.3, 10.4, 0.85), (20.0, 30.1, 0.7)], CARINA))
    assert (spinous.shift_net_px, spinous.score_change) == pytest.approx((0.5, 0.1), abs=1e-6)  # 3-4-5; float32
    assert (spinous.lost, spinous.gained) == (0, 0)
    assert carina == KindDrift("tracheal_bifurcation", 0.0, 0.0)


def test_a_peak_without_a_counterpart_within_the_suppression_radius_is_lost(drift):
    spinous, carina = drift((SPINOUS, CARINA), (SPINOUS[:1], [(24.0, 24.5, 0.8)]))  # 4.5 px away, of 4
    assert (spinous.lost, spinous.gained) == (1, 0)
    assert (carina.lost, carina.gained, carina.shift_net_px) == (1, 1, 0.0)


def test_a_peak_that_nobody_promised_is_gained(drift):
    spinous, carina = drift((SPINOUS, []), ([*SPINOUS, (10.0, 40.0, 0.5)], CARINA))
    assert (spinous.lost, spinous.gained) == (0, 1)
    assert (carina.lost, carina.gained) == (0, 1)


def test_a_peak_near_its_threshold_may_come_and_go(drift):
    spinous, _ = drift(([(20.0, 10.0, 0.354)], []), ([], []))  # the threshold is 0.35, its slack 0.005
    assert (spinous.lost, spinous.gained) == (0, 0)


def test_a_peak_below_its_threshold_is_a_counterpart_nevertheless(drift):
    spinous, _ = drift(([(20.0, 10.0, 0.36)], []), ([(20.0, 10.0, 0.34)], []))
    assert (spinous.lost, spinous.score_change) == (0, pytest.approx(0.02, abs=1e-6))  # float32


def test_the_points_of_a_line_are_allowed_more(drift):
    kinds = [{"kind": "spine_line", "threshold": 0.5, "at_most": 4, "shape": "line"}]
    (line,) = drift(([],), ([],), kinds=kinds)
    assert (line.kind, line.allowance_net_px) == ("spine_line", LINE_TOLERANCE_NET_PX)
