"""A release reaches its place whole or not at all: a plain folder, or the room's store of signed releases."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from build_engine.quantize import BuildError
from edge.durable import sync_folder
from edge.engines import open_engine
from edge.manifest import MANIFEST_FILE, SIGNATURE_FILE, Manifest
from edge.signature import sign
from edge.store import Store, try_to_write

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # renameat2(2)


class PublishError(BuildError):
    """A release that could not be stored; what was there before still is."""


def exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; False where the system or its file system offers no such step."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    return bool(rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0)


def publish_folder(folder: Path, files: Mapping[str, bytes], swap: Callable[[Path, Path], bool] = exchange) -> None:
    """Replace a release folder by one with these files, once it opens; files of other names (a model card) are kept.

    Killed at any moment it leaves the old folder or the new one; without ``swap`` there is a moment with neither, and
    the next call brings the old one back. One call at a time. Nothing vouches for such a folder but what it is part of:
    it is how a release comes with the package. Raises `PublishError`.
    """
    staged, previous = (folder.with_name(f".{folder.name}.{what}") for what in ("staged", "previous"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _bring_back(previous, folder)
        shutil.rmtree(staged, ignore_errors=True)
        try:
            _stage(staged, folder, files)
            open_engine(staged, threads=1)
            _put_in_place(staged, folder, previous, swap)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
            _bring_back(previous, folder)
            shutil.rmtree(previous, ignore_errors=True)
    except OSError as exc:
        raise _not_written(folder, exc) from exc


def demand_writable_folder(folder: Path) -> None:
    """Raise `PublishError` where no release could take a folder's place, which is beside it; nothing is left there."""
    try:
        try_to_write(folder.parent)
    except OSError as exc:
        raise _not_written(folder, exc) from exc


def _not_written(folder: Path, exc: OSError) -> PublishError:
    return PublishError(
        f"{folder}: cannot be written ({exc.strerror}); what was there still is; free some space, or name another "
        "folder as `output`"
    )


def _bring_back(previous: Path, folder: Path) -> None:
    if previous.is_dir() and not folder.exists():
        previous.rename(folder)


def _stage(staged: Path, folder: Path, files: Mapping[str, bytes]) -> None:
    staged.mkdir()
    staged.chmod(0o755)  # whatever the umask: other users read what comes with the package
    kept = [path for path in folder.iterdir() if path.name not in files] if folder.is_dir() else []
    for path in kept:
        (shutil.copytree if path.is_dir() else shutil.copy2)(path, staged / path.name)
    for name, data in files.items():
        (staged / name).write_bytes(data)
    for path in (*staged.rglob("*"), staged):
        sync_folder(path) if path.is_dir() else _sync_file(path)


def _put_in_place(staged: Path, folder: Path, previous: Path, swap: Callable[[Path, Path], bool]) -> None:
    if not folder.is_dir():
        staged.rename(folder)
    elif not swap(staged, folder):
        shutil.rmtree(previous, ignore_errors=True)
        folder.rename(previous)
        staged.rename(folder)
    sync_folder(folder.parent)


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def publish_to_store(store: Store, signing_key: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Path:
    """Sign a release and add it to a store; `Store.add` checks it and moves it in place. It is not yet in use.

    Raises `PublishError` where the folder for temporary files takes none, and what `Store.add` raises.
    """
    document = (manifest.model_dump_json(by_alias=True, indent=2) + "\n").encode()
    signed = {**files, MANIFEST_FILE: document, SIGNATURE_FILE: sign(document, signing_key)}
    try:
        with tempfile.TemporaryDirectory(prefix="landmarknet-release-") as folder:
            for name, data in signed.items():
                (Path(folder) / name).write_bytes(data)
            return store.add(Path(folder))
    except OSError as exc:
        raise PublishError(
            f"release {manifest.release} cannot be laid out in the folder for temporary files ({exc.strerror}); free "
            "some space there, or set TMPDIR to another folder; the store is as it was"
        ) from exc


def hashes(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return the SHA-256 of every file, by name."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
