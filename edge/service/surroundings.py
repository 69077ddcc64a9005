"""What the daemon leans on: what makes results, and all that it is given besides files."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol

from structlog.typing import FilteringBoundLogger

from edge.config import DropFolderConfig
from edge.constancy import ConstancyRun
from edge.results.document import Result
from edge.service.audit_log import AuditLog
from edge.service.dropfolder import DropFolder
from edge.service.journal import Journal
from edge.service.metrics import NO_METRICS, Metrics
from edge.service.notify import Notifier, Silent
from edge.service.silence import local_zone
from edge.settle import Signature, Tell


class Upcoming(NamedTuple):
    """A file whose turn most likely comes next: the version that has settled; ``final``: no more of it can arrive."""

    image: Path
    signature: Signature
    final: bool


Next = Callable[[], Upcoming | None]


def nobody() -> None:
    """Know of no file that comes next."""


class Process(Protocol):
    """Make and publish the result of one image: the seam to what reads and infers."""

    def __call__(
        self, image: Path, results_dir: Path | None, *, final: bool, tell: Tell, upcoming: Next = nobody
    ) -> Result:
        """Publish the result of ``image`` beside it, or in the existing folder ``results_dir``, and return it.

        A refusal that writes its reason is published and returned like any result, but for one case: while ``final``
        is False the rest of the file may still be arriving, so `DamagedImage` is raised and nothing is published.
        Everything else that goes wrong is raised as an `EdgeError`. ``tell`` hears each step as it is taken, and may
        raise `SpoolFull`, which is passed on. ``upcoming`` is a hint and no more: what it names may be begun with
        once this image is claimed, to no effect before its own turn.
        """

    def rest(self) -> None:
        """Let go of what was begun with: no file's turn comes just now."""

    def refuse(self, image: Path, results_dir: Path | None, reason: str, tell: Tell) -> Result:
        """Publish, without looking into ``image``, that it is refused, and return that."""


def local_now() -> datetime:
    """Return the time with this machine's zone."""
    return datetime.now(local_zone())


@dataclass(frozen=True)
class Surroundings:
    """What the daemon leans on besides files; the defaults remember nothing when the process ends, and tell nobody."""

    journal: Journal = field(default_factory=Journal.in_memory)
    audit: AuditLog | None = None
    metrics: Metrics = NO_METRICS
    notifier: Notifier = field(default_factory=Silent)
    has_room: Callable[[], bool] = lambda: True  # for working copies, above the high-water mark
    check_golden: Callable[[datetime], ConstancyRun] | None = None
    tend: Callable[[], None] = lambda: None  # what runs beside the daemon, between two steps
    clock: Callable[[], float] = time.monotonic  # s
    now: Callable[[], datetime] = local_now  # for appointments and what people read: it may jump
    sleep: Callable[[float], None] = time.sleep
    open_folder: Callable[[DropFolderConfig, FilteringBoundLogger], DropFolder] = lambda folder, log: DropFolder(
        folder.path, log, events=folder.events
    )
