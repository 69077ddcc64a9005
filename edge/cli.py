"""``landmarknet-edge``: find landmarks in portal images. Decision support for research; not a medical device."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from edge import __version__
from edge.commands.archive import add_to as add_archive
from edge.commands.engine import app as engine_app
from edge.commands.operation import register as register_operation
from edge.commands.page import register as register_page
from edge.commands.reference import app as reference_app
from edge.commands.registration import add_to as add_registration
from edge.commands.service import register as register_service
from edge.errors import Stop, TryAgain
from edge.terminal import MISUSE, err, say, stop_exits_with

if TYPE_CHECKING:
    from edge.config import Config
    from edge.pipeline import Pipeline

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(engine_app, name="engine")
app.add_typer(reference_app, name="reference")

ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file; without one, the defaults")]


@app.command()
def process(
    files: Annotated[list[Path], typer.Argument(metavar="FILE_OR_FOLDER...", help="images, or folders of images")],
    results_dir: Annotated[Path | None, typer.Option(help="put results here instead of beside each image")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the results as a JSON array")] = False,
    config: ConfigFile = None,
) -> None:
    """Process images once. Exit status: 0 all done, 1 some refused, 2 misuse."""
    from rich.progress import Progress

    from edge.process import Misuse, Outcome, plan, process_all

    with stop_exits_with(MISUSE):
        try:
            jobs = plan(files, results_dir)
        except Misuse as exc:
            say(str(exc))
            raise typer.Exit(MISUSE) from exc
        if not jobs:
            say("nothing to process: no files but hidden ones and our own results")
        pipeline = open_pipeline(load_config(config))
        for warning in pipeline.engine.warnings:
            say(f"warning: {warning}")
        with Progress(console=err, transient=True, disable=len(jobs) < 2 or not err.is_terminal) as progress:
            task = progress.add_task("portal images", total=len(jobs))

            def tell(outcome: Outcome) -> None:
                progress.advance(task)
                if not as_json:
                    say(f"{outcome.image}: {outcome.summary}")

            outcomes = process_all(jobs, pipeline, tell)
    if as_json:
        published = [json.loads(outcome.result.to_json()) for outcome in outcomes if outcome.result]
        typer.echo(json.dumps(published, indent=2))
        for outcome in outcomes:
            if outcome.error:
                say(f"{outcome.image}: {outcome.summary}")
    raise typer.Exit(0 if all(outcome.done for outcome in outcomes) else 1)


@app.command()
def watch(
    folder: Annotated[Path | None, typer.Argument(help="drop folder, instead of those of the configuration")] = None,
    config: ConfigFile = None,
    once: Annotated[bool, typer.Option(help="stop when every file that is there has been tried")] = False,
) -> None:
    """Serve drop folders until told to stop. Exit status 78: a restart cannot help."""
    from edge.log import open_log
    from edge.service.serving import serve

    with stop_exits_with(Stop.exit_status), try_again_exits_with(1):
        page = () if once else page_command(config, folder)
        waiting = serve(lambda: watched_config(config, folder), open_log(), once=once, page=page)
    raise typer.Exit(1 if once and waiting else 0)


@app.command()
def demo(
    samples: Annotated[Path, typer.Argument(help="folder of images with a truth.json")] = Path("samples"),
) -> None:
    """Drop sample images into a folder that `watch` serves, and compare the landmarks found with the truth."""
    from edge.demo import DemoError, run_demo

    try:
        run_demo(samples, Console())
    except DemoError as exc:
        for line in str(exc).splitlines():
            say(line)
        raise typer.Exit(1) from exc


@app.callback(invoke_without_command=True)
def version_or_help(version: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    """Find landmarks in portal images. Decision support for research; not a medical device."""
    if version:
        typer.echo(f"landmarknet-edge {__version__}")
        raise typer.Exit


def load_config(path: Path | None) -> Config:
    """Return the configuration of a file, or the defaults."""
    from edge.config import Config, read_config

    return Config() if path is None else read_config(path)


@contextmanager
def try_again_exits_with(status: int) -> Iterator[None]:
    """Turn what keeps `watch` from starting, and a restart may help, into its message and an exit status."""
    try:
        yield
    except TryAgain as exc:
        say(f"stopped: {exc}")
        raise typer.Exit(status) from exc


def watched_config(path: Path | None, folder: Path | None) -> Config:
    """Return the configuration to watch by, ``folder`` in the place of its drop folders; raise `BadConfig`."""
    from edge.config import DropFolderConfig
    from edge.service.daemon import demand_drop_folders

    config = load_config(path)
    if folder is not None:
        config = config.model_copy(update={"drop_folder": (DropFolderConfig(path=folder.resolve()),)})
    demand_drop_folders(config)
    return config


def page_command(path: Path | None, folder: Path | None) -> tuple[str, ...]:
    """Return the command that serves the page of what is watched, for as long as this process lives."""
    named = [] if path is None else ["--config", str(path)]
    place = [] if folder is None else [str(folder)]
    return (sys.executable, "-P", "-m", "edge.cli", "page", *place, *named, "--parent", str(os.getpid()))


def open_pipeline(config: Config) -> Pipeline:
    """Open the release of a configuration; ready to process."""
    from edge.engines import open_configured
    from edge.pipeline import pipeline_of

    return pipeline_of(config, open_configured(config))


add_archive(app)
add_registration(app)
register_operation(app)
register_page(app)
register_service(app)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
