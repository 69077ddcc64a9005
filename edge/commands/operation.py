"""``landmarknet-edge status``, ``check``, ``audit`` and ``requeue``: how a service stands, and what a person can do.

Exit status: 0 all is well, 1 something is not, 2 misuse. Without ``--config``: the installed service's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from edge.errors import BadConfig, SpoolFull
from edge.terminal import MISUSE, printable, say, stop_exits_with

if TYPE_CHECKING:
    from edge.service.finding import Finding

WRONG = 1
COLOURS = {"ok": "green", "warning": "yellow", "fault": "bold red"}
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file; without one, the installed service's")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON instead")]


def status(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show how the service stands: queue, last image, last error, engine, folders, silence, constancy."""
    from datetime import datetime

    from edge.service.installed import service_of
    from edge.service.silence import local_zone
    from edge.service.status import gather, render

    with _failures():
        found = gather(service_of(config), datetime.now(local_zone()))
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2, allow_nan=False))
    else:
        Console().print(render(found))
    raise typer.Exit(WRONG if found.alarms else 0)


def check(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Check all that the service needs before it is needed; each line says how to mend."""
    from dataclasses import asdict

    from edge.service.checkup import check_all
    from edge.service.installed import service_of

    findings = check_all(lambda: service_of(config))
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        _print(findings)
    raise typer.Exit(WRONG if any(finding.level == "fault" for finding in findings) else 0)


def audit(
    log: Annotated[Path | None, typer.Argument(help="an audit log; without, the service's")] = None,
    config: ConfigFile = None,
) -> None:
    """Verify that no line of the audit log was altered, taken out or put in by someone who did not rewrite the rest."""
    from edge.service.audit_log import verify_chain
    from edge.service.state import AUDIT_LOG

    with _failures():
        path = log or _state_folder(config) / AUDIT_LOG
        verdicts = verify_chain(path)
    for verdict in verdicts:
        broken = f"line {verdict.broken_line} {verdict.reason}" if verdict.reason else f"{verdict.lines} lines, intact"
        typer.echo(printable(f"{verdict.path}: {broken}"))
    if not verdicts:
        say(f"{path}: there is no audit log; it is made when landmarknet-edge watch first runs")
    raise typer.Exit(0 if verdicts and all(verdict.reason is None for verdict in verdicts) else WRONG)


def requeue(
    files: Annotated[list[Path] | None, typer.Argument(metavar="FILE...", help="images, in their drop folder")] = None,
    refused: Annotated[bool, typer.Option("--refused", help="every refused image")] = False,
    config: ConfigFile = None,
) -> None:
    """Have the daemon process images again; it hears of it at its next sweep."""
    from edge.service.journal import ask_requeue
    from edge.service.state import JOURNAL

    if bool(files) == refused:
        say("name images, or give --refused, not both")
        raise typer.Exit(MISUSE)
    with _failures():
        images = None if refused else [_in_a_drop_folder(file, config) for file in files or []]
        ask_requeue(_state_folder(config) / JOURNAL, images)
    asked = "every refused image" if images is None else f"{len(images)} image{'s' * (len(images) > 1)}"
    typer.echo(f"asked for: {asked}")


def register(app: typer.Typer) -> None:
    """Add the commands to ``landmarknet-edge``."""
    for command in (status, check, audit, requeue):
        app.command()(command)


def _print(findings: tuple[Finding, ...]) -> None:
    console = Console()
    for finding in findings:
        console.print(f"{finding.level:8}", style=COLOURS[finding.level], end="")
        console.print(printable(finding.what), markup=False, highlight=False, soft_wrap=True)
        if finding.mend:
            console.print(f"{'':8}to mend: {printable(finding.mend)}", markup=False, highlight=False, soft_wrap=True)


def _state_folder(config: Path | None) -> Path:
    from edge.service.installed import service_of
    from edge.service.state import state_folder

    return state_folder(service_of(config).config)


def _in_a_drop_folder(file: Path, config: Path | None) -> Path:
    """Return the path by which the daemon knows a file; raise `BadConfig` where it serves no folder above it."""
    from edge.service.installed import service_of

    path = file.parent.resolve() / file.name
    for entry in service_of(config).config.drop_folder:
        if path.is_relative_to(entry.path.resolve()):
            return entry.path / path.relative_to(entry.path.resolve())
    raise BadConfig(f"{file}: lies in no drop folder of the configuration; name it where the daemon finds it")


@contextmanager
def _failures() -> Iterator[None]:
    """End with 2 where the configuration is wrong, and with 1 where the state cannot be used, just now or at all."""
    with stop_exits_with(WRONG), stop_exits_with(MISUSE, BadConfig):
        try:
            yield
        except SpoolFull as exc:
            say(f"stopped: {exc}")
            raise typer.Exit(WRONG) from exc
        except PermissionError as exc:
            say(f"stopped: {exc.filename}: this user may not look there; ask as root")
            raise typer.Exit(WRONG) from exc
