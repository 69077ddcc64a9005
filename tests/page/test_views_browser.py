"""Now, Trends and Engines in a real browser, with no results, one, and ten thousand."""

from datetime import UTC, datetime

import pytest

from edge.config import PageConfig
from edge.settle import State
from tests.page.browser import DESK, WALL, await_true, free_port, overflow, page_of, serious_violations, visiting, walk
from tests.page.made_room import MadeRoom

VIEWS = {"/": "Now", "/trends?days=400": "Trends", "/engines": "Engines"}
NUMBERS = (0, 1, 10_000)
FIRST_PAINT_MS = 1000
PAINT = (
    "new Promise(done => { new PerformanceObserver(list => { for (const one of list.getEntries())"
    " if (one.name === 'first-contentful-paint') done(one.startTime); }).observe({type: 'paint', buffered: true}); })"
)

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    """Return by number of results: a room and the address of its page."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        made = {}
        for number in NUMBERS:
            room = MadeRoom(tmp_path_factory.mktemp(f"room{number}"), PageConfig(port=free_port()))
            room.fill(number, datetime.now(UTC))
            made[number] = room, stack.enter_context(page_of(room.config_file(), room.page.port))
        yield made


@pytest.fixture(params=NUMBERS, ids=lambda number: f"{number} results")
def address(request, rooms):
    return rooms[request.param][1].rstrip("/")


def opened(window, url):
    window.goto(url)
    window.wait_for_selector("[data-unread]", state="detached", timeout=60_000)
    return window


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("size", [DESK, WALL], ids=["1280 x 800", "3840 x 2160"])
def test_a_view_fits_its_screen_and_hinders_nobody(chromium, address, view, size):
    with visiting(chromium, size) as window:
        opened(window, address + view)
        assert window.title() == f"{VIEWS[view]} · LandmarkNet Edge"
        assert window.locator("nav [aria-current=page]").inner_text() == VIEWS[view]
        assert overflow(window) <= 0
        assert serious_violations(window) == []
        assert "not a medical device" in window.locator("footer").inner_text()


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_in_light_hinders_nobody_either(chromium, rooms, view):
    with visiting(chromium, theme="light") as window:
        opened(window, rooms[10_000][1].rstrip("/") + view)
        assert window.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(244, 245, 243)"
        assert serious_violations(window) == []


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_is_walked_through_by_keyboard_alone(chromium, address, view):
    with visiting(chromium) as window:
        opened(window, address + view)
        passed = walk(window)
        assert passed[0] == "A To the content"
        assert passed[1:5] == ["A LandmarkNet Edge", "A Now", "A Trends", "A Engines"]
        focusable = window.locator("a:visible:not([tabindex='-1']), button:visible, summary:visible").count()
        assert len(passed) >= focusable


@pytest.mark.parametrize("view", VIEWS)
def test_the_first_paint_of_ten_thousand_results_takes_less_than_a_second(chromium, rooms, view):
    """The best of three: the machine may be at work for somebody else."""
    with visiting(chromium) as window:
        found = []
        for _ in range(3):
            window.goto(rooms[10_000][1].rstrip("/") + view)
            found.append(window.evaluate(PAINT))
        assert min(found) < FIRST_PAINT_MS, found


def test_the_skip_link_leads_to_the_content_and_the_theme_is_kept(chromium, rooms):
    with visiting(chromium) as window:
        window.goto(rooms[1][1])
        window.keyboard.press("Tab")
        window.keyboard.press("Enter")
        assert window.evaluate("document.activeElement.id") == "main"
        button = window.locator("#theme")
        button.click()
        assert button.inner_text() == "Theme: light"
        assert window.evaluate("localStorage.getItem('theme')") == "light"


def test_a_table_of_figures_is_opened_and_scrolled_by_keyboard(chromium, rooms):
    with visiting(chromium) as window:
        opened(window, rooms[10_000][1] + "trends?days=400")
        window.locator("summary").first.focus()
        window.keyboard.press("Enter")
        assert window.locator("details[open] tbody tr").count() > 10
        window.keyboard.press("Tab")
        before = window.evaluate("document.activeElement.scrollTop")
        window.keyboard.press("End")
        await_true(window, f"document.activeElement.scrollTop > {before}")


def test_an_image_is_opened_by_enter(chromium, rooms):
    with visiting(chromium) as window:
        window.goto(rooms[1][1])
        window.locator("#latest-link").focus()
        window.keyboard.press("Enter")
        window.wait_for_url("**/image/1")
        assert window.locator("footer").inner_text().startswith("Decision support")


def test_what_changes_is_shown_without_a_reload_and_the_focus_stays(chromium, rooms):
    room, address = rooms[1]
    with visiting(chromium) as window:
        window.goto(address)
        window.evaluate("window.stayed = true")
        window.locator("#link-1").focus()
        room.record(room.entry(2, room.drop / "second.dcm", State.SEEN, datetime.now(UTC)))
        window.wait_for_selector("#file-2:has-text('arriving')", timeout=10_000)
        room.record(room.entry(2, room.drop / "second.dcm", State.REFUSED, datetime.now(UTC), reason="it is none; x"))
        window.wait_for_selector("#latest:has-text('second.dcm')", timeout=10_000)
        window.wait_for_selector("#file-2:has-text('refused')", timeout=10_000)
        assert window.evaluate("document.activeElement.id") == "link-1"
        assert "second.dcm: refused" in window.locator("#news").inner_text()
        assert window.evaluate("window.stayed")
        order = window.eval_on_selector_all(".files > li", "all => all.map(one => one.id)")
        assert order == ["file-2", "file-1"]


def test_hostile_names_run_nothing(chromium, tmp_path):
    room = MadeRoom(tmp_path, PageConfig(port=free_port()))
    names = ['"><img src=x onerror="window.hurt=1">.dcm', "<script>window.hurt=1<∕script>.dcm", "\u202egpj.dcm"]
    now = datetime.now(UTC)
    reason = "<script>window.hurt=1</script>"
    room.record(
        *(
            room.entry(order, room.drop / name, State.REFUSED, now, reason=reason, kind="<b>x</b>")
            for order, name in enumerate(names, 1)
        )
    )
    with page_of(room.config_file(), room.page.port) as address, visiting(chromium) as window:
        for view in (*VIEWS, "/image/1", "/image/2"):
            window.goto(address.rstrip("/") + view)
            window.wait_for_timeout(100)
            assert window.evaluate("window.hurt") is None
        window.goto(address)
        assert names[0] in window.locator("#file-1").inner_text()
        assert reason in window.locator("#file-1").inner_text()
