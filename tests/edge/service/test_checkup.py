import pytest

from edge.service.checkup import check_all
from edge.service.installed import service_of
from tests.edge.checkup_room import levels, room_in_order, systemd


@pytest.fixture
def room(tmp_path, engine):
    return room_in_order(tmp_path, engine([]))


def test_a_room_in_order_has_nothing_to_mend(room):
    findings = room.check()
    assert set(levels(findings)) == {"ok"}
    assert [finding.mend for finding in findings] == [None] * len(findings)
    text = "\n".join(finding.what.replace(str(room.base), "") for finding in findings)
    parts = (
        "configuration",
        "drop folder",
        "results",
        "journal",
        "clock",
        "engine",
        "library",
        "edge.service: is hard",
    )
    assert [part for part in parts if part not in text] == []


def test_a_check_leaves_nothing_behind(room, tmp_path):
    room.check()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_everything_that_is_not_in_order_says_how_to_mend(room, tmp_path):
    bad = [
        *room.check(room.changed(drop_folder=()), run=lambda command: None, clock=lambda: None),
        *room.check(room.with_folder(path=tmp_path / "none"), clock=lambda: False, free_bytes=lambda folder: 0),
        *room.check(run=systemd("LoadState=not-found\n")),
    ]
    bad = [finding for finding in bad if finding.level != "ok"]
    assert len(bad) == 7
    assert all(finding.mend for finding in bad)


# --- configuration ---


def test_a_wrong_configuration_is_all_that_can_be_said(tmp_path):
    file = tmp_path / "edge.toml"
    file.write_text("overlai = true\nsettle_s = -1\n")
    (finding,) = check_all(lambda: service_of(file))
    assert finding.level == "fault"
    assert f"configuration {file}: " in finding.what
    assert "did you mean overlay?" in finding.what
    assert "settle_s" in finding.what


def test_a_configuration_without_drop_folders_is_a_fault(room):
    (finding,) = room.findings("no drop folder", room.changed(drop_folder=()))
    assert finding.level == "fault"
    assert "[[drop_folder]]" in finding.mend
