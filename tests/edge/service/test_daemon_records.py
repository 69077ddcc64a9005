import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

import edge.errors
from edge.errors import (
    JournalDamaged,
    ResultsNotWritable,
    SpoolFull,
)
from edge.log import open_log
from edge.service.audit_log import AuditLog, verify
from edge.settle import State
from tests.edge.daemon_room import Room


@pytest.fixture
def room(tmp_path):
    room = Room(tmp_path)
    yield room
    room.stop()


# the audit log


def test_the_audit_log_has_a_line_for_every_result_and_every_refusal(room, tmp_path):
    room.around = replace(room.around, audit=AuditLog(tmp_path / "audit.jsonl", room.clock.now()))
    room.restart()
    room.put("X.dcm")
    room.put("Y.dcm", b"part")
    room.run_for(310)
    room.restart(room.journal_path.unlink)
    room.run_for(10)
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [(line["event"], line.get("image"), line.get("status")) for line in lines] == [
        ("begun", None, None),
        ("published", "X.dcm", "ok"),
        ("refused", "Y.dcm", "refused"),
        ("found", "X.dcm", "ok"),
        ("found", "Y.dcm", "refused"),
    ]
    assert verify(tmp_path / "audit.jsonl").broken_line is None
    room.around.audit.close()


def test_a_result_whose_audit_line_finds_no_space_gets_it_later(room, tmp_path, monkeypatch):
    audit = AuditLog(tmp_path / "audit.jsonl", room.clock.now())
    room.around = replace(room.around, audit=audit)
    room.restart()
    append, full = audit.append, [True]

    def sometimes(*arguments: object) -> None:
        if full[0]:
            raise SpoolFull("audit.jsonl: no space; free some")
        append(*arguments)

    monkeypatch.setattr(audit, "append", sometimes)
    room.put("X.dcm")
    room.run_for(10)
    assert room.result("X.dcm") is not None
    assert room.states() != {"X.dcm": State.DONE}
    full[0] = False
    room.run_for(100)
    assert room.states() == {"X.dcm": State.DONE}
    assert len(room.pipeline.calls) == 1
    assert '"event": "found", "image": "X.dcm"' in (tmp_path / "audit.jsonl").read_text()
    audit.close()


# progress


def test_a_daemon_that_cannot_look_at_its_folder_for_want_of_a_journal_made_no_progress(room, monkeypatch):
    def busy(_folder: Path) -> dict:
        raise SpoolFull("journal: is locked")

    assert not room.daemon.progressed()
    monkeypatch.setattr(room.journal, "entries", busy)
    assert room.daemon.step() > 0
    assert not room.daemon.progressed()
    monkeypatch.undo()
    room.run_for(2)
    assert room.daemon.progressed()


# the log


def lines(level: str, log) -> list[str]:
    stream = io.StringIO()
    log(open_log(stream, level))
    return stream.getvalue().splitlines()


def test_an_event_is_one_line_of_keys_and_values():
    (line,) = lines("info", lambda log: log.info("result published", image="RI 1.dcm", landmarks=17, once=True))
    time, rest = line.split(" ", 1)
    assert rest == 'level=info event="result published" image="RI 1.dcm" landmarks=17 once=true'
    assert time.startswith("time=2")
    assert time.endswith("Z")


@pytest.mark.parametrize("name", ["a\nlevel=error", "a\rb", "a\x1b[31m", "J\udcfcrgen", "a\u2028b"])
def test_no_file_name_can_forge_a_line(name):
    (line,) = lines("info", lambda log: log.info("refused", image=name))
    assert line.isprintable()
    line.encode()


def test_a_trace_stays_on_its_line():
    def fail(log) -> None:
        try:
            [].pop()
        except IndexError:
            log.exception("unforeseen fault")

    (line,) = lines("info", fail)
    assert "IndexError: pop from empty list" in line


def test_the_level_is_kept():
    assert len(lines("warning", lambda log: (log.info("a"), log.warning("b"), log.debug("c")))) == 1


def test_the_daemon_logs_no_trace_for_a_refused_file_and_only_known_keys(room):
    room.put("damaged", b"part")
    room.put("X.dcm")
    room.put("X")
    room.pipeline.raises["X.dcm"] = iter([ResultsNotWritable("full; free some")])
    room.run_for(400)
    known = {"event", "log_level", "folder", "image", "reason", "error", "status", "landmarks", "files"}
    assert {key for entry in room.log.entries for key in entry} <= known | {"leftovers_removed"}
    assert "refused" in room.events()
    assert edge.errors.ResultNameTaken.__name__ in {entry.get("error") for entry in room.log.entries}


# a damaged journal


def test_a_journal_that_is_damaged_while_it_serves_ends_the_daemon_for_a_new_one(room, monkeypatch):
    """No Stop: its status 78 would keep systemd from starting the one that sets the journal aside."""

    def damaged(*_arguments: object, **_options: object) -> None:
        raise JournalDamaged("journal.sqlite: is damaged")

    room.put("X.dcm")
    monkeypatch.setattr(room.journal, "record", damaged)
    with pytest.raises(JournalDamaged):
        room.run_for(10)
    assert room.pipeline.calls == []
