import errno
import os
import resource
import shutil
import subprocess
import sys

import pytest

import edge.store
from edge.errors import BadConfig, StoreNotWritable
from edge.store import Store
from tests.edge.store.shown import FILES, ROOT, links, refusal, state

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
    synced, real = [], edge.store.sync_folder
    monkeypatch.setattr("edge.store.sync_folder", lambda folder: (synced.append(folder), real(folder)))
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


# --- no room ---


def test_a_store_that_can_be_written_says_so_and_nothing_is_left_there(filled, store, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    filled.demand_writable()
    Store(tmp_path / "new" / "store", store.key).demand_writable()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_store_that_this_user_may_not_write_is_found_before_anything_is_added(filled, as_nobody):
    with as_nobody(filled.root):
        message = refusal(filled.demand_writable, error=StoreNotWritable)
    assert f"{filled.root}: the store cannot be changed ({os.strerror(errno.EACCES)})" in message


@pytest.mark.parametrize("name", [".lock", "releases"])
def test_what_is_no_file_or_no_folder_of_a_store_is_found_too(store, name):
    """Root may write anywhere, so a file in the place of a folder stands in for what cannot be written."""
    store.root.mkdir()
    if name == ".lock":
        (store.root / name).mkdir()
    else:
        (store.root / name).touch()
    before = sorted(store.root.parent.rglob("*"))
    assert "what was in use still is" in refusal(store.demand_writable, error=StoreNotWritable)
    assert sorted(store.root.parent.rglob("*")) == before


def test_a_store_that_cannot_be_made_is_found_too(tmp_path, store):
    (tmp_path / "file").touch()
    refusal(Store(tmp_path / "file" / "store", store.key).demand_writable, error=StoreNotWritable)


def test_a_disk_that_takes_no_data_is_found_too(filled):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        message = refusal(filled.demand_writable, error=StoreNotWritable)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.strerror(errno.EFBIG) in message


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
