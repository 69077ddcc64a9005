"""The daemon under fire. `pytest -m faults` runs the full counts and brings docs/reliability.md up to date.

The default run does the same faults a few times each, and writes nothing. With -m faults, LANDMARKNET_FAULT_COUNT is
the most that each is done; LANDMARKNET_FAULT_FIRST is the first fuzzed file, so that a million can be done in slices.
What a machine lacks (root, loop devices, strace, FUSE with the package mfusepy, Samba) is skipped, and says so.
"""

import os
import shutil
import subprocess

import pytest

from tests.faults.accounts import Account
from tests.faults.report import Row, new_row, row_not_run, update
from tests.faults.room import ROOT, Room

REPORT = ROOT / "docs" / "reliability.md"
DAY_S = 86_400
ROWS = pytest.StashKey[list[Row]]()


def in_full(config: pytest.Config) -> bool:
    return "faults" in config.option.markexpr and "not faults" not in config.option.markexpr


def pytest_generate_tests(metafunc):
    """Give a test with ``@pytest.mark.counts(short, full)`` its ``count``: short by default, full with -m faults."""
    if "count" not in metafunc.fixturenames:
        return
    short, full = metafunc.definition.get_closest_marker("counts").args
    most = int(os.environ.get("LANDMARKNET_FAULT_COUNT", full))
    marks = [pytest.mark.faults, pytest.mark.timeout(DAY_S)]
    metafunc.parametrize(
        "count", [pytest.param(short, id="short"), pytest.param(min(full, most), id="full", marks=marks)]
    )


def pytest_collection_modifyitems(config, items):
    """Leave out the full counts unless they are asked for."""
    if in_full(config):
        return
    left_out = [item for item in items if item.path.parent == ROOT / "tests/faults" and "faults" in item.keywords]
    left_out = [item for item in left_out if item.get_closest_marker("faults")]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


def pytest_configure(config):
    config.stash[ROWS] = []
    config.addinivalue_line("markers", "counts(short, full): how often a fault is done by default, and with -m faults")


def pytest_sessionfinish(session):
    rows = session.config.stash.get(ROWS, [])
    if rows and in_full(session.config):
        update(REPORT, rows)


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash.get(ROWS, [])
    if rows and in_full(config):
        terminalreporter.section("faults")
        for row in rows:
            terminalreporter.line(spoken(row))


def spoken(row: Row) -> str:
    """Return a row as a line on a terminal."""
    costs = f"{row.lost} lost, {row.torn} torn, {row.doubled} doubled" if row.lost else ""
    recovery = f"{row.recovery_s} s" if row.recovery_s else ""
    return f"{row.fault}: " + ", ".join(part for part in (row.count, costs, recovery, row.note) if part)


class Recorder:
    """Keeps what goes into the report."""

    def __init__(self, rows: list[Row]) -> None:
        self._rows = rows

    def __call__(
        self, fault: str, count: int, account: Account | None, recovery_s: float | None = None, note: str = ""
    ) -> None:
        """Record what a fault cost, and fail if it cost anything; without an account the test has looked itself."""
        costs = (len(account.lost), len(account.torn), len(account.doubled)) if account else None
        self._rows.append(new_row(fault, count, costs, recovery_s, note))
        if account:
            account.demand_nothing_wrong()

    def demand(self, there: object, fault: str, reason: str) -> None:
        """Skip a fault that this machine cannot have, and say so in the report."""
        if not there:
            self._rows.append(row_not_run(fault, reason))
            pytest.skip(reason)

    def demand_root(self, fault: str) -> None:
        self.demand(os.geteuid() == 0, fault, "needs root, to mount")

    def demand_tool(self, tool: str, fault: str) -> None:
        self.demand(shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin:/sbin"), fault, f"needs {tool}")


@pytest.fixture
def record(request):
    """Return the `Recorder` of this session."""
    return Recorder(request.config.stash[ROWS])


@pytest.fixture(scope="session")
def release(quick_release):
    """Return the folder of a release that starts fast and always finds the same landmarks."""
    return quick_release


@pytest.fixture
def new_room(tmp_path, release):
    """Return a function that makes a `Room`; whatever runs in it ends with the test."""
    rooms = []

    def make(name="room", **options):
        rooms.append(Room(tmp_path / name, release, **options))
        return rooms[-1]

    yield make
    for room in rooms:
        room.close()


@pytest.fixture
def room(new_room):
    """Return one `Room`."""
    return new_room()


@pytest.fixture
def mounted():
    """Return a function that mounts something, and unmounts it when the test ends."""
    points = []

    def mount(*arguments, at):
        subprocess.run(["mount", *map(str, arguments), str(at)], check=True, capture_output=True)
        points.append(at)
        return at

    yield mount
    for point in reversed(points):
        subprocess.run(["umount", "-l", str(point)], check=False, capture_output=True)
