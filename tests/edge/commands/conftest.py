"""A room whose plan is known: commands and daemons over it, and its release, which states its sigmas."""

from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from edge.cli import app
from tests.edge.planned_room import CARINA, ROW, PlannedRoom, plan_bytes, write_release


@pytest.fixture(scope="session")
def planned_release(tmp_path_factory, contract, rows, tiny_model):
    """Return the folder of a release that finds the same landmarks in every image."""
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
