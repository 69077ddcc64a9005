"""What a store shows, and how it refuses: for the tests beside this."""

import hashlib
from pathlib import Path

import pytest

from edge.errors import BadRelease

ZEROS = "0" * 64
ROOT = Path(__file__).parents[3]
FILES = ["contract.json", "gate.md", "golden.npz", "manifest.json", "manifest.sig", "model.onnx"]


def sha256(data):
    return hashlib.sha256(data).hexdigest()


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


def flip(name):
    def damage(folder):
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)

    return damage
