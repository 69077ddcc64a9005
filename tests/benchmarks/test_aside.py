import os
import sys

import pytest

from benchmarks.aside import Aside, AsideFailed, once


def counting(start):
    """A contender for these tests: counts its turns, and writes to where answers must not mix."""
    numbers = iter(range(start, start + 100))

    def turn():
        sys.stdout.write("what a library has to say\n")
        return {"number": next(numbers), "threads": os.environ.get("OMP_NUM_THREADS")}

    return turn


def failing():
    raise RuntimeError("no such library")


def test_turns_are_taken_by_one_process_with_its_own_threads():
    with Aside("tests.benchmarks.test_aside:counting", {"start": 7}, threads=2) as contender:
        assert [contender.turn() for _ in range(2)] == [{"number": 7, "threads": "2"}, {"number": 8, "threads": "2"}]
        assert contender.peak_mb() > 5  # a Python holds that


def test_without_threads_the_libraries_choose(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    answer, _ = once("tests.benchmarks.test_aside:counting", {"start": 0}, threads=None)
    assert answer["threads"] is None


def test_a_contender_that_cannot_be_had_says_why():
    with pytest.raises(AsideFailed, match="failing: RuntimeError: no such library"):
        Aside("tests.benchmarks.test_aside:failing", {})
