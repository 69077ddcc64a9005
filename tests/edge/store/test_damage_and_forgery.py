import os
import shutil
import subprocess
import sys
from typing import get_args

import pytest

from edge.config import StalePolicy
from edge.engines import open_store_engine
from edge.errors import BadConfig
from edge.store import Store
from tests.edge.store.shown import ROOT, flip, links, refusal, state


def truncate(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-1])


def remove(name):
    return lambda folder: (folder / name).unlink()


def replace_by_link(name):
    def damage(folder):
        outside = folder.parents[1] / f"outside-{name}"
        (folder / name).rename(outside)
        (folder / name).symlink_to(outside)

    return damage


def replace_by_pipe(name):
    def damage(folder):
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return damage


SIGNED = ["contract.json", "gate.md", "golden.npz", "model.onnx"]
SEAL = ["manifest.json", "manifest.sig"]
DAMAGES = (
    [(f"{way.__name__} {name}", way(name), name, "SHA-256") for way in (flip, truncate) for name in SIGNED]
    + [(f"{way.__name__} {name}", way(name), "manifest", "not what the") for way in (flip, truncate) for name in SEAL]
    + [(f"remove {name}", remove(name), name, "lacks") for name in SIGNED]
    + [(f"remove {name}", remove(name), name, "not signed") for name in SEAL]
    + [(f"link {name}", replace_by_link(name), name, "it is a link") for name in SIGNED + SEAL]
    + [(f"pipe {name}", replace_by_pipe(name), name, "not a plain file") for name in SIGNED + SEAL]
    + [
        ("extra file", lambda folder: (folder / "plugin.so").write_bytes(b""), "plugin.so", "does not name it"),
        ("extra folder", lambda folder: (folder / "lib").mkdir(), "lib", "does not name it"),
        ("extra hidden file", lambda folder: (folder / ".x").write_bytes(b""), ".x", "does not name it"),
    ]
)


@pytest.mark.parametrize(("damage", "named", "said"), [row[1:] for row in DAMAGES], ids=[row[0] for row in DAMAGES])
def test_what_was_altered_is_named_and_neither_added_nor_used_nor_opened(filled, staged, damage, named, said):
    before = state(filled)
    source = staged("r4")
    damage(source)
    message = refusal(filled.add, source)
    assert named in message
    assert said in message
    assert "publish the release again" in message
    assert state(filled) == before

    damage(filled.root / "releases" / "r3")
    for action in (filled.verify, filled.use):
        assert said in refusal(action, "r3")
    assert links(filled) == ("r2", "r1")

    damage(filled.root / "releases" / "r1")
    assert said in refusal(filled.rollback)
    assert links(filled) == ("r2", "r1")

    damage(filled.root / "releases" / "r2")
    for policy in get_args(StalePolicy):  # nothing stands in for what was altered
        assert said in refusal(open_store_engine, filled, 1, policy)


def test_a_release_of_another_site_is_refused(store, staged, keys):
    assert "another key" in refusal(store.add, staged("r1", key=keys[2]))
    assert not store.root.exists()


def test_an_unsigned_release_such_as_the_shipped_one_is_refused_by_a_store(store):
    assert "not signed" in refusal(store.add, ROOT / "edge" / "release")


def test_whoever_signs_opens_the_store_with_the_private_key(store, staged, keys):
    mine, others = Store.for_publishing(store.root, keys[0]), Store.for_publishing(store.root, keys[2])
    assert "another key" in refusal(others.add, staged("r1"))
    mine.add(staged("r2"))
    store.verify("r2")
    assert "private key" in refusal(Store.for_publishing, store.root, keys[1], error=BadConfig)


def test_the_signature_of_another_release_is_refused(store, staged):
    one, other = staged("r1"), staged("r2")
    shutil.copy(other / "manifest.sig", one)
    assert "not what the owner of this key signed" in refusal(store.add, one)


def test_a_release_does_not_pass_under_another_name(filled):
    """A withdrawn release, signed as it is, must not come back as one that is still trusted."""
    releases = filled.root / "releases"
    shutil.rmtree(releases / "r3")
    shutil.copytree(releases / "r1", releases / "r3")
    assert "holds release r1 under another name" in refusal(filled.use, "r3")
    assert [one.fault is None for one in filled.list()] == [True, True, False]


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"precision": "int8"}, "precision"),
        ({"flavour": "tensorrt"}, "flavour"),
        ({"checkpoint_sha256": "1" * 64}, "checkpoint_sha256"),
        ({"calibration_set_sha256": "1" * 64}, "calibration_set_sha256"),
        ({"release": "r9"}, "release"),
    ],
)
def test_a_contract_that_contradicts_its_manifest_is_refused(store, staged, entries, said):
    message = refusal(store.add, staged("r1", **entries))
    assert f"differ in {said};" in message


def test_a_contract_whose_delivered_layers_are_not_the_manifests_is_refused(store, staged):
    agreeing = {"fp16": 40, "fp32": 11}
    assert store.add(staged("r1", promised={"delivered": agreeing}, delivered=agreeing)).name == "r1"
    message = refusal(store.add, staged("r2", promised={"delivered": agreeing}, delivered={"fp32": 51}))
    assert "differ in delivered;" in message


def test_a_contract_of_an_earlier_version_counts_no_layers_and_contradicts_nothing(store, staged):
    assert store.add(staged("r1", delivered={"fp32": 51})).name == "r1"


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz"])
def test_a_contract_for_another_file_than_the_signed_one_is_refused(store, staged, seal, name):
    folder = staged("r1")
    (folder / name).write_bytes(b"another")
    message = refusal(store.add, seal(folder, "r1"))
    assert f"differ in {name.partition('.')[0]}_sha256;" in message


@pytest.mark.parametrize("name", ["contract.json", "golden.npz"])
def test_a_manifest_that_leaves_out_what_every_release_has_is_refused(store, staged, seal, name):
    folder = staged("r1")
    (folder / name).unlink()
    assert f"names no {name}" in refusal(store.add, seal(folder, "r1"))


def test_a_manifest_of_another_version_is_refused_though_it_is_signed(store, staged):
    assert "schema: " in refusal(store.add, staged("r1", schema="landmarknet-edge/manifest/2"))


# --- nothing means anything before it was checked ---


def test_bytes_that_no_parser_takes_are_refused_for_their_hash_or_signature(filled):
    """Had a parser seen them first, the message would be the parser's."""
    release = filled.root / "releases" / "r2"
    whole = (release / "contract.json").read_text()
    (release / "contract.json").write_text("{")
    assert "contract.json: is not the file that its manifest names" in refusal(filled.verify, "r2")
    (release / "contract.json").write_text(whole)
    (release / "golden.npz").write_bytes(b"no archive")
    assert "golden.npz: is not the file that its manifest names" in refusal(filled.verify, "r2")
    (release / "manifest.json").write_text("{")
    assert "manifest.json: not what the owner of this key signed" in refusal(filled.verify, "r2")


def test_a_contract_is_parsed_only_when_every_file_holds(filled, seal):
    release = filled.root / "releases" / "r2"
    (release / "contract.json").write_text("{")
    seal(release, "r2")
    assert "contract.json: not a contract" in refusal(filled.verify, "r2")
    flip("model.onnx")(release)
    assert "model.onnx: is not the file" in refusal(filled.verify, "r2")


def test_a_store_checks_and_switches_without_what_could_load_a_model(filled):
    code = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in {'numpy', 'onnxruntime', 'tensorrt'}: raise AssertionError(name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
        "from pathlib import Path\n"
        "from edge.store import Store\n"
        f"store = Store(Path({str(filled.root)!r}), Path({str(filled.key)!r}))\n"
        "store.use('r3'); store.rollback(); store.verify('r1')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert links(filled) == ("r2", "r3")
