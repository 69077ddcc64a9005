"""What the daemon has done with each settled file: claim -> the worker makes -> publish.

The file that most likely comes next is claimed, and the worker told of it, before the one in hand is published: what
the worker then makes of it waits for the file's own turn, at which everything about it is asked anew.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from edge.errors import EdgeError
from edge.pipeline import Made, facts_of_refusal, local_time, publish_made, refusal
from edge.processes.worker import Description, Task
from edge.results.document import Result
from edge.results.publish import claim_name, image_name, result_path
from edge.service.ahead import Ahead
from edge.service.spool import Claimed, claimed
from edge.service.surroundings import Next, nobody
from edge.settle import Happening, Signature, Tell
from edge.source_file import demand_unchanged, hash_file, nothing, signature


class Maker(Protocol):
    """What `edge.processes.worker.Worker` is to this file."""

    def make(self, task: Task, then: Callable[[], Task | None]) -> Made:
        """Return what is to be published of a file; go on with what ``then`` gives meanwhile."""
        ...

    def describe(self) -> Description:
        """Return what makes the results."""
        ...


@dataclass(frozen=True)
class _Claim:
    """A file in the spool, for as long as ``held`` is open, and what the worker is told of it."""

    signature: Signature
    task: Task
    held: ExitStack


@dataclass
class SupervisedProcess:
    """The daemon's `edge.service.surroundings.Process`: nothing is parsed or inferred in this process.

    ``progress`` hears of every piece that is read of a file: a slow share is no reason to take the daemon for dead.
    DICOM outputs bear the time at which a file was first seen, or last changed if that was later: a replay after a
    crash gives the same bytes, and no report is older than its image where a file is written over.
    """

    worker: Maker
    spool: Path
    largest_file_bytes: int
    progress: Callable[[], None] = nothing
    seen: Callable[[Path], datetime | None] = lambda _image: None  # when a file was first seen, in local time

    def __post_init__(self) -> None:
        self._ahead = Ahead(self.spool, self.largest_file_bytes)
        self._task_ahead: Task | None = None

    def __call__(
        self, image: Path, results_dir: Path | None, *, final: bool, tell: Tell, upcoming: Next = nobody
    ) -> Result:
        """Publish the result of ``image`` and return it; ``tell`` hears each step as it is taken.

        A refusal is published and returned too, but for a `DamagedImage` that is not ``final``, and for what is not
        an image, is too large or has no name of its own: those are raised. Raises `TryAgain`, `Stop`.
        """
        claim_name(image, result_path(image, results_dir))
        claim = self._taken(image, final=final)
        with claim.held:
            tell(Happening.CLAIMED, sha256=claim.task.sha256)
            made = self.worker.make(claim.task, lambda: self._claimed_ahead(upcoming))
        if made.result.status != "refused":
            tell(Happening.INFERRED, key=str(made.result.provenance.key))
        demand_unchanged(image, claim.signature, claim.task.name)
        return _published(made, image, results_dir, tell)

    def rest(self) -> None:
        """Let go of what was claimed ahead and had no turn."""
        self._ahead.let_go()
        self._task_ahead = None

    def _taken(self, image: Path, *, final: bool) -> _Claim:
        """Return the claim that was made ahead, where it still is of this file as it is; else another one."""
        task, self._task_ahead = self._task_ahead, None
        taken = self._ahead.take(image, lambda signature: _is_still(image, signature))
        if taken is None:
            return self._claimed(image, final=final)
        claim, held = taken
        if task is None or (task.copy, task.final) != (claim.copy, final):
            task = self._task(image, claim, final=final)
        return _Claim(claim.signature, task, held)

    def _claimed(self, image: Path, *, final: bool) -> _Claim:
        with ExitStack() as held:
            claim = held.enter_context(claimed(image, self.spool, self.largest_file_bytes, self.progress))
            return _Claim(claim.signature, self._task(image, claim, final=final), held.pop_all())

    def _claimed_ahead(self, upcoming: Next) -> Task | None:
        with suppress(EdgeError):  # its turn comes, and tells
            named = upcoming()
            claim = named and self._ahead.begin(named.image, named.signature)
            if named and claim:
                self._task_ahead = self._task(named.image, claim, final=named.final)
        return self._task_ahead

    def _task(self, image: Path, claim: Claimed, *, final: bool) -> Task:
        made_at = self._made_at(image, claim.signature.mtime_ns)
        return Task(claim.copy, image_name(image), claim.sha256, final, made_at)

    def _made_at(self, image: Path, mtime_ns: int) -> datetime:
        changed = local_time(mtime_ns / 1e9)
        return max(changed, self.seen(image) or changed)

    def refuse(self, image: Path, results_dir: Path | None, reason: str, tell: Tell) -> Result:
        """Publish a refusal for a ``reason`` that stands already: the file is hashed, but not looked into."""
        claim_name(image, result_path(image, results_dir))
        name = image_name(image)
        digest = hash_file(image, name, self.progress)
        result = refusal(name, digest, reason, self.worker.describe().provenance)
        return _published(Made(result), image, results_dir, tell)


def _is_still(image: Path, known: Signature) -> bool:
    return signature(image, image_name(image)) == known


def _published(made: Made, image: Path, results_dir: Path | None, tell: Tell) -> Result:
    result = publish_made(made, image, results_dir)
    tell(Happening.PUBLISHED, **facts_of_refusal(made))
    return result
