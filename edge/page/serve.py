"""The process of the page: an address is bound, and requests are answered until a signal comes."""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time

import uvicorn
from structlog.typing import FilteringBoundLogger

from edge.config import PageConfig
from edge.errors import BadConfig
from edge.page.app import page_app
from edge.page.doors import Doors, doors_of
from edge.page.sources import Sources
from edge.service.installed import Service

CONNECTIONS_MOST = 64
BACKLOG = 64
KEEP_ALIVE_S = 15
GRACE_S = 1  # at the end: an open /events would go on for ever
PARENT_EVERY_S = 1.0


def serve_page(service: Service, log: FilteringBoundLogger, *, parent: int | None = None) -> None:
    """Serve the page until SIGTERM or SIGINT; with ``parent`` also until that process has ended.

    Raises `BadConfig` where the address, the certificate or the token cannot be used.
    """
    config = service.config.page
    doors = doors_of(config)
    demand_certificate(config)
    with bound(config) as listener:
        sources = Sources(service, time.monotonic)
        server = uvicorn.Server(_settings(config, sources, doors))
        if parent is not None:
            threading.Thread(target=_end_with, args=(parent, server), daemon=True).start()
        log.info("page served", address=address_of(config, listener.getsockname()[1]), token=doors.token is not None)
        server.run(sockets=[listener])


def address_of(config: PageConfig, port: int | None = None) -> str:
    """Return where a browser finds the page."""
    host = f"[{config.bind}]" if ":" in config.bind else config.bind
    return f"{'http' if config.certificate is None else 'https'}://{host}:{port or config.port}/"


def bound(config: PageConfig) -> socket.socket:
    """Return a socket that listens where the page is wanted; raise `BadConfig`."""
    family = socket.AF_INET6 if ":" in config.bind else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((config.bind, config.port))
        listener.listen(BACKLOG)
    except OSError as exc:
        listener.close()
        raise BadConfig(
            f"page: {config.bind} port {config.port} cannot be served ({exc.strerror}); set another page.port"
        ) from exc
    return listener


def demand_certificate(config: PageConfig) -> None:
    """Raise `BadConfig` where certificate and key cannot be used together."""
    if config.certificate is None:
        return
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(config.certificate, config.key)
    except (OSError, ssl.SSLError) as exc:  # SSLError is an OSError; both are meant
        raise BadConfig(
            f"{config.certificate}: cannot be used with {config.key} ({exc.strerror or exc}); name a certificate with "
            "its chain and its own key, both PEM, that the service's user may read"
        ) from exc


def _settings(config: PageConfig, sources: Sources, doors: Doors) -> uvicorn.Config:
    return uvicorn.Config(
        page_app(sources, doors),
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,  # it would name files and whoever looked at them
        server_header=False,
        proxy_headers=False,
        date_header=True,
        limit_concurrency=CONNECTIONS_MOST,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        ssl_certfile=config.certificate,
        ssl_keyfile=config.key,
    )


def _end_with(parent: int, server: uvicorn.Server) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_EVERY_S)
    server.should_exit = True
