import io
import json
import math
import os
import struct
import threading
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from rich.console import Console

from edge.config import ClinicHours, Config, DropFolderConfig
from edge.constancy import ConstancyRun
from edge.errors import StateUnusable
from edge.service.audit_log import AuditLog
from edge.service.check_folders import Listings
from edge.service.installed import Service
from edge.service.journal import Entry, Journal
from edge.service.spool import HIGH_WATER_BYTES
from edge.service.state import AUDIT_LOG, JOURNAL, LOCK, held
from edge.service.status import ago, gather, in_words, local, render
from edge.settle import Signature, State

BERLIN = ZoneInfo("Europe/Berlin")
NOBODY = 65534
NOW = datetime(2026, 6, 1, 14, 0, tzinfo=BERLIN)  # a Monday
PASSED = ConstancyRun(datetime(2026, 6, 1, 3, 0, tzinfo=UTC), "small-1", True, 0.01, 0.001, None)
DRIFTED = replace(PASSED, passed=False, worst_shift_net_px=0.3, reason="release small-1 drifted; restart the service")


@dataclass
class Room:
    """A service's state and drop folder; `status` tells how it stands at `NOW`, while a daemon holds it, or not."""

    config: Config
    state: Path
    drop: Path

    def status(self, *, serving=True, now=NOW, free=lambda state: HIGH_WATER_BYTES, **changes):
        service = Service(None, self.config.model_copy(update=changes), "landmarknet-edge.service")
        with held(self.state) if serving else nullcontext():
            return gather(service, now, free=free)

    def journal(self, *entries, runs=(PASSED,)):
        with Journal.open(self.state / JOURNAL) as journal:
            journal.record(entries)
            for run in runs:
                journal.add_constancy_run(run)

    def entry(self, order, state, minutes_ago=5, name=None, **facts):
        when = NOW - timedelta(minutes=minutes_ago)
        path = str(self.drop / (name or f"X{order}.dcm"))
        entry = Entry(order, str(self.drop), path, Signature(1, 1, order), state, 0, 0, None, None, None, when, when)
        return replace(entry, **facts)


@pytest.fixture
def room(tmp_path):
    drop, state = tmp_path / "drop", tmp_path / "state"
    drop.mkdir()
    state.mkdir()
    hours = (ClinicHours(begin=time(8), end=time(18), silence_min=120),)
    folder = DropFolderConfig(path=drop, clinic_hours=hours)
    return Room(Config(drop_folder=(folder,), state_dir=state, constancy_at=time(5)), state, drop)


def always_quiet(room):
    """Return the drop folder without clinic hours."""
    return (DropFolderConfig(path=room.drop),)


def screen(status):
    """Return what a person reads, each line as long as it likes."""
    console = Console(file=io.StringIO(), width=400, color_system=None)
    console.print(render(status))
    return console.file.getvalue()


# --- well ---


def test_a_service_in_order_has_no_alarm(room):
    room.journal(room.entry(1, State.DONE))
    status = room.status()
    assert status.alarms == ()
    assert status.process == os.getpid()
    assert status.release  # the shipped one
    assert "A L L   I S   W E L L" in screen(status)


def test_the_queue_and_its_oldest_file_are_shown(room):
    room.journal(
        room.entry(1, State.DONE),
        room.entry(2, State.SEEN, minutes_ago=40, changed_utc=NOW),
        room.entry(3, State.STABLE, minutes_ago=50),
        room.entry(4, State.REFUSED),
    )
    status = room.status()
    assert (status.waiting, status.counts["done"], status.counts["refused"]) == (2, 1, 1)
    assert status.oldest_waiting.name == "X2.dcm"  # first seen first, whenever it changed
    assert "2 waiting (1 seen, 1 stable), the oldest X2.dcm since 13:20; 1 done, 1 refused" in screen(status)


def test_files_that_are_no_images_are_a_figure_of_their_own(room):
    slices = [room.entry(n, State.REFUSED, kind="NotAnImage", reason=f"X{n}.dcm: is no image") for n in range(2, 9)]
    room.journal(room.entry(1, State.REFUSED, minutes_ago=90, kind="DamagedImage", reason="X1.dcm: is torn"), *slices)
    status = room.status()
    assert (status.counts["refused"], status.not_images, status.to_json()["not_images"]) == (1, 7, 7)
    assert status.last_refused.name == "X1.dcm"
    assert status.refused_by_reason == {"is torn": 1}
    assert "nothing waits; 0 done, 1 refused, not images: 7" in screen(status)


def test_the_last_image_and_the_last_refusal_are_named_with_their_time(room):
    room.journal(
        room.entry(1, State.DONE, minutes_ago=90),
        room.entry(2, State.DONE, minutes_ago=7),
        room.entry(3, State.REFUSED, minutes_ago=30, reason="X3.dcm: is in colour"),
    )
    text = screen(room.status())
    assert "X2.dcm, 7 min ago (13:53)" in text
    assert "X3.dcm, 30 min ago (13:30): X3.dcm: is in colour" in text


def test_the_last_error_is_the_latest_of_the_files_that_are_tried_again(room):
    room.journal(
        room.entry(1, State.RETRY_WAIT, minutes_ago=9, failures=1, reason="disk"),
        room.entry(2, State.RETRY_WAIT, minutes_ago=2, failures=1, reason="share"),
        room.entry(3, State.STABLE, minutes_ago=1),
    )
    status = room.status()
    assert (status.last_error.name, status.last_error.reason) == ("X2.dcm", "share")
    assert status.alarms == ()  # a first failure mends itself


def test_the_constancy_runs_are_a_trend(room):
    days = ((2, 0.02), (1, 0.01), (0, 0.005))
    room.journal(
        runs=[replace(PASSED, when_utc=PASSED.when_utc - timedelta(days=n), worst_shift_net_px=px) for n, px in days]
    )
    assert "passed 9 h 00 min ago (05:00) with small-1; worst shifts, px of the network: 0.02 0.01 0.005" in screen(
        room.status()
    )


# --- alarms ---


def test_a_daemon_that_does_not_run_is_an_alarm_and_the_journal_is_read_all_the_same(room):
    room.journal(room.entry(1, State.DONE))
    status = room.status(serving=False)
    assert status.process is None
    assert status.alarms == ("no daemon serves: systemctl start landmarknet-edge.service",)
    assert status.last_done.name == "X1.dcm"


def test_to_ask_does_not_hold_the_lock(room):
    """A daemon that starts just then would end, for good."""
    room.journal()
    (room.state / LOCK).touch()  # nobody holds it
    locks = room.state.parent / "locks"
    locks.write_text(f"1: FLOCK  ADVISORY  WRITE 4711 08:01:{(room.state / LOCK).stat().st_ino} 0 EOF\n")
    assert gather(Service(None, room.config, "x.service"), NOW, locks).process == 4711


def test_a_missing_journal_is_an_alarm(room):
    (alarm,) = [one for one in room.status().alarms if "journal" in one]
    assert "there is no journal" in alarm


def test_a_damaged_journal_is_an_alarm(room):
    (room.state / JOURNAL).write_bytes(b"no database, but long enough to be looked at" * 200)
    (alarm,) = [one for one in room.status().alarms if "journal" in one]
    assert "is damaged" in alarm


def test_a_drop_folder_that_is_gone_is_an_alarm(room):
    room.journal()
    room.drop.rmdir()
    status = room.status()
    assert [alarm for alarm in status.alarms if "create it or mount its share" in alarm] == [status.folders[0].fault]
    assert "CANNOT BE LISTED" in screen(status)


def test_a_configuration_without_drop_folders_is_an_alarm(room):
    room.journal()
    (alarm,) = room.status(drop_folder=()).alarms
    assert "write [[drop_folder]] with its path into" in alarm


def test_silence_in_clinic_hours_is_an_alarm(room):
    room.journal(room.entry(1, State.DONE, minutes_ago=119))
    assert room.status().alarms == ()
    (alarm,) = room.status(now=NOW + timedelta(minutes=1)).alarms
    assert "no image for 2 h 00 min of clinic hours" in alarm
    assert str(room.drop) in alarm


def test_drifted_golden_images_are_an_alarm_with_their_reason(room):
    room.journal(runs=(PASSED, replace(DRIFTED, when_utc=PASSED.when_utc + timedelta(hours=1))))
    status = room.status()
    assert status.alarms == (f"constancy: {DRIFTED.reason}",)
    assert "DRIFTED, NOTHING IS PUBLISHED" in screen(status)


def test_a_run_that_passed_after_one_that_drifted_ends_the_alarm(room):
    room.journal(runs=(DRIFTED, replace(PASSED, when_utc=PASSED.when_utc + timedelta(hours=1))))
    assert room.status().alarms == ()


def test_a_constancy_run_that_stays_away_is_an_alarm_while_a_daemon_serves(room):
    room.journal()
    tomorrow = NOW + timedelta(days=1)
    assert room.status(now=tomorrow.replace(hour=5, minute=59), drop_folder=always_quiet(room)).alarms == ()
    (alarm,) = room.status(now=tomorrow.replace(hour=6, minute=0), drop_folder=always_quiet(room)).alarms
    assert "have not run since 2026-06-01 05:00" in alarm
    assert room.status(now=tomorrow, drop_folder=always_quiet(room), constancy_at=None).alarms == ()
    (other,) = room.status(now=tomorrow, drop_folder=always_quiet(room), serving=False).alarms
    assert "no daemon serves" in other


@pytest.mark.parametrize(("hour", "minute"), [(4, 30), (5, 10)])
def test_a_constancy_run_is_not_late_an_hour_before_and_after_its_time(room, hour, minute):
    """The last one was at a restart at half past four."""
    room.journal(runs=[replace(PASSED, when_utc=NOW.replace(hour=4, minute=30).astimezone(UTC))])
    assert room.status(now=NOW.replace(hour=hour, minute=minute), drop_folder=always_quiet(room)).alarms == ()


def test_a_file_that_fails_again_and_again_is_an_alarm(room):
    room.journal(room.entry(1, State.RETRY_WAIT, failures=4, reason="share; mount it"))
    (alarm,) = room.status().alarms
    assert "X1.dcm: share; mount it" in alarm


def test_little_space_for_the_state_is_an_alarm(room):
    room.journal()
    (alarm,) = room.status(free=lambda state: HIGH_WATER_BYTES - 1).alarms
    assert alarm.startswith(f"{room.state}: 268 MB are free")


def test_space_that_cannot_be_asked_for_is_an_alarm(room):
    def fail(state):
        raise StateUnusable("the disk is gone; see to it")

    room.journal()
    assert room.status(free=fail).alarms == ("the disk is gone; see to it",)


def test_a_release_that_cannot_be_named_is_an_alarm(room, tmp_path):
    room.journal()
    (alarm,) = room.status(release=tmp_path / "none").alarms
    assert "contract.json: cannot be read" in alarm


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_whoever_may_not_look_is_not_told_that_no_daemon_serves(room):
    room.journal()
    room.state.chmod(0o700)
    os.seteuid(NOBODY)
    try:
        with pytest.raises(StateUnusable, match="ask as root"):
            room.status(serving=False)
    finally:
        os.seteuid(0)


# --- as text ---


def test_a_file_name_can_neither_colour_nor_forge_a_line(room):
    name = "[red]X\x1b[2J\n1 ALARM\udcff.dcm"
    room.journal(
        room.entry(1, State.DONE, name=name), room.entry(2, State.RETRY_WAIT, failures=4, reason=f"{name}: no")
    )
    text = screen(room.status())
    assert r"[red]X\x1b[2J\n1 ALARM\xff.dcm" in text
    assert "\x1b" not in text
    assert "\n1 ALARM" not in text


def test_json_carries_the_same_and_no_infinity(room):
    room.journal(room.entry(1, State.REFUSED, reason="colour"), runs=(replace(DRIFTED, worst_shift_net_px=math.inf),))
    document = json.loads(json.dumps(room.status().to_json(), allow_nan=False))
    assert document["last_refused"] == {
        "name": "X1.dcm", "state": "refused", "when_utc": "2026-06-01T11:55:00+00:00", "reason": "colour",
    }  # fmt: skip
    assert document["constancy"][0]["worst_shift_net_px"] is None
    assert document["constancy"][0]["passed"] is False
    assert document["folders"][0]["path"] == str(room.drop)
    assert (document["waiting"], document["process"]) == (0, os.getpid())
    assert document["alarms"] == [f"constancy: {DRIFTED.reason}"]


def test_json_can_be_made_of_a_time_in_the_machine_s_own_zone(room):
    """Such a zone cannot be copied, as dataclasses.asdict() would."""
    one_zone_without_changes = struct.pack(">4s16x6llbb4s", b"TZif", 0, 0, 0, 0, 1, 4, 0, 0, 0, b"UTC")
    zone = ZoneInfo.from_file(io.BytesIO(one_zone_without_changes))
    room.journal()
    assert room.status(now=NOW.astimezone(zone)).to_json()["when"] == "2026-06-01T12:00:00+00:00"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min"), (3600, "1 h 00 min"), (172799, "47 h 59 min"),
     (172800, "2 days")],
)  # fmt: skip
def test_a_time_span_is_said_in_words(seconds, words):
    assert in_words(seconds) == words


def test_times_are_local_and_another_day_has_its_date():
    moment = datetime(2026, 6, 1, 11, 55, tzinfo=UTC)
    assert local(moment, NOW) == "13:55"
    assert local(moment - timedelta(days=1), NOW) == "2026-05-31 13:55"
    assert ago(moment, NOW) == "5 min ago (13:55)"
    assert ago(NOW + timedelta(hours=1), NOW) == "at 15:00"


# --- what serves, and what is said of it ---


def test_the_engine_is_the_one_that_serves_and_not_the_one_that_was_chosen_since(room):
    room.journal(room.entry(1, State.DONE))
    with AuditLog(room.state / AUDIT_LOG, NOW) as log:
        log.engine({"release": "older"}, NOW)
    status = room.status()
    assert status.release == "older"
    (alarm,) = status.alarms
    assert alarm.startswith("older serves, but the configuration names ")
    assert "systemctl restart landmarknet-edge.service" in alarm
    assert room.status(serving=False).release != "older"


def test_a_folder_in_which_nothing_ever_came_is_silent_since_the_service_began(room):
    room.journal()
    (room.state / LOCK).touch()
    began = NOW - timedelta(hours=3)
    os.utime(room.state / LOCK, (began.timestamp(),) * 2)
    (alarm,) = room.status().alarms
    assert "no image for 3 h 00 min of clinic hours" in alarm


def test_a_share_that_hangs_holds_one_thread_of_who_asks_every_second(room):
    held, asked = threading.Event(), []
    listings = Listings(lambda folder: asked.append(folder) or (held.wait(20) and ()))
    service = Service(None, room.config, "landmarknet-edge.service")
    said = {gather(service, NOW, answer_s=0.01, listings=listings).folders[0].fault for _ in range(5)}
    held.set()
    assert len(asked) == 1
    assert ["does not answer" in fault for fault in said] == [True]
