"""``landmarknet-edge install-service`` and ``uninstall-service``: a plan, and with ``--apply`` the deed.

Exit status: 0 done or planned, 1 something failed, 2 misuse or a configuration that is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge.errors import BadConfig
from edge.terminal import MISUSE, printable, say, stop_exits_with

if TYPE_CHECKING:
    from edge.service.install import Step

Apply = Annotated[bool, typer.Option("--apply", help="do it; without, only say what would be done")]
Root = Annotated[Path, typer.Option(help="install below this folder instead, for a system image; runs no command")]
NEXT = (
    "next: name the drop folders in /etc/landmarknet-edge/landmarknet-edge.toml",
    "      landmarknet-edge install-service --apply      again, for the folders",
    "      landmarknet-edge check                        as the user landmarknet-edge; each line says how to mend",
    "      systemctl enable --now landmarknet-edge",
)


def install_service(
    config: Annotated[
        Path | None, typer.Option(help="the configuration to begin with, where there is none yet")
    ] = None,
    program: Annotated[Path | None, typer.Option(help="the command that units start, if not this one")] = None,
    root: Root = Path("/"),
    apply: Apply = False,
) -> None:
    """Install the systemd service, or adapt it to a changed configuration; starts nothing that does not run."""
    from edge.service.install import CONFIG, Put, default_program, plan_install

    with _failures():
        steps = plan_install(root, program or default_program(), config)
        _carry_out(steps, apply=apply)
    if apply and any(isinstance(step, Put) and step.path.name == CONFIG for step in steps):  # for the first time
        for line in NEXT:
            say(line)


def uninstall_service(root: Root = Path("/"), apply: Apply = False) -> None:
    """Stop and remove the systemd service; configuration, state, releases and results stay."""
    from edge.service.install import plan_uninstall

    with _failures():
        _carry_out(plan_uninstall(root), apply=apply)


def register(app: typer.Typer) -> None:
    """Add both commands to ``landmarknet-edge``."""
    app.command("install-service")(install_service)
    app.command("uninstall-service")(uninstall_service)


def _carry_out(steps: tuple[Step, ...], *, apply: bool) -> None:
    from edge.service.install import carry_out, in_words, run_command

    for step in steps:
        typer.echo(printable(in_words(step)))
    if apply:
        carry_out(steps, run_command)
    else:
        typer.echo("nothing was done; with --apply, as root, it is")


@contextmanager
def _failures() -> Iterator[None]:
    from edge.service.install import ServiceError

    with stop_exits_with(MISUSE, BadConfig):
        try:
            yield
        except ServiceError as exc:
            say(f"stopped: {exc}")
            raise typer.Exit(1) from exc
