"""What the view Now says in a real browser where it is not kept up to date."""

import urllib.request
from contextlib import ExitStack
from datetime import UTC, datetime

import pytest

from edge.config import PageConfig
from edge.page.live import LISTENERS_MOST
from tests.page.browser import PATIENCE_S, free_port, page_of, visiting
from tests.page.made_room import MadeRoom

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    room = MadeRoom(tmp_path_factory.mktemp("room"), PageConfig(port=free_port()))
    room.fill(1, datetime.now(UTC))
    with page_of(room.config_file(), room.page.port) as opened:
        yield opened


def test_a_status_that_was_old_when_it_was_sent_is_said_to_be(chromium, address):
    times = {"X-As-Of": "2026-03-04T10:00:00+00:00", "X-Now": "2026-03-04T10:00:31+00:00"}

    def late(route):
        answer = route.fetch()
        route.fulfill(response=answer, headers=answer.headers | times)

    with visiting(chromium) as window:
        window.route("**/now/fragment*", late)
        window.goto(address)
        window.wait_for_selector("#lost:visible", timeout=PATIENCE_S * 1000)
        assert "does not answer. What is shown is as of 10:00:00, not now." in window.locator("#lost").inner_text()


def test_the_seventeenth_window_is_told_that_too_many_are_open(chromium, address):
    with ExitStack() as others, visiting(chromium, expected=("Failed to load",)) as window:
        for _ in range(LISTENERS_MOST):
            others.enter_context(urllib.request.urlopen(f"{address}events", timeout=PATIENCE_S)).readline()
        window.goto(address)
        window.wait_for_selector("#lost:visible", timeout=PATIENCE_S * 1000)
        window.wait_for_selector("#lost:has-text('Too many windows are open')", timeout=PATIENCE_S * 1000)
        others.close()
        window.wait_for_selector("#lost", state="hidden", timeout=PATIENCE_S * 1000)
