"""Which service a configuration file belongs to, as systemd's units name the two."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge.config import Config, read_config
from edge.service.state import APPLICATION

SERVICE_CONFIG = Path("/etc/landmarknet-edge/landmarknet-edge.toml")
SERVICE_STATE = Path("/var/lib")


@dataclass(frozen=True)
class Service:
    """The configuration as its service sees it, and the service's unit."""

    config_file: Path | None
    config: Config
    unit: str


def service_of(
    config_file: Path | None, environment: Mapping[str, str] = os.environ, installed: Path = SERVICE_CONFIG
) -> Service:
    """Return the service of a configuration file, None: of the installed one, or the defaults; raise `BadConfig`.

    A person who asks has not the state folder that systemd gives to the service, so its place is worked out here.
    """
    file = installed if config_file is None and installed.is_file() else config_file
    config = Config() if file is None else read_config(file)
    if file is None or file.absolute().parent != installed.parent:
        return Service(file, config, f"{APPLICATION}.service")
    of_one_room = file.stem == installed.stem
    if config.state_dir is None and not environment.get("STATE_DIRECTORY"):
        place = SERVICE_STATE / (APPLICATION if of_one_room else f"{APPLICATION}-{file.stem}")
        config = config.model_copy(update={"state_dir": place})
    return Service(file, config, f"{APPLICATION}.service" if of_one_room else f"{APPLICATION}@{file.stem}.service")
