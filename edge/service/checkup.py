"""Everything that the service needs, asked before it is needed: ``landmarknet-edge check``. Each line says how to mend.

Nothing is changed but for temporary files, which are removed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from edge.config import Config
from edge.errors import Stop
from edge.service.check_folders import check_drop_folder, check_state
from edge.service.check_machine import check_clock, check_metrics_port, check_page, check_reader
from edge.service.check_release import check_references, check_release
from edge.service.check_unit import check_unit
from edge.service.finding import Finding
from edge.service.installed import Service
from edge.service.machine import Machine


def check_all(service: Callable[[], Service], here: Machine | None = None) -> tuple[Finding, ...]:
    """Check everything that a service needs; nothing is raised, nor by ``service``, which reads its configuration."""
    here = here or Machine()
    try:
        asked = service()
    except Stop as exc:
        return (Finding("fault", f"configuration {exc}", "correct the file there, and check again"),)
    parts = (
        _configuration(asked.config_file, asked.config),
        *(check_drop_folder(entry, here) for entry in asked.config.drop_folder),
        check_state(asked.config, here),
        check_clock(here),
        check_reader(here),
        check_release(asked.config, here),
        check_references(asked.config),
        check_metrics_port(asked.config.metrics_port),
        check_page(asked.config.page),
        check_unit(asked.unit, asked.config, here),
    )
    return tuple(finding for part in parts for finding in part)


def _configuration(config_file: Path | None, config: Config) -> Iterator[Finding]:
    if config_file is None:
        yield Finding("warning", "configuration: none is named, so the defaults are checked", "give --config FILE")
    else:
        yield Finding("ok", f"configuration {config_file}; drop folders: {len(config.drop_folder)}")
    if not config.drop_folder:
        yield Finding("fault", "configuration: no drop folder is set", "add a [[drop_folder]] with its path")
