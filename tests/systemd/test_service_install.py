"""What install-service plans and does, below a folder of the test. Real systemd: test_real_systemd.py."""

import shutil
import subprocess
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from edge.commands.service import register
from edge.config import Config, DropFolderConfig, PageConfig
from edge.errors import BadConfig
from edge.service.install import (
    RESTART,
    TAKE_NOTICE,
    Keep,
    Put,
    Remove,
    Run,
    ServiceError,
    carry_out,
    default_program,
    drop_in_text,
    in_words,
    plan_install,
    plan_uninstall,
    run_command,
    shipped_file,
    writable_folders,
)

PROGRAM = Path("/opt/elsewhere/bin/landmarknet-edge")
UNIT = "etc/systemd/system/landmarknet-edge.service"
DROP_IN = "etc/systemd/system/landmarknet-edge.service.d/10-folders.conf"
CONFIG = "etc/landmarknet-edge/landmarknet-edge.toml"
ONE_FOLDER = '[[drop_folder]]\npath = "/srv/portal"\n'


def no_command(command):
    raise AssertionError(f"nothing is to be run below another root, but {command} was")


def install(root, first_config=None):
    carry_out(plan_install(root, PROGRAM, first_config), no_command)


def files(root):
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def command():
    """Return a function that runs a command line of ours, and returns status and all output."""
    app = typer.Typer()
    register(app)

    def run(*arguments):
        done = CliRunner().invoke(app, [*map(str, arguments)])
        return done.exit_code, done.output

    return run


@pytest.fixture
def room(tmp_path):
    """Return a function that writes a configuration for the root ``tmp_path/root``, and returns its path."""

    def write(text, name="landmarknet-edge.toml"):
        path = tmp_path / "root/etc/landmarknet-edge" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def test_every_file_of_the_folder_is_installed(tmp_path):
    install(tmp_path)
    assert files(tmp_path) == {
        UNIT,
        DROP_IN,
        CONFIG,
        "etc/systemd/system/landmarknet-edge@.service",
        "etc/systemd/system/landmarknet-edge-gpu.service",
        "etc/systemd/system/landmarknet-edge-rebuild.path",
        "etc/systemd/system/landmarknet-edge-rebuild.service",
        "etc/sysusers.d/landmarknet-edge.conf",
        "etc/tmpfiles.d/landmarknet-edge.conf",
    }
    assert len(files(tmp_path) - {DROP_IN}) == len(list(shipped_file("landmarknet-edge.service").parent.iterdir()))


def test_the_unit_starts_the_program_that_was_named(tmp_path):
    install(tmp_path)
    lines = (tmp_path / UNIT).read_text().splitlines()
    assert f"ExecStart={PROGRAM} watch --config /etc/landmarknet-edge/landmarknet-edge.toml" in lines


def test_installing_again_changes_nothing(tmp_path):
    install(tmp_path)
    again = plan_install(tmp_path, PROGRAM)
    assert all(step.there for step in again if isinstance(step, Put))
    assert not any(isinstance(step, Run) for step in again)
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in files(tmp_path)}
    carry_out(again, no_command)
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in files(tmp_path)} == before


def test_on_the_machine_itself_systemd_takes_notice_and_the_service_is_restarted():
    """Planned only: nothing is written here."""
    runs = tuple(step for step in plan_install(Path("/"), PROGRAM) if isinstance(step, Run))
    assert runs == (*TAKE_NOTICE, RESTART)


def test_a_planned_command_is_run_in_its_place(tmp_path):
    ran = []
    carry_out([Run(("first",)), Put(tmp_path / "x", "x", there=False), Run(("second",))], ran.append)
    assert ran == [("first",), ("second",)]


def test_a_changed_unit_of_ours_is_replaced(tmp_path):
    install(tmp_path)
    (tmp_path / UNIT).write_text("[Service]\n")
    install(tmp_path)
    assert str(PROGRAM) in (tmp_path / UNIT).read_text()


def test_a_configuration_that_exists_is_never_written_to(tmp_path, room):
    path = room(ONE_FOLDER)
    first = tmp_path / "other.toml"
    first.write_text("settle_s = 9.0\n")
    install(tmp_path / "root", first)
    assert path.read_text() == ONE_FOLDER


def test_the_first_configuration_is_the_one_given(tmp_path):
    first = tmp_path / "first.toml"
    first.write_text(ONE_FOLDER)
    install(tmp_path / "root", first)
    assert (tmp_path / "root" / CONFIG).read_text() == ONE_FOLDER
    assert 'ReadWritePaths="-/srv/portal"\n' in (tmp_path / "root" / DROP_IN).read_text()


def test_without_one_it_is_the_commented_one(tmp_path):
    install(tmp_path)
    assert (tmp_path / CONFIG).read_text() == shipped_file("landmarknet-edge.toml").read_text()


def test_a_wrong_configuration_is_refused_before_anything_is_written(tmp_path, room):
    room("setle_s = 2.0\n")
    with pytest.raises(BadConfig, match="did you mean settle_s"):
        plan_install(tmp_path / "root", PROGRAM)
    assert files(tmp_path) == {f"root/{CONFIG}"}


def test_each_other_configuration_is_a_room_of_its_own(tmp_path, room):
    room('[[drop_folder]]\npath = "/srv/two"\n', "linac-2.toml")
    room("release = 1\n", "rebuild.toml")  # the recipe of the rebuild unit is none
    install(tmp_path / "root")
    drop_ins = sorted(path.name for path in (tmp_path / "root/etc/systemd/system").glob("*.d"))
    assert drop_ins == [
        "landmarknet-edge-rebuild.path.d", "landmarknet-edge.service.d", "landmarknet-edge@linac-2.service.d",
    ]  # fmt: skip
    text = (tmp_path / "root/etc/systemd/system/landmarknet-edge@linac-2.service.d/10-folders.conf").read_text()
    assert 'ReadWritePaths="-/srv/two"\n' in text


def test_what_waits_for_a_rebuild_looks_into_every_room_s_state_folder(tmp_path, room):
    asks = tmp_path / "root/etc/systemd/system/landmarknet-edge-rebuild.path.d/10-folders.conf"
    install(tmp_path / "root")
    assert not asks.exists()  # the unit itself names the folder of the only room
    room(ONE_FOLDER, "linac-2.toml")
    room('state_dir = "/srv/100% state"\n' + ONE_FOLDER, "linac-3.toml")
    install(tmp_path / "root")
    assert [line for line in asks.read_text().splitlines() if line.startswith("PathChanged")] == [
        "PathChanged=/srv/100%% state/rebuild-wanted",
        "PathChanged=/var/lib/landmarknet-edge-linac-2/rebuild-wanted",
    ]


def test_a_room_whose_name_systemd_would_read_otherwise_is_refused(tmp_path, room):
    room(ONE_FOLDER, "room 2.toml")
    with pytest.raises(ServiceError, match="rename the file"):
        plan_install(tmp_path / "root", PROGRAM)


def test_results_elsewhere_leave_the_drop_folder_read_only():
    folder = DropFolderConfig(path=Path("/srv/portal"), results_dir=Path("/srv/landmarks"))
    assert writable_folders(Config(drop_folder=(folder,))) == (Path("/srv/landmarks"),)


def test_a_state_folder_of_its_own_is_writable():
    assert writable_folders(Config(state_dir=Path("/data/state"))) == (Path("/data/state"),)


@pytest.mark.parametrize("hidden", ["/home/clinic/portal", "/root/portal", "/tmp/portal", "/var/tmp/x"])
def test_a_folder_that_the_service_cannot_see_is_refused(hidden):
    with pytest.raises(BadConfig, match="does not see; use a folder below /srv"):
        writable_folders(Config(drop_folder=(DropFolderConfig(path=Path(hidden)),)))


@pytest.mark.skipif(not Path("/etc/mtab").is_symlink(), reason="/etc/mtab is no link here")
def test_a_link_to_a_folder_that_the_service_cannot_see_is_refused():
    """/etc/mtab leads into /proc."""
    with pytest.raises(BadConfig, match="lies below /proc"):
        writable_folders(Config(state_dir=Path("/etc/mtab")))


def test_odd_folder_names_stay_one_path():
    config = Config(drop_folder=(DropFolderConfig(path=Path('/srv/a "b" 100% \\c')),))
    assert 'ReadWritePaths="-/srv/a \\"b\\" 100%% \\\\c"\n' in drop_in_text(config)


def test_the_service_starts_after_the_shares_of_its_folders():
    folder = DropFolderConfig(path=Path("/srv/portal/room-1"), results_dir=Path("/data"))
    text = drop_in_text(Config(drop_folder=(folder,)))
    assert "[Unit]\nAfter=data.mount srv.mount srv-portal.mount srv-portal-room\\x2d1.mount\n[Service]\n" in text


@pytest.mark.skipif(shutil.which("systemd-escape") is None, reason="systemd is not installed")
@pytest.mark.parametrize("name", ["/srv/portal", "/srv/a-b c%/ä", "/.hidden/.x", "/a:b_c.d"])
def test_the_name_of_a_mount_is_systemd_s(name):
    told = subprocess.run(["systemd-escape", "--path", name], capture_output=True, text=True, check=True).stdout.strip()
    mounts = drop_in_text(Config(drop_folder=(DropFolderConfig(path=Path(name)),)))
    assert f"{told}.mount" in mounts.partition("[Service]")[0].split("=")[1].split()


def test_a_line_break_in_a_folder_name_cannot_add_a_setting():
    config = Config(drop_folder=(DropFolderConfig(path=Path("/srv/a\nUser=root")),))
    with pytest.raises(BadConfig, match="printable"):
        drop_in_text(config)


def test_the_network_is_opened_for_metrics_only_and_to_this_machine_only():
    assert "Network" not in drop_in_text(Config())
    metrics = drop_in_text(Config(metrics_port=9464)).splitlines()
    assert {"PrivateNetwork=no", "RestrictAddressFamilies=AF_INET", "IPAddressAllow=localhost"} <= {*metrics}


def test_a_room_without_a_store_has_no_need_of_the_gpu():
    store = Config(store=Path("/var/lib/landmarknet-engines/store"), release_key=Path("/etc/landmarknet-edge/site.pub"))
    assert "PrivateDevices=yes\n" in drop_in_text(Config())
    assert "PrivateDevices" not in drop_in_text(store)


def test_a_slow_engine_needs_no_other_watchdog():
    """Whoever waits for it tells systemd so: `edge.service.notify.Notifier.waiting`."""
    assert drop_in_text(Config(infer_s=600.0)) == drop_in_text(Config())


def test_a_greater_reader_gets_its_memory():
    assert "MemoryMax" not in drop_in_text(Config(read_memory_mb=1024))  # the unit's 4 GiB are 1 and 3
    assert "MemoryMax=7168M\n" in drop_in_text(Config(read_memory_mb=4096))


def test_the_page_s_own_reader_gets_its_memory_too():
    """It reads originals by a reader of the same limit, beside the daemon's."""
    page = PageConfig(enabled=True)
    assert "MemoryMax=5120M\n" in drop_in_text(Config(page=page))  # 2 * 1024, and 3 GiB besides
    assert "MemoryMax=11264M\n" in drop_in_text(Config(read_memory_mb=4096, page=page))
    assert "MemoryMax" not in drop_in_text(Config(read_memory_mb=512, page=page))


def test_a_program_that_the_service_cannot_see_is_refused(tmp_path):
    with pytest.raises(ServiceError, match="lies below /home"):
        plan_install(tmp_path, Path("/home/physicist/venv/bin/landmarknet-edge"))


def test_the_units_follow_the_version_in_use_rather_than_today_s(tmp_path):
    version, current = tmp_path / "versions/1", tmp_path / "current"
    version.mkdir(parents=True)
    current.symlink_to(version)
    assert default_program(version, current) == current / "bin/landmarknet-edge"
    assert default_program(tmp_path / "mine", current) == tmp_path / "mine/bin/landmarknet-edge"


def test_uninstalling_leaves_what_is_not_the_program_s(tmp_path, room):
    room(ONE_FOLDER)
    room(ONE_FOLDER, "linac-2.toml")
    root = tmp_path / "root"
    before = files(root)
    install(root)
    journal = root / "var/lib/landmarknet-edge/journal.sqlite"
    journal.parent.mkdir(parents=True)
    journal.write_text("")
    carry_out(plan_uninstall(root), no_command)
    assert files(root) == before | {"var/lib/landmarknet-edge/journal.sqlite"}
    kept = [step.path for step in plan_uninstall(root) if isinstance(step, Keep)]
    assert kept == [root / "etc/landmarknet-edge", root / "var/lib/landmarknet-edge"]
    assert not list(root.rglob("*.service.d"))


def test_uninstalling_leaves_an_administrator_s_drop_in(tmp_path):
    install(tmp_path)
    override = (tmp_path / DROP_IN).with_name("override.conf")
    override.write_text("[Service]\nMemoryMax=8G\n")
    carry_out(plan_uninstall(tmp_path), no_command)
    assert override.is_file()
    assert not (tmp_path / DROP_IN).exists()


def test_uninstalling_twice_has_nothing_to_do(tmp_path):
    install(tmp_path)
    carry_out(plan_uninstall(tmp_path), no_command)
    assert not any(isinstance(step, Remove | Run) for step in plan_uninstall(tmp_path))


def test_the_command_only_plans_by_default(tmp_path, command):
    status, output = command("install-service", "--root", tmp_path, "--program", PROGRAM)
    assert status == 0
    assert in_words(Put(tmp_path / UNIT, "", there=False)) in output.splitlines()
    assert "nothing was done" in output
    assert files(tmp_path) == set()


def test_the_command_applies_when_told_to(tmp_path, command):
    status, output = command("install-service", "--root", tmp_path, "--program", PROGRAM, "--apply")
    assert (status, (tmp_path / UNIT).is_file()) == (0, True)
    assert "systemctl enable --now landmarknet-edge" in output
    assert command("uninstall-service", "--root", tmp_path, "--apply")[0] == 0
    assert files(tmp_path) == {CONFIG}


def test_the_command_says_what_is_kept(tmp_path, command, room):
    path = room(ONE_FOLDER)
    output = command("install-service", "--root", tmp_path / "root", "--program", PROGRAM)[1]
    assert in_words(Keep(path, "a configuration stays as it is")) in output.splitlines()


def test_a_wrong_configuration_is_misuse(tmp_path, command, room):
    room("setle_s = 2.0\n")
    status, output = command("install-service", "--root", tmp_path / "root", "--program", PROGRAM, "--apply")
    assert status == 2
    assert "did you mean settle_s" in output


def test_where_nothing_can_be_written_the_message_says_what_to_do(command):
    """Nobody can write to /proc, not even root."""
    status, output = command("install-service", "--root", "/proc/1", "--program", PROGRAM, "--apply")
    assert status == 1
    assert "run this as root" in output


def test_a_command_that_fails_ends_it(tmp_path):
    steps = [Run(("false",)), Put(tmp_path / "never", "", there=False)]
    with pytest.raises(ServiceError, match="false: failed"):
        carry_out(steps, run_command)
    assert files(tmp_path) == set()


def test_a_machine_without_systemd_is_told_so():
    with pytest.raises(ServiceError, match="the service needs systemd"):
        run_command(("no-such-command-of-systemd",))
