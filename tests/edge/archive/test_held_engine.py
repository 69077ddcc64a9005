"""What a Dask worker holds, without Dask around it."""

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from edge.archive.entries import Entry, Told
from edge.archive.held_engine import HeldEngine
from edge.archive.order import Order, Promise, Unfit, marked, promise_of, sample_of
from edge.config import Config

RUN = "landmarknet-edge-0123"


@pytest.fixture
def image(write, dicom, collimated):
    return write(dicom(collimated()), "X.dcm")


@pytest.fixture
def new_held(image, quick_release):
    """Return a function that makes what a worker holds; all is closed at the end."""
    config = Config(release=quick_release)
    made = []
    with marked(image.parent, RUN, make=False) as mark:

        def new(promise=None, idle_s=100.0):
            order = Order(
                RUN, config, promise or promise_of(config), mark, sample_of([Entry(image, None)]), embedded=True
            )
            made.append(HeldEngine(order, idle_s))
            made[-1].setup(SimpleNamespace(address="tcp://here"))
            return made[-1]

        yield new
        for held in made:
            held.teardown(None)
            if held._timer:
                held._timer.cancel()
                held._timer.join()


@pytest.fixture(autouse=True)
def keep_interrupt():
    """Keep Ctrl-C for the tests: `setup` in a worker of one's own gives it up."""
    import signal

    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def processes():
    return Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()


def test_an_engine_is_opened_once_when_it_is_first_asked_for(new_held, image):
    before = processes()
    held = new_held()
    assert processes() == before
    assert held.open() == ()
    opened = processes()
    assert len(opened) == len(before) + 1
    assert held.process(Entry(image, None)) == Told(image, "done")
    assert processes() == opened


def test_the_end_of_the_run_closes_it_and_it_stays_closed(new_held, image):
    before = processes()
    held = new_held()
    held.open()
    held.teardown(None)
    assert processes() == before
    with pytest.raises(Unfit, match="the run is over"):
        held.process(Entry(image, None))
    assert not image.with_name("X.landmarks.json").exists()


def test_an_engine_that_nobody_asks_for_is_closed_and_opened_again_when_somebody_does(new_held, image):
    before = processes()
    held = new_held(idle_s=0.01)
    held.open()
    held._timer.join(10)
    assert processes() == before
    assert held.process(Entry(image, None)).became == "done"


def test_a_worker_with_another_release_than_the_command_is_unfit_and_holds_nothing(new_held):
    before = processes()
    held = new_held(Promise("another", "d" * 64, None))
    with pytest.raises(Unfit, match=r"the worker tcp://here opened the release small-1, .* not another"):
        held.open()
    assert processes() == before
