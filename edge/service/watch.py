"""Serving for as long as it is wanted: steps, sleeps, signals, reloads, and what whoever supervises hears of it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from structlog.typing import FilteringBoundLogger

from edge.config import Config
from edge.errors import EdgeError
from edge.service.daemon import Daemon
from edge.service.surroundings import Process, Surroundings

EAR_S = 0.2  # the longest sleep: so late is an event or a wish to stop heard
ALIVE_EVERY_S = 1.0


@dataclass
class Reload:
    """A wish to read the configuration anew; ``read`` gives it with its process, or raises `Stop` and changes nothing.

    A plain flag: a second signal while a `threading.Event` is being set would wait for its lock for ever.
    """

    read: Callable[[], tuple[Config, Process]]
    asked: bool = False


def watch(
    config: Config,
    process: Process,
    *,
    stop: threading.Event,
    log: FilteringBoundLogger,
    once: bool = False,
    around: Surroundings | None = None,
    reload: Reload | None = None,
) -> int:
    """Serve the drop folders until ``stop`` is set, within one image, or a `Stop` is raised.

    With ``once``, return when every file that is there is settled and has been tried. Returns how many files wait to
    be tried again, an unavailable drop folder counted as one.
    """
    around = around or Surroundings()
    around.notifier.ready()
    while True:
        with Daemon(config, process, log, around) as daemon:
            _serve(daemon, stop, around, reload, once=once)
            if not (reload and reload.asked) or stop.is_set():
                around.notifier.stopping()
                log.info("stopped", once=once, waiting=daemon.unfinished())
                return daemon.unfinished()
        config, process = _reloaded(config, process, log, around, reload)


def _serve(daemon: Daemon, stop: threading.Event, around: Surroundings, reload: Reload | None, *, once: bool) -> None:
    said, alive_s = "", 0.0
    while not stop.is_set() and not (reload and reload.asked):
        around.tend()
        pause_s = daemon.step()
        if daemon.progressed() and around.clock() >= alive_s:
            around.notifier.alive()
            alive_s = around.clock() + ALIVE_EVERY_S
        if said != (said := daemon.status()):
            around.notifier.status(said)
        if pause_s > 0 and once and daemon.at_rest():
            return
        if pause_s > 0:
            around.sleep(min(pause_s, EAR_S))  # not stop.wait(): a signal handler may need the lock of ``stop``


def _reloaded(
    config: Config, process: Process, log: FilteringBoundLogger, around: Surroundings, reload: Reload
) -> tuple[Config, Process]:
    reload.asked = False
    around.notifier.reloading()
    try:
        if around.audit:
            around.audit.reopen(around.now())
        config, process = reload.read()
        log.info("configuration read anew", config_sha256=config.sha256())
    except EdgeError as exc:
        log.error("configuration refused, the old one stays", error=type(exc).__name__, reason=str(exc))  # noqa: TRY400
    around.notifier.ready()
    return config, process


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """Give an event that SIGTERM and SIGINT set; in the main thread only. Signals after the first change nothing."""
    stop = threading.Event()
    signals = signal.SIGTERM, signal.SIGINT

    def ask(_number: int, _frame: FrameType | None) -> None:
        for number in signals:  # or a second signal would interrupt set() in the same thread, and wait for its lock
            signal.signal(number, signal.SIG_IGN)
        stop.set()

    before = [signal.signal(number, ask) for number in signals]
    try:
        yield stop
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def reload_on_hangup(reload: Reload) -> Iterator[None]:
    """Have SIGHUP ask for a reload; in the main thread only."""

    def ask(_number: int, _frame: FrameType | None) -> None:
        reload.asked = True

    before = signal.signal(signal.SIGHUP, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
