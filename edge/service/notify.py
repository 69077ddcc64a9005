"""What systemd is told: ready, alive, reloading, stopping, and one line of status (sd_notify(3)).

Our own few lines, since the protocol is one datagram: sdnotify (last release 2017, no wheel, lacks RELOADING) and
cysystemd (2.4 MB, compiled, for glibc 2.34 and later) would each bring more than they save.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Protocol

START_S = 60.0  # no unit allows less for a start
SEND_S = 1.0  # the longest that a systemd which does not listen may hold up the daemon


class Notifier(Protocol):
    """Tell whoever supervises this process how it is."""

    def ready(self) -> None:
        """Say that start-up, or the reload announced by `reloading`, is complete."""

    def status(self, text: str) -> None:
        """Show ``text``, one line without anything of a patient, in ``systemctl status``."""

    def alive(self) -> None:
        """Put off the watchdog; only when there was progress."""

    def waiting(self, within_s: float) -> AbstractContextManager[None]:
        """Have whoever supervises be patient for as long as the block, which takes at most ``within_s``."""
        ...

    def reloading(self) -> None:
        """Say that the configuration is being read again; `ready` ends it, also when the old one stays."""

    def stopping(self) -> None:
        """Say that the end has begun."""


class Silent:
    """The `Notifier` where nobody supervises: it says nothing."""

    def ready(self) -> None: ...

    def status(self, text: str) -> None: ...

    def alive(self) -> None: ...

    def waiting(self, within_s: float) -> AbstractContextManager[None]:  # noqa: ARG002 - the protocol's
        return nullcontext()

    def reloading(self) -> None: ...

    def stopping(self) -> None: ...


@dataclass(frozen=True)
class Systemd:
    """The `Notifier` that writes to the socket ``address``; each call is one datagram.

    ``watchdog_s``: how long systemd waits for `alive`, None: it does not wait.
    """

    address: str
    clock_ns: Callable[[], int]
    watchdog_s: float | None = None

    def ready(self) -> None:
        self._send("READY=1")

    def status(self, text: str) -> None:
        self._send("STATUS=" + " ".join(text.split()))  # a line break would begin another variable

    def alive(self) -> None:
        self._send("WATCHDOG=1")

    @contextmanager
    def waiting(self, within_s: float) -> Iterator[None]:
        if within_s <= (START_S if self.watchdog_s is None else self.watchdog_s / 2):
            yield
            return
        self._send(f"EXTEND_TIMEOUT_USEC={_us(within_s)}")  # at the start, before there is a watchdog
        if self.watchdog_s is None:
            yield
            return
        self._send(f"WATCHDOG_USEC={_us(self.watchdog_s + within_s)}")
        try:
            yield
        finally:
            self._send(f"WATCHDOG_USEC={_us(self.watchdog_s)}")

    def reloading(self) -> None:
        # the time is asked for since systemd 253 (Type=notify-reload), and passed over before
        self._send(f"RELOADING=1\nMONOTONIC_USEC={self.clock_ns() // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        # a message that is lost must not end the daemon: systemd acts on silence by itself, by WatchdogSec
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(SEND_S)
            sender.sendto(message.encode("utf-8", "backslashreplace"), self.address)


def open_notifier(environment: Mapping[str, str], clock_ns: Callable[[], int] = time.monotonic_ns) -> Notifier:
    """Return the notifier for the ``NOTIFY_SOCKET`` of ``environment``, a path or ``@`` and an abstract name."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address:
        return Silent()
    path = "\0" + address[1:] if address.startswith("@") else address
    return Systemd(path, clock_ns, watchdog_s(environment, os.getpid()))


def watchdog_s(environment: Mapping[str, str], process_id: int) -> float | None:
    """Return how long systemd waits for `Notifier.alive`, in s; None: it does not wait, or not for this process.

    Call `alive` at least twice as often.
    """
    meant_for = environment.get("WATCHDOG_PID", str(process_id))
    period_us = environment.get("WATCHDOG_USEC", "")
    return int(period_us) / 1e6 if period_us.isdecimal() and meant_for == str(process_id) else None


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
