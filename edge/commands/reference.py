"""``landmarknet-edge reference``: what plans say that images should show. Exit status: 0 done, 1 refused, 2 misuse."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge.commands.registration import failures
from edge.errors import BadConfig
from edge.terminal import printable

if TYPE_CHECKING:
    from edge.config import Config

app = typer.Typer(no_args_is_help=True, help=__doc__)

ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file; without one, the installed service's")]
Folder = Annotated[Path | None, typer.Option("--references", help="the folder, where the configuration names none")]


@app.command()
def add(
    file: Annotated[Path, typer.Argument(help="a planned image (DRR, RT Image), or the JSON file of a reference")],
    plan: Annotated[Path | None, typer.Option(help="the RT Plan whose beam refers to the image")] = None,
    by_rule: Annotated[bool, typer.Option("--by-rule", help="for an image of no plan: a rule will name it")] = False,
    with_uids: Annotated[bool, typer.Option("--with-uids", help="let DICOM outputs refer to the image")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="in place of the beam's reference")] = False,
    config: ConfigFile = None,
    references: Folder = None,
) -> None:
    """Make a reference of a planned image with the room's own network, or take one in that a person signed."""
    from edge.by_hand import reference_of_image, reference_of_json
    from edge.engines import open_configured
    from edge.registration.reference import add_reference

    with failures():
        settings, folder = _settings(config, references)
        if file.name.endswith(".json"):
            reference = reference_of_json(file)
        else:
            engine = open_configured(settings)
            reference = reference_of_image(file, engine, plan=plan, may_lack_beam=by_rule, keep_uids=with_uids)
        add_reference(folder, reference, replace=replace)
    typer.echo(f"added: {reference.key}")
    for line in reference.in_words():
        typer.echo(printable(line))


@app.command("list")
def list_all(config: ConfigFile = None, references: Folder = None) -> None:
    """Show every reference: its key, gantry angle, number of landmarks, and who answers for them."""
    from edge.registration.reference import find_reference, list_references

    with failures():
        _, folder = _settings(config, references)
        for key in list_references(folder):
            found = find_reference(folder, key)
            typer.echo(printable(f"{key}  {found if isinstance(found, str) or found is None else found.in_words()[0]}"))


@app.command()
def show(key: str, config: ConfigFile = None, references: Folder = None) -> None:
    """Print a reference as JSON: correct and sign it in a file, and add that with --replace."""
    from edge.registration.reference import show_reference

    with failures():
        _, folder = _settings(config, references)
        typer.echo(show_reference(folder, key).to_json().decode(), nl=False)


@app.command()
def remove(key: str, config: ConfigFile = None, references: Folder = None) -> None:
    """Remove a reference; results that used it stay."""
    from edge.registration.reference import remove_reference

    with failures():
        _, folder = _settings(config, references)
        remove_reference(folder, key)
    typer.echo(f"removed: {key}")


def _settings(config: Path | None, references: Path | None) -> tuple[Config, Path]:
    """Return the configuration and the folder of references; raise `BadConfig` where none is named."""
    from edge.service.installed import service_of

    settings = service_of(config).config
    folder = references or settings.references
    if folder is None:
        raise BadConfig("no folder of references is named; add references to the configuration, or give --references")
    return settings, folder
