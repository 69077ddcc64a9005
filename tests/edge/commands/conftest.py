"""The command line in the process of the test, also over a room whose plan is known; and Python in one of its own."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from edge.cli import app
from tests.edge.planned_room import CARINA, ROW, PlannedRoom, plan_bytes, write_release


@pytest.fixture
def process():
    """Return a function that runs ``landmarknet-edge process`` in this process; nothing but SystemExit may escape."""

    def run(*arguments):
        outcome = CliRunner().invoke(app, ["process", *map(str, arguments)])
        assert outcome.exception is None or isinstance(outcome.exception, SystemExit), outcome.exception
        assert "Traceback" not in outcome.output
        return outcome

    return run


@pytest.fixture(scope="session")
def run_python():
    """Return a function that runs code in a Python of its own, and returns it when it has ended."""

    def run(code):
        checkout = Path(__file__).parents[3]
        return subprocess.run([sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="session")
def planned_release(tmp_path_factory, contract, rows, tiny_model):
    """Return the folder of a release that finds the same landmarks in every image, and states its sigmas."""
    peaks = rows(ROW, CARINA)
    return write_release(tmp_path_factory.mktemp("planned") / "release", contract, peaks, tiny_model(peaks))


@pytest.fixture
def room(tmp_path, planned_release, dicom, collimated):
    """Return a `PlannedRoom`."""
    return PlannedRoom(tmp_path, planned_release, dicom, collimated())


@pytest.fixture
def command(room):
    """Return a function that runs a command, in this process, with the room's configuration."""

    def run(*arguments):
        done = CliRunner().invoke(app, [*map(str, arguments), "--config", str(room.config)])
        return SimpleNamespace(returncode=done.exit_code, stdout=done.stdout, stderr=done.stderr)

    return run


@pytest.fixture
def daemon(landmarknet_edge, room):
    """Return a function that has a daemon of its own try every file that is there, and returns it when it has ended."""
    return lambda: landmarknet_edge("watch", "--once", "--config", room.config, cwd=room.root)


@pytest.fixture
def with_reference(command, room):
    """Return the key of a reference for beam 1 of the plan."""
    (room.root / "plan.dcm").write_bytes(plan_bytes())
    done = command("reference", "add", room.planned(beam=None), "--plan", room.root / "plan.dcm", "--with-uids")
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[1]
