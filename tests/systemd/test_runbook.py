"""What docs/runbook.md names exists: commands, options, log lines, settings, files."""

import re
from pathlib import Path

import pytest
import typer.main

from edge.cli import app
from edge.config import Config, DropFolderConfig
from edge.service.install import KEPT

ROOT = Path(__file__).parents[2]
RUNBOOK = (ROOT / "docs/runbook.md").read_text()
SOURCES = "".join(path.read_text() for path in (ROOT / "edge").rglob("*.py"))
SAID = re.sub(r'"\s*\n\s*f?"', "", SOURCES)  # a message may go over several lines of code
SYSTEMD_S = {"failed", "status=78", "start-limit-hit", "Watchdog timeout", "status=226/NAMESPACE", "status=203/EXEC"}
OTHERS = {"Read-only file system", "passed=false"}  # the kernel's words; a field of a line


def commands():
    """Return every command of ours that the runbook gives, as words without options."""
    found = re.findall(r"(?<![\w./-])landmarknet-edge ((?:engine )?[a-z][a-z-]+)", RUNBOOK)
    return sorted({tuple(words.split()) for words in found})


def alarms():
    """Return what stands between backquotes in the first column of the table of alarms."""
    table = RUNBOOK.partition("### Alarms")[2].partition("## Update")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| ") and "---" not in line][1:]
    return sorted({words for row in rows for words in re.findall(r"`([^`]+)`", row)} - SYSTEMD_S - OTHERS)


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_a_command_of_the_runbook_exists(words):
    command = typer.main.get_command(app)
    for word in words:
        command = command.commands[word]


@pytest.mark.parametrize("words", alarms())
def test_an_alarm_of_the_runbook_is_one_that_the_service_gives(words):
    """X, Y and ``...`` stand for names."""
    for part in re.split(r"\.\.\.|\b[XY]\b", words):
        assert part.strip(" ,") in SAID


def test_every_error_line_of_the_daemon_is_in_the_runbook():
    said = re.findall(r'log\.error\(\s*"([^"]+)"', SOURCES)
    assert said
    assert not [words for words in said if words.partition(";")[0] not in RUNBOOK]


@pytest.mark.parametrize("key", ["results_dir", "events", "clinic_hours"])
def test_a_key_of_a_folder_in_the_runbook_exists(key):
    assert key in RUNBOOK
    assert key in DropFolderConfig.model_fields


@pytest.mark.parametrize(
    "key",
    [
        "metrics_port",
        "store",
        "state_dir",
        "infer_s",
        "read_memory_mb",
        "release_key",
        "constancy_at",
        "stale",
        "sweep_s",
    ],
)
def test_a_key_in_the_runbook_exists(key):
    assert f"`{key}`" in RUNBOOK
    assert key in Config.model_fields


def test_the_runbook_s_metrics_exist():
    named = re.findall(r"landmarknet_edge_(\w+)", RUNBOOK)
    assert len(named) == 3
    assert all(f'"{name}"' in SOURCES for name in named)


def test_what_uninstalling_leaves_is_in_the_runbook():
    assert all(f"`/{place}`" in RUNBOOK for place in KEPT)
