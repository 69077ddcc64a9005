"""``landmarknet-edge register`` and ``two-views``: where the anatomy lies against its plan; nothing is published.

Exit status: 0 a shift is told, 1 it is withheld or an image is refused, 2 misuse.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge.errors import Refused, TryAgain
from edge.terminal import MISUSE, printable, say, stop_exits_with

if TYPE_CHECKING:
    from edge.by_hand import TwoViews
    from edge.registration.register import Registration

WITHHELD = 1
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file; without one, the installed service's")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON instead")]
RESEARCH = "Decision support for research, not a medical device: a person checks, and moves the couch."


def register(
    image: Annotated[Path, typer.Argument(help="a portal image")],
    reference: Annotated[Path, typer.Argument(help="a planned image, or the JSON file of a reference")],
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Say where the anatomy of IMAGE lies against REFERENCE: detected minus planned, in the isocentre plane."""
    from edge.by_hand import register_files
    from edge.engines import open_configured
    from edge.registration.register import Rules
    from edge.results.registration_entry import registration_entry
    from edge.service.installed import service_of

    with failures():
        settings = service_of(config).config
        rules = Rules(widest_interval_mm=settings.widest_interval_mm)
        aligned = register_files(image, reference, open_configured(settings), rules)
    if as_json:
        typer.echo(registration_entry(aligned).model_dump_json(indent=2))
    else:
        for line in words(aligned.registration):
            typer.echo(printable(line))
    raise typer.Exit(0 if aligned.registration.status == "ok" else WITHHELD)


def two_views(
    first: Annotated[Path, typer.Argument(help="a result X.landmarks.json with a registration")],
    second: Annotated[Path, typer.Argument(help="the result of another view of the same session")],
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Combine two views of one session, such as AP and lateral, into a shift of the room and a couch move."""
    from edge.by_hand import two_views as combine
    from edge.service.installed import service_of

    with failures():
        found = combine(first, second, service_of(config).config.couch)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
    else:
        for line in words_of_two(found):
            typer.echo(printable(line))
    raise typer.Exit(0 if found.room.status == "ok" else WITHHELD)


def add_to(app: typer.Typer) -> None:
    """Add both commands to ``landmarknet-edge``."""
    app.command()(register)
    app.command("two-views")(two_views)


def words(made: Registration) -> list[str]:
    """Return a registration in lines for a person."""
    from edge.results.wording import DIRECTION, shift_line, shift_of, support_line

    lines = [shift_line(made)]
    if shift_of(made) is not None:
        lines += [support_line(made), f"axes: {made.axes}", DIRECTION]
    lines += [f"outlier: {one}" for one in made.outliers] + [f"warning: {one}" for one in made.warnings]
    return [*lines, RESEARCH]


def words_of_two(found: TwoViews) -> list[str]:
    """Return two views in lines for a person."""
    room, move = found.room, found.move
    lines = [f"withheld: {room.reason}"]
    if room.shift_mm and room.interval95_mm:
        named = zip(("lateral x", "longitudinal y", "vertical z"), room.shift_mm, room.interval95_mm, strict=True)
        lines = [f"shift of the anatomy, {axis}: {mm:+.1f} +- {half:.1f} mm (95 %)" for axis, mm, half in named]
    if room.shared_axis_mm is not None:
        lines.append(
            f"the views differ by {room.shared_axis_mm:+.1f} mm along y, which both measure "
            f"(standard uncertainty {room.shared_axis_sigma_mm:.1f} mm)"
        )
    if isinstance(move, str):
        lines.append(f"no couch move: {move}")
    else:
        lines.append(
            f"to undo it the couch's display changes by lateral {move.lateral_mm:+.1f}, longitudinal "
            f"{move.longitudinal_mm:+.1f}, vertical {move.vertical_mm:+.1f} mm (scale: {move.scale})"
        )
    lines += [f"axes: {room.axes}"] + ([f"warning: {found.remark}"] if found.remark else [])
    return [*lines, RESEARCH]


@contextmanager
def failures() -> Iterator[None]:
    """End with 2 where something named cannot be meant, with 1 where an image is refused or cannot be read now."""
    with stop_exits_with(MISUSE):
        try:
            yield
        except (Refused, TryAgain) as exc:
            say(f"{'refused' if isinstance(exc, Refused) else 'stopped'}: {exc}")
            raise typer.Exit(WITHHELD) from exc
