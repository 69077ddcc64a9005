"""A bundle; and a real systemd in a container, over a copy-on-write view of this machine. Nothing here changes."""

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import time
from pathlib import Path

import pytest

from tests.systemd.bundles import ALONE, ROOT, run

UNIT = "landmarknet-edge.service"
LONG_S = 180.0  # far longer than anything here takes: reached by a failure only

# Everything that is mounted goes with this process: it has a mount namespace of its own.
BOOT = """
set -e
mount -t tmpfs none {layers}
mkdir {layers}/upper {layers}/work {layers}/root
mount -t overlay none -o lowerdir=/,upperdir={layers}/upper,workdir={layers}/work {layers}/root
rm -rf {layers}/root/etc/machine-id {layers}/root/etc/landmarknet-edge {layers}/root/var/log/journal
rm -rf {layers}/root/opt/landmarknet-edge
mkdir -p {layers}/root/opt/test
exec systemd-nspawn --quiet -D {layers}/root --register=no --keep-unit --boot --private-network --console=read-only \
    --system-call-filter="landlock_create_ruleset landlock_restrict_self" \
    --link-journal=no --bind-ro={source}:/opt/test/source --bind-ro={packages}:/opt/test/packages \
    --bind-ro={python}:/opt/test/python systemd.unit=basic.target
"""


class Machine:
    """A booted container: `run` runs a command in it."""

    def __init__(self, leader):
        self.leader = leader

    def run(self, *command, check=True, timeout_s=LONG_S):
        """Run a command inside, as root; its output is the failure's message."""
        done = subprocess.run(
            ["nsenter", "-t", str(self.leader), "-a", *map(str, command)],
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return done

    def path(self, inside):
        """Return a path of the container as seen from here."""
        return Path(f"/proc/{self.leader}/root", str(inside).lstrip("/"))

    def show(self, *properties, unit=UNIT):
        """Return properties of a unit, as text."""
        lines = self.run("systemctl", "show", unit, "-p", ",".join(properties)).stdout.splitlines()
        return dict(line.split("=", 1) for line in lines)

    def main_pid(self, unit=UNIT):
        return int(self.show("MainPID", unit=unit)["MainPID"])

    def log(self):
        """Return the last lines that the service logged."""
        return self.run("journalctl", "-u", UNIT, "--no-pager", "-o", "cat", "-n", "40", check=False).stdout

    def eventually(self, true):
        """Wait until ``true()``; the service's log is the failure's message."""
        end_s = time.monotonic() + LONG_S
        while not true():
            assert time.monotonic() < end_s, self.log()
            time.sleep(0.05)


def leader_of(process):
    """Return the container's process 1 as this machine numbers it; None while it is not there."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    here = Path("/proc/self/ns/pid").readlink()
    for child in children:
        try:
            if (
                Path(f"/proc/{child}/comm").read_text() == "systemd\n"
                and Path(f"/proc/{child}/ns/pid").readlink() != here
            ):
                return int(child)
        except FileNotFoundError:
            continue
    return None


@pytest.fixture(scope="module")
def booted(tmp_path_factory):
    """Return a booted container; skip with the reason where there can be none."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if missing := [name for name in ("systemd-nspawn", "nsenter", "unshare") if shutil.which(name) is None]:
        pytest.skip(f"{', '.join(missing)} is not installed (systemd-container, util-linux)")
    folder = tmp_path_factory.mktemp("systemd")
    (folder / "layers").mkdir()
    script = BOOT.format(
        layers=folder / "layers",
        source=ROOT,
        packages=sysconfig.get_path("purelib"),
        python=sys.base_prefix,
    )
    with (folder / "console").open("wb") as console:
        process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            env=os.environ | {"SYSTEMD_NSPAWN_LOCK": "0"},
        )
    try:
        machine = wait_for_boot(process, folder / "console")
        yield machine
        os.kill(machine.leader, signal.SIGKILL)  # the container's process 1: all others end with it
    finally:
        process.terminate()
        process.wait(LONG_S)


def wait_for_boot(process, console):
    end_s = time.monotonic() + LONG_S
    while time.monotonic() < end_s and process.poll() is None:
        if leader := leader_of(process):
            machine = Machine(leader)
            if "basic.target" in machine.run("systemctl", "list-units", "--state=active", check=False).stdout:
                return machine
        time.sleep(0.1)
    pytest.skip(f"no container can be booted here: {console.read_text(errors='replace')[-300:]}")


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """Return the bundle, unpacked; its archive lies beside it."""
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
