"""Publishing: killed at any moment, it leaves a whole folder, or one that the next call brings back."""

import hashlib
from pathlib import Path

import pytest

from build_engine.publish import PublishError, exchange, publish_folder, publish_to_store
from edge.manifest import Manifest
from edge.signature import generate_key
from edge.store import Store
from tests.killed_at import killed_at

OLD, NEW = {"model.onnx": b"old", "contract.json": b"old"}, {"model.onnx": b"new", "contract.json": b"new"}
CARD = {"MODEL_CARD.md": b"card"}
ZEROS = "0" * 64


def never(_one, _other):
    return False


@pytest.fixture(autouse=True)
def opens(monkeypatch):
    """Take every staged folder for one that opens: what is published here is no model."""
    monkeypatch.setattr("build_engine.publish.open_engine", lambda *_args, **_kwargs: None)


@pytest.fixture
def release(tmp_path):
    """Return a function that makes a release folder with a model card, in a place of its own."""

    def make(name):
        folder = tmp_path / name / "release"
        folder.mkdir(parents=True)
        for file, data in (OLD | CARD).items():
            (folder / file).write_bytes(data)
        return folder

    return make


def held(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("swap", [exchange, never])
def test_publishing_can_be_killed_at_any_step_and_the_next_call_completes_it(release, swap):
    step, gone = 0, 0
    while True:
        folder = release(f"killed {step}")
        if not killed_at(step, lambda folder=folder: publish_folder(folder, NEW, swap)):
            break
        gone += not folder.exists()
        if folder.exists():
            assert held(folder) in (OLD | CARD, NEW | CARD)
        publish_folder(folder, NEW, swap)
        assert held(folder) == NEW | CARD
        assert [path.name for path in folder.parent.iterdir()] == ["release"], "nothing is left behind"
        step += 1
    assert step > 20, "so few calls of the system cannot be all of them"
    assert (gone == 0) == (swap is exchange), "only without an exchange there is a moment with neither"


def test_two_folders_are_exchanged_in_one_step(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert exchange(tmp_path / "a", tmp_path / "b")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    assert not exchange(tmp_path / "a", tmp_path / "none")


def test_a_folder_that_cannot_be_written_says_what_to_do(release, monkeypatch):
    folder = release("full")
    monkeypatch.setattr("build_engine.publish._sync_file", full)
    with pytest.raises(PublishError, match=r"release: cannot be written \(No space left.*free some space"):
        publish_folder(folder, NEW)
    assert held(folder) == OLD | CARD
    assert [path.name for path in folder.parent.iterdir()] == ["release"]


def test_where_the_new_folder_cannot_take_its_place_the_old_one_comes_back(release, monkeypatch):
    folder, rename = release("refused"), Path.rename

    def refusing(path, target):
        return full() if path.name.endswith(".staged") else rename(path, target)

    monkeypatch.setattr("pathlib.Path.rename", refusing)
    with pytest.raises(PublishError):
        publish_folder(folder, NEW, never)
    assert held(folder) == OLD | CARD


def full(*_args, **_kwargs):
    raise OSError(28, "No space left on device")


def test_a_full_folder_for_temporary_files_says_what_to_do_and_leaves_the_store_alone(tmp_path, monkeypatch):
    generate_key(tmp_path / "key", tmp_path / "key.pub")
    store = Store(tmp_path / "store", tmp_path / "key.pub")
    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    files = {"model.onnx": hashlib.sha256(b"").hexdigest()}
    manifest = Manifest.model_validate({
        "release": "r1", "software": "0", "created_utc": "2026-01-02T03:04:05Z", "files": files,
        "checkpoint_sha256": ZEROS, "onnx_sha256": ZEROS, "calibration_set_sha256": None, "ranges_sha256": None,
        "recipe_sha256": ZEROS, "flavour": "onnxruntime", "flavour_version": "1", "gpu": None, "driver": None,
        "compute_capability": None, "precision": "fp32", "delivered": {}, "gate": {},
    })  # fmt: skip
    with pytest.raises(PublishError, match=r"r1 cannot be laid out .*set TMPDIR"):
        publish_to_store(store, tmp_path / "key", manifest, {"model.onnx": b""})
    assert not store.root.exists()
