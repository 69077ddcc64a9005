import json
import os
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from edge.cli import app
from edge.constancy import ConstancyRun
from edge.service.audit_log import AuditLog
from edge.service.journal import Entry, Journal
from edge.service.state import AUDIT_LOG, JOURNAL, held
from edge.settle import Signature, State

NOW_UTC = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
def drop(tmp_path):
    folder = tmp_path / "drop"
    folder.mkdir()
    return folder


@pytest.fixture
def state(tmp_path):
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


@pytest.fixture
def config(tmp_path, drop, state):
    file = tmp_path / "edge.toml"
    file.write_text(f"state_dir = '{state}'\n[[drop_folder]]\npath = '{drop}'\n")
    return file


@pytest.fixture
def edge(config):
    """Return a function that runs a command of ``landmarknet-edge`` with the configuration."""

    def run(*arguments):
        return CliRunner().invoke(app, [*map(str, arguments), "--config", str(config)])

    return run


@pytest.fixture
def journal(state, drop):
    """Return a journal of one refused image, closed."""
    signature = Signature(1, 1, 1)
    path = str(drop / "X.dcm")
    entry = Entry(1, str(drop), path, signature, State.REFUSED, 0, 0, "in colour", None, None, NOW_UTC, NOW_UTC)
    with Journal.open(state / JOURNAL) as opened:
        opened.record([entry])
    return state / JOURNAL


def asked_for(journal):
    with Journal.open_for_reading(journal) as opened:
        return [request.path for request in opened.requests()]


# --- status ---


def test_status_shows_the_alarms_and_ends_with_1(edge, journal):
    outcome = edge("status")
    assert outcome.exit_code == 1
    assert "1   A L A R M" in outcome.stdout
    assert "no daemon serves" in outcome.stdout
    assert "X.dcm" in outcome.stdout


def test_status_ends_with_0_when_all_is_well(edge, journal, state):
    with Journal.open(journal) as opened:
        opened.add_constancy_run(ConstancyRun(datetime.now(UTC), "r1", True, 0.0, 0.0, None))
    with held(state):
        outcome = edge("status", "--json")
    document = json.loads(outcome.stdout)
    assert (outcome.exit_code, document["alarms"]) == (0, [])
    assert document["last_refused"]["reason"] == "in colour"


def test_a_wrong_configuration_ends_with_2(edge, config):
    config.write_text("overlai = true\n")
    for command in ("status", "audit"):
        outcome = edge(command)
        assert outcome.exit_code == 2
        assert "did you mean overlay?" in outcome.stderr


# --- check ---


def test_check_names_what_is_wrong_and_how_to_mend_it(edge, drop):
    drop.rmdir()
    outcome = edge("check")
    assert outcome.exit_code == 1
    lines = outcome.stdout.splitlines()
    (number,) = [number for number, line in enumerate(lines) if f"drop folder {drop}: cannot be listed" in line]
    assert lines[number].startswith("fault   ")
    assert lines[number + 1].strip() == "to mend: create it or mount its share"


def test_check_ends_with_0_when_there_are_warnings_at_most(edge):
    outcome = edge("check", "--json")
    findings = json.loads(outcome.stdout)
    assert [finding for finding in findings if finding["level"] == "fault"] == []
    assert outcome.exit_code == 0
    assert any("golden answers given" in finding["what"] for finding in findings)


# --- audit ---


@pytest.fixture
def audited(state):
    """Return an audit log of three results."""
    path = state / AUDIT_LOG
    with AuditLog(path, NOW_UTC) as log:
        log.append([{"event": "published", "name": name} for name in ("X", "Y", "Z")], NOW_UTC)
    return path


def test_an_audit_log_as_it_was_written_is_intact(edge, audited):
    outcome = edge("audit")
    assert (outcome.exit_code, outcome.stdout) == (0, f"{audited}: 4 lines, intact\n")


def test_an_altered_line_is_named(edge, audited):
    lines = audited.read_text().splitlines(keepends=True)
    audited.write_text("".join(lines).replace('"Y"', '"Q"'))
    outcome = edge("audit")
    assert outcome.exit_code == 1
    assert f"{audited}: line 3 was altered" in outcome.stdout


def test_another_audit_log_can_be_named(edge, audited, tmp_path):
    moved = audited.rename(tmp_path / "moved.jsonl")
    outcome = edge("audit", moved)
    assert (outcome.exit_code, outcome.stdout) == (0, f"{moved}: 4 lines, intact\n")


def test_an_audit_log_that_is_not_there_is_not_intact(edge, state):
    outcome = edge("audit")
    assert outcome.exit_code == 1
    assert f"{state / AUDIT_LOG}: there is no audit log" in outcome.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_whoever_may_not_look_is_told_to_ask_as_root(edge, audited):
    audited.parent.chmod(0o700)
    os.seteuid(65534)
    try:
        outcome = edge("audit", audited)
    finally:
        os.seteuid(0)
    assert (outcome.exit_code, outcome.stdout) == (1, "")
    assert "this user may not look there; ask as root" in outcome.stderr


# --- requeue ---


def test_an_image_is_asked_for_by_the_path_that_the_daemon_knows(edge, journal, drop, tmp_path):
    link = tmp_path / "shortcut"
    link.symlink_to(drop)
    outcome = edge("requeue", link / "X.dcm", drop / "sub/../Y.dcm")
    assert (outcome.exit_code, outcome.stdout) == (0, "asked for: 2 images\n")
    assert asked_for(journal) == [str(drop / "X.dcm"), str(drop / "Y.dcm")]


def test_one_image_is_one(edge, journal, drop):
    assert edge("requeue", drop / "X.dcm").stdout == "asked for: 1 image\n"


def test_every_refused_image_can_be_asked_for(edge, journal):
    outcome = edge("requeue", "--refused")
    assert (outcome.exit_code, outcome.stdout) == (0, "asked for: every refused image\n")
    assert asked_for(journal) == [None]


def test_an_image_outside_the_drop_folders_is_misuse_and_nothing_is_asked_for(edge, journal, drop, tmp_path):
    outcome = edge("requeue", drop / "X.dcm", tmp_path / "elsewhere.dcm")
    assert outcome.exit_code == 2
    assert "lies in no drop folder" in outcome.stderr
    assert asked_for(journal) == []


@pytest.mark.parametrize("arguments", [(), ("X.dcm", "--refused")])
def test_either_images_or_refused_must_be_named(edge, journal, arguments):
    outcome = edge("requeue", *arguments)
    assert outcome.exit_code == 2
    assert "name images, or give --refused" in outcome.stderr
    assert asked_for(journal) == []


def test_without_a_journal_nothing_can_be_asked_for(edge, drop):
    outcome = edge("requeue", drop / "X.dcm")
    assert outcome.exit_code == 1
    assert "there is no journal" in outcome.stderr


# --- all of them ---


def test_every_command_of_the_room_is_registered():
    outcome = CliRunner().invoke(app, ["--help"])
    commands = ("status", "check", "audit", "requeue", "install-service", "uninstall-service", "watch", "process")
    assert [command for command in commands if f" {command} " not in outcome.output] == []
