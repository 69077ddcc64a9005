"""The supervisor's side of the worker: one answer at a time, a limit on its silence, a new one after a death.

While it answers for one image it can be told of the next, so that it need not wait for us between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import edge.errors
from edge.config import Config
from edge.constancy import GoldenDrift, KindDrift
from edge.contract import Contract
from edge.errors import BackendFailed, DeviceLost, EdgeError, Stop, WorkerDied
from edge.pipeline import Made
from edge.processes.child import Child, ChildDied, Message
from edge.results.document import Provenance, Result

OPEN_S = 600.0  # TensorRT-RTX compiles kernels for this GPU when it opens a plan
RESULT_MOST_BYTES = 2**28
UNWANTED_S = 30.0  # so long is waited for an answer that nobody wants any more, before the worker is ended instead
ERRORS: Final[dict[str, type[EdgeError]]] = {
    name: kind
    for name, kind in vars(edge.errors).items()
    if isinstance(kind, type) and issubclass(kind, EdgeError) and kind is not EdgeError
}


@dataclass(frozen=True)
class Description:
    """What the worker opened. ``provenance`` is what its results say, but for the key."""

    release: str
    warnings: tuple[str, ...]
    provenance: Provenance
    contract: Contract
    rebuild_for: tuple[str, ...] = ()  # what a rebuild on this machine would mend, part and value


@dataclass(frozen=True)
class Task:
    """An image to look at: the file ``name``, whose claimed bytes lie in ``copy``.

    ``made_at`` is the time that the DICOM outputs bear: the same for the same file, or a replay differs.
    """

    copy: Path
    name: str
    sha256: str
    final: bool
    made_at: datetime | None = None

    def asked(self, do: str) -> Message:
        """Return it as it travels, with what is to be done about it."""
        at = None if self.made_at is None else self.made_at.isoformat()
        return Message({"do": do, **vars(self), "copy": str(self.copy), "made_at": at})


class Worker:
    """A process that makes results: `open` it, or use it in a ``with``, on the thread that goes on using it.

    One that died, was ended, or lost its device is started anew when it is next asked for something; ``starts`` counts.
    Each wait for it stands in a ``with waiting(seconds)``, for whoever else has to be patient for so long.
    """

    def __init__(
        self,
        config: Config,
        command: Sequence[str] = ("-m", "edge.processes.worker_child"),
        waiting: Callable[[float], AbstractContextManager[None]] = lambda _within_s: nullcontext(),
    ) -> None:
        self.starts = 0
        self._waiting = waiting
        self._config = config
        self._command = command
        self._child: Child | None = None
        self._ahead: Task | None = None  # that the child was told of, and whose answer was not heard yet
        self._description: Description | None = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def open(self) -> None:
        """Start the process; return when the engine gave its golden answers. Raises `Stop` if it does not.

        Once it did, a later start that fails, or opens another release, raises `DeviceLost`: a machine that loses its
        GPU may have it again, and nobody accepted the other release for this service.
        Where only the reader does not start, for want of memory, that is `ImageUnreadable`.
        """
        if self._child is not None and self._child.lives():
            return
        self.close()
        try:
            child, description = self._opened()
        except Stop as exc:
            if self._description is None:
                raise
            raise DeviceLost(f"the worker cannot be started anew ({exc}); it is tried again") from exc
        if self._description is not None and description.provenance != self._description.provenance:
            child.close()
            raise DeviceLost(
                f"the worker found the release {description.release} or a machine other than when this service began "
                f"with {self._description.release}; restart the service if that is meant"
            )
        self._child, self._description = child, description

    def make(self, task: Task, then: Callable[[], Task | None] = lambda: None) -> Made:
        """Return what is to be published of a file; the worker goes on with what ``then`` gives, if it gives one.

        ``then`` is asked while the worker is busy with the file. Make that task next, or its answer is thrown away.

        Raises what `edge.pipeline.Pipeline.make` raises, `ReaderDied`, `WorkerDied` and `DeviceLost`.
        """
        self.open()
        if self._ahead != task:
            self._tell_alone(task.asked("make"))
        try:
            self._ahead = then()
            if self._ahead is not None:
                self._opened_child().tell(self._ahead.asked("make"), within_s=self._image_s)
        except BaseException:
            self.close()  # or the answer that nobody hears would be taken for that of the next file
            raise
        answer = self._hear_of_file(task)
        document, *outputs = answer.blobs
        result = Result.model_validate_json(bytes(document))
        named = list(zip(answer.header["outputs"], map(bytes, outputs), strict=True))
        return Made(result, named, answer.header["kind"])

    def key(self, task: Task) -> str | None:
        """Return the key that the result of a file would have, were it not refused. Raises as `make` does."""
        self.open()
        self._tell_alone(task.asked("key"))
        key: str | None = self._hear_of_file(task).header["key"]
        return key

    def check_golden(self) -> GoldenDrift:
        """Run the golden images through the live engine, and say how far its answers now lie from theirs.

        Raises `DeviceLost` where that cannot be told just now.
        """
        self.open()
        self._tell_alone(Message({"do": "golden"}))
        try:
            answer = self._hear(self._config.infer_s)
        except ChildDied as exc:
            raise DeviceLost(f"the worker {exc} over the golden images; it is tried again") from exc
        return GoldenDrift(tuple(KindDrift(**kind) for kind in answer.header["kinds"]))

    def describe(self) -> Description:
        """Return what is open, or was last."""
        if self._description is None:
            raise DeviceLost("the worker was not opened yet; open it first")
        return self._description

    def close(self) -> None:
        """End the process, which gives its device back. Closing twice is once."""
        if self._child is not None:
            self._child.close()
        self._child = self._ahead = None

    def _opened(self) -> tuple[Child, Description]:
        self.starts += 1
        try:
            child = Child(self._command)
            try:
                return child, self._described(child)
            except BaseException:
                child.close()
                raise
        except ChildDied as exc:
            raise BackendFailed(
                f"the worker {exc} before it was ready; try landmarknet-edge process on an image"
            ) from exc

    def _described(self, child: Child) -> Description:
        request = Message({"config": self._config.model_dump(mode="json")})
        with self._waiting(OPEN_S):
            said = child.ask(request, within_s=OPEN_S).header
        if "error" in said:
            raise _error(said)
        try:
            provenance = Provenance.model_validate_json(said["provenance"])
            contract = Contract.model_validate_json(said["contract"])
        except (LookupError, ValueError) as exc:  # pydantic's is a ValueError
            raise BackendFailed("the worker is of another version than this service; restart the service") from exc
        mends = tuple(said.get("rebuild_for", ()))
        return Description(provenance.release, provenance.engine_warnings, provenance, contract, mends)

    def _opened_child(self) -> Child:
        assert self._child
        return self._child

    @property
    def _image_s(self) -> float:
        return self._config.read_s + self._config.infer_s

    def _tell_alone(self, asked: Message) -> None:
        """Tell the worker of something else than what it was told of ahead, whose answer is thrown away."""
        if self._ahead is not None:
            self._ahead = None
            with suppress(ChildDied, EdgeError):  # its turn comes, and it is told of again
                self._hear(min(UNWANTED_S, self._image_s))
            self.open()
        self._opened_child().tell(asked, within_s=self._image_s)

    def _hear_of_file(self, task: Task) -> Message:
        try:
            return self._hear(self._image_s, task)
        except ChildDied as exc:
            raise WorkerDied(
                f"{task.name}: the process that looked for its landmarks {exc}; it is started anew"
            ) from exc

    def _hear(self, within_s: float, task: Task | None = None) -> Message:
        """Return the next answer, which has to be of this task; one of another file must never be taken for its."""
        try:
            with self._waiting(within_s):
                answer = self._opened_child().hear(within_s=within_s, most_bytes=RESULT_MOST_BYTES)
            _demand_answer_of(task, answer)
        except BaseException:
            self.close()
            raise
        if "error" in answer.header:
            error = _error(answer.header)
            if isinstance(error, DeviceLost):
                self.close()
            raise error
        return answer


def _demand_answer_of(task: Task | None, answer: Message) -> None:
    if task is not None and answer.header.get("of") != str(task.copy):
        raise ChildDied("answered for another file and was ended")


def _error(said: dict[str, Any]) -> EdgeError:
    return ERRORS[said["error"]](said["message"])
