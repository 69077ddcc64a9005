import csv
import errno
import io
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace

import pytest

from edge.page.plot import MARKS_MOST, Series, ticks_of, time_plot
from edge.page.sources import NO_RESULT_KEPT_S, ROWS_AT_ONCE, Sources
from edge.page.trend_rows import TrendRow
from edge.page.trends_csv import COLUMNS, trends_csv
from edge.page.trends_view import courses_of
from edge.results.publish import result_path
from edge.settle import State
from tests.page.made_room import NOW

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)


def row(**changes):
    entries = dict.fromkeys(COLUMNS) | {"ord": 1, "name": "X.dcm", "when_utc": BEGIN, "outcome": "ok"}
    return TrendRow(**entries | changes)


def table(answer):
    return list(csv.reader(io.StringIO(answer.text)))


# --- the view


def test_nothing_in_a_room_without_results(room, open_page):
    room.record()
    text = open_page(room).get("/trends").text
    assert "Nothing was finished in this time." in text
    assert "<svg" not in text


@pytest.mark.parametrize("days", [1, 7, 30, 90, 400])
def test_every_span_is_shown(page, days):
    assert page.get(f"/trends?days={days}").status == 200


@pytest.mark.parametrize(
    "query", ["days=0", "days=2", "days=-1", "days=x", "days=", "course=", "course=../x", "course=G"]
)
def test_another_span_or_course_is_not_found(page, query):
    assert page.get(f"/trends?{query}").status == 404
    assert page.get(f"/trends.csv?{query}").status == 404


def test_images_are_counted_by_what_became_of_them(page):
    """Of forty made images each tenth is of a sort: refused 7, withheld 3, no landmarks 5, no reference 9."""
    text = page.get("/trends").text
    for number, word in ((24, "shift known"), (4, "refused"), (4, "shift withheld"), (4, "no landmarks")):
        assert f'<span class="count-figure">{number}</span> {word}' in text


def test_refusals_are_counted_by_reason_in_words(page):
    assert ">unsupported image</th>" in page.get("/trends").text


def test_one_course_alone_has_its_own_figures(page):
    import re

    name, images = re.search(r"course=([0-9a-f]+)\">\1</a></th><td>(\d+)</td>", page.get("/trends").text).groups()
    lines = table(page.get(f"/trends.csv?course={name}"))
    assert len(lines) - 2 == int(images)  # the head, and the line that says what it is not for
    assert {line[COLUMNS.index("plan")] for line in lines[1:-1]} == {name}


def test_a_page_that_has_not_read_all_says_how_many_and_gets_the_rest(room):
    room.fill(ROWS_AT_ONCE * 2 + 5)
    now_s = iter(range(1000))
    sources = Sources(room.service, lambda: next(now_s), lambda: NOW)
    sources._read_on = lambda since: None  # what the pool would read meanwhile
    since = NOW - timedelta(days=30)
    found = sources.trend_rows(since, 1.5)  # one portion, since the clock is asked before it, and none after it
    assert (len(found.rows), found.unread) == (ROWS_AT_ONCE, ROWS_AT_ONCE + 5)
    assert found.rows[-1].name == f"portal_{ROWS_AT_ONCE * 2 + 5:05}.dcm"  # the newest are read first
    found = sources.trend_rows(since)
    assert (len(found.rows), found.unread) == (ROWS_AT_ONCE * 2 + 5, 0)
    assert [one.ord for one in found.rows] == sorted(one.ord for one in found.rows)
    sources.close()


@pytest.fixture
def clock():
    return SimpleNamespace(now_s=0.0)


@pytest.fixture
def sources(room, clock):
    opened = Sources(room.service, lambda: clock.now_s, lambda: NOW)
    yield opened
    opened.close()


def test_a_share_that_fails_for_a_moment_is_read_again(room, sources, monkeypatch):
    def failing(path):
        raise OSError(errno.EIO, "Input/output error")

    room.fill(3)
    since, (newest, *_) = NOW - timedelta(days=1), sources.recent(1)
    with monkeypatch.context() as patch:
        patch.setattr("edge.page.sources.read_ours", failing)
        assert sources.result(newest) is None
        found = sources.trend_rows(since)
        assert (found.rows, found.unread) == ((), 3)
    assert sources.result(newest) is not None
    found = sources.trend_rows(since)
    assert ([row.x_mm is None for row in found.rows], found.unread) == ([False, False, True], 0)  # the third: withheld


def test_a_result_that_was_not_there_is_looked_for_again_after_a_while(room, sources, clock):
    room.fill(1)
    path = result_path(room.drop / "portal_00001.dcm", None)
    aside = path.rename(path.with_name("aside"))  # as a share that is not mounted
    since = NOW - timedelta(days=1)
    found = sources.trend_rows(since)
    assert ([row.outcome for row in found.rows], found.unread) == (["done"], 0)
    aside.rename(path)
    clock.now_s += NO_RESULT_KEPT_S
    assert [row.outcome for row in sources.trend_rows(since).rows] == ["ok"]


def test_of_more_images_than_are_kept_the_newest_are_shown_and_both_table_and_page_say_so(
    room, sources, open_page, monkeypatch
):
    monkeypatch.setattr("edge.page.sources.ROWS_MOST", 20)
    monkeypatch.setattr("edge.page.sources.ROWS_AT_ONCE", 7)
    room.fill(30)
    for _ in range(2):  # and none of them is read for ever
        found = sources.trend_rows(NOW - timedelta(days=30))
        assert [row.ord for row in found.rows] == list(range(11, 31))
        assert (found.unread, found.cut) == (0, True)
    client = open_page(room)
    assert "than are shown" in client.get("/trends").text
    *_, cut, _ = table(client.get("/trends.csv"))
    assert "this table is of the newest" in cut[0]


def test_rows_of_another_time_make_place_for_those_that_are_asked_for(room, sources, monkeypatch):
    monkeypatch.setattr("edge.page.sources.ROWS_MOST", 20)
    room.fill(20)
    assert len(sources.trend_rows(NOW - timedelta(days=30)).rows) == 20
    room.record(*(room.entry(order, room.drop / f"{order}.png", State.REFUSED, NOW) for order in range(21, 31)))
    found = sources.trend_rows(NOW - timedelta(days=30))
    assert ([row.ord for row in found.rows], found.unread) == (list(range(11, 31)), 0)
    assert len(sources._rows) == 20


def test_medians_of_a_course_leave_out_what_has_no_shift():
    rows = [row(plan="a", x_mm=x, y_mm=-1.0) for x in (1.0, 2.0, 9.0)] + [row(plan="a", registration="withheld")]
    (course,) = courses_of(rows)
    assert (course.images, course.x_mm, course.y_mm, course.residual_mm) == (4, "+2.0", "−1.0", "–")


def test_a_course_without_a_plan_goes_by_its_beam():
    assert [one.name for one in courses_of([row(beam="b"), row(plan="p", beam="b"), row()])] == ["b", "p"]


# --- CSV


def test_the_csv_has_a_line_for_each_image_the_first_first(page):
    answer = page.get("/trends.csv?days=400")
    lines = table(answer)
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert "attachment" in answer.headers["content-disposition"]
    assert tuple(lines[0]) == COLUMNS
    assert [line[0] for line in lines[1:-1]] == [f"portal_{number:05}.dcm" for number in range(1, 41)]
    assert "not a medical device" in lines[-1][0]


@pytest.mark.parametrize("name", ["=1+1.dcm", "+x", "-x", "@x", "＝1", "＋1", "－1", "＠x"])
def test_a_name_is_no_formula(name):
    (_, line, _) = csv.reader(io.StringIO(trends_csv([row(name=name)]).decode()))
    assert line[0] == f"'{name}"


def test_no_other_separator_divides_a_name():
    text = trends_csv([row(name="a;=1+1.dcm")]).decode()
    assert '"a;=1+1.dcm",' in text


def test_a_figure_keeps_its_sign():
    (_, line, _) = csv.reader(io.StringIO(trends_csv([row(x_mm=-1.5)]).decode()))
    assert line[COLUMNS.index("x_mm")] == "-1.5"


def test_a_line_break_in_a_name_makes_no_line():
    assert len(list(csv.reader(io.StringIO(trends_csv([row(name="a\r\nb")]).decode())))) == 3


# --- plots


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 4, (0, 1, 2, 3, 4)),
        (-3.1, 4.2, (-4, -2, 0, 2, 4, 6)),
        (0, 0, (0, 0.25, 0.5, 0.75, 1)),
        (0, 0.018, (0, 0.005, 0.01, 0.015, 0.02)),
    ],
)
def test_ticks_are_round_and_hold_everything(low, high, ticks):
    found = ticks_of(low, high)
    if low == high:
        assert len(found) == 2
    else:
        assert found == pytest.approx(ticks)


def points(number, hours=1.0):
    return tuple((BEGIN + timedelta(hours=hours * index), float(index % 7)) for index in range(number))


def test_few_figures_are_each_a_mark_and_each_a_row():
    plot = time_plot("n", "mm", [Series("a", "disc", points(10))], BEGIN, BEGIN + timedelta(days=1))
    assert plot.svg.count("<circle") == 10
    assert len(plot.rows) == 10
    assert plot.caption == ""
    assert plot.rows[0] == ("2026-03-01 09:00", "2.0")  # the newest first: the tenth is 9 % 7


def test_many_figures_are_gathered_and_the_caption_says_how():
    plot = time_plot("n", "mm", [Series("a", "disc", points(10_000, 0.1))], BEGIN, BEGIN + timedelta(days=42))
    assert plot.svg.count("<circle") <= MARKS_MOST
    assert "median of 12 hours" in plot.caption
    assert sum(int(cells[1]) for cells in plot.rows) == 10_000


def test_a_wild_figure_does_not_flatten_the_others():
    wild = ((BEGIN, 1e300), (BEGIN, float("inf")), (BEGIN, float("nan")), (BEGIN, 2.0))
    plot = time_plot("n", "mm", [Series("a", "disc", wild)], BEGIN, BEGIN + timedelta(days=1))
    assert len(plot.rows) == 1


def test_no_figures_make_no_plot():
    assert time_plot("n", "mm", [Series("a", "disc", ())], BEGIN, BEGIN) is None


def test_a_moment_is_shown_in_local_time():
    end = (BEGIN + timedelta(days=1)).astimezone(timezone(timedelta(hours=5)))
    plot = time_plot("n", "mm", [Series("a", "disc", points(1))], BEGIN, end)
    assert plot.rows == (("2026-03-01 05:00", "0.0"),)


def test_a_name_in_a_plot_is_text():
    plot = time_plot("<b>&", "<i>", [Series("<u>", "disc", points(2)), Series("b", "square", points(2))], BEGIN, NOW)
    assert not any(tag in plot.svg for tag in ("<b>", "<i>", "<u>"))
