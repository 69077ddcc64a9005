from dataclasses import replace

from tests.faults.report import Row, merged, new_row, read_rows, row_not_run, update, written

KILLED = Row("kill -9", "1,000", "0", "0", "0", "2.1", "2026-11-01", "2 cores", "")
POWER = Row("power loss", "500", "0", "0", "0", "3.0", "2026-11-02", "4 cores", "of them 20 while it started")


def test_a_report_is_read_as_it_was_written():
    assert read_rows(written([KILLED, POWER])) == [KILLED, POWER]


def test_a_run_replaces_its_own_row_and_leaves_the_others_with_their_date(tmp_path):
    path = tmp_path / "reliability.md"
    update(path, [KILLED, POWER])
    again = replace(POWER, count="7", when="2026-12-01")
    update(path, [again])
    assert read_rows(path.read_text()) == [KILLED, again]


def test_a_fault_that_could_not_be_had_does_not_replace_a_row_that_ran():
    missing = row_not_run("power loss", "no loop devices here")
    assert merged([POWER], [missing]) == [POWER]
    assert merged([KILLED], [missing]) == [KILLED, missing]
    assert merged([missing], [POWER]) == [POWER]


def test_what_was_not_counted_stays_empty():
    assert (new_row("fuzz", 5, None, None).lost, new_row("fuzz", 5, None, None).recovery_s) == ("", "")


def test_a_row_has_lost_torn_and_doubled_in_that_order():
    row = new_row("kill -9", 1000, (1, 2, 3), 2.05)
    assert (row.count, row.lost, row.torn, row.doubled, row.recovery_s) == ("1,000", "1", "2", "3", "2.0")
