"""A process beside the daemon, such as the page: started, looked after, and never waited for."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from structlog.typing import FilteringBoundLogger

FIRST_PAUSE_S, MOST_PAUSE_S = 1.0, 300.0
STEADY_S = 60.0  # what has lived so long is started again at once
CLOSING_S = 3.0
KILLED_S = 1.0
OF_THE_DAEMON = {"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"}  # nobody else is to speak for it


class Living(Protocol):
    """What `subprocess.Popen` is to this file."""

    pid: int

    def poll(self) -> int | None: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...

    def wait(self, timeout: float | None = None) -> int: ...


class Beside:
    """One process that runs ``command`` while it is wanted; after each end it is started anew, with growing pauses.

    Nothing that becomes of it is raised: the images come first. ``clock`` in seconds, monotonic.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: FilteringBoundLogger,
        clock: Callable[[], float],
        start: Callable[[Sequence[str]], Living] | None = None,
    ) -> None:
        self._command, self._log, self._clock = command, log, clock
        self._start = start or start_process
        self._wanted = False
        self._given: object = None
        self._process: Living | None = None
        self._due_s = self._started_s = 0.0
        self._pause_s = FIRST_PAUSE_S

    def renew(self, given: object, *, wanted: bool) -> None:
        """End what runs where what it was ``given`` to start with differs; `tend` starts it anew where it is wanted."""
        wanted = wanted and bool(self._command)
        if (wanted, given) == (self._wanted, self._given):
            return
        self.close()
        self._wanted, self._given = wanted, given
        self._due_s, self._pause_s = self._clock(), FIRST_PAUSE_S

    def tend(self) -> None:
        """Start the process where it is due, and take note where it has ended; returns at once."""
        if not self._wanted:
            return
        if self._process is not None and (status := self._process.poll()) is not None:
            self._ended(f"it ended with status {status}")
        if self._process is None and self._clock() >= self._due_s:
            self._begin()

    def close(self) -> None:
        """End the process; one that cannot even be killed, as where a share hangs, is left to itself."""
        process, self._process = self._process, None
        self._wanted = False
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(CLOSING_S)
        except subprocess.TimeoutExpired:
            process.kill()
            self._let_go(process)

    def _let_go(self, process: Living) -> None:
        try:
            process.wait(KILLED_S)
        except subprocess.TimeoutExpired:
            self._log.warning("the page does not end; the images do not wait for it", process=process.pid)

    def _begin(self) -> None:
        self._started_s = self._clock()
        try:
            self._process = self._start(self._command)
        except OSError as exc:
            self._ended(f"it cannot be started ({exc.strerror})")

    def _ended(self, how: str) -> None:
        now_s = self._clock()
        if now_s - self._started_s >= STEADY_S:
            self._pause_s = FIRST_PAUSE_S
        self._process, self._due_s = None, now_s + self._pause_s
        self._log.warning("the page is started again", reason=how, in_s=self._pause_s)
        self._pause_s = min(MOST_PAUSE_S, 2 * self._pause_s)


def start_process(command: Sequence[str], environment: Mapping[str, str] = os.environ) -> Living:
    """Start a command that hears nothing of who supervises the daemon."""
    own = {name: text for name, text in environment.items() if name not in OF_THE_DAEMON}
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, env=own)  # noqa: S603 - our own command
