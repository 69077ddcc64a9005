"""The supervisor's side of the worker: one image at a time, a limit on its silence, a new one after a death."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
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

    def make(self, copy: Path, name: str, sha256: str, *, final: bool, made_at: datetime | None = None) -> Made:
        """Return what is to be published of the file ``name``, whose claimed bytes lie in ``copy``.

        ``made_at`` is the time that the DICOM outputs bear: the same for the same file, or a replay differs.

        Raises what `edge.pipeline.Pipeline.make` raises, `ReaderDied`, `WorkerDied` and `DeviceLost`.
        """
        self.open()
        asked: dict[str, Any] = {"do": "make", "path": str(copy), "name": name, "sha256": sha256, "final": final}
        asked["made_at"] = None if made_at is None else made_at.isoformat()
        answer = self._ask_of_file(asked, name)
        document, *outputs = answer.blobs
        result = Result.model_validate_json(bytes(document))
        named = list(zip(answer.header["outputs"], map(bytes, outputs), strict=True))
        return Made(result, named, answer.header["kind"])

    def key(self, copy: Path, name: str, sha256: str) -> str | None:
        """Return the key that the result of a file would have, were it not refused. Raises as `make` does."""
        self.open()
        answer = self._ask_of_file({"do": "key", "path": str(copy), "name": name, "sha256": sha256}, name)
        key: str | None = answer.header["key"]
        return key

    def check_golden(self) -> GoldenDrift:
        """Run the golden images through the live engine, and say how far its answers now lie from theirs.

        Raises `DeviceLost` where that cannot be told just now.
        """
        self.open()
        try:
            answer = self._ask({"do": "golden"}, self._config.infer_s)
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
        self._child = None

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

    def _ask_of_file(self, asked: dict[str, Any], name: str) -> Message:
        try:
            return self._ask(asked, self._config.read_s + self._config.infer_s)
        except ChildDied as exc:
            raise WorkerDied(f"{name}: the process that looked for its landmarks {exc}; it is started anew") from exc

    def _ask(self, asked: dict[str, Any], within_s: float) -> Message:
        assert self._child
        try:
            with self._waiting(within_s):
                answer = self._child.ask(Message(asked), within_s=within_s, most_bytes=RESULT_MOST_BYTES)
        except ChildDied:
            self.close()
            raise
        if "error" in answer.header:
            error = _error(answer.header)
            if isinstance(error, DeviceLost):
                self.close()
            raise error
        return answer


def _error(said: dict[str, Any]) -> EdgeError:
    return ERRORS[said["error"]](said["message"])
