from dataclasses import replace
from datetime import datetime, time

import pytest

from edge.config import ClinicHours, DropFolderConfig
from edge.constancy import ConstancyRun
from edge.errors import DeviceLost, NotAnImage, SpoolFull
from edge.service.metrics import NoMetrics
from edge.settle import State
from tests.edge.daemon_room import Room


@pytest.fixture
def room(tmp_path):
    room = Room(tmp_path)
    yield room
    room.stop()


# constancy and silence


def golden(room: Room, *passes: bool) -> list[datetime]:
    """Have the golden images pass or drift, in turn; return when they are run."""
    ran, verdicts = [], iter(passes)

    def check(now: datetime) -> ConstancyRun:
        ran.append(now)
        passed = next(verdicts)
        return ConstancyRun(now, "r1", passed, 0.0, 0.0, None if passed else "drifted; roll back")

    room.around = replace(room.around, check_golden=check)
    return ran


def test_the_golden_images_run_at_the_start_and_once_a_day(room):
    ran = golden(room, True, True, True)
    room.restart()
    room.run_for(60)
    room.restart()
    room.run_for(60)
    assert len(ran) == 1  # the journal knows
    room.clock.now_s += 24 * 3600
    room.run_for(120)
    assert len(ran) == 2
    assert [run.passed for run in room.journal.constancy_runs()] == [True, True]


def test_while_the_last_run_drifted_nothing_is_published_and_sweeping_goes_on(room):
    golden(room, False, True)
    room.restart()
    room.put("X.dcm")
    room.run_for(600)
    assert room.pipeline.calls == []
    assert room.states() == {"X.dcm": State.STABLE}
    assert "PAUSED: golden images drifted" in room.daemon.status()
    assert [e["log_level"] for e in room.log.entries if e["event"] == "golden images were run"] == ["error"]
    room.restart()  # as after a rollback: the images run again at once
    room.run_for(10)
    assert room.result("X.dcm")["status"] == "ok"


def test_after_a_restart_the_metrics_tell_the_last_run_in_the_journal(room):
    golden(room, True)
    room.restart()
    room.run_for(10)
    heard = Constancy()
    room.around = replace(room.around, metrics=heard)
    room.restart()
    room.run_for(1)
    assert heard.runs == room.journal.constancy_runs()
    assert len(heard.runs) == 1


class Constancy(NoMetrics):
    """Metrics that remember the runs of the golden images."""

    def __init__(self) -> None:
        self.runs: list[ConstancyRun] = []

    def constancy(self, run: ConstancyRun) -> None:
        self.runs.append(run)


def test_golden_images_that_cannot_be_run_just_now_are_run_a_minute_later(room):
    verdicts = iter([DeviceLost("no GPU; started anew"), None])

    def check(now: datetime) -> ConstancyRun:
        if error := next(verdicts):
            raise error
        return ConstancyRun(now, "r1", True, 0.0, 0.0, None)

    room.around = replace(room.around, check_golden=check)
    room.restart()
    room.put("X.dcm")
    room.run_for(59)
    assert room.result("X.dcm")["status"] == "ok"
    assert room.journal.constancy_runs() == []
    room.run_for(7)
    assert len(room.journal.constancy_runs()) == 1


def test_silence_in_clinic_hours_is_one_error_until_an_image_comes(room):
    hours = ClinicHours(begin=time(8), end=time(18), silence_min=60)
    folder = DropFolderConfig(path=room.drop, clinic_hours=(hours,))
    room.config = room.config.model_copy(update={"drop_folder": (folder,)})
    room.restart()
    silences = lambda: sum(event.startswith("no images in clinic hours") for event in room.events())  # noqa: E731
    room.run_for(59 * 60)
    assert silences() == 0
    room.run_for(120 * 60)
    assert silences() == 1
    room.put("X.dcm")
    room.run_for(59 * 60)
    assert silences() == 1
    room.run_for(10 * 60)
    assert silences() == 2


def drifted_before(room: Room, check) -> None:
    room.journal.add_constancy_run(ConstancyRun(room.clock.now(), "r1", False, 9.0, 0.0, "drifted; roll back"))
    room.around = replace(room.around, check_golden=check)
    room.restart()
    room.put("X.dcm")


def no_device(now: datetime) -> ConstancyRun:
    raise DeviceLost("no GPU; started anew")


def test_an_engine_that_drifted_before_a_restart_publishes_nothing_until_it_passed(room):
    drifted_before(room, no_device)
    room.run_for(600)
    assert room.pipeline.calls == []
    assert "PAUSED: golden images drifted" in room.daemon.status()


def test_without_appointments_nothing_is_withheld(room):
    room.config = room.config.model_copy(update={"constancy_at": None})
    drifted_before(room, no_device)
    room.run_for(10)
    assert room.result("X.dcm")["status"] == "ok"


def test_a_drift_counts_also_while_it_cannot_be_recorded(room, monkeypatch):
    golden(room, *[False] * 20)
    room.restart()

    def busy(_run: ConstancyRun) -> None:
        raise SpoolFull("journal: is locked")

    monkeypatch.setattr(room.journal, "add_constancy_run", busy)
    room.put("X.dcm")
    room.run_for(600)
    assert room.pipeline.calls == []
    assert "PAUSED: golden images drifted" in room.daemon.status()
    assert "golden images could not be run, to be tried again" not in room.events()


def test_files_that_are_no_images_do_not_end_the_silence(room):
    hours = ClinicHours(begin=time(8), end=time(18), silence_min=60)
    folder = DropFolderConfig(path=room.drop, clinic_hours=(hours,))
    room.config = room.config.model_copy(update={"drop_folder": (folder,)})
    room.restart()
    for number in range(4):
        room.pipeline.raises[f"{number}.txt"] = iter([NotAnImage("no")])
        room.put(f"{number}.txt")
        room.run_for(30 * 60)
    assert sum(event.startswith("no images in clinic hours") for event in room.events()) == 1
