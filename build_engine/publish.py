"""A release reaches its place whole or not at all: a plain folder, or the room's store of signed releases."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from edge.engines import open_engine
from edge.manifest import MANIFEST_FILE, SIGNATURE_FILE, Manifest
from edge.signature import sign
from edge.store import Store


def publish_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replace a release folder by one with these files, once it opens; files of other names (a model card) are kept.

    Nothing vouches for such a folder but what it is part of: it is how a release comes with the package.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        if folder.is_dir():
            shutil.copytree(folder, staged, dirs_exist_ok=True)
        for name, data in files.items():
            (staged / name).write_bytes(data)
        staged.chmod(0o755)
        open_engine(staged, threads=1)
        previous = folder.with_name(f".{folder.name}.previous")
        shutil.rmtree(previous, ignore_errors=True)
        if folder.is_dir():
            folder.rename(previous)
        staged.rename(folder)
        shutil.rmtree(previous, ignore_errors=True)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def publish_to_store(store: Store, signing_key: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Path:
    """Sign a release and add it to a store; `Store.add` checks it and moves it in place. It is not yet in use."""
    document = (manifest.model_dump_json(by_alias=True, indent=2) + "\n").encode()
    signed = {**files, MANIFEST_FILE: document, SIGNATURE_FILE: sign(document, signing_key)}
    with tempfile.TemporaryDirectory(prefix="landmarknet-release-") as folder:
        for name, data in signed.items():
            (Path(folder) / name).write_bytes(data)
        return store.add(Path(folder))


def hashes(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return the SHA-256 of every file, by name."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
