"""What the daemon sees to once a minute: silence in clinic hours, the golden images, how long records are kept."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from structlog.typing import FilteringBoundLogger

from edge.config import Config
from edge.constancy import ConstancyRun, due
from edge.errors import TryAgain
from edge.service.silence import silent_for
from edge.service.surroundings import Surroundings
from edge.service.tracking import Served, Tracking

DUTIES_EVERY_S = 60.0
LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass
class Duties:
    """The duties of one daemon. ``drifted`` is the last run of the golden images, while that forbids to publish."""

    config: Config
    around: Surroundings
    log: FilteringBoundLogger
    drifted: ConstancyRun | None = None
    _due_s: float = -math.inf
    _begun: bool = False
    _checked: bool = False  # the golden images, since the start
    _retained: datetime = LONG_AGO

    def do(self, tracking: Tracking) -> None:
        """Do what is due."""
        self._begin()
        if self.around.clock() < self._due_s:
            return
        now = self.around.now()
        self._due_s = self.around.clock() + DUTIES_EVERY_S
        for served in tracking.served:
            self._listen_for_silence(served, now)
        self._check_constancy(now)
        if abs(now - self._retained) >= timedelta(days=1):  # the clock may have been set back
            self._retain(now)

    def _begin(self) -> None:
        """Take up what the last run in the journal says: the next one may be a day away, or may not be possible."""
        if self._begun:
            return
        for run in self.around.journal.constancy_runs(1):
            self.around.metrics.constancy(run)
            watched = self.around.check_golden is not None and self.config.constancy_at is not None
            self.drifted = run if watched and not run.passed else None
        self._begun = True

    def _listen_for_silence(self, served: Served, now: datetime) -> None:
        silence = silent_for(served.config.clinic_hours, served.arrived, served.since, now)
        self.around.metrics.silent(served.folder.path, silence)
        if silence and not served.silent:
            minutes = round(silence.total_seconds() / 60)
            self.log.error(
                "no images in clinic hours; see whether they are still sent",
                folder=str(served.folder.path),
                min=minutes,
            )
        served.silent = silence is not None

    def _check_constancy(self, now: datetime) -> None:
        """Run the golden images when it is time, and at a start after they drifted; if they do, withhold results."""
        check, at = self.around.check_golden, self.config.constancy_at
        if check is None or at is None:
            return
        last = next(iter(self.around.journal.constancy_runs(1)), None)
        drifted_before = last is not None and not last.passed and not self._checked  # it may have been mended since
        if not (due(last.when_utc if last else None, now, at) or drifted_before):
            return
        try:
            run = check(now)
        except TryAgain as exc:
            self.log.error("golden images could not be run, to be tried again", reason=str(exc))  # noqa: TRY400 - no trace
            return
        self._checked = True
        self.around.metrics.constancy(run)
        self.drifted = None if run.passed else run
        log = self.log.info if run.passed else self.log.error
        log("golden images were run", passed=run.passed, reason=run.reason)
        self.around.journal.add_constancy_run(run)  # last: a verdict counts also while it cannot be recorded

    def _retain(self, now: datetime) -> None:
        self._retained = now
        self.around.journal.forget_older_than(self.config.keep_days, now)
        if self.around.audit:
            self.around.audit.retain(self.config.keep_days, now)
