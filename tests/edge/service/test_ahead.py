"""Claims before a file's turn, on a file system that may hang."""

import os
import threading

import pytest

from edge.service.ahead import REST_S, Ahead
from edge.service.spool import clear_spool
from edge.settle import signature_of


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ahead(tmp_path, clock):
    clear_spool(tmp_path / "spool")
    return Ahead(tmp_path / "spool", 2**20, wait_s=10.0, clock=clock)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "X.dcm"
    path.write_bytes(b"image")
    return path


def begin(ahead, image):
    return ahead.begin(image, signature_of(image.lstat()))


def copies(ahead):
    return list(ahead.spool.iterdir())


def yes(_signature):
    return True


def test_a_claim_is_taken_once_and_gone_when_its_holder_is_closed(ahead, image):
    claim = begin(ahead, image)
    assert claim.copy.read_bytes() == b"image"
    taken, held = ahead.take(image, yes)
    assert taken == claim
    assert ahead.take(image, yes) is None
    held.close()
    assert copies(ahead) == []


def test_a_claim_of_another_file_a_changed_one_or_an_old_one_is_let_go_of(ahead, image, clock):
    begin(ahead, image)
    assert ahead.take(image.with_name("Y.dcm"), yes) is None
    begin(ahead, image)
    assert ahead.take(image, lambda signature: False) is None
    begin(ahead, image)
    clock.now_s += REST_S + 1
    assert ahead.take(image, yes) is None
    assert copies(ahead) == []


def test_what_is_no_longer_the_settled_version_is_not_claimed(ahead, image):
    settled = signature_of(image.lstat())
    image.write_bytes(b"another one")
    assert ahead.begin(image, settled) is None
    assert copies(ahead) == []


def test_a_claim_that_fails_says_nothing(ahead, image):
    assert ahead.begin(image.with_name("gone"), signature_of(image.lstat())) is None


@pytest.fixture
def hanging(monkeypatch):
    """Have every read of a file wait until the event is set."""
    let_go, read = threading.Event(), os.read

    def wait(*arguments):
        assert let_go.wait(60)
        return read(*arguments)

    monkeypatch.setattr(os, "read", wait)
    yield let_go
    let_go.set()


def test_a_file_that_hangs_holds_up_nobody_and_leaves_nothing(ahead, image, clock, hanging):
    ahead.wait_s = 0.01
    assert begin(ahead, image) is None
    clock.now_s += 2 * REST_S
    assert begin(ahead, image) is None  # the first one is still on its way: no second thread
    assert ahead.take(image, yes) is None
    claiming = ahead._claiming
    hanging.set()
    assert claiming.ended.wait(10)
    assert copies(ahead) == []
    ahead.wait_s = 10.0
    assert begin(ahead, image) is not None


def test_after_a_slow_one_none_is_tried_for_a_while(ahead, image, clock, hanging):
    ahead.wait_s = 0.01
    assert begin(ahead, image) is None
    claiming = ahead._claiming
    hanging.set()
    assert claiming.ended.wait(10)
    ahead.wait_s = 10.0
    assert begin(ahead, image) is None
    clock.now_s += REST_S + 1
    assert begin(ahead, image) is not None
