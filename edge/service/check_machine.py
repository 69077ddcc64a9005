"""What a service leans on besides folders and release: the time, a confined reader, a port for metrics."""

from __future__ import annotations

import errno
import socket
import urllib.request
from collections.abc import Iterator

from edge.processes import landlock
from edge.service.finding import Finding
from edge.service.machine import ANSWER_S, Machine
from edge.service.metrics import LOOPBACK


def check_clock(here: Machine) -> Iterator[Finding]:
    """Say whether something keeps the clock right, whose time results carry."""
    synchronised = here.clock()
    if synchronised:
        yield Finding("ok", "clock: is synchronised")
    elif synchronised is None:
        yield Finding("warning", "clock: this system does not say whether it is synchronised", "compare it yourself")
    else:
        yield Finding("warning", "clock: is not synchronised; results carry its time", "timedatectl set-ntp true")


def check_reader(here: Machine) -> Iterator[Finding]:
    """Say how far the process that reads hostile files is confined; an older kernel offers less, which is no fault."""
    yield Finding("ok", f"reader: {landlock.in_words(here.landlock_abi())}")


def check_metrics_port(port: int | None) -> Iterator[Finding]:
    """Say whether metrics can be served on a port, or a daemon does so just now; nothing where none is set."""
    if port is None:
        return
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
        except OSError as exc:
            in_use = exc.errno == errno.EADDRINUSE
            if in_use and _serves_metrics(port):
                yield Finding("ok", f"metrics on port {port}: a daemon serves them just now")
            else:
                what = f"metrics on port {port}: cannot be served ({exc.strerror})"
                yield Finding("fault", what, "set another metrics_port")
        else:
            yield Finding("ok", f"metrics on port {port}: can be served")


def _serves_metrics(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/metrics", timeout=ANSWER_S) as answer:
            return b"landmarknet_edge_" in answer.read()
    except (OSError, ValueError):
        return False
