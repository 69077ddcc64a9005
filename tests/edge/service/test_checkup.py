import errno
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from edge.config import Config, ReferenceRule
from edge.errors import BackendFailed, BadRelease
from edge.log import open_log
from edge.service.checkup import (
    Finding,
    check_all,
    clock_synchronised,
    run_program,
    service_of,
)
from edge.service.metrics import serve_metrics
from edge.staleness import MachineFacts
from tests.edge.checkup_room import UNIT_SHOWN, levels, room_in_order, systemd


@pytest.fixture
def room(tmp_path, engine):
    return room_in_order(tmp_path, engine([]))


# --- all of it ---


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


@pytest.mark.parametrize(
    ("name", "state", "unit"),
    [
        ("landmarknet-edge.toml", "/var/lib/landmarknet-edge", "landmarknet-edge.service"),
        ("room2.toml", "/var/lib/landmarknet-edge-room2", "landmarknet-edge@room2.service"),
    ],
)
def test_an_installed_service_is_known_by_its_configuration(tmp_path, name, state, unit):
    file = tmp_path / name
    file.write_text("threads = 2\n")
    service = service_of(file, environment={}, installed=tmp_path / "landmarknet-edge.toml")
    assert (service.config.threads, service.config.state_dir, service.unit) == (2, Path(state), unit)


def test_without_a_file_the_installed_service_is_meant(tmp_path):
    file = tmp_path / "landmarknet-edge.toml"
    assert service_of(None, environment={}, installed=file).config == Config()
    file.write_text("threads = 2\n")
    assert service_of(None, environment={}, installed=file).config_file == file


def test_a_state_folder_that_is_named_stays(tmp_path):
    file = tmp_path / "landmarknet-edge.toml"
    file.write_text("state_dir = '/srv/state'\n")
    assert service_of(file, environment={}, installed=file).config.state_dir == Path("/srv/state")
    file.write_text("")
    assert service_of(file, environment={"STATE_DIRECTORY": "/given"}, installed=file).config.state_dir is None


def test_a_configuration_elsewhere_is_no_service_s(tmp_path):
    file = tmp_path / "landmarknet-edge.toml"
    file.write_text("")
    assert service_of(file, environment={}).config.state_dir is None


# --- clock ---


@pytest.mark.parametrize(("answer", "level"), [(True, "ok"), (False, "warning"), (None, "warning")])
def test_a_clock_that_nobody_keeps_right_is_a_warning(room, answer, level):
    assert levels(room.findings("clock", clock=lambda: answer)) == [level]


def test_the_kernel_is_asked_without_changing_anything():
    assert clock_synchronised() in {True, False, None}


# --- engine ---


def test_the_engine_is_named_with_library_gpu_and_driver(room):
    facts = MachineFacts("11.1", gpu="NVIDIA L4", compute_capability="8.9", driver="580.65.06, CUDA 13.0")
    text = [one.what for one in room.findings("", facts=lambda flavour: facts)]
    assert "engine small-1 (onnxruntime, fp32): golden answers given" in text
    assert "library: onnxruntime 11.1, NVIDIA L4, driver 580.65.06, CUDA 13.0" in text


def test_an_engine_s_warnings_are_warnings_with_what_mends_them(room, engine):
    warned = replace(engine([]), warnings=("calibration set aaaa expected",), mend="use the newer release")
    (finding,) = room.findings("calibration set", open_engine=lambda config: warned)
    assert (finding.level, finding.mend) == ("warning", "use the newer release")


def test_an_engine_is_named_with_the_precision_that_was_delivered(room, engine):
    half = engine([], precision="fp16", delivered={"fp32": 51})
    (finding,) = room.findings("golden answers given", open_engine=lambda config: half)
    assert "(onnxruntime, fp32 computation of fp16 weights)" in finding.what


@pytest.mark.parametrize(
    ("error", "what", "mend"),
    [
        (BadRelease("r1: cannot be read (gone); publish it again"), "r1: cannot be read (gone)", "publish it again"),
        (BackendFailed("no GPU"), "no GPU", "choose another release: landmarknet-edge engine list"),
    ],
)
def test_an_engine_that_does_not_open_is_a_fault(room, error, what, mend):
    def fail(config):
        raise error

    findings = room.check(open_engine=fail)
    assert Finding("fault", what, mend) in findings
    assert not [finding for finding in findings if "golden answers given" in finding.what]


def no_facts(flavour):
    raise BackendFailed("the driver shows no GPU; see nvidia-smi")


@pytest.mark.parametrize("facts", [lambda flavour: MachineFacts("1.32"), no_facts], ids=["facts", "no facts"])
def test_an_engine_gives_its_device_back(room, engine, facts):
    closed = []
    held = engine([])
    object.__setattr__(held.backend, "close", lambda: closed.append(True))
    room.check(open_engine=lambda config: held, facts=facts)
    assert closed == [True]


# --- metrics ---


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_without_metrics_their_port_is_not_asked_for(room):
    assert room.findings("metrics") == []


def test_a_free_port_can_serve_metrics(room, port):
    assert levels(room.findings("metrics", room.changed(metrics_port=port))) == ["ok"]


def test_a_port_that_our_daemon_serves_is_in_order(room, port):
    with serve_metrics(port, open_log()):
        (finding,) = room.findings("metrics", room.changed(metrics_port=port))
    assert (finding.level, "daemon serves" in finding.what) == ("ok", True)


def test_a_port_that_another_program_has_is_a_fault(room, port):
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))  # it does not listen: whoever asks is refused
        (finding,) = room.findings("metrics", room.changed(metrics_port=port))
    assert (finding.level, finding.mend) == ("fault", "set another metrics_port")
    assert os.strerror(errno.EADDRINUSE) in finding.what


# --- systemd ---


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


def test_a_program_that_is_missing_or_fails_gives_no_answer():
    assert run_program(["landmarknet-edge-no-such-program"]) is None
    assert run_program(["false"]) is None
    assert run_program(["echo", "hello"]) == "hello\n"


# --- references ---


def test_a_folder_without_references_is_a_warning_and_damaged_ones_and_rules_without_one_are_faults(room, tmp_path):
    folder = tmp_path / "references"
    (finding,) = room.findings("references in", room.changed(references=folder))
    assert finding.level == "warning"
    folder.mkdir()
    (folder / f"{'a' * 64}.reference.json").write_text("{}")
    rule = ReferenceRule(image_name=".*", reference="b" * 64)
    findings = room.check(room.changed(references=folder, reference_rule=(rule,)))
    faults = [one.what[:23] for one in findings if one.level == "fault"]
    assert faults == [f"reference {'a' * 13}", "reference_rule .*: its "]
