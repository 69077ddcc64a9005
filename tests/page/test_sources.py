import threading
from dataclasses import replace
from datetime import timedelta

import pytest

from edge.errors import StateUnusable
from edge.page.sources import STATUS_KEPT_S, Sources
from edge.service.status import gather
from tests.page.made_room import NOW


class Asked:
    """Counts who asks how the service stands; a share may hang, and the state may be shut."""

    def __init__(self):
        self.times, self.go, self.error, self.now_s = 0, threading.Event(), None, 0.0
        self.go.set()

    def __call__(self, service, now):
        self.times += 1
        assert self.go.wait(20)
        if self.error:
            raise self.error
        return replace(gather(service, now), release=f"asked {self.times} times")


@pytest.fixture
def asked():
    return Asked()


@pytest.fixture
def sources(room, asked):
    room.record()
    opened = Sources(room.service, lambda: asked.now_s, lambda: NOW + timedelta(seconds=asked.now_s), asked)
    yield opened
    asked.go.set()
    opened.close()


def test_the_status_is_asked_for_once_a_second(sources, asked):
    assert {sources.status().release for _ in range(5)} == {"asked 1 times"}
    asked.now_s += STATUS_KEPT_S
    assert sources.status().release == "asked 2 times"


def test_while_a_share_hangs_the_last_status_is_shown_with_its_time(sources, asked):
    before = sources.status()
    asked.go.clear()
    asked.now_s += 5
    for _ in range(3):
        assert sources.status() is before
    assert asked.times == 2  # it is not asked again while it hangs
    assert before.when == NOW
    asked.go.set()
    while sources.status() is before:  # as soon as it has answered
        pass
    assert sources.status().when == NOW + timedelta(seconds=5)


def test_an_answer_that_nobody_fetched_is_not_given_to_who_looks_hours_later(sources, asked):
    before = sources.status()
    asked.go.clear()
    asked.now_s += 5
    assert sources.status() is before  # and nobody looks any more
    asked.go.set()
    while not sources._asked.done():
        pass
    asked.now_s += 3 * 3600
    while (found := sources.status()).release == "asked 2 times":  # slow: the last one is shown, with its time
        assert found.when == NOW + timedelta(seconds=5)
    assert (found.release, found.when) == ("asked 3 times", NOW + timedelta(seconds=asked.now_s))


def test_a_state_that_may_not_be_looked_at_is_said_each_time_until_it_may(sources, asked):
    asked.error = StateUnusable("state: this user may not look there; ask as root")
    for _ in range(2):
        with pytest.raises(StateUnusable, match="ask as root"):
            sources.status()
    asked.error = None
    assert sources.status().release == "asked 3 times"


def test_a_page_that_may_not_look_says_so(room, open_page, asked):
    asked.error = StateUnusable("state: this user may not look there; ask as root")
    room.record()
    client = open_page(room, ask=asked)
    answer = client.get("/")
    assert answer.status == 503
    assert "ask as root" in answer.text
