"""The service under a real systemd: started, fed, killed, stopped, reloaded, shut in, updated, removed."""

import json
import os
import re
import shutil
import sys
import time
from pathlib import Path

import pydicom
import pytest

from edge.processes.landlock import supported_abi
from edge.results.publish import result_path

SAMPLE = Path(__file__).parents[2] / "samples/lidc0002_lateral_drr_00.dcm"
UNIT = "landmarknet-edge.service"
DROP = Path("/srv/portal images 100%")  # a name that a unit file must not misread
REBUILD, STATE = "landmarknet-edge-rebuild.service", "/var/lib/landmarknet-edge"
ROOM_TWO = Path("/srv/two")
CONFIG = f"""
settle_s = 0.2
sweep_s = 0.5
constancy_at = 05:00:00
[[drop_folder]]
path = "{DROP}"
"""
# The checkout may lie in a home, which the units hide: hence the bind mounts, and this in place of an environment.
LAUNCHER = f"""#!/bin/sh
export PYTHONPATH=/opt/test/source:/opt/test/packages LD_LIBRARY_PATH=/opt/test/python/lib
exec /opt/test/python/bin/python{sys.version_info[0]}.{sys.version_info[1]} -m edge.cli "$@"
"""

RECIPE = """
release = "rebuilt"
checkpoint = "/opt/test/source/landmarknet/weights/room_cpu.pt"
kinds = "/opt/test/source/landmarknet/weights/room_cpu.kinds.toml"
golden_images = [
    "/opt/test/source/samples/lidc0002_ap_mv_00.dcm",
    "/opt/test/source/samples/lidc0002_lateral_drr_00.dcm",
]
[store]
folder = "/var/lib/landmarknet-engines/store"
signing_key = "/etc/landmarknet-edge/site.key"
"""
PROGRAM = "/opt/landmarknet-edge/current/bin/landmarknet-edge"
INSTALL = (PROGRAM, "install-service", "--program", PROGRAM, "--apply")

pytestmark = [pytest.mark.root, pytest.mark.faults, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def machine(booted):
    """Return the container with the service installed, enabled, and told of its folder."""
    booted.run("mkdir", "-p", DROP, ROOM_TWO, "/etc/landmarknet-edge", Path(PROGRAM).parent)
    booted.path(PROGRAM).write_text(LAUNCHER)
    booted.path(PROGRAM).chmod(0o755)
    booted.run("groupadd", "imaging")
    booted.run("chgrp", "imaging", DROP, ROOM_TWO)
    booted.run("chmod", "2770", DROP, ROOM_TWO)
    booted.path("/etc/landmarknet-edge/landmarknet-edge.toml").write_text(CONFIG)
    booted.path("/etc/landmarknet-edge/two.toml").write_text(CONFIG.replace(str(DROP), str(ROOM_TWO)))
    booted.run(*INSTALL)
    booted.run("usermod", "-aG", "imaging", "landmarknet-edge")
    booted.run("systemctl", "enable", UNIT)
    return booted


@pytest.fixture
def service(machine):
    """Return the container with the service freshly started, its configuration and its settings as installed."""
    machine.path("/etc/landmarknet-edge/landmarknet-edge.toml").write_text(CONFIG)
    machine.run("rm", "-f", "/etc/systemd/system/landmarknet-edge.service.d/90-test.conf")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "reset-failed", UNIT, check=False)
    restart(machine)
    yield machine
    machine.run("systemctl", "stop", UNIT)


def restart(machine):
    done = machine.run("systemctl", "restart", UNIT, check=False)
    assert done.returncode == 0, done.stderr + machine.log()


def set_up(machine, *lines, section="Service"):
    """Change settings of the unit, and start it anew with them."""
    drop_in = machine.path("/etc/systemd/system/landmarknet-edge.service.d/90-test.conf")
    drop_in.write_text("\n".join([f"[{section}]", *lines]) + "\n")
    machine.run("systemctl", "daemon-reload")
    restart(machine)


def drop(machine, name, folder=DROP, sample=SAMPLE):
    """Let an image arrive as an imaging system does, and return the path of its result."""
    temporary = machine.path(folder) / f".{name}"
    shutil.copyfile(sample, temporary)
    os.chown(temporary, -1, machine.path(folder).stat().st_gid)
    temporary.chmod(0o640)
    image = temporary.rename(machine.path(folder) / name)
    return result_path(image, None)


def test_it_is_ready_only_after_its_golden_answers(service):
    shown = service.show("ActiveState", "SubState")
    assert (shown["ActiveState"], shown["SubState"]) == ("active", "running")
    assert "event=ready" in service.log()
    service.eventually(lambda: service.show("StatusText")["StatusText"])


def test_an_image_gets_its_result_which_others_than_the_group_cannot_read(service):
    result = drop(service, "one.dcm")
    service.eventually(result.exists)
    assert result.stat().st_mode & 0o777 == 0o640
    assert result.stat().st_uid == int(service.run("id", "-u", "landmarknet-edge").stdout)
    assert result.stat().st_gid == service.path(DROP).stat().st_gid


@pytest.mark.parametrize("syntax", ["JPEGLSLossless", "JPEG2000Lossless", "RLELossless"])
def test_the_decoders_work_within_the_sandbox(syntax, service, tmp_path):
    """Libraries of others, in a process with limits, without memory that is written and executed."""
    dataset = pydicom.dcmread(SAMPLE)
    dataset.compress(getattr(pydicom.uid, syntax), generate_instance_uid=False)
    dataset.save_as(tmp_path / "compressed.dcm")
    result = drop(service, f"{syntax}.dcm", sample=tmp_path / "compressed.dcm")
    service.eventually(result.exists)
    assert json.loads(result.read_bytes())["status"] == "ok"


def test_killed_it_comes_back_and_goes_on(service):
    service.run("systemctl", "kill", "-s", "KILL", UNIT)
    result = drop(service, "after-kill.dcm")
    service.eventually(result.exists)
    assert service.show("NRestarts")["NRestarts"] == "1"


def test_standing_still_it_is_started_anew_by_the_watchdog(service):
    set_up(service, "WatchdogSec=4s", "RestartSec=0")
    stuck = service.main_pid()
    service.run("systemctl", "kill", "-s", "STOP", "--kill-who=main", UNIT)
    service.eventually(lambda: service.main_pid() not in {0, stuck})
    assert "watchdog" in service.log().lower()
    service.eventually(drop(service, "after-watchdog.dcm").exists)


def test_idle_the_watchdog_is_content(service):
    """Three periods without an image, and the process is the same."""
    set_up(service, "WatchdogSec=4s")
    first, began_s = service.main_pid(), time.monotonic()
    service.eventually(lambda: time.monotonic() > began_s + 12.0)
    assert service.main_pid() == first


def test_a_wrong_configuration_ends_it_with_78_for_good(service):
    service.path("/etc/landmarknet-edge/landmarknet-edge.toml").write_text("setle_s = 2.0\n")
    service.run("systemctl", "restart", UNIT, check=False)
    service.eventually(lambda: service.show("ActiveState")["ActiveState"] == "failed")
    shown = service.show("ExecMainStatus", "SubState", "Result")
    assert (shown["ExecMainStatus"], shown["SubState"]) == ("78", "failed")  # not auto-restart
    assert "did you mean settle_s" in service.log()


def test_a_crash_loop_comes_to_an_end(service):
    set_up(service, "RestartSec=0")

    def killed_for_good():
        if service.show("ActiveState")["ActiveState"] == "failed":
            return True
        if service.main_pid():
            service.run("systemctl", "kill", "-s", "KILL", UNIT, check=False)
        return False

    service.eventually(killed_for_good)
    assert int(service.show("NRestarts")["NRestarts"]) < 10
    assert "Start request repeated too quickly" in service.log()


def test_it_reads_its_configuration_again_when_told_to(service):
    first = service.main_pid()
    service.path("/etc/landmarknet-edge/landmarknet-edge.toml").write_text(CONFIG + "overlay = true\n")
    service.run("systemctl", "reload", UNIT)
    service.eventually(drop(service, "after-bad-reload.dcm").exists)  # unknown key there: the old one stays
    service.path("/etc/landmarknet-edge/landmarknet-edge.toml").write_text("overlay = false\n" + CONFIG)
    service.run("systemctl", "reload", UNIT)
    result = drop(service, "after-reload.dcm")
    service.eventually(result.exists)
    assert result.with_name("after-bad-reload.landmarks.png").exists()
    assert not result.with_name("after-reload.landmarks.png").exists()
    assert service.main_pid() == first


def inside(machine, *command):
    """Run a command as root with the eyes of the service: what it does not see or may not write is then the unit's."""
    return machine.run("nsenter", "-t", machine.main_pid(), "-m", *command, check=False)


def test_it_can_write_to_its_folders_and_nowhere_else(service):
    assert inside(service, "touch", DROP / "x").returncode == 0
    assert inside(service, "touch", "/var/lib/landmarknet-edge/x").returncode == 0
    service.run("rm", DROP / "x", "/var/lib/landmarknet-edge/x")
    for place in ("/etc/x", "/opt/x", "/srv/x", "/var/lib/x", "/usr/x"):
        assert "Read-only file system" in inside(service, "touch", place).stderr


def test_it_does_not_see_homes_and_devices(service):
    assert "Permission denied" in inside(service, "runuser", "-u", "landmarknet-edge", "--", "ls", "/home").stderr
    devices = inside(service, "ls", "/dev").stdout.split()
    assert "null" in devices
    assert not {"mem", "kmsg", "sda", "vda", "fuse"} & {*devices}


def test_it_has_no_rights_no_network_and_a_filter(service):
    status = dict(
        line.split(":\t", 1)
        for line in service.path(f"/proc/{service.main_pid()}/status").read_text().splitlines()
        if ":\t" in line
    )
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    network = service.path(f"/proc/{service.main_pid()}/net/dev").read_text()
    assert [line.split(":")[0].strip() for line in network.splitlines()[2:]] == ["lo"]


def test_its_reader_can_confine_itself(service):
    """The filter of system calls is the unit's; the kernel offers as much inside it as outside."""
    ask = "from edge.processes.landlock import supported_abi; print(f'landlock {supported_abi()}')"
    python = f"/opt/test/python/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
    where = "PYTHONPATH=/opt/test/source:/opt/test/packages LD_LIBRARY_PATH=/opt/test/python/lib"
    set_up(service, f"Environment={where}", f'ExecStartPre={python} -c "{ask}"')
    assert f"landlock {supported_abi()}" in service.log().splitlines(), service.log()


def test_its_reader_can_start_no_process(service):
    reader = service.run("pgrep", "-f", "edge.processes.reader_child").stdout.split()
    limits = service.run("cat", f"/proc/{reader[0]}/limits").stdout
    assert re.search(r"Max processes +0 +0 ", limits)


def test_a_share_that_goes_away_and_comes_back_is_seen_and_written_to(service):
    """The service has a mount namespace of its own, with the folder mounted onto itself: mounts still reach it."""
    mount = "mount", "-t", "tmpfs", "-o", f"mode=2770,gid={service.path(DROP).stat().st_gid}", "none", DROP
    service.run(*mount)
    try:
        restart(service)
        service.eventually(drop(service, "on-the-share.dcm").exists)
        service.run("umount", "--lazy", DROP)
        service.eventually(lambda: "drop folder unavailable" in service.log())
        service.run(*mount)
        service.eventually(drop(service, "on-the-next.dcm").exists)
    finally:
        service.run("umount", "--lazy", DROP)
    assert not (service.path(DROP) / "on-the-next.dcm").exists()


def test_a_folder_that_is_missing_does_not_keep_it_from_starting(service):
    service.run("mv", DROP, "/srv/away")
    try:
        restart(service)
        assert service.show("ActiveState")["ActiveState"] == "active"
    finally:
        service.run("mv", "/srv/away", DROP)


def test_rooms_run_side_by_side(service):
    unit = "landmarknet-edge@two.service"
    service.run("systemctl", "start", unit)
    service.eventually(drop(service, "two.dcm", ROOM_TWO).exists)
    assert service.path("/var/lib/landmarknet-edge-two").is_dir()
    assert service.main_pid(unit) != service.main_pid()
    service.run("systemctl", "stop", unit)


def test_started_for_metrics_it_listens_on_this_machine_only(service):
    """As an interface of the container would be reached from elsewhere."""
    service.path("/etc/landmarknet-edge/landmarknet-edge.toml").write_text("metrics_port = 9464\n" + CONFIG)
    service.run(*INSTALL)
    restart(service)
    listening = service.run("cat", "/proc/net/tcp").stdout
    assert f"0100007F:{9464:04X}" in listening
    assert f"00000000:{9464:04X}" not in listening
    service.path("/etc/landmarknet-edge/landmarknet-edge.toml").write_text(CONFIG)
    service.run(*INSTALL)


def test_a_room_that_asks_gets_a_release_and_nothing_into_use(machine):
    """With PyTorch and all, in its own sandbox, as its own user."""
    pytest.importorskip("torch")
    builder = Path("/opt/landmarknet-edge/bench/bin/landmarknet-build-engine")
    machine.run("mkdir", "-p", builder.parent)
    machine.path(builder).write_text(LAUNCHER.replace("-m edge.cli", "-c 'from build_engine.cli import main; main()'"))
    machine.path(builder).chmod(0o755)
    machine.path("/etc/landmarknet-edge/rebuild.toml").write_text(RECIPE)
    machine.run("sh", "-c", f"{PROGRAM} engine keygen /etc/landmarknet-edge/site.key /etc/landmarknet-edge/site.pub")
    machine.run("chown", "landmarknet-build", "/etc/landmarknet-edge/site.key")
    machine.run("systemctl", "start", "landmarknet-edge-rebuild.path")
    assert machine.run("systemctl", "show", "-P", "ExecMainStartTimestampMonotonic", REBUILD).stdout.strip() == "0"
    machine.run(
        "sh", "-c", f"mkdir -p {STATE} && echo 'driver 560, built for 550' > {STATE}/rebuild-wanted"
    )  # as a room
    ended = f'until [ "$(systemctl show -P ExecMainExitTimestampMonotonic {REBUILD})" != 0 ]; do sleep 0.5; done'
    machine.run("sh", "-c", ended, timeout_s=400)
    said = machine.run("journalctl", "-u", REBUILD, "--no-pager").stdout
    assert machine.run("systemctl", "show", "-P", "Result", REBUILD).stdout.strip() == "success", said
    store = machine.path("/var/lib/landmarknet-engines/store")
    (release,) = (store / "releases").iterdir()
    assert re.fullmatch(r"rebuilt-\d{8}T\d{4}Z-onnxruntime-fp32", release.name)
    assert not (store / "current").is_symlink()


def test_uninstalled_it_is_gone_and_its_results_are_not(service):
    """The last test of this file: it ends what the others use."""
    result = drop(service, "last.dcm")
    service.eventually(result.exists)
    service.run(PROGRAM, "uninstall-service", "--apply")
    assert service.show("LoadState")["LoadState"] == "not-found"
    assert result.exists()
    assert service.path("/etc/landmarknet-edge/landmarknet-edge.toml").exists()
    assert service.path("/var/lib/landmarknet-edge").is_dir()
    service.run(*INSTALL)
    restart(service)
