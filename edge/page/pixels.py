"""The page's side of the process that shows images: one at a time, none that rests, and no request waits for long."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal

from edge.config import Config
from edge.processes.child import ONE_THREAD, Child, ChildDied, Message

COMMAND = ("-m", "edge.page.pixels_child")
REST_S = 60.0
ANSWER_S = 60.0  # the first heatmaps open the engine, beside a service that is at work
CLOSING_S = 2.0
WAITING = 8  # requests; whoever comes then is told to come again
MOST_BYTES = 2**26


@dataclass(frozen=True)
class Wanted:
    """Pixels or heatmaps of the image of a result."""

    do: Literal["pixels", "heatmaps"]
    path: str
    name: str
    sha256: str
    model_sha256: str
    contract_sha256: str


@dataclass(frozen=True, eq=False)
class Made:
    """What was wanted: ``facts`` are the child's (`edge.page.pixels_child`), ``data`` its bytes."""

    facts: Mapping[str, Any]
    data: bytes


class Busy(Exception):
    """Too many wait already; come again."""


_Job = tuple[Wanted, "Future[Made | str]"]


class Pixels:
    """Has pixels and heatmaps made in a child, which is started when it is needed and ended after ``rest_s`` of rest.

    A thread of its own waits for the child, since Linux ends a child with the thread that started it.
    """

    def __init__(
        self,
        config: Config,
        command: Sequence[str] = COMMAND,
        *,
        rest_s: float = REST_S,
        answer_s: float = ANSWER_S,
        waiting: int = WAITING,
    ) -> None:
        self._config = config
        self._command = command
        self._rest_s = rest_s
        self._answer_s = answer_s
        self._jobs: queue.Queue[_Job | None] = queue.Queue(waiting)
        self._thread: threading.Thread | None = None
        self._child: Child | None = None

    @property
    def pid(self) -> int | None:
        """The number of the child; None: there is none."""
        child = self._child
        return None if child is None else child.pid

    async def get(self, wanted: Wanted) -> Made | str:
        """Return what is wanted, or the reason why it cannot be shown; raise `Busy`."""
        return await asyncio.wrap_future(self.ask(wanted))

    def ask(self, wanted: Wanted) -> Future[Made | str]:
        """Return at once what will hold the answer; raise `Busy`."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="pixels", daemon=True)
            self._thread.start()
        future: Future[Made | str] = Future()
        try:
            self._jobs.put_nowait((wanted, future))
        except queue.Full as exc:
            raise Busy from exc
        return future

    def close(self, within_s: float = CLOSING_S) -> None:
        """End the child, after what it has in hand where that does not take longer. Closing twice is once."""
        if self._thread is None:
            return
        with suppress(queue.Empty):
            while job := self._jobs.get_nowait():
                job[1].cancel()
        self._jobs.put(None)
        self._thread.join(within_s)  # what lasts longer ends with this process
        self._thread = None

    def _serve(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=self._rest_s if self._child else None)
            except queue.Empty:
                self._end()
                continue
            if job is None:
                break
            wanted, future = job
            if future.set_running_or_notify_cancel():
                future.set_result(self._answer(wanted))
        self._end()

    def _answer(self, wanted: Wanted) -> Made | str:
        try:
            child = self._started()
            answer = child.ask(Message(asdict(wanted)), within_s=self._answer_s, most_bytes=MOST_BYTES)
            reason = answer.header.pop("reason", None)
            return str(reason) if reason is not None else Made(answer.header, bytes(answer.blobs[0]))
        except (ChildDied, IndexError, OSError) as exc:
            self._end()
            return f"{wanted.name}: the process that shows images {_how(exc)}; try again"

    def _started(self) -> Child:
        """Return the child, started anew where it has died meanwhile."""
        if self._child is not None and not self._child.lives():
            self._end()
        if self._child is None:
            self._child = Child(self._command, environment=ONE_THREAD)
            configuration = Message({"config": self._config.model_dump(mode="json")})
            self._child.ask(configuration, within_s=self._answer_s)
        return self._child

    def _end(self) -> None:
        if self._child is not None:
            self._child.close()
        self._child = None


def _how(exc: Exception) -> str:
    if isinstance(exc, OSError):
        return f"cannot be asked ({exc.strerror})"
    return str(exc) if isinstance(exc, ChildDied) else "gave an answer without pixels"
