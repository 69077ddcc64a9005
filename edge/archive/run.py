"""A run: batches go out, no more at a time than workers can have, and what became of each image comes back."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from distributed import Client, Future, wait
from distributed.client import FuturesCancelledError
from distributed.scheduler import KilledWorker

from edge.archive.engine import workers_left
from edge.archive.entries import Entry, Told, apart
from edge.archive.held_engine import process_batch, refuse_batch
from edge.archive.order import Unfit
from edge.errors import EdgeError

IN_FLIGHT = 2  # batches per worker: one in hand, one waiting
TICK_S = 1.0
NOBODY_S = 120.0
LOST = "the scheduler was restarted, or cannot be reached any more"
KILLED = "every worker that had the file in hand was lost, so it is not opened again: check what was exported"

Batch = tuple[Entry, ...]
Counts = Counter[tuple[str, str | None]]  # what became of images, and the kind of the error


class Ended(Exception):
    """A run that cannot go on. What is published stays; the same command goes on from there."""


@dataclass(frozen=True)
class Summary:
    """What became of the images of a run."""

    images: int
    done: int
    skipped: int
    skipped_refusals: int  # of those skipped
    refused: Mapping[str, int]  # by the class of the error
    failed: Mapping[str, int]
    seconds: float
    images_per_s: float  # done and refused
    complete: bool

    @property
    def all_done(self) -> bool:
        """Tell whether each image was looked at for landmarks, now or before."""
        return self.complete and not (self.refused or self.failed or self.skipped_refusals)

    def to_json(self) -> dict[str, Any]:
        """Return it as it is printed."""
        return asdict(self)


def summary(images: int, counts: Counts, seconds: float) -> Summary:
    """Return the sums of what was told of ``images`` in so many seconds."""
    refused, failed = _by_kind(counts, "refused"), _by_kind(counts, "failed")
    done = counts["done", None]
    made = done + sum(refused.values())
    return Summary(
        images=images,
        done=done,
        skipped=sum(number for (became, _), number in counts.items() if became == "skipped"),
        skipped_refusals=counts["skipped", "refused"],
        refused=refused,
        failed=failed,
        seconds=round(seconds, 3),
        images_per_s=round(made / seconds, 3) if seconds > 0 else 0.0,
        complete=counts.total() == images,
    )


def _by_kind(counts: Counts, became: str) -> dict[str, int]:
    return {str(kind): number for (what, kind), number in sorted(counts.items(), key=str) if what == became}


def run(
    client: Client,
    name: str,
    batches: Iterator[Batch],
    stopped: Callable[[], bool],
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[list[Told]]:
    """Yield what became of images as it is told; at least once in `TICK_S`, if nothing was, an empty list.

    A batch whose worker is lost goes to another. One that costs `edge.archive.engine.LOST_MOST` workers and one more is
    tried image by image, and an image that does so is refused. Ends when all is told, or ``stopped()``; raises `Ended`.
    """
    work = _Work(client, name, batches)
    someone_s = clock()
    try:
        while not stopped():
            workers = workers_left(client)
            if workers is None:
                raise Ended(LOST)
            someone_s = clock() if workers else someone_s
            if clock() - someone_s > NOBODY_S:
                raise Ended(f"no worker was there for {NOBODY_S:.0f} s; start some")
            if not work.keep_out(IN_FLIGHT * workers):
                return
            yield work.told_within(TICK_S)
    finally:
        work.cancel()


class _Work:
    """What is out, and what waits. Closed by `cancel`."""

    def __init__(self, client: Client, name: str, batches: Iterator[Batch]) -> None:
        self._client, self._name, self._batches = client, name, batches
        self._again: deque[Batch] = deque()
        self._out: dict[Future[list[Told]], Batch] = {}

    def keep_out(self, most: int) -> bool:
        """Send batches until so many are out; tell whether any is out, or waits."""
        while len(self._out) < most:
            batch = self._again.popleft() if self._again else next(self._batches, None)
            if batch is None:
                break
            self._send(batch, process_batch, batch)
        return bool(self._out or self._again) or most == 0

    def told_within(self, seconds: float) -> list[Told]:
        """Return what was told of batches that ended; nothing, if none does in so many seconds."""
        if not self._out:
            time.sleep(seconds)
            return []
        try:
            with self._client.as_current():
                ended = wait(list(self._out), timeout=seconds, return_when="FIRST_COMPLETED").done
        except TimeoutError:
            return []
        except FuturesCancelledError as exc:
            raise Ended(LOST) from exc
        return [told for future in ended for told in self._told(future)]

    def cancel(self) -> None:
        """Take back what is out; a batch in hand is ended after its image."""
        if self._out and self._client.status == "running":
            with suppress(OSError, TimeoutError):
                self._client.cancel(list(self._out), force=True)
        self._out.clear()

    def _send(self, batch: Batch, task: Callable[..., list[Told]], *arguments: object) -> None:
        self._out[self._client.submit(task, self._name, *arguments, pure=False)] = batch

    def _told(self, future: Future[list[Told]]) -> Sequence[Told]:
        batch = self._out.pop(future)
        if future.status == "cancelled":
            raise Ended(LOST)
        if future.status == "finished":
            return self._fetched(future)
        if future.status != "error":  # its worker was lost with the answer: another one gives it
            self._out[future] = batch
            return []
        exc = future.exception()
        if isinstance(exc, KilledWorker):
            self._after_losses(batch)
            return []
        if isinstance(exc, EdgeError | Unfit):
            raise Ended(str(exc)) from exc
        reason = f"unforeseen fault ({type(exc).__name__}: {exc}); please report it"
        return [Told(entry.image, "failed", type(exc).__name__, reason) for entry in batch]

    def _fetched(self, future: Future[list[Told]]) -> list[Told]:
        try:
            told: list[Told] = future.result()
        except (OSError, FuturesCancelledError) as exc:
            raise Ended(LOST) from exc
        return told

    def _after_losses(self, batch: Batch) -> None:
        parts = apart(batch)
        if len(parts) > 1:
            self._again.extend(parts)
        else:
            self._send(batch, refuse_batch, batch, KILLED)
