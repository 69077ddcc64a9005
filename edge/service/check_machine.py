"""What a service leans on besides folders and release: the time, a confined reader, ports for metrics and page."""

from __future__ import annotations

import errno
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace

from edge.config import PageConfig
from edge.errors import BadConfig
from edge.processes import landlock
from edge.service.finding import Finding, fault_of
from edge.service.machine import ANSWER_S, Machine
from edge.service.metrics import LOOPBACK
from edge.service.page_doors import PAGE_NAME, address_of, bound, demand_certificate, doors_of


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


def check_page(config: PageConfig) -> Iterator[Finding]:
    """Say whether the page can be served where it is wanted, or is served just now; nothing where it is not."""
    if not config.enabled:
        return
    place = f"page {address_of(config)}"
    try:
        doors_of(config)
        demand_certificate(config)
    except BadConfig as exc:
        found = fault_of(exc, "see docs/page.md")
        yield replace(found, what=f"page: {found.what}")
        return
    try:
        bound(config).close()
    except BadConfig as exc:
        if _serves_the_page(config):
            yield Finding("ok", f"{place}: is served just now")
        else:
            yield fault_of(exc, "set another page.port")
    else:
        yield Finding("ok", f"{place}: can be served")
    if config.dicom_links:
        what = "page: links to DICOM outputs, so whoever can open it reads names of patients"
        yield Finding("warning", what, "dicom_links = false, unless that is meant")


def _serves_the_page(config: PageConfig) -> bool:
    """Tell whether what has the port answers as the page does: by its name, or that it asks for a token."""
    import ssl

    unasked = ssl.create_default_context()
    unasked.check_hostname, unasked.verify_mode = False, ssl.CERT_NONE  # nothing is sent or believed
    request = urllib.request.Request(f"{address_of(config)}healthz", headers={"Host": "localhost"})  # noqa: S310 - ours
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_S, context=unasked) as answer:  # noqa: S310 - ours
            return answer.headers.get("X-Page") == PAGE_NAME
    except urllib.error.HTTPError as exc:
        return exc.headers.get("X-Page") == PAGE_NAME
    except (OSError, ValueError):
        return False


def _serves_metrics(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/metrics", timeout=ANSWER_S) as answer:
            return b"landmarknet_edge_" in answer.read()
    except (OSError, ValueError):
        return False
