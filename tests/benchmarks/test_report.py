import json

import pytest

from benchmarks.figures import Bar, Figure
from benchmarks.report import BEGIN, END, Run, merged, rows_of, table, update
from benchmarks.timing import Spread

HERE = {"cores": 2, "memory_gb": 24, "kernel": "Linux 6.1", "cpu": "A", "python": "3.11.7"}
THERE = HERE | {"cpu": "B"}
NOVEMBER = Run("2026-11-01", 0.2, HERE, {"numpy": "2"})
DECEMBER = Run("2026-12-01", 0.3, THERE, {"numpy": "3"})
TITLES = {"network": "The network", "decode": "Decode"}
FAST = Figure("fast", 20.0, "ms", "plain", 100.0, Spread(0.2, 0.19, 0.21, 7), Bar(at_most=0.22))
PEAKS = Figure("peaks", 1.0, "ms", "scipy", 4.0, Spread(0.25, 0.2, 0.3, 9), Bar(at_most=0.2), "a note")


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "performance.md"
    path.write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    return path


def test_a_part_that_ran_leaves_the_rows_of_others_with_their_date_and_machine(page):
    store = page.with_suffix(".json")
    update(page, store, rows_of("network", [FAST], NOVEMBER), TITLES)
    update(page, store, rows_of("decode", [PEAKS], NOVEMBER), TITLES)
    update(page, store, rows_of("decode", [PEAKS], DECEMBER), TITLES)
    rows = json.loads(store.read_text())["rows"]
    assert [(row["part"], row["date"], row["machine"]["cpu"]) for row in rows] == [
        ("network", "2026-11-01", "A"),
        ("decode", "2026-12-01", "B"),
    ]


def test_the_text_around_the_rows_stays(page):
    for _ in range(2):
        update(page, page.with_suffix(".json"), rows_of("network", [FAST], NOVEMBER), TITLES)
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert text.count("| fast |") == 1


def test_a_page_without_a_place_for_rows_is_an_error(tmp_path):
    page = tmp_path / "performance.md"
    page.write_text("text\n")
    with pytest.raises(ValueError, match="put them in"):
        update(page, page.with_suffix(".json"), [], TITLES)
    assert page.read_text() == "text\n"


def test_rows_that_a_part_no_longer_has_go():
    old = rows_of("network", [FAST, PEAKS], NOVEMBER)
    new = rows_of("network", [FAST], DECEMBER)
    assert merged(old, new, ["network"]) == new


def test_rows_of_a_part_that_is_no_more_go():
    assert merged(rows_of("gone", [FAST], NOVEMBER), [], ["network"]) == []


def test_what_could_not_be_measured_does_not_replace_what_was():
    old, new = rows_of("network", [FAST], NOVEMBER), rows_of("network", [Figure("fast", note="none")], DECEMBER)
    assert merged(old, new, ["network"]) == old
    assert merged([], new, ["network"]) == new


def test_of_rows_that_never_were_measured_the_new_ones_stand():
    old = rows_of("network", [Figure("fast", note="none"), Figure("gone", note="none")], NOVEMBER)
    new = rows_of("network", [Figure("fast", note="another")], DECEMBER)
    assert merged(old, new, ["network"]) == new


def test_a_row_shows_ratio_spread_bar_and_whether_it_is_met():
    lines = table(rows_of("network", [FAST], NOVEMBER) + rows_of("decode", [PEAKS], DECEMBER), TITLES).splitlines()
    fast = "| fast | 20 ms | plain | 100 ms | 0.2 (0.19-0.21) | <= 0.22 | yes | 2026-11-01 | A, load 0.2 |"
    peaks = "| peaks | 1 ms | scipy | 4 ms | 0.25 (0.2-0.3) | <= 0.2 | **no** | 2026-12-01 | B, load 0.3 |"
    assert fast in lines
    assert peaks in lines
    assert "* peaks: a note" in lines
    assert lines[0] == "Machine A: A, 2 cores, 24 GB, Linux 6.1, Python 3.11.7."


def test_a_bar_on_our_own_figure_is_said_in_its_unit():
    figure = Figure(
        "beyond", 25.0, "ms", "inference", 50.0, Spread(0.5, 0.4, 0.6, 3), Bar(at_most=20), bar_on_ours=True
    )
    assert figure.is_met is False
    (row,) = rows_of("network", [figure], NOVEMBER)
    assert row["bar"] == "<= 20 ms"


def test_a_bar_is_met_on_its_edge():
    assert Bar(at_most=0.2).is_met(0.2)
    assert not Bar(at_most=0.2).is_met(0.21)
    assert Bar(at_least=0.85).is_met(0.85)
    assert not Bar(at_least=0.85).is_met(0.84)


def test_what_was_not_measured_neither_meets_nor_misses_a_bar():
    assert Figure("gpu", bar=Bar(at_most=0.4)).is_met is None
    assert Figure("shown only", 3.0, "ms").is_met is None
