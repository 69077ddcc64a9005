import errno
import hashlib
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import get_args

import numpy as np
import onnxruntime
import pytest

import edge.store
from edge.config import StalePolicy
from edge.engines import open_store_engine
from edge.errors import BadConfig, BadRelease, StoreNotWritable
from edge.manifest import Manifest
from edge.signature import generate_key, sign
from edge.store import Store

ZEROS = "0" * 64
ROOT = Path(__file__).parents[2]
FILES = ["contract.json", "gate.md", "golden.npz", "manifest.json", "manifest.sig", "model.onnx"]
SYSTEM = {"posix", "fcntl", "_io", "io"}


def sha256(data):
    return hashlib.sha256(data).hexdigest()


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
    """Return a function that makes a signed release folder outside of any store."""

    def make(name="r1", **entries):
        folder = tmp_path / "staged" / name
        folder.mkdir(parents=True)
        peaks = rows([(20.0, 10.0, 0.9)], [(24.0, 20.0, 0.8)])
        golden = io.BytesIO()
        np.savez(golden, batches=np.zeros((1, 1, 1, 48, 48), np.int8), peaks=peaks[None])
        model = tiny_model(peaks)
        promise = contract(release=name, model_sha256=sha256(model), golden_sha256=sha256(golden.getvalue()))
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


def links(store):
    return store.current(), store.previous()


def state(store):
    """Return everything that a store shows: its links, and the bytes of its releases."""
    releases = store.root / "releases"
    files = {str(path.relative_to(releases)): path.read_bytes() for path in releases.rglob("*") if path.is_file()}
    return links(store), files, sorted(path.name for path in store.root.iterdir() if path.name != ".lock")


def refusal(action, *arguments, error=BadRelease):
    with pytest.raises(error) as caught:
        action(*arguments)
    assert type(caught.value) is error
    return str(caught.value)


# --- adding ---


def test_a_release_is_added_whole_and_is_not_yet_in_use(store, staged):
    source = staged("r1")
    folder = store.add(source)
    assert folder == store.root / "releases" / "r1"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: (source / name).read_bytes() for name in FILES
    }
    assert links(store) == (None, None)
    assert sorted(path.name for path in store.root.iterdir()) == [".lock", "releases"]


def test_the_first_release_survives_a_power_loss_with_the_folder_that_it_lies_in(store, staged, monkeypatch):
    synced, real = [], edge.store._sync
    monkeypatch.setattr("edge.store._sync", lambda folder: (synced.append(folder), real(folder)))
    folder = store.add(staged("r1"))
    assert synced[-1] == folder.parent
    assert store.root in synced


def test_a_store_that_moves_stays_whole(filled, tmp_path):
    filled.root.rename(tmp_path / "elsewhere")
    moved = Store(tmp_path / "elsewhere", filled.key)
    assert links(moved) == ("r2", "r1")
    moved.verify("r2")


def test_a_release_that_exists_never_changes(filled, staged, tmp_path):
    before = state(filled)
    shutil.rmtree(tmp_path / "staged")
    assert "a release never changes" in refusal(filled.add, staged("r2", software="other"))
    assert state(filled) == before


def test_a_store_without_a_key_trusts_nothing(filled, staged):
    keyless = Store(filled.root, None)
    for action in (keyless.add, keyless.verify, keyless.use):
        argument = staged("r4") if action == keyless.add else "r1"
        assert "public key" in refusal(action, argument, error=BadConfig)
    for action in (keyless.rollback, keyless.list):
        assert "public key" in refusal(action, error=BadConfig)
    assert links(filled) == ("r2", "r1")


# --- damage and forgery ---


def flip(name):
    def damage(folder):
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)

    return damage


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


# --- names and links that lead out of the store ---


@pytest.mark.parametrize("name", ["", ".", "..", "../staged/r4", "/etc", "r1/../r1", "r1/", ".staging", "r1\n", "r1\0"])
def test_an_id_that_could_be_a_path_is_refused(filled, staged, name):
    staged("r4")
    for action in (filled.use, filled.verify):
        assert "not the name of a release" in refusal(action, name)
    assert links(filled) == ("r2", "r1")


@pytest.mark.parametrize("name", ["../r4", "..", "a/b", ".staging"])
def test_a_signed_release_whose_name_is_a_path_is_refused(store, staged, name):
    assert "release: " in refusal(store.add, staged("r4", release=name))
    assert not store.root.exists()


def test_a_release_that_is_a_link_out_of_the_store_is_refused(filled, staged):
    (filled.root / "releases" / "r4").symlink_to(staged("r4"))
    for action in (filled.use, filled.verify):
        assert "is a link or a file" in refusal(action, "r4")
    assert links(filled) == ("r2", "r1")


def test_a_folder_of_releases_that_is_a_link_out_of_the_store_is_refused(filled, staged, tmp_path):
    (filled.root / "releases").rename(tmp_path / "outside")
    (filled.root / "releases").symlink_to(tmp_path / "outside")
    assert "is a link or a file" in refusal(filled.use, "r3")
    assert "is a link or a file" in refusal(filled.add, staged("r4"))
    assert not (tmp_path / "outside" / "r4").exists()


ASTRAY = ["../staged/r4", "{staged}", "releases/../../staged/r4", "releases", "r2", "releases/.x"]


@pytest.mark.parametrize("target", ASTRAY)
def test_a_current_that_leads_out_of_the_store_is_refused_and_can_be_mended(filled, staged, target):
    outside = staged("r4")
    (filled.root / "current").unlink()
    (filled.root / "current").symlink_to(target.format(staged=outside))
    assert "not to a release of this store" in refusal(filled.current)
    assert "not to a release of this store" in refusal(open_store_engine, filled, 1, "fallback")
    filled.use("r3")
    assert links(filled) == ("r3", "r1")


def test_a_current_that_is_no_link_is_refused(filled):
    (filled.root / "current").unlink()
    (filled.root / "current").write_text("releases/r2")
    assert "is no link to a release" in refusal(filled.current)


@pytest.mark.parametrize("link", ["current", "previous"])
def test_a_link_that_is_a_folder_is_named_as_one_and_kept(filled, link):
    (filled.root / link).unlink()
    (filled.root / link).mkdir()
    message = refusal(getattr(filled, link))
    assert f"{link}: is a folder, not a link to a release; move it out of the store" in message
    assert "is a folder" in refusal(filled.use, "r3")
    assert (filled.root / link).is_dir()


# --- killed at any moment ---


def killed_at(step, action):
    """Run ``action`` in a process that kills itself before its ``step``-th call of the system; tell whether it did."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads: the child only touches files
        child = os.fork()
    if child == 0:
        count = 0

        def before(_frame, event, function):
            nonlocal count
            owner = getattr(function, "__module__", None) or type(getattr(function, "__self__", None)).__module__
            if event == "c_call" and owner in SYSTEM:
                count += 1
                if count > step:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.setprofile(before)
            action()
            sys.setprofile(None)
            os._exit(0)
        finally:
            os._exit(1)  # the action raised
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.fixture
def each_kill(filled, tmp_path):
    """Return a function that gives a store in which ``action(store)`` was killed, once for each step that it has."""

    def stores(action):
        step = 0
        while True:
            copy = Store(tmp_path / f"killed {step}", filled.key)
            shutil.copytree(filled.root, copy.root, symlinks=True)
            if not killed_at(step, lambda store=copy: action(store)):
                break
            yield copy
            shutil.rmtree(copy.root)
            step += 1
        assert step > 20, "so few calls of the system cannot be all of them"

    return stores


def test_removing_can_be_killed_at_any_step(each_kill):
    for store in each_kill(lambda store: store.remove("r3")):
        assert links(store) == ("r2", "r1")
        for one in store.list():
            store.verify(one.release)
        if "r3" in {one.release for one in store.list()}:
            store.remove("r3")
        store.use("r1")
        assert sorted(path.name for path in store.root.iterdir()) == [".lock", "current", "previous", "releases"]


def test_adding_can_be_killed_at_any_step(each_kill, staged):
    source, whole = staged("r4"), 0
    for store in each_kill(lambda store: store.add(source)):
        assert links(store) == ("r2", "r1")
        for one in store.list():
            store.verify(one.release)
        if "r4" in {one.release for one in store.list()}:
            whole += 1
            assert "never changes" in refusal(store.add, source)
        else:
            store.add(source)
        store.use("r4")
        assert sorted(path.name for path in store.root.iterdir()) == [".lock", "current", "previous", "releases"]
    assert whole > 0, "the last steps come after the rename"


def test_use_can_be_killed_at_any_step_and_done_again(each_kill):
    seen = set()
    for store in each_kill(lambda store: store.use("r3")):
        seen.add(links(store))
        store.verify(store.current())
        store.verify(store.previous())
        store.use("r3")
        assert links(store) == ("r3", "r2")
    assert seen == {("r2", "r1"), ("r2", "r2"), ("r3", "r2")}


def test_rollback_can_be_killed_at_any_step(each_kill):
    seen = set()
    for store in each_kill(lambda store: store.rollback()):
        seen.add(links(store))
        store.verify(store.current())
        store.verify(store.previous())
    assert seen == {("r2", "r1"), ("r1", "r1"), ("r1", "r2")}


def test_the_engine_opens_after_each_moment_of_a_switch(each_kill):
    """One store for each pair of links that a kill can leave behind; the engine is slow to open."""
    opened = {}
    for store in each_kill(lambda store: store.use("r3")):
        if links(store) not in opened:
            opened[links(store)] = open_store_engine(store, 1, "refuse").contract.release
    assert opened == {("r2", "r1"): "r2", ("r2", "r2"): "r2", ("r3", "r2"): "r3"}


def test_what_a_killed_process_left_is_removed_by_the_next_change(filled, staged):
    (filled.root / ".staging" / "r4").mkdir(parents=True)
    (filled.root / ".staging" / "r4" / "model.onnx").write_bytes(b"half")
    (filled.root / ".staging" / "current").symlink_to("releases/r4")
    filled.add(staged("r4"))
    assert sorted(path.name for path in filled.root.iterdir()) == [".lock", "current", "previous", "releases"]
    filled.verify("r4")


def test_those_who_change_a_store_at_once_wait_for_one_another(filled, staged):
    """Each empties the staging folder, so without a lock they would remove what another one writes."""
    sources = [staged(f"p{number}") for number in range(12)]
    children = []
    for mine in (sources[0::3], sources[1::3], sources[2::3]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            try:
                for source in mine:
                    filled.add(source)
                    filled.use(source.name)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    for source in sources:
        filled.verify(source.name)


# --- no room ---


def test_a_write_that_fails_leaves_the_store_as_it_was(filled, staged):
    """A limit of this process on the size of a file stands in for a full disk: the system refuses the write."""
    source = staged("r4")
    largest = max((source / name).stat().st_size for name in FILES)
    before, limits = state(filled), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest - 1, limits[1]))
    try:
        message = refusal(filled.add, source, error=StoreNotWritable)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.strerror(errno.EFBIG) in message
    assert "what was in use still is" in message
    assert state(filled) == before
    filled.add(source)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_leaves_the_store_as_it_was(filled, staged, tmp_path):
    source, disk = staged("r4"), tmp_path / "disk"
    disk.mkdir()
    code = (
        "from pathlib import Path\n"
        "from edge.errors import StoreNotWritable\n"
        "from edge.store import Store\n"
        f"root = Path({str(disk)!r}) / 'store'\n"
        f"store, shown = Store(root, Path({str(filled.key)!r})), lambda: sorted(map(str, root.rglob('*')))\n"
        "before = shown()\n"
        "try:\n"
        f"    store.add(Path({str(source)!r}))\n"
        "except StoreNotWritable as exc:\n"
        "    print(exc)\n"
        "    assert shown() == before, shown()\n"
        "    store.verify(store.current())\n"
        "else:\n"
        "    raise AssertionError('it was added')\n"
    )
    size = 4096 * (sum(1 + (path.stat().st_size - 1) // 4096 for path in filled.root.rglob("*") if path.is_file()) + 4)
    steps = (
        f"mount -t tmpfs -o size={size} none {disk} || exit 99; cp -a {filled.root} {disk}/store || exit 98;"
        f'exec {sys.executable} -c "$1"'
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", steps, "sh", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode == 99 or "unshare failed" in done.stderr:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert os.strerror(errno.ENOSPC) in done.stdout
