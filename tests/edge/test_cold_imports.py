"""What a start of the command loads: each import is time that a person waits, and memory that a workstation lacks."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "samples/lidc0002_lateral_drr_00.dcm"
HEAVY = {"torch", "matplotlib", "scipy", "skimage", "onnx", "pandas", "itk", "nibabel", "highdicom"}
LISTED = "import json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
PROCESS = """
import sys
from edge.cli import app
try:
    app(["process", sys.argv[1]])
except SystemExit as end:
    assert end.code == 0, end
"""


def modules_after(code, *arguments, cwd):
    """Return the top-level modules that a fresh Python has loaded after some code."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{LISTED}", *map(str, arguments)],
        cwd=cwd, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_list_would_show_what_is_loaded(tmp_path):
    assert "sqlite3" in modules_after("import sqlite3", cwd=tmp_path)


def test_importing_the_command_loads_nothing_heavy(tmp_path):
    loaded = modules_after("import edge.cli", cwd=tmp_path)
    assert "typer" in loaded
    assert not loaded & (HEAVY | {"numpy", "onnxruntime", "pydicom"})


def test_processing_an_image_loads_neither_torch_nor_matplotlib_nor_scipy(tmp_path):
    image = Path(shutil.copy(SAMPLE, tmp_path))
    loaded = modules_after(PROCESS, image, cwd=tmp_path)
    assert (tmp_path / "lidc0002_lateral_drr_00.landmarks.json").is_file()
    assert {"numpy", "onnxruntime", "pydicom"} <= loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize(
    "module", ["edge.processes.worker_child", "edge.processes.reader_child", "edge.service.serving"]
)
def test_no_process_of_the_service_loads_anything_heavy(module, tmp_path):
    assert not modules_after(f"import {module}", cwd=tmp_path) & HEAVY
