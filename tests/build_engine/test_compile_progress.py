"""What a compiler says while it works, and how it is stopped."""

import os
import signal

import pytest

from build_engine.compile import compile_engine
from build_engine.compiled import SilentProgress
from tests.build_engine.compiling import RTX


class Heard(SilentProgress):
    """Writes down what it hears; ``act`` is called at every step."""

    def __init__(self, act=lambda: None):
        self.begun, self.ended, self.done, self.act = [], [], {}, act

    def phase(self, name, steps):
        self.begun.append((name, steps))

    def step(self, name, done):
        self.done.setdefault(name, []).append(done)
        self.act()

    def finished(self, name):
        self.ended.append(name)


def test_what_the_compiler_says_is_passed_on(graphs):
    heard = Heard()
    compile_engine(graphs["fp32"], RTX, heard)
    assert len(heard.begun) > 3
    assert sorted(heard.ended) == sorted(name for name, _ in heard.begun)
    steps = dict(heard.begun)
    for name, done in heard.done.items():
        assert done[0] >= 1
        assert max(done) <= steps[name]


def test_an_exception_of_the_progress_stops_the_compiler_and_comes_through(graphs):
    def fail():
        raise ZeroDivisionError("at the first step")

    heard = Heard(fail)
    with pytest.raises(ZeroDivisionError, match="at the first step"):
        compile_engine(graphs["fp32"], RTX, heard)
    assert sum(map(len, heard.done.values())) == 1


@pytest.fixture
def interruptible():
    """Have interrupts heard: a shell that runs the tests in its background has them ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_stops_the_compiler(graphs, interruptible):
    heard = Heard()

    def interrupt():
        if sum(map(len, heard.done.values())) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    heard.act = interrupt
    with pytest.raises(KeyboardInterrupt):
        compile_engine(graphs["fp32"], RTX, heard)
    assert "Building engine" in dict(heard.begun)


def test_a_compiler_that_was_stopped_compiles_the_next_graph(graphs):
    def stop():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        compile_engine(graphs["fp16"], RTX, Heard(stop))
    assert compile_engine(graphs["fp16"], RTX, SilentProgress()).delivered["fp16"] > 0
