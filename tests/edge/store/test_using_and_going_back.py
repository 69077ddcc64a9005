import json

import onnxruntime
import pytest

from edge.engines import open_store_engine
from edge.manifest import Manifest
from tests.edge.store.shown import ZEROS, flip, links, refusal, sha256, state

# --- using, and going back ---


def test_use_then_rollback_then_use(filled):
    assert links(filled) == ("r2", "r1")
    filled.use("r3")
    assert links(filled) == ("r3", "r2")
    assert filled.rollback() == "r2"
    assert links(filled) == ("r2", "r3")
    filled.use("r3")
    assert links(filled) == ("r3", "r2")
    assert (filled.root / "current").resolve() == filled.root / "releases" / "r3"
    assert (filled.root / "current" / "contract.json").is_file()


def test_the_links_are_relative(filled):
    assert [str((filled.root / name).readlink()) for name in ("current", "previous")] == ["releases/r2", "releases/r1"]


def test_using_what_is_in_use_forgets_nothing(filled):
    filled.use("r2")
    assert links(filled) == ("r2", "r1")


def test_there_is_nothing_to_go_back_to_in_a_new_store(store, staged):
    assert "no previous release" in refusal(store.rollback)
    assert not store.root.exists()
    store.add(staged("r1"))
    store.use("r1")
    assert "no previous release" in refusal(store.rollback)
    assert links(store) == ("r1", None)


def test_a_store_where_nothing_is_in_use_opens_nothing(store, staged):
    assert "no release is in use" in refusal(open_store_engine, store, 1, "fallback")
    store.add(staged("r1"))
    assert "engine use ID" in refusal(open_store_engine, store, 1, "fallback")


def test_the_engine_of_a_store_carries_the_hash_of_its_manifest(filled):
    engine = open_store_engine(filled, 1, "refuse")
    release = filled.root / "releases" / "r2"
    assert engine.contract.release == "r2"
    assert engine.manifest_sha256 == sha256((release / "manifest.json").read_bytes())
    assert engine.contract_sha256 == sha256((release / "contract.json").read_bytes())


def test_the_list_shows_what_is_in_use_and_what_is_broken(filled):
    flip("manifest.json")(filled.root / "releases" / "r1")
    (filled.root / "releases" / "not a release").mkdir()
    shown = {one.release: one for one in filled.list()}
    assert list(shown) == ["not a release", "r1", "r2", "r3"]
    assert [name for name, one in shown.items() if one.is_current] == ["r2"]
    assert [name for name, one in shown.items() if one.is_previous] == ["r1"]
    assert isinstance(shown["r2"].manifest, Manifest)
    assert shown["r2"].fault is None
    assert "not what the owner of this key signed" in shown["r1"].fault
    assert "not the name of a release" in shown["not a release"].fault


def test_a_store_that_is_not_there_is_named(store):
    assert "No such file" in refusal(store.list)


# --- the calibration set that a site means ---


SETS = ["a" * 64, "b" * 64]


@pytest.fixture
def promised(staged, seal):
    """Return a function that makes a release that was built from a calibration set on a day of January."""

    def make(name, calibration_set_sha256, day, checkpoint_sha256=ZEROS):
        folder = staged(name)
        same = {"calibration_set_sha256": calibration_set_sha256, "checkpoint_sha256": checkpoint_sha256}
        promise = json.loads((folder / "contract.json").read_text()) | same
        (folder / "contract.json").write_text(json.dumps(promise))
        return seal(folder, name, created_utc=f"2026-01-{day:02}T03:04:05Z", **same)

    return make


def test_a_release_of_an_older_calibration_set_than_the_last_one_says_so(store, promised):
    store.add(promised("old", SETS[0], day=1))
    store.use("old")
    assert open_store_engine(store, 1, "refuse").rebuild_for == ("library " + onnxruntime.__version__,)
    assert "calibration set" not in open_store_engine(store, 1, "refuse").warnings[0]
    store.add(promised("new", SETS[1], day=2))
    store.add(promised("float", None, day=3))
    (warning,) = open_store_engine(store, 1, "refuse").warnings
    assert "calibration set bbbbbbbbbbbb expected, built from aaaaaaaaaaaa" in warning
    for name in ("new", "float"):
        store.use(name)
        assert "calibration set" not in open_store_engine(store, 1, "refuse").warnings[0]


def test_the_calibration_set_of_another_model_is_none_of_a_release_s(store, promised):
    store.add(promised("one", SETS[0], day=1))
    store.add(promised("other", SETS[1], day=2, checkpoint_sha256="c" * 64))
    assert store.newest_calibration_set("one") == SETS[0]
    assert store.newest_calibration_set("other") == SETS[1]
    assert store.newest_calibration_set("r9") is None


# --- removing ---


def test_a_release_is_removed_and_says_what_it_freed(filled):
    folder = filled.root / "releases" / "r3"
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert filled.remove("r3") == size
    assert [one.release for one in filled.list()] == ["r1", "r2"]
    assert sorted(path.name for path in filled.root.iterdir()) == [".lock", "current", "previous", "releases"]
    assert "no such release" in refusal(filled.remove, "r3")


def test_a_damaged_release_can_be_removed(filled):
    flip("manifest.json")(filled.root / "releases" / "r3")
    filled.remove("r3")
    assert not (filled.root / "releases" / "r3").exists()


@pytest.mark.parametrize("name", ["r1", "r2"])
def test_neither_what_is_in_use_nor_what_was_before_is_removed(filled, name):
    before = state(filled)
    assert "and stays" in refusal(filled.remove, name)
    assert state(filled) == before


@pytest.mark.parametrize("name", ["..", "../staged", "/etc", "r1/../r3", ""])
def test_nothing_outside_is_removed(filled, name):
    before = state(filled)
    assert "not the name of a release" in refusal(filled.remove, name)
    assert state(filled) == before
