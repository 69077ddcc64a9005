"""``landmarknet-edge page``: the page that people look at. Exit status 78: a restart cannot help."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge.errors import Stop
from edge.terminal import stop_exits_with

if TYPE_CHECKING:
    from edge.service.installed import Service


def page(
    folder: Annotated[Path | None, typer.Argument(help="drop folder, instead of those of the configuration")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file; without one, the installed service's")
    ] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="instead of page.port")] = None,
    parent: Annotated[int | None, typer.Option(hidden=True, help="end with this process: for `watch`")] = None,
) -> None:
    """Show in a browser what the service sees: recent images, shifts, trends, engines. Nothing can be changed there."""
    from edge.log import open_log
    from edge.page.serve import serve_page
    from edge.service.installed import service_of

    with stop_exits_with(Stop.exit_status):
        serve_page(_with(service_of(config), folder, port), open_log(), parent=parent)


def _with(service: Service, folder: Path | None, port: int | None) -> Service:
    """Return the service with the drop folder and the port of the command line in the place of its own."""
    from edge.config import DropFolderConfig

    config = service.config
    if folder is not None:
        config = config.model_copy(update={"drop_folder": (DropFolderConfig(path=folder.resolve()),)})
    if port is not None:
        config = config.model_copy(update={"page": config.page.model_copy(update={"port": port})})
    return replace(service, config=config)


def register(app: typer.Typer) -> None:
    """Add the command to ``landmarknet-edge``."""
    app.command()(page)
