import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edge.constancy import ConstancyRun
from edge.errors import JournalDamaged, SpoolFull, StateUnusable
from edge.service.journal import Entry, Journal, Request, ask_requeue
from edge.service.journal_file import translated
from edge.service.journal_schema import STEPS
from edge.settle import FINISHED, Signature, State

FOLDER = Path("/drop")
EIGHT = datetime(2026, 1, 5, 8, tzinfo=UTC)


def entry(order: int, state: State = State.STABLE, **facts: object) -> Entry:
    plain = Entry(
        order, str(FOLDER), f"{FOLDER}/{order}.dcm", Signature(10, 20, 30), state, 0, 0, None, None, None, EIGHT, EIGHT
    )
    return replace(plain, **facts)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.sqlite"


@pytest.fixture
def journal(path):
    with Journal.open(path) as journal:
        yield journal


# what is kept


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"state": State.REFUSED, "reason": "is a colour image; export it", "kind": "UnsupportedImage", "sha256": "a"},
        {"state": State.PUBLISHED, "sha256": "a" * 64, "key": "b" * 64, "failures": 3, "crashes": 1, "again": True},
        # a share's inode can have 64 bits
        {"signature": Signature(1 << 40, 1_767_600_000_123_456_789, (1 << 64) - 1, 1_767_600_000_987_654_321)},
        {"path": f"{FOLDER}/" + os.fsdecode(b"J\xfcrgen \xff\n'\"")},
        {"present": False},
        {"changed_utc": EIGHT + timedelta(microseconds=1)},
    ],
)
def test_what_is_recorded_is_there_when_the_journal_is_opened_again(path, facts):
    recorded = entry(7, **facts)
    with Journal.open(path) as journal:
        journal.record([recorded])
    with Journal.open(path) as journal:
        assert journal.entries(FOLDER) == {recorded.path: recorded}
        assert journal.find([recorded.path, "/drop/another"]) == {recorded.path: recorded}
        assert journal.entries(Path("/another")) == {}


def test_a_reason_with_a_name_that_is_not_utf8_is_kept_as_text(journal):
    journal.record([entry(1, reason="J\udcfcrgen: is torn")])
    assert journal.waiting()[0].reason == r"J\udcfcrgen: is torn"


def test_a_file_keeps_its_row_and_when_it_was_first_seen(journal):
    journal.record([entry(1)])
    later = EIGHT + timedelta(hours=1)
    journal.record([entry(1, state=State.DONE, first_seen_utc=later, changed_utc=later)])
    assert journal.waiting() == []
    assert (journal.last_done().first_seen_utc, journal.last_done().changed_utc) == (EIGHT, later)


def test_orders_are_never_given_twice(path):
    with Journal.open(path) as journal:
        assert journal.last_order() == 0
        journal.record([entry(1), entry(9, State.DONE, present=False)])
        journal.forget_older_than(1, EIGHT + timedelta(days=9))
        assert journal.last_order() == 9
    with Journal.open(path) as journal:
        assert journal.last_order() == 9


def test_one_faulty_entry_takes_all_of_its_transaction_with_it(journal):
    with pytest.raises(AttributeError):
        journal.record([entry(1), None])
    assert journal.entries(FOLDER) == {}
    journal.record([entry(2)])
    assert len(journal.entries(FOLDER)) == 1


def test_a_transaction_is_on_disk_when_it_ends(journal):
    settings = [journal._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    assert settings == ["wal", 2]  # 2 is FULL: https://sqlite.org/pragma.html#pragma_synchronous


# questions


def test_counts_name_every_state_and_leave_out_what_left_unfinished(journal):
    journal.record([entry(order, state) for order, state in enumerate(State)])
    assert journal.counts() == dict.fromkeys(State, 1)
    paths = [entry(order).path for order in range(len(State))]
    journal.record(presence=dict.fromkeys(paths, False))
    assert journal.counts() == {state: int(state in FINISHED) for state in State}
    journal.record(presence=dict.fromkeys(paths, True))
    assert journal.counts() == dict.fromkeys(State, 1)


def test_waiting_files_come_oldest_first_and_no_more_than_asked_for(journal):
    journal.record([entry(3), entry(1), entry(2, State.RETRY_WAIT), entry(4, State.DONE), entry(5, State.REFUSED)])
    assert [one.order for one in journal.waiting()] == [1, 2, 3]
    assert [one.order for one in journal.waiting(limit=2)] == [1, 2]


def test_the_last_one_is_told_by_when_it_changed(journal):
    assert (journal.last_done(), journal.last_refused()) == (None, None)
    for state in FINISHED:
        first = 10 if state is State.DONE else 20
        journal.record([entry(first + n, state, changed_utc=EIGHT + timedelta(hours=(n * 2) % 3)) for n in range(3)])
    assert (journal.last_done().order, journal.last_refused().order) == (11, 21)  # 8, 10 and 9 o'clock
    assert [one.order for one in journal.refused()] == [21, 22, 20]


def test_what_is_no_image_is_not_among_the_refused(journal):
    left_alone = {"kind": "NotAnImage", "reason": "is text", "changed_utc": EIGHT + timedelta(hours=1)}
    journal.record(
        [entry(1, State.REFUSED, reason="is torn", kind="DamagedImage"), entry(2, State.REFUSED, reason="is grey")]
    )
    journal.record([entry(order, State.REFUSED, **left_alone) for order in (3, 4, 5)])
    assert (journal.not_images(), journal.counts()[State.REFUSED]) == (3, 2)
    assert journal.refused_by_reason() == {"is torn": 1, "is grey": 1}
    assert [one.order for one in journal.refused()] == [2, 1]
    assert journal.last_refused().order == 2
    journal.record(presence={entry(3).path: False})
    assert journal.not_images() == 3  # like what is finished, it counts when it left, too


def test_refusals_are_counted_by_reason_without_names_and_figures(journal):
    reasons = [
        "1.dcm: has 17 bytes of pixel data where 2 x 4 pixels need 16; send it again",
        "2.dcm: has 19 bytes of pixel data where 3 x 3 pixels need 18; send it again",
        "3.dcm: is a colour image (RGB); export it in grey",
        None,
    ]
    journal.record([entry(order, State.REFUSED, reason=reason) for order, reason in enumerate(reasons, 1)])
    assert journal.refused_by_reason() == {
        "has # bytes of pixel data where # x # pixels need #": 2,
        "is a colour image": 1,
        "no reason given": 1,
    }


def test_the_last_arrival_is_that_of_one_folder_and_of_an_image_with_its_result(journal):
    nine, ten = EIGHT + timedelta(hours=1), EIGHT + timedelta(hours=2)
    done = entry(1, State.DONE), entry(2, State.REFUSED, kind="DamagedImage", changed_utc=nine)
    others = entry(4, changed_utc=ten), entry(5, State.REFUSED, kind="NotAnImage", changed_utc=ten)
    journal.record([*done, entry(3, State.DONE, folder="/other"), *others])
    assert journal.last_arrival(FOLDER) == nine
    assert journal.last_arrival(Path("/other")) == EIGHT
    assert journal.last_arrival(Path("/empty")) is None


# forgetting


def test_only_finished_files_that_left_are_forgotten_and_only_old_ones(journal):
    old, young = EIGHT, EIGHT + timedelta(days=2)
    journal.record([entry(n, state, present=False, changed_utc=old) for n, state in enumerate(State, 1)])
    journal.record([entry(50, State.DONE, changed_utc=old), entry(51, State.DONE, present=False, changed_utc=young)])
    assert journal.forget_older_than(30, EIGHT + timedelta(days=31)) == 2  # done and refused
    left = {one.order for one in journal.entries(FOLDER).values()}
    assert left == {n for n, state in enumerate(State, 1) if state not in FINISHED} | {50, 51}


def test_constancy_runs_are_kept_and_forgotten(journal):
    runs = [
        ConstancyRun(EIGHT + timedelta(days=day), "r1", bool(day), 0.5 * day, 0.25, None if day else "drifted")
        for day in range(3)
    ]
    for run in runs:
        journal.add_constancy_run(run)
    assert journal.constancy_runs() == runs[::-1]
    assert journal.constancy_runs(limit=1) == [runs[2]]
    journal.forget_older_than(1, EIGHT + timedelta(days=2))
    assert journal.constancy_runs() == runs[:0:-1]


# other processes


def test_a_reader_sees_what_the_writer_recorded_last_while_it_goes_on_writing(path, journal):
    with Journal.open_for_reading(path) as reader:
        journal.record([entry(1)])
        assert reader.counts()[State.STABLE] == 1
        journal.record([entry(1, State.DONE)])
        assert reader.counts()[State.DONE] == 1
        with pytest.raises(StateUnusable, match="cannot be used"):
            reader.record([entry(2)])


def test_a_journal_is_read_when_no_daemon_runs_and_nothing_is_left_beside_it(path):
    with Journal.open(path) as journal:
        journal.record([entry(1)])
    with Journal.open_for_reading(path) as reader:
        assert reader.counts()[State.STABLE] == 1
    assert [one.name for one in path.parent.iterdir() if one.name.endswith("-journal")] == []


def test_where_there_is_no_journal_reading_and_asking_say_so_and_make_none(path):
    with pytest.raises(StateUnusable, match="there is no journal"):
        Journal.open_for_reading(path)
    with pytest.raises(StateUnusable, match="there is no journal"):
        ask_requeue(path, None)
    assert not path.exists()


def test_another_process_asks_and_the_daemon_takes_it_in_with_what_it_does_about_it(path, journal):
    name = os.fsdecode(b"/drop/J\xfcrgen")
    ask_requeue(path, [Path("/drop/1.dcm"), Path(name)])
    ask_requeue(path, None)
    assert journal.requests() == [Request(1, "/drop/1.dcm"), Request(2, name), Request(3, None)]
    journal.record([entry(1, State.SEEN, again=True)], taken=journal.requests()[:2])
    assert journal.requests() == [Request(3, None)]


def test_a_journal_that_another_program_holds_is_a_pause_and_no_end(path, journal):
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    journal._connection.execute("PRAGMA busy_timeout = 1")
    with pytest.raises(SpoolFull, match="locked"):
        journal.record([entry(1)])
    other.execute("ROLLBACK")
    other.close()
    journal.record([entry(1)])
    assert len(journal.waiting()) == 1


def test_a_full_disk_is_a_pause_and_what_was_recorded_stays(journal):
    journal.record([entry(1)])
    pages = journal._connection.execute("PRAGMA page_count").fetchone()[0]
    journal._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(SpoolFull, match="free some space"):
        journal.record([entry(n) for n in range(2, 2000)])
    assert [one.order for one in journal.waiting()] == [1]
    journal._connection.execute("PRAGMA max_page_count = 1000000")
    journal.record([entry(2)])
    assert len(journal.waiting()) == 2


# damage and other versions


@pytest.mark.parametrize("kind", ["no database", "torn", "overwritten inside"])
def test_a_damaged_journal_is_set_aside_under_another_name_and_a_new_one_begun(path, kind):
    with Journal.open(path) as journal:
        journal.record([entry(n) for n in range(500)])
    data = path.read_bytes()
    damaged = {
        "no database": b"no journal " * 1000,
        "torn": data[: len(data) // 2],
        "overwritten inside": data[:4096] + b"\xff" * 8192 + data[12288:],
    }[kind]
    path.write_bytes(damaged)
    with Journal.open(path, now_utc=EIGHT) as journal:
        assert journal.set_aside.name == "journal.damaged-20260105T080000.000000Z.sqlite"
        assert journal.set_aside.read_bytes() == damaged
        assert journal.entries(FOLDER) == {}
        journal.record([entry(1)])
    with Journal.open(path) as journal:
        assert (journal.set_aside, len(journal.waiting())) == (None, 1)


def test_an_empty_file_is_a_journal_to_begin(path):
    path.touch()
    with Journal.open(path) as journal:
        assert (journal.set_aside, journal.last_order()) == (None, 0)


def test_an_older_journal_is_brought_up_to_date_and_keeps_all_it_knows(path):
    with Journal.open(path) as journal:
        journal.record([entry(1), entry(2, State.DONE)])
    newer = (*STEPS, "ALTER TABLE files ADD COLUMN machine TEXT; UPDATE files SET machine = 'linac 1'")
    with Journal.open(path, steps=newer) as journal:
        assert journal._read("SELECT ord, machine FROM files") == [(1, "linac 1"), (2, "linac 1")]
        assert journal._read("PRAGMA user_version") == [(len(newer),)]
        assert [one.order for one in journal.waiting()] == [1]


def test_a_journal_from_before_kinds_were_kept_is_brought_up_to_date(path):
    with closing(sqlite3.connect(path)) as before:
        before.executescript(f"{STEPS[0]}; PRAGMA user_version = 1")
        names = "CAST('/drop' AS BLOB), CAST('/drop/1.dcm' AS BLOB)"
        row = f"1, {names}, 10, 20, 30, 'refused', 0, 0, 'is torn', NULL, NULL"
        utc = EIGHT.isoformat(timespec="microseconds")
        before.execute(f"INSERT INTO files VALUES ({row}, '{utc}', '{utc}', 0, 1)")
        before.commit()
    with Journal.open(path) as journal:
        (found,) = journal.refused()
        assert (found.reason, found.kind) == ("is torn", None)
        journal.record([replace(found, kind="NotAnImage")])
        assert (journal.refused(), journal.not_images()) == ([], 1)


def test_a_journal_from_before_ctimes_were_kept_is_brought_up_to_date(path):
    recorded = entry(1, state=State.DONE, signature=Signature(10, 20, 30))
    with Journal.open(path) as journal:
        journal.record([recorded])
    with closing(sqlite3.connect(path)) as before:
        before.executescript("ALTER TABLE files DROP COLUMN ctime_ns; PRAGMA user_version = 2")
    with Journal.open(path) as journal:
        assert journal.entries(FOLDER) == {recorded.path: recorded}  # None: not known
        seen = replace(recorded, signature=Signature(10, 20, 30, 40))
        journal.record([seen])
        assert journal.entries(FOLDER) == {recorded.path: seen}


def test_a_step_that_fails_leaves_the_journal_as_it_was(path):
    with Journal.open(path) as journal:
        journal.record([entry(1)])
    with pytest.raises(StateUnusable):
        Journal.open(path, steps=(*STEPS, "ALTER TABLE files ADD COLUMN machine TEXT; SELECT nonsense"))
    with Journal.open(path) as journal:
        assert [one.order for one in journal.waiting()] == [1]
        assert "machine" not in {row[1] for row in journal._read("PRAGMA table_info (files)")}


def test_a_newer_journal_is_neither_used_nor_touched(path):
    Journal.open(path, steps=(*STEPS, "CREATE TABLE later (x)")).close()
    before = path.read_bytes()
    with pytest.raises(StateUnusable, match="newer version"):
        Journal.open(path)
    with pytest.raises(StateUnusable, match="another version"):
        Journal.open_for_reading(path)
    assert path.read_bytes() == before


def test_a_folder_that_is_not_there_is_no_place_for_a_journal(tmp_path):
    with pytest.raises(StateUnusable, match="let the service's user write there"):
        Journal.open(tmp_path / "missing" / "journal.sqlite")


def test_a_journal_where_this_user_may_not_look_is_said_to_be_so(journal, path, as_nobody):
    with pytest.raises(StateUnusable, match="may not look there"), as_nobody(path.parent):
        Journal.open_for_reading(path)


def test_the_last_constancy_run_is_the_one_recorded_last_whatever_its_clock_said(journal):
    years_ahead = ConstancyRun(EIGHT + timedelta(days=3000), "r1", False, 9.0, 0.0, "drifted")
    for run in (years_ahead, replace(years_ahead, when_utc=EIGHT, passed=True)):
        journal.add_constancy_run(run)
    assert [run.passed for run in journal.constancy_runs()] == [True, False]


@pytest.mark.parametrize("code", [sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL])
def test_what_passes_is_a_pause_and_no_end(code, path):
    error = sqlite3.OperationalError("for the test")
    error.sqlite_errorcode = code
    assert isinstance(translated(error, path), SpoolFull)


def test_a_journal_that_is_damaged_while_it_serves_has_the_service_started_anew(path):
    with Journal.open(path) as journal:
        journal.record([entry(number, path=f"/drop/{number}" + "x" * 200) for number in range(1, 5000)])
        journal._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with path.open("r+b") as file:
            file.seek(4096 * 20)
            file.write(os.urandom(path.stat().st_size // 2))
        with pytest.raises(JournalDamaged, match="start the service anew"):
            journal.entries(FOLDER)
