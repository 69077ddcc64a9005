"""One image of an archive: its result stands, or one is made and published, or it is told why there is none.

Two workers that have one image in hand end in the same bytes: a result's time per stage, which alone differs from time
to time, is left out, and publishing is whole or not at all.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

from edge.archive.entries import Entry, Told
from edge.errors import ReaderDied, Refused, ResultsNotWritable, TryAgain, WorkerDied
from edge.pipeline import Made, keyed, publish_made, refusal
from edge.processes.worker import Description, Task
from edge.results.files import make_folder
from edge.results.publish import claim_name, image_name, is_done, read_result, result_path
from edge.settle import CRASHES_MOST
from edge.source_file import demand_not_too_large, demand_unchanged, hash_file, signature

TRIES = 3  # of what is not the file's fault


class Maker(Protocol):
    """What `edge.processes.worker.Worker` is to this file."""

    def make(self, task: Task) -> Made:
        """Return what is to be published of a file."""
        ...

    def key(self, task: Task) -> str | None:
        """Return the key that its result would have, were it not refused."""
        ...

    def describe(self) -> Description:
        """Return what makes the results."""
        ...


def process_entry(entry: Entry, maker: Maker, largest_file_bytes: int, *, registers: bool) -> Told:
    """Say what became of an image; ``registers``: its key depends on which reference it has.

    Raises `ResultsNotWritable` and `Stop`, which the next image would meet, too.
    """
    for tries_left in reversed(range(TRIES)):
        try:
            return _processed(entry, maker, largest_file_bytes, registers=registers)
        except Refused as exc:
            return Told(entry.image, "refused", type(exc).__name__, str(exc))
        except TryAgain as exc:
            if tries_left:
                continue
            if isinstance(exc, ResultsNotWritable):
                raise
            return Told(entry.image, "failed", type(exc).__name__, str(exc))
    raise AssertionError("unreachable")


def refuse_entry(entry: Entry, reason: str, maker: Maker) -> Told:
    """Publish a refusal for a ``reason`` that stands already: the file is hashed, but not looked into."""
    name = image_name(entry.image)
    try:
        made = _crashed(entry, hash_file(entry.image, name), f"{name}: {reason}", WorkerDied.__name__, maker)
        return _published(entry, made)
    except Refused as exc:
        return Told(entry.image, "refused", type(exc).__name__, str(exc))
    except TryAgain as exc:
        return Told(entry.image, "failed", type(exc).__name__, str(exc))


def _processed(entry: Entry, maker: Maker, largest_file_bytes: int, *, registers: bool) -> Told:
    image, name = entry.image, image_name(entry.image)
    if entry.results_dir:
        make_folder(entry.results_dir)
    claim_name(image, result_path(image, entry.results_dir))
    before = signature(image, name)
    demand_not_too_large(name, before, largest_file_bytes)
    digest = hash_file(image, name)
    standing = _standing(entry, digest, maker, registers=registers)
    if standing is not None:
        return _told_of(entry, standing)
    made = _made(entry, digest, maker)
    demand_unchanged(image, before, name)
    return _published(entry, made)


def _standing(entry: Entry, digest: str, maker: Maker, *, registers: bool) -> dict[str, Any] | None:
    """Return the result that is there if it has the key that a new one would have, and its outputs are whole."""
    path = result_path(entry.image, entry.results_dir)
    document = read_result(path)
    said = document.get("provenance") if document else None
    key = said.get("key") if isinstance(said, dict) else None
    if document is None or key is None or not is_done(entry.image, path, trust_times=False):
        return None
    if registers and document.get("status") != "refused":  # what is refused has no reference
        expected = maker.key(_task(entry, digest))
    else:
        expected = keyed(maker.describe().provenance, digest).key
    return document if key == expected else None


def _told_of(entry: Entry, standing: dict[str, Any]) -> Told:
    """Tell of a result that stands; one that came about during the run is of a worker that was lost after it."""
    refused = standing.get("status") == "refused"
    if entry.had_result:
        return Told(entry.image, "skipped", "refused" if refused else None)
    if refused:
        return Told(entry.image, "refused", Refused.__name__, str(standing.get("reason")))
    return Told(entry.image, "done")


def _made(entry: Entry, digest: str, maker: Maker) -> Made:
    """Make the result; an image at which reader or worker died `CRASHES_MOST` times is refused."""
    died: ReaderDied | WorkerDied | None = None
    for _ in range(CRASHES_MOST):
        try:
            return maker.make(_task(entry, digest))
        except (ReaderDied, WorkerDied) as exc:
            died = exc
    reason = f"{died}; that happened {CRASHES_MOST} times, so the file is not opened again: check what was exported"
    return _crashed(entry, digest, reason, type(died).__name__, maker)


def _task(entry: Entry, digest: str) -> Task:
    return Task(entry.image, image_name(entry.image), digest, final=True)


def _crashed(entry: Entry, digest: str, reason: str, kind: str, maker: Maker) -> Made:
    return Made(refusal(image_name(entry.image), digest, reason, maker.describe().provenance), kind=kind)


def _published(entry: Entry, made: Made) -> Told:
    untimed = made.result.model_copy(update={"timing_ms": {}})
    publish_made(replace(made, result=untimed), entry.image, entry.results_dir)
    if untimed.status == "refused":
        return Told(entry.image, "refused", made.kind or Refused.__name__, untimed.reason)
    return Told(entry.image, "done")
