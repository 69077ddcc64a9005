"""The time that a summary tells, with stand-ins for the engine and a clock that they move on."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from edge.archive.entries import Entry, Told
from edge.commands import archive
from edge.config import Config


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now_s=100.0)
    monkeypatch.setattr(archive, "time", SimpleNamespace(monotonic=lambda: clock.now_s))
    return clock


def test_the_seconds_are_those_over_the_images_not_those_of_workers_that_begin_and_end(monkeypatch, tmp_path, clock):
    image = tmp_path / "X.dcm"
    image.write_bytes(b"")

    def taking(seconds, answer=None):
        def taken(*_arguments):
            clock.now_s += seconds
            return answer

        return taken

    def run(*_arguments):
        clock.now_s += 3.0
        yield [Told(image, "done")]

    monkeypatch.setattr("edge.archive.engine.opened_everywhere", taking(20.0, ()))
    monkeypatch.setattr("edge.archive.engine.close_everywhere", taking(40.0))
    monkeypatch.setattr("edge.archive.run.run", run)
    summary = archive._processed([Entry(image, None)], Config(), tmp_path, nullcontext(), embedded=True)
    assert (summary.done, summary.seconds, summary.images_per_s) == (1, 3.0, 0.333)
