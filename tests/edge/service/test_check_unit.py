import pytest

from tests.edge.checkup_room import UNIT_SHOWN, levels, room_in_order, systemd


@pytest.fixture
def room(tmp_path, engine):
    return room_in_order(tmp_path, engine([]))


@pytest.mark.parametrize(
    ("run", "level", "said", "mend"),
    [
        (lambda command: None, "warning", "does not answer", "on the machine itself"),
        (systemd("LoadState=not-found\n"), "warning", "not installed", "install-service --apply"),
        (systemd(UNIT_SHOWN.replace("=active", "=failed")), "fault", "has failed", "journalctl"),
        (systemd(UNIT_SHOWN.replace("=enabled", "=disabled")), "warning", "does not start", "systemctl enable"),
        (systemd(exposure="1.2"), "warning", "exposure is 1.2", "systemctl cat"),
        (systemd(exposure="none"), "warning", "cannot be judged", "systemd-analyze security"),
    ],
)
def test_a_unit_that_is_not_as_it_should_be_is_named(room, run, level, said, mend):
    (finding,) = [one for one in room.check(run=run) if one.level != "ok"]
    assert (finding.level, said in finding.what, mend in finding.mend) == (level, True, True)


def test_the_meant_exposure_itself_is_hardened(room):
    assert levels(room.findings("exposure 1.1", run=systemd(exposure="1.1"))) == ["ok"]


@pytest.mark.parametrize(
    ("paths", "levels_found"),
    [("-{0} -/srv/other", []), ("/srv/other -{0.parent}", []), ("-/srv/other", ["fault"]), ("", ["fault"])],
)
def test_a_folder_that_the_unit_does_not_let_the_service_write_to_is_a_fault(room, paths, levels_found):
    folder = room.config.drop_folder[0].path
    shown = UNIT_SHOWN + f"ProtectSystem=strict\nReadWritePaths={paths.format(folder)}\n"
    found = room.findings("may not write to", run=systemd(shown))
    assert levels(found) == levels_found
    assert all("install-service --apply" in finding.mend for finding in found)


def test_root_is_told_that_the_service_may_do_less(room):
    (finding,) = room.findings("ran as root", user_id=0)
    assert finding.mend == "runuser -u landmarknet-edge -- landmarknet-edge check"
    assert room.findings("ran as root", user_id=0, run=systemd(UNIT_SHOWN.replace("landmarknet-edge", ""))) == []
