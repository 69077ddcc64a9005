"""What the daemon has done with each settled file: claim -> the worker makes -> publish."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from edge.pipeline import Made, facts_of_refusal, local_time, publish_made, refusal
from edge.processes.worker import Description
from edge.results.document import Result
from edge.results.publish import claim_name, image_name, result_path
from edge.service.spool import claimed
from edge.settle import Happening, Tell
from edge.source_file import demand_unchanged, hash_file, nothing


class Maker(Protocol):
    """What `edge.processes.worker.Worker` is to this file."""

    def make(self, copy: Path, name: str, sha256: str, *, final: bool, made_at: datetime | None) -> Made:
        """Return what is to be published of the file ``name``, whose claimed bytes lie in ``copy``."""
        ...

    def describe(self) -> Description:
        """Return what makes the results."""
        ...


@dataclass(frozen=True)
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

    def __call__(self, image: Path, results_dir: Path | None, *, final: bool, tell: Tell) -> Result:
        """Publish the result of ``image`` and return it; ``tell`` hears each step as it is taken.

        A refusal is published and returned too, but for a `DamagedImage` that is not ``final``, and for what is not
        an image, is too large or has no name of its own: those are raised. Raises `TryAgain`, `Stop`.
        """
        claim_name(image, result_path(image, results_dir))
        name = image_name(image)
        with claimed(image, self.spool, self.largest_file_bytes, self.progress) as claim:
            tell(Happening.CLAIMED, sha256=claim.sha256)
            made_at = self._made_at(image, claim.signature.mtime_ns)
            made = self.worker.make(claim.copy, name, claim.sha256, final=final, made_at=made_at)
        if made.result.status != "refused":
            tell(Happening.INFERRED, key=str(made.result.provenance.key))
        demand_unchanged(image, claim.signature, name)
        return _published(made, image, results_dir, tell)

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


def _published(made: Made, image: Path, results_dir: Path | None, tell: Tell) -> Result:
    result = publish_made(made, image, results_dir)
    tell(Happening.PUBLISHED, **facts_of_refusal(made))
    return result
