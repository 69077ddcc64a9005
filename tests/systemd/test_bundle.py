"""The bundle: made with the package registry, installed without any network, moved on and back; and as a service."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
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


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Return the unpacked bundle."""
    if shutil.which("unshare") is None or run(*ALONE, "true", check=False).returncode != 0:
        pytest.skip("no network namespace can be made here (util-linux, unprivileged user namespaces or root)")
    folder = tmp_path_factory.mktemp("bundle")
    made = subprocess.run(
        [ROOT / "bundle/make_bundle.sh", sys.executable, folder], capture_output=True, text=True, check=False
    )  # with this environment's settings of pip: it is the one step that needs the registry
    assert made.returncode == 0, made.stderr
    with tarfile.open(made.stdout.split()[-1]) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = (path for path in folder.iterdir() if path.is_dir())
    return unpacked


@pytest.fixture(scope="module")
def installed(bundle, tmp_path_factory):
    """Return the folder that it was installed into, without a network."""
    prefix = tmp_path_factory.mktemp("opt")
    run(*ALONE, bundle / "install.sh", "--prefix", prefix)
    return prefix


def another_version(bundle, folder, **changes):
    """Return a copy of the bundle, whole in itself, with other files of the given names."""
    copy = shutil.copytree(bundle, folder / "copy")
    for name, data in changes.items():
        copy.joinpath(name).write_bytes(data)
    files = sorted(path for path in copy.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  ./{path.relative_to(copy)}\n" for path in files]
    copy.joinpath("SHA256SUMS").write_text("".join(sums))
    return copy


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


# docs/runbook.md, as far as a machine can follow it: install, configure, commission, go back, uninstall.
RUNBOOK = """
set -e
export PATH=/opt/test/python/bin:$PATH
/var/tmp/bundle/install.sh
groupadd -f imaging
mkdir -p /srv/portal && chgrp imaging /srv/portal && chmod 2770 /srv/portal
usermod -aG imaging landmarknet-edge
printf '[[drop_folder]]\\npath = "/srv/portal"\\n' >>/etc/landmarknet-edge/landmarknet-edge.toml
landmarknet-edge install-service --apply
systemctl enable --now landmarknet-edge
"""
UPDATE = "PATH=/opt/test/python/bin:$PATH; /var/tmp/other/install.sh"


@slow
@pytest.mark.root
def test_who_follows_the_runbook_has_a_running_service(bundle, booted, tmp_path):
    """One long test: each step needs the one before."""
    shutil.copytree(bundle, booted.path("/var/tmp/bundle"))
    booted.run("sh", "-c", RUNBOOK, timeout_s=300)
    assert booted.show("ActiveState", "UnitFileState") == {"ActiveState": "active", "UnitFileState": "enabled"}
    image = shutil.copy(ROOT / "samples/lidc0002_lateral_drr_00.dcm", booted.path("/srv/portal/one.dcm"))
    booted.eventually(Path(image).with_name("one.landmarks.json").exists)
    first = booted.path("/opt/landmarknet-edge/current").readlink()

    config = booted.path("/etc/landmarknet-edge/landmarknet-edge.toml")
    good = config.read_text()
    config.write_text("setle_s = 2.0\n")
    other = another_version(bundle, tmp_path, VERSION=b"0.0.2-other\n")
    shutil.copytree(other, booted.path("/var/tmp/other"))
    refused = booted.run("sh", "-c", UPDATE, check=False, timeout_s=300)
    assert refused.returncode == 1
    assert "did you mean settle_s" in refused.stderr
    assert booted.path("/opt/landmarknet-edge/current").readlink() == first

    config.write_text(good)
    before = booted.main_pid()
    booted.run("sh", "-c", UPDATE, timeout_s=300)
    assert booted.path("/opt/landmarknet-edge/current").readlink() == Path("versions/0.0.2-other")
    assert booted.main_pid() not in {0, before}

    booted.run("sh", "-c", "landmarknet-edge uninstall-service --apply")
    assert booted.show("LoadState") == {"LoadState": "not-found"}
