"""What a treatment room installs: small, without the bench, and alone in providing our names."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NAMES = sorted({name.partition(".")[0] for name in PROJECT["tool"]["setuptools"]["packages"]})
BENCH = ("torch", "onnx", "matplotlib", "scipy", "itk", "nibabel", "skimage", "pytest", "hypothesis")
LIMIT_MB = 400
NEED_AN_EXTRA = ["edge.archive.engine", "edge.archive.held_engine", "edge.archive.run"]  # `archive`, for Dask

IMPORT_ALL = """
import importlib, importlib.metadata, importlib.util, json, pkgutil, sys, edge
modules = sorted(module.name for module in pkgutil.walk_packages(edge.__path__, "edge."))
without_extra = []
for name in modules:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name not in ("dask", "distributed"):
            raise
        without_extra.append(name)
print(json.dumps({
    "modules": modules,
    "without_extra": without_extra,
    "file": edge.__file__,
    "importable": [name for name in sys.argv[1:] if importlib.util.find_spec(name)],
    "providers": dict(importlib.metadata.packages_distributions()),
}))
"""


def run(*command, cwd=ROOT, **options):
    """Run a command away from this environment's variables; its output is the failure's message."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=clean, capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """Return a fresh environment with the room's locked requirements and the project's wheel, nothing else."""
    folder = tmp_path_factory.mktemp("room")
    pip = sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"
    source = folder / "source"  # setuptools builds inside the source folder, and would take up what lies there
    source.mkdir()
    for name in (*NAMES, "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    run(*pip, "wheel", "--no-deps", "--wheel-dir", folder, source)
    (wheel,) = folder.glob("*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    python = folder / "venv/bin/python"
    run(*pip, "--python", python, "install", "--require-hashes", "-r", ROOT / "requirements/room.txt")
    run(*pip, "--python", python, "install", "--no-deps", wheel)
    return folder / "venv"


@pytest.fixture(scope="module")
def inside(room, tmp_path_factory):
    """Return what a Python of the room says of itself, from a folder that has nothing to do with the project."""
    nowhere = tmp_path_factory.mktemp("nowhere")
    return json.loads(run(room / "bin/python", "-c", IMPORT_ALL, *BENCH, cwd=nowhere).stdout)


def size_mb(folder):
    """Return the size of all files, each counted once, in 1e6 bytes."""
    files = {(status.st_dev, status.st_ino): status.st_size for status in map(os.lstat, folder.rglob("*"))}
    return sum(files.values()) / 1e6


@pytest.mark.install
@pytest.mark.timeout(600)
def test_the_room_s_install_is_small(room, capsys):
    size = size_mb(room)
    parts = sorted((-size_mb(path), path.name) for path in (room / "lib").glob("python*/site-packages/*"))
    lines = [f"the room's install has {size:.0f} MB, the limit is {LIMIT_MB}; the largest:"]
    lines += [f"  {-part:4.0f} MB  {name}" for part, name in parts[:6]]
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(lines) + "\n")
    assert size < LIMIT_MB


@pytest.mark.install
@pytest.mark.timeout(600)
def test_every_module_of_the_room_imports_there(inside, room):
    assert Path(inside["file"]).is_relative_to(room)  # and not from the checkout
    expected = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / "edge").rglob("*.py")
    }
    assert {*inside["modules"], "edge"} == expected
    assert inside["without_extra"] == NEED_AN_EXTRA


@pytest.mark.install
@pytest.mark.timeout(600)
def test_nothing_of_the_bench_is_there(inside):
    assert inside["importable"] == []


@pytest.mark.install
@pytest.mark.timeout(600)
def test_no_other_distribution_provides_our_names(inside):
    """They are plain names (`import edge`), so that another distribution could hide them."""
    assert {name: inside["providers"][name] for name in NAMES} == {name: ["landmarknet-edge"] for name in NAMES}


@pytest.mark.install
@pytest.mark.timeout(600)
def test_the_installed_command_finds_landmarks_from_any_folder(room, tmp_path):
    (tmp_path / "drop").mkdir()
    sample = ROOT / "samples/lidc0002_lateral_drr_00.dcm"
    shutil.copy(sample, tmp_path / "drop")
    run(room / "bin/landmarknet-edge", "process", tmp_path / "drop", cwd=tmp_path)
    document = json.loads((tmp_path / "drop" / sample.name).with_suffix(".landmarks.json").read_text())
    assert document["status"] == "ok"
    assert (tmp_path / "drop" / sample.name).with_suffix(".landmarks.png").is_file()


def test_no_other_distribution_provides_our_names_here():
    providers = importlib.metadata.packages_distributions()
    assert {one for name in NAMES for one in providers.get(name, [])} <= {"landmarknet-edge"}


def test_the_project_cannot_be_uploaded_by_mistake():
    """Its top-level names are plain words; PyPI rejects what has this classifier."""
    assert "Private :: Do Not Upload" in PROJECT["project"]["classifiers"]


def test_every_package_of_the_checkout_is_in_the_wheel():
    found = {path.parent.relative_to(ROOT) for name in NAMES for path in (ROOT / name).rglob("__init__.py")}
    assert {".".join(path.parts) for path in found} == set(PROJECT["tool"]["setuptools"]["packages"])


def test_the_requirements_of_the_room_name_nothing_of_the_bench():
    lines = (ROOT / "requirements/room.txt").read_text().splitlines()
    locked = {line.partition("==")[0] for line in lines if "==" in line}
    assert locked
    assert not {name for name in locked if name.startswith(BENCH)} - {"onnxruntime"}
    wanted = {requirement.partition(">=")[0] for requirement in PROJECT["project"]["dependencies"]}
    assert wanted <= locked
