import errno
import hashlib
import json
import os
from datetime import UTC, datetime, timedelta

import pytest

from edge.errors import SpoolFull, StateUnusable
from edge.service.audit_log import BEGINNING, AuditLog, chain, facts_of, serving_release, verify, verify_chain

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


def fact(name: str, **more: str) -> dict[str, str]:
    return {"event": "published", "image": name, **more}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.jsonl"


def written(path, *names, now_utc=NOON):
    with AuditLog(path, now_utc) as log:
        for name in names:
            log.append([fact(name)], now_utc)
    return path.read_bytes().splitlines()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def events(path):
    return [json.loads(line)["event"] for line in path.read_bytes().splitlines()]


# writing


def test_every_line_carries_the_hash_of_the_line_before(path):
    lines = written(path, "a", "b")
    parsed = [json.loads(line) for line in lines]
    assert [line["previous"] for line in parsed] == [BEGINNING, sha256(lines[0]), sha256(lines[1])]
    assert parsed[1] == {
        "previous": sha256(lines[0]),
        "time": "2026-01-05T12:00:00.000+00:00",
        "event": "published",
        "image": "a",
    }


def test_the_chain_goes_on_after_a_restart(path):
    written(path, "a")
    lines = written(path, "b")
    assert events(path) == ["begun", "published", "published"]
    assert json.loads(lines[2])["previous"] == sha256(lines[1])
    assert verify(path).broken_line is None


def test_several_lines_are_written_in_one_piece(path):
    with AuditLog(path, NOON) as log:
        log.append([fact("a"), fact("b")], NOON)
        log.append([], NOON)
    assert (verify(path).lines, verify(path).broken_line) == (3, None)


def test_a_line_is_on_disk_before_append_returns(path, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_size), fsync(fd)))
    with AuditLog(path, NOON) as log:
        synced.clear()
        log.append([fact("a")], NOON)
        assert synced == [path.stat().st_size]


def test_the_engine_is_told_once_until_it_changes_also_over_restarts_and_files(path):
    for now_utc in (NOON, NOON + timedelta(days=40)):
        with AuditLog(path, now_utc) as log:
            log.engine({"release": "r1", "manifest_sha256": None}, now_utc)
            log.retain(400, now_utc)
            log.engine({"release": "r1", "manifest_sha256": None}, now_utc)
    assert events(path) == ["continued"]
    assert json.loads(path.read_bytes())["release"] == "r1"
    with AuditLog(path, NOON) as log:
        log.engine({"release": "r1", "manifest_sha256": None}, NOON)
        log.engine({"release": "r2", "manifest_sha256": None}, NOON)
    assert events(path) == ["continued", "engine"]


def test_a_full_disk_leaves_no_half_line_and_the_chain_goes_on_later(path, monkeypatch):
    written(path, "a")
    before = path.read_bytes()
    with AuditLog(path, NOON) as log:
        write = os.write

        def half(fd, data):
            write(fd, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "write", half)
        with pytest.raises(SpoolFull, match="free some space"):
            log.append([fact("b")], NOON)
        monkeypatch.setattr(os, "write", write)
        assert path.read_bytes() == before
        log.append([fact("b")], NOON)
    assert (verify(path).lines, verify(path).broken_line) == (3, None)


def test_a_line_torn_by_a_power_loss_stays_and_is_told_of(path):
    written(path, "a")
    with path.open("ab") as file:
        file.write(b'{"previous": "12')
    written(path, "b")
    lines = path.read_bytes().splitlines()
    assert lines[2] == b'{"previous": "12'
    assert [json.loads(line)["event"] for line in lines[3:]] == ["torn", "published"]
    assert verify(path).broken_line is None


def test_lines_taken_out_before_a_torn_one_show(path):
    written(path, "a", "b")
    with path.open("ab") as file:
        file.write(b"torn")
    lines = written(path, "c")
    path.write_bytes(b"\n".join([*lines[:2], *lines[3:]]) + b"\n")
    assert verify(path).broken_line == 3


def test_a_log_that_was_moved_away_is_gone_on_with_in_a_new_file(path):
    with AuditLog(path, NOON) as log:
        log.append([fact("a")], NOON)
        moved = path.rename(path.with_name("audit-20260105T130000.000000Z.jsonl"))
        log.append([fact("b")], NOON)  # still to the file that it has open
        log.reopen(NOON)
        log.append([fact("c")], NOON)
    assert [events(one) for one in (moved, path)] == [["begun", "published", "published"], ["continued", "published"]]
    assert [verdict.broken_line for verdict in verify_chain(path)] == [None, None]


def test_a_folder_that_cannot_be_written_says_what_to_do(tmp_path):
    with pytest.raises(StateUnusable, match="let the service's user write there"):
        AuditLog(tmp_path / "missing" / "audit.jsonl", NOON)


def test_a_link_in_the_place_of_the_log_is_not_followed(path, tmp_path):
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateUnusable):
        AuditLog(path, NOON)
    assert not (tmp_path / "elsewhere").exists()


# retention


def test_a_month_is_closed_and_the_next_file_names_its_last_line(path):
    later = NOON + timedelta(days=30)
    with AuditLog(path, NOON) as log:
        log.append([fact("a")], NOON)
        log.retain(400, later - timedelta(seconds=1))
        assert chain(path) == [path]
        log.retain(400, later)
        log.append([fact("b")], later)
    closed, current = chain(path)
    assert [events(closed), events(current)] == [["begun", "published", "closed"], ["continued", "published"]]
    assert verify(current).begins_after == verify(closed).last_sha256
    written(path, "c", now_utc=later)
    assert [verdict.broken_line for verdict in verify_chain(path)] == [None, None]


def test_a_restart_does_not_begin_the_month_anew(path):
    written(path, "a")
    with AuditLog(path, NOON + timedelta(days=29)) as log:
        log.retain(400, NOON + timedelta(days=30))
    assert len(chain(path)) == 2


def test_closed_files_go_after_keep_days_and_the_rest_still_verifies(path):
    with AuditLog(path, NOON) as log:
        for month in range(1, 6):
            log.retain(65, NOON + timedelta(days=30 * month))
    assert [one.name for one in chain(path)] == [
        "audit-20260405T120000.000000Z.jsonl",  # closed on days 90, 120 and 150; that of day 60 is 90 days old
        "audit-20260505T120000.000000Z.jsonl",
        "audit-20260604T120000.000000Z.jsonl",
        "audit.jsonl",
    ]
    assert [verdict.broken_line for verdict in verify_chain(path)] == [None] * 4


# verifying


@pytest.mark.parametrize(
    ("tamper", "broken"),
    [
        (lambda lines: [lines[0], lines[1].replace(b'"a"', b'"x"'), *lines[2:]], 2),
        (lambda lines: [lines[0], *lines[2:]], 1),  # the line that is left before the gap
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], 1),
        (lambda lines: [*lines[:2], lines[1], *lines[2:]], 2),
        (lambda lines: [*lines[:2], b"", *lines[2:]], 3),
        (lambda lines: [*lines[:3], b"no json"], 4),
        (lambda lines: [lines[0].replace(BEGINNING.encode(), b"1" * 64), *lines[1:]], 1),
        (lambda lines: [*lines[:2], b"[" * 100_000, *lines[2:]], 3),
    ],
    ids=["altered", "taken out", "swapped", "doubled", "put in", "last one", "first one", "deep"],
)
def test_the_first_broken_line_is_named(path, tamper, broken):
    lines = written(path, "a", "b", "c")
    path.write_bytes(b"\n".join(tamper(lines)) + b"\n")
    assert verify(path).broken_line == broken
    assert verify(path).reason


def test_a_closed_file_that_is_missing_or_cut_at_its_end_breaks_the_next_one(path):
    with AuditLog(path, NOON) as log:
        for month in (1, 2):
            log.append([fact("a")], NOON)
            log.retain(400, NOON + timedelta(days=30 * month))
    first, second, _ = chain(path)
    data = second.read_bytes()
    second.write_bytes(b"\n".join(data.splitlines()[:-1]) + b"\n")
    assert [verdict.broken_line for verdict in verify_chain(path)] == [None, None, 1]
    second.unlink()
    assert [verdict.broken_line for verdict in verify_chain(path)] == [None, 1]
    first.unlink()
    assert [verdict.broken_line for verdict in verify_chain(path)] == [None]  # as after keep_days


def test_an_audit_log_that_is_not_there_is_no_verdict(path):
    assert verify_chain(path) == []
    with pytest.raises(StateUnusable, match="cannot be read"):
        verify(path)


# what stands in it


def test_of_a_result_only_names_hashes_and_status_are_kept():
    document = {
        "status": "ok",
        "reason": None,
        "image": {"name": "X.dcm", "sha256": "a", "sop_instance_uid": "1.2.3"},
        "provenance": {"key": "b", "release": "r1", "backend": {}},
        "landmarks": [{"x_px": 1}],
    }
    assert facts_of("published", document) == {
        "event": "published", "image": "X.dcm", "sha256": "a", "key": "b", "status": "ok", "release": "r1",
    }  # fmt: skip


@pytest.mark.parametrize("document", [{}, {"image": [], "provenance": "x"}, {"image": {"name": ["x"]}, "status": {}}])
def test_a_result_of_any_make_can_be_told_of(document):
    assert set(facts_of("found", document).values()) == {"found", None}


def test_a_log_where_this_user_may_not_look_is_said_to_be_so(path, as_nobody):
    written(path, "a")
    with pytest.raises(StateUnusable, match="may not look there"), as_nobody(path.parent):
        chain(path)


# a clock that is wrong for a while


def test_a_clock_years_ahead_removes_nothing(path):
    with AuditLog(path, NOON) as log:
        for month in range(1, 4):
            log.retain(400, NOON + timedelta(days=31 * month))
        before = chain(path)
        log.retain(400, NOON + timedelta(days=3650))
        assert chain(path) == before


def test_files_closed_under_a_wrong_clock_still_follow_one_another(path):
    with AuditLog(path, NOON) as log:
        log.append([fact("a")], NOON)
        log.append([fact("b")], NOON + timedelta(days=365))
        log.retain(400, NOON + timedelta(days=366))  # a year ahead for a day
    with AuditLog(path, NOON + timedelta(days=31)) as log:
        log.append([fact("c")], NOON + timedelta(days=32))
        log.retain(400, NOON + timedelta(days=70))
    assert len(chain(path)) == 3
    assert [verdict.broken_line for verdict in verify_chain(path)] == [None] * 3
    path.unlink()
    with AuditLog(path, NOON + timedelta(days=71)):
        assert [verdict.broken_line for verdict in verify_chain(path)] == [None] * 3


def test_the_engine_that_serves_is_the_one_of_the_last_line_about_one(path):
    assert serving_release(path) is None
    with AuditLog(path, NOON) as log:
        log.engine({"release": "r1"}, NOON)
        log.engine({"release": "r2"}, NOON)
        log.append([fact("a", release="r0")], NOON)
        assert serving_release(path) == "r2"
        log.retain(400, NOON + timedelta(days=40))
    assert serving_release(path) == "r2"


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_what_passes_is_a_pause_and_no_end(path, monkeypatch, number):
    with AuditLog(path, NOON) as log:
        log.close()

        def fails(*_arguments: object) -> int:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "open", fails)
        with pytest.raises(SpoolFull):
            log.append([fact("a")], NOON)
        monkeypatch.undo()
        log.append([fact("a")], NOON)
    assert events(path) == ["begun", "published"]
