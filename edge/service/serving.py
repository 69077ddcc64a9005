"""What `watch` serves with: the state folder, what it remembers by, and a worker that a reload replaces."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from edge import __version__
from edge.config import Config
from edge.constancy import ConstancyRun, judge
from edge.errors import BadConfig, DeviceLost, TryAgain
from edge.processes import landlock
from edge.processes.worker import Worker
from edge.results.owner import Owner, own_results
from edge.service.audit_log import AuditLog
from edge.service.beside import Beside
from edge.service.journal import Journal
from edge.service.metrics import serve_metrics
from edge.service.notify import open_notifier
from edge.service.rebuild import REBUILD_WANTED, ask_rebuild
from edge.service.silence import local_zone
from edge.service.spool import clear_spool, has_room
from edge.service.state import AUDIT_LOG, JOURNAL, SPOOL, held, state_folder
from edge.service.supervised import SupervisedProcess
from edge.service.surroundings import Process, Surroundings, local_now
from edge.service.watch import Reload, reload_on_hangup, stop_on_signals, watch


def serve(
    read: Callable[[], Config], log: FilteringBoundLogger, *, once: bool = False, page: Sequence[str] = ()
) -> int:
    """Serve the drop folders of the configuration that ``read`` gives, and gives anew at SIGHUP, until a signal.

    ``page`` is the command that serves the page, where the configuration wants it.
    Returns what `edge.service.watch.watch` returns; raises `Stop`, and `TryAgain` where it cannot begin just now.
    """
    with stop_on_signals() as stop:
        config = read()
        with serving(config, log, page) as served:
            reload = Reload(lambda: served.reopened(read()))
            with reload_on_hangup(reload):
                process = served.open(config)
                return watch(config, process, stop=stop, log=log, once=once, around=served.around, reload=reload)


@contextmanager
def serving(config: Config, log: FilteringBoundLogger, page: Sequence[str] = ()) -> Iterator[Serving]:
    """Hold the state folder, and open in it what `watch` remembers by."""
    with (
        held(state_folder(config)) as folder,
        Journal.open(folder / JOURNAL) as journal,
        AuditLog(folder / AUDIT_LOG, local_now()) as audit,
        serve_metrics(config.metrics_port, log) as metrics,
    ):
        if journal.set_aside:
            log.error("the journal was damaged and is begun anew", set_aside=str(journal.set_aside))
        clear_spool(folder / SPOOL)
        notifier = open_notifier(os.environ)
        around = Surroundings(journal, audit, metrics, notifier, has_room=lambda: has_room(folder / SPOOL))
        with (
            closing(Beside(page, log, around.clock)) as beside,
            closing(Serving(folder, config.metrics_port, log, around, beside)) as served,
        ):
            yield served


class Serving:
    """What `watch` serves with: its worker is another one after a reload, the rest stays."""

    def __init__(
        self, folder: Path, metrics_port: int | None, log: FilteringBoundLogger, around: Surroundings, page: Beside
    ) -> None:
        self.around = replace(around, check_golden=self.check_golden, tend=page.tend)
        self._page = page
        self._folder = folder
        self._port = metrics_port
        self._log = log
        self._worker: Worker | None = None
        self._process: SupervisedProcess | None = None

    def open(self, config: Config) -> Process:
        """Open the release of a configuration in a worker; the one before ends when this one is ready."""
        _demand_own_results(config)
        notifier = self.around.notifier
        worker = Worker(config, waiting=notifier.waiting)
        worker.open()
        try:
            self._note_engine(worker, config)
        except BaseException:
            worker.close()
            raise
        self.close()
        self._worker = worker
        self._page.renew(_given_to_page(config), wanted=config.page.enabled)
        most_bytes = config.largest_file_mb * 2**20
        self._process = SupervisedProcess(worker, self._folder / SPOOL, most_bytes, notifier.alive, self._first_seen)
        return self._process

    def reopened(self, config: Config) -> tuple[Config, Process]:
        """Open the worker of a configuration that was read anew; raise `Stop`, and keep the old one, if that fails."""
        if (folder := state_folder(config)) != self._folder:
            raise BadConfig(f"state_dir cannot go from {self._folder} to {folder} while the daemon runs; restart it")
        if (port := config.metrics_port) != self._port:
            raise BadConfig(f"metrics_port cannot go from {self._port} to {port} while the daemon runs; restart it")
        return config, self.open(config)

    def check_golden(self, now: datetime) -> ConstancyRun:
        """Run the golden images through the live engine, and judge what it answers."""
        if self._worker is None:
            raise DeviceLost("the worker was not opened yet; open it first")
        drift, opened = self._worker.check_golden(), self._worker.describe()
        tolerances = opened.contract.golden_tolerance_net_px, opened.contract.golden_tolerance_score
        return judge(drift, *tolerances, opened.release, now)

    def _first_seen(self, image: Path) -> datetime | None:
        known = self.around.journal.find([str(image)]).get(str(image))
        return None if known is None else known.first_seen_utc.astimezone(local_zone())

    def close(self) -> None:
        """End the worker, and let go of what it was to have next."""
        if self._process:
            self._process.rest()
        if self._worker:
            self._worker.close()

    def _note_engine(self, worker: Worker, config: Config) -> None:
        opened = worker.describe()
        facts = opened.provenance.model_dump(include={"release", "model_sha256", "contract_sha256", "manifest_sha256"})
        if self.around.audit:
            self.around.audit.engine(facts | {"config_sha256": config.sha256()}, self.around.now())
        reader = landlock.in_words(landlock.supported_abi())
        self._log.info("ready", release=opened.release, version=__version__, reader=reader)
        for warning in opened.warnings:
            self._log.warning("release does not fit", reason=warning)
        if config.stale == "rebuild" and ask_rebuild(self._folder, opened.rebuild_for):
            self._log.warning("a rebuild is asked for", file=str(self._folder / REBUILD_WANTED))


def _given_to_page(config: Config) -> object:
    """Return what the page reads at its start, and no later: the configuration, and the files that it names for it."""
    files = (config.page.certificate, config.page.key, config.page.token_file)
    return config, tuple(_written(file) for file in files if file is not None)


def _written(file: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        return (status := file.stat()).st_mtime_ns, status.st_ino
    return None


def _demand_own_results(config: Config) -> None:
    """Raise `BadConfig` where another drop folder's results lie in the way, before anything is served.

    A folder that is not there just now, or takes no files, is none of it: with each image it is asked again.
    """
    for entry in config.drop_folder:
        with suppress(TryAgain, OSError):
            if entry.results_dir is not None and entry.results_dir.is_dir():
                own_results(entry.results_dir, Owner.of(entry.path))
