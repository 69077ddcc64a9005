"""Bundles: made, unpacked, run; and what is done with them."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALONE = ("unshare", "--net", *(() if os.geteuid() == 0 else ("--map-root-user",)))  # a namespace with no network


def slow(test):
    """Mark a test that makes or installs the bundle."""
    return pytest.mark.install(pytest.mark.timeout(900)(test))


def run(*command, check=True, **options):
    """Run a command with this Python first in the path; its output is the failure's message."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV", "PIP"))}
    clean["PATH"] = f"{sys.base_prefix}/bin:{clean['PATH']}"
    done = subprocess.run([*map(str, command)], env=clean, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    return done


def another_version(bundle, folder, **changes):
    """Return a copy of the bundle, whole in itself, with other files of the given names."""
    copy = shutil.copytree(bundle, folder / "copy")
    for name, data in changes.items():
        copy.joinpath(name).write_bytes(data)
    files = sorted(path for path in copy.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  ./{path.relative_to(copy)}\n" for path in files]
    copy.joinpath("SHA256SUMS").write_text("".join(sums))
    return copy
