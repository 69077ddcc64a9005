"""The bundle: made with the package registry, installed without any network, moved on and back."""

import json
import shutil
from pathlib import Path

import pytest

from tests.systemd.bundles import ALONE, ROOT, another_version, run, slow


@pytest.fixture(scope="module")
def installed(bundle, tmp_path_factory):
    """Return the folder that it was installed into, without a network."""
    prefix = tmp_path_factory.mktemp("opt")
    run(*ALONE, bundle / "install.sh", "--prefix", prefix)
    return prefix


@slow
def test_there_is_no_network_where_it_is_installed(bundle):
    lines = run(*ALONE, "cat", "/proc/net/dev").stdout.splitlines()[2:]
    assert [line.partition(":")[0].strip() for line in lines] == ["lo"]


@slow
def test_what_was_installed_finds_landmarks(installed, tmp_path):
    shutil.copy(ROOT / "samples/lidc0002_lateral_drr_00.dcm", tmp_path / "one.dcm")
    run(*ALONE, installed / "current/bin/landmarknet-edge", "process", tmp_path, cwd=tmp_path)
    assert json.loads((tmp_path / "one.landmarks.json").read_text())["status"] == "ok"


@slow
def test_the_units_came_with_it(installed):
    shipped = installed / "current/share/landmarknet-edge"
    assert {path.name for path in shipped.iterdir()} == {path.name for path in (ROOT / "systemd").iterdir()}
    code = "from edge.service.install import shipped_file; print(shipped_file('landmarknet-edge.service'))"
    found = run(installed / "current/bin/python", "-c", code, cwd="/").stdout.strip()
    assert Path(found).resolve() == (shipped / "landmarknet-edge.service").resolve()


@slow
def test_the_room_gets_exactly_what_is_locked(installed):
    locked = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "requirements/room.txt").read_text().splitlines()
        if "==" in line
    }
    code = "import importlib.metadata as m; print(*(d.metadata['Name'] for d in m.distributions()))"
    found = run(installed / "current/bin/python", "-c", code, cwd="/").stdout.split()
    assert {name.lower().replace("_", "-") for name in found} == locked | {"landmarknet-edge"}


@slow
def test_installing_again_changes_nothing(bundle, installed):
    before = {path: path.lstat().st_mtime_ns for path in (installed / "versions").rglob("*") if path.suffix != ".pyc"}
    run(*ALONE, bundle / "install.sh", "--prefix", installed)
    after = {path: path.lstat().st_mtime_ns for path in (installed / "versions").rglob("*") if path.suffix != ".pyc"}
    assert after == before


@slow
def test_an_update_keeps_the_version_before_and_leads_back_to_it(bundle, installed, tmp_path):
    first = bundle.joinpath("VERSION").read_text().strip()
    other = another_version(bundle, tmp_path, VERSION=b"0.0.2-other\n")
    run(*ALONE, other / "install.sh", "--prefix", installed)
    assert (installed / "current").readlink() == Path("versions/0.0.2-other")
    assert (installed / "previous").readlink() == Path("versions", first)
    run(*ALONE, other / "install.sh", "--prefix", installed, "--back")
    assert (installed / "current").readlink() == Path("versions", first)
    assert (installed / "previous").readlink() == Path("versions/0.0.2-other")


@slow
def test_a_damaged_bundle_is_refused_before_anything_is_installed(bundle, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "copy")
    wheel = next((copy / "wheels").glob("numpy*"))
    with wheel.open("r+b") as file:
        file.seek(1000)
        file.write(b"damaged")
    done = run(*ALONE, copy / "install.sh", "--prefix", tmp_path / "opt", check=False)
    assert done.returncode == 1
    assert "copy the bundle again" in done.stderr
    assert not (tmp_path / "opt/versions").exists()


@slow
def test_a_version_that_finds_no_landmarks_here_is_not_used(bundle, installed, tmp_path):
    other = another_version(bundle, tmp_path, VERSION=b"0.0.3-broken\n", **{"sample.dcm": bytes(1000)})
    before = (installed / "current").readlink()
    done = run(*ALONE, other / "install.sh", "--prefix", installed, check=False)
    assert done.returncode == 1
    assert "nothing was changed" in done.stderr
    assert (installed / "current").readlink() == before


@pytest.mark.parametrize("script", ["make_bundle.sh", "install.sh"])
def test_the_scripts_are_plain_shell(script):
    run("sh", "-n", ROOT / "bundle" / script)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("script", ["make_bundle.sh", "install.sh"])
def test_shellcheck_finds_nothing(script):
    run("shellcheck", ROOT / "bundle" / script)
