"""The process of the page: an address is bound, and requests are answered until a signal comes."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

import uvicorn
from structlog.typing import FilteringBoundLogger

from edge.config import PageConfig
from edge.page.app import page_app
from edge.page.sources import Sources
from edge.service.installed import Service
from edge.service.page_doors import Doors, address_of, bound, demand_certificate, doors_of

CONNECTIONS_MOST = 64
KEEP_ALIVE_S = 15
GRACE_S = 1  # at the end: an open /events would go on for ever
PARENT_EVERY_S = 1.0
NICE, OOM_SCORE = 5, 500


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
        _stand_back()
        if parent is not None:
            threading.Thread(target=_end_with, args=(parent, server), daemon=True).start()
        log.info("page served", address=address_of(config, listener.getsockname()[1]), token=doors.token is not None)
        server.run(sockets=[listener])


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


def _stand_back() -> None:
    """Have the images come first where that is allowed; be the first to be ended where memory is short."""
    with suppress(OSError):  # the shipped unit does not allow it
        os.nice(NICE)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))


def _end_with(parent: int, server: uvicorn.Server) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_EVERY_S)
    server.should_exit = True
