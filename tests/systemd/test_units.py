"""What systemd itself says of the units, as installed: correct, and closed to what the daemon does not need."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from edge.config import ClinicHours, Config, DropFolderConfig, read_config
from edge.service.install import carry_out, plan_install
from edge.service.rebuild import REBUILD_WANTED

SYSTEMD = Path(__file__).parents[2] / "systemd"
CONFIG = SYSTEMD / "landmarknet-edge.toml"
ROOM, ROOMS, REBUILD = "landmarknet-edge.service", "landmarknet-edge@.service", "landmarknet-edge-rebuild.service"
ASKED = "landmarknet-edge-rebuild.path"
MOST = 10  # tenths: the exposure that house rules allow
SHIPPED_RELEASE = '[[drop_folder]]\npath = "/srv/portal"\n'
OWN_ENGINE = 'store = "/var/lib/landmarknet-engines/store"\nrelease_key = "/etc/landmarknet-edge/site.pub"\n'

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


@pytest.fixture
def installed(tmp_path):
    """Return a function: a root below which the service is installed for a configuration, with programs that exist."""

    def install(config=SHIPPED_RELEASE):
        root, first = tmp_path / "root", tmp_path / "first.toml"
        first.write_text(config)
        carry_out(plan_install(root, Path("/bin/sh"), first), lambda _: None)
        rebuild = root / "etc/systemd/system" / REBUILD
        rebuild.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/sh", rebuild.read_text()))
        return root

    return install


def analyze(*arguments):
    """Return exit status and output of systemd-analyze."""
    done = subprocess.run(
        ["systemd-analyze", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


def settings(name):
    """Return the lines of a unit that are settings, in their order."""
    lines = (SYSTEMD / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith(("#", "["))]


@needs_systemd
@pytest.mark.parametrize(
    "unit", [ROOM, "landmarknet-edge@linac-2.service", REBUILD, ASKED, "landmarknet-edge-gpu.service"]
)
def test_systemd_finds_nothing_wrong_with_a_unit(unit, installed):
    units = installed() / "etc/systemd/system"
    if "@" in unit:
        shutil.copy(units / ROOMS, units / unit)
    assert analyze("verify", "--man=no", units / unit) == (0, "")


@needs_systemd
def test_systemd_would_have_found_something(installed):
    """The test above can fail."""
    unit = installed() / "etc/systemd/system" / ROOM
    unit.write_text(unit.read_text().replace("Restart=on-failure", "Restart=on-fialure"))
    assert "on-fialure" in analyze("verify", "--man=no", unit)[1]


@needs_systemd
@pytest.mark.parametrize("unit", [ROOM, "landmarknet-edge@linac-2.service", REBUILD])
@pytest.mark.parametrize("config", [SHIPPED_RELEASE, OWN_ENGINE], ids=["on the CPU", "on the GPU"])
def test_a_unit_exposes_next_to_nothing(unit, config, installed):
    root = installed(config)
    status, output = analyze("security", "--offline=true", f"--root={root}", f"--threshold={MOST}", unit)
    assert "Overall exposure level" in output
    assert status == 0, output


@needs_systemd
@pytest.mark.parametrize(
    ("config", "most"),
    [
        (SHIPPED_RELEASE, MOST),
        (OWN_ENGINE, MOST + 1),  # the GPU's device nodes and a socket on loopback together cost a tenth more
    ],
    ids=["on the CPU", "on the GPU"],
)
def test_metrics_cost_little(config, most, installed):
    root = installed("metrics_port = 9464\n" + config)
    status, output = analyze("security", "--offline=true", f"--root={root}", f"--threshold={most}", ROOM)
    assert status == 0, output


@needs_systemd
@pytest.mark.parametrize(("config", "most"), [(SHIPPED_RELEASE, MOST), (OWN_ENGINE, MOST + 1)], ids=["CPU", "GPU"])
def test_the_page_costs_no_more_than_metrics(config, most, installed):
    root = installed(config + "[page]\nenabled = true\n")
    status, output = analyze("security", "--offline=true", f"--root={root}", f"--threshold={most}", ROOM)
    assert status == 0, output


@pytest.mark.parametrize(
    ("page", "families", "allowed"),
    [
        ("", "AF_INET", "localhost"),
        ('bind = "::1"\n', "AF_INET AF_INET6", "localhost"),
        (
            'bind = "10.1.2.3"\ncertificate = "/etc/p.crt"\nkey = "/etc/p.key"\ntoken_file = "/etc/p.token"\n',
            "AF_INET",
            "any",
        ),
    ],
    ids=["IPv4", "IPv6", "from other machines"],
)
def test_the_page_is_let_through_as_far_as_it_is_meant_to_be_reached(page, families, allowed, installed):
    root = installed(f"{SHIPPED_RELEASE}[page]\nenabled = true\n{page}")
    drop_in = (root / f"etc/systemd/system/{ROOM}.d/10-folders.conf").read_text()
    assert f"PrivateNetwork=no\nRestrictAddressFamilies={families}\nIPAddressAllow={allowed}\n" in drop_in


def test_without_page_and_metrics_there_is_no_network(installed):
    drop_in = (installed() / f"etc/systemd/system/{ROOM}.d/10-folders.conf").read_text()
    assert "Network" not in drop_in


@pytest.mark.parametrize("unit", [ROOM, ROOMS, REBUILD])
def test_the_gpu_is_allowed_and_no_other_device(unit):
    lines = settings(unit)
    assert [line for line in lines if line.startswith("Device")] == [
        "DevicePolicy=closed",
        "DeviceAllow=char-nvidia* rw",
    ]


def test_the_room_of_several_differs_from_the_only_one_in_its_name():
    differing = [pair for pair in zip(settings(ROOM), settings(ROOMS), strict=True) if pair[0] != pair[1]]
    assert [one.partition("=")[0] for one, _ in differing] == [
        "Description",
        "Documentation",
        "ExecStart",
        "StateDirectory",
    ]
    assert all("%i" in other for _, other in differing)


def test_a_stop_for_good_is_not_restarted():
    from edge.errors import Stop

    assert f"RestartPreventExitStatus={Stop.exit_status}" in settings(ROOM)


def test_the_watchdog_bears_the_default_image_unannounced():
    """A wait beyond half of its time is announced, which is for slow engines."""
    assert "WatchdogSec=5min" in settings(ROOM)
    assert Config().read_s + Config().infer_s <= 5 * 60 / 2


def test_the_default_reader_fits_in_the_memory():
    from edge.service.install import BESIDES_THE_READER_MIB, MEMORY_MIB

    assert f"MemoryMax={MEMORY_MIB // 1024}G" in settings(ROOM)  # systemd's G is 1024^3 bytes
    assert Config().read_memory_mb + BESIDES_THE_READER_MIB <= MEMORY_MIB


@pytest.mark.parametrize("unit", [ROOM, ROOMS])
def test_the_reader_may_confine_itself(unit):
    """By name, and after what is taken away: no group of systemd 252's holds these but that of all known ones."""
    filters = [line.partition("=")[2] for line in settings(unit) if line.startswith("SystemCallFilter=")]
    assert filters[-1].split() == ["landlock_create_ruleset", "landlock_restrict_self"]


def test_the_daemon_does_not_run_as_who_holds_the_site_s_private_key():
    assert "User=landmarknet-edge" in settings(ROOM)
    assert "User=landmarknet-build" in settings(REBUILD)


@pytest.mark.parametrize("unit", [ROOM, ROOMS, REBUILD])
def test_nothing_is_counted_for_the_maker_of_onnx_runtime(unit):
    """1.32 keeps an identity of the device and a list of events, to be sent, unless this is set before it is loaded."""
    assert "ORT_DISABLE_TELEMETRY=1" in " ".join(line for line in settings(unit) if "Environment=" in line).split()


def test_nothing_starts_a_rebuild_but_a_person_or_a_room_that_asks():
    assert "[Install]" not in (SYSTEMD / REBUILD).read_text()
    assert settings(ASKED)[-2:] == [
        f"PathChanged=/var/lib/landmarknet-edge/{REBUILD_WANTED}",
        "WantedBy=multi-user.target",
    ]


def test_the_folder_is_no_package():
    """`import systemd` must stay python3-systemd's, which distributions install."""
    assert not list(SYSTEMD.glob("*.py"))


def uncommented(text, *but):
    """Return the configuration with every setting behind a single # taken in, but for those named."""
    lines = [re.sub(r"^#(?=[a-z\[])", "", line) for line in text.splitlines()]
    return "\n".join(line for line in lines if line.partition(" =")[0] not in but) + "\n"


def test_the_configuration_as_installed_changes_nothing():
    assert read_config(CONFIG) == Config()


@pytest.mark.parametrize("alternative", [("release",), ("store", "release_key")])
def test_the_configuration_with_all_its_settings_taken_in_is_valid(alternative, tmp_path):
    path = tmp_path / "all.toml"
    path.write_text(uncommented(CONFIG.read_text(), *alternative))
    assert read_config(path).drop_folder[0].clinic_hours


def test_the_configuration_names_every_key():
    everything = tomllib.loads(uncommented(CONFIG.read_text()))
    (folder,) = everything["drop_folder"]
    (hours,) = folder["clinic_hours"]
    assert {*everything} == {*Config.model_fields}
    assert {*folder} == {*DropFolderConfig.model_fields}
    assert {*hours} == {*ClinicHours.model_fields}


def test_the_values_behind_a_comment_sign_are_the_defaults():
    everything = Config.model_validate(tomllib.loads(uncommented(CONFIG.read_text(), "release")))
    no_default = {key for key in Config.model_fields if getattr(Config(), key) in (None, ())}
    shown, default = everything.model_dump(exclude=no_default), Config().model_dump(exclude=no_default)
    assert shown == default
    (folder,) = everything.drop_folder
    for key in ("settle_s", "sweep_s", "incomplete_after_s"):
        assert getattr(folder, key) == getattr(Config(), key)
