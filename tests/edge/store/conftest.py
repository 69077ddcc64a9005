"""Keys, signed releases, and a store of three of them."""

import io
import json

import numpy as np
import pytest

from edge.signature import generate_key, sign
from edge.store import Store
from tests.edge.store.shown import ZEROS, sha256


@pytest.fixture(scope="session")
def keys(tmp_path_factory):
    """Return the paths of the site's private and public key, and of another site's private one."""
    folder = tmp_path_factory.mktemp("keys")
    generate_key(folder / "site", folder / "site.pub")
    generate_key(folder / "other", folder / "other.pub")
    return folder / "site", folder / "site.pub", folder / "other"


@pytest.fixture
def seal(keys):
    """Return a function that signs a folder of files as release ``name``; ``entries`` replace those of the manifest."""

    def write(folder, name, key=keys[0], **entries):
        files = {path.name: sha256(path.read_bytes()) for path in folder.iterdir() if "manifest" not in path.name}
        document = {
            "release": name, "software": "landmarknet-edge 0", "created_utc": "2026-01-02T03:04:05Z", "files": files,
            "checkpoint_sha256": ZEROS, "onnx_sha256": ZEROS, "calibration_set_sha256": None, "ranges_sha256": None,
            "recipe_sha256": ZEROS, "flavour": "onnxruntime", "flavour_version": "1.0", "gpu": None,
            "compute_capability": None, "driver": None, "precision": "fp32", "delivered": {}, "gate": {"passed": True},
        }  # fmt: skip
        (folder / "manifest.json").write_text(json.dumps(document | entries))
        (folder / "manifest.sig").write_bytes(sign((folder / "manifest.json").read_bytes(), key))
        return folder

    return write


@pytest.fixture
def staged(tmp_path, contract, rows, tiny_model, seal):
    """Return a function that makes a signed release folder outside of any store; its contract has ``promised``."""

    def make(name="r1", promised=None, **entries):
        folder = tmp_path / "staged" / name
        folder.mkdir(parents=True)
        peaks = rows([(20.0, 10.0, 0.9)], [(24.0, 20.0, 0.8)])
        golden = io.BytesIO()
        np.savez(golden, batches=np.zeros((1, 1, 1, 48, 48), np.int8), peaks=peaks[None])
        model = tiny_model(peaks)
        hashes = {"model_sha256": sha256(model), "golden_sha256": sha256(golden.getvalue())}
        promise = contract(release=name, **hashes, **(promised or {}))
        (folder / "model.onnx").write_bytes(model)
        (folder / "golden.npz").write_bytes(golden.getvalue())
        (folder / "contract.json").write_text(promise.model_dump_json(by_alias=True))
        (folder / "gate.md").write_text("passed")
        return seal(folder, name, **entries)

    return make


@pytest.fixture
def store(tmp_path, keys):
    return Store(tmp_path / "store", keys[1])


@pytest.fixture
def filled(store, staged):
    """Return a store of r1, r2 and r3: r2 is current, r1 is previous."""
    for name in ("r1", "r2", "r3"):
        store.add(staged(name))
    store.use("r1")
    store.use("r2")
    return store
