"""``landmarknet-edge engine``: the store of signed releases. Exit status: 0 done, 1 refused, 2 misuse."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge.errors import BadConfig, BadRelease
from edge.terminal import MISUSE, printable, say, stop_exits_with

if TYPE_CHECKING:
    from edge.manifest import Manifest
    from edge.store import Listed, Store

REFUSED = 1
RESTART = "a service that runs keeps what it loaded: restart it"
app = typer.Typer(no_args_is_help=True, help=__doc__)

ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file that names store and release_key")]
StoreFolder = Annotated[Path | None, typer.Option("--store", help="the store, where no --config names it")]
KeyFile = Annotated[Path | None, typer.Option("--key", help="the public key of the site, with --store")]


@app.command("list")
def list_releases(config: ConfigFile = None, store: StoreFolder = None, key: KeyFile = None) -> None:
    """Show the releases of the store, with the current and the previous one, and what the gate said of each."""
    with refusals():
        opened = open_store(config, store, key)
        for line in table(opened.list()):
            typer.echo(line)
        if opened.current() is None:
            raise BadRelease(f"{opened.root}: no release is in use; choose one with landmarknet-edge engine use ID")


@app.command()
def add(folder: Path, config: ConfigFile = None, store: StoreFolder = None, key: KeyFile = None) -> None:
    """Check a signed release folder and copy it into the store; it is not yet in use."""
    with refusals():
        added = open_store(config, store, key).add(folder)
    typer.echo(f"added: {added.name}")


@app.command()
def use(release: str, config: ConfigFile = None, store: StoreFolder = None, key: KeyFile = None) -> None:
    """Check a release and make it the current one."""
    with refusals():
        open_store(config, store, key).use(release)
    typer.echo(f"current: {release}")
    say(RESTART)


@app.command()
def rollback(config: ConfigFile = None, store: StoreFolder = None, key: KeyFile = None) -> None:
    """Check the previous release and make it the current one again."""
    with refusals():
        release = open_store(config, store, key).rollback()
    typer.echo(f"current: {release}")
    say(RESTART)


@app.command()
def remove(release: str, config: ConfigFile = None, store: StoreFolder = None, key: KeyFile = None) -> None:
    """Delete a release that is neither current nor previous, without asking."""
    with refusals():
        freed = open_store(config, store, key).remove(release)
    typer.echo(f"removed: {release}, {freed / 2**20:.1f} MiB")


@app.command()
def verify(
    release: Annotated[str | None, typer.Argument(help="one release; without, every one in the store")] = None,
    config: ConfigFile = None,
    store: StoreFolder = None,
    key: KeyFile = None,
) -> None:
    """Check signature, files and contract of a release; nothing is loaded."""
    with refusals():
        opened = open_store(config, store, key)
        names = [one.release for one in opened.list()] if release is None else [release]
        faults = [fault for name in names if (fault := _fault(opened, name))]
    for fault in faults:
        say(f"refused: {fault}")
    raise typer.Exit(REFUSED if faults else 0)


@app.command()
def keygen(private: Path, public: Path) -> None:
    """Make the key pair of a site: PRIVATE signs releases where they are built, PUBLIC goes into the room."""
    from edge.signature import generate_key

    with refusals():
        generate_key(private, public)
    typer.echo(f"private key, to keep where releases are built: {private}\npublic key, for release_key: {public}")


def open_store(config: Path | None, store: Path | None, key: Path | None) -> Store:
    """Return the store that a configuration or the options name; raise `BadConfig`."""
    from edge.config import read_config
    from edge.store import Store

    if config is None:
        if store is None or key is None:
            raise BadConfig("no store is named; give --config FILE, or --store FOLDER and --key FILE")
        return Store(store, key)
    if store is not None or key is not None:
        raise BadConfig("two stores are named; give --config FILE, or --store FOLDER and --key FILE")
    settings = read_config(config)
    if settings.store is None:
        raise BadConfig(f"{config}: names no store; add store and release_key")
    return Store(settings.store, settings.release_key)


def table(releases: Sequence[Listed]) -> list[str]:
    """Return a line for each release, its columns aligned; of one that cannot be used, the fault."""
    rows = [("", "release", "flavour", "precision", "created", "gate"), *map(_row, releases)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(one: Listed) -> tuple[str, ...]:
    mark = "current" if one.is_current else "previous" if one.is_previous else ""
    name, manifest = printable(one.release), one.manifest
    if manifest is None:
        return (mark, name, "-", "-", "-", f"REFUSED: {printable(one.fault or '')}")
    verdict = manifest.gate.get("passed")
    gate = "passed" if verdict is True else "NOT passed" if verdict is False else "not run"
    flavour = printable(f"{manifest.flavour} {manifest.flavour_version}")
    created = f"{manifest.created_utc:%Y-%m-%d %H:%M} UTC"
    return (mark, name, flavour, _computed_in(manifest), created, gate)


def _computed_in(manifest: Manifest) -> str:
    from edge.contract import delivered_in_words

    asked, said = manifest.precision, delivered_in_words(manifest.precision, manifest.delivered)
    return said if said == asked else f"{printable(said)} (asked: {asked})"


def _fault(store: Store, release: str) -> str | None:
    try:
        store.verify(release)
    except BadRelease as exc:
        return str(exc)
    typer.echo(f"intact: {release}")
    return None


@contextmanager
def refusals() -> Iterator[None]:
    """End with 2 where the store or its key is not named as it should be, and with 1 where the store refuses."""
    with stop_exits_with(REFUSED), stop_exits_with(MISUSE, BadConfig):
        yield
