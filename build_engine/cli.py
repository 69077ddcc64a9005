"""``landmarknet-build-engine``: from a recipe to a release that the room can load."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def build(
    recipe: Annotated[Path, typer.Argument(help="TOML file, see build_engine/recipes")],
    precision: Annotated[str | None, typer.Option(help="fp32, fp16, int8 or auto, instead of the recipe's")] = None,
    flavour: Annotated[
        str | None, typer.Option(help="onnxruntime, tensorrt or tensorrt_rtx, instead of the recipe's")
    ] = None,
    release: Annotated[
        str | None, typer.Option(help="name of the release, instead of the recipe's: a store keeps each name once")
    ] = None,
    stamp: Annotated[bool, typer.Option("--stamp", help="add the time (UTC) to that name: for rebuilds")] = False,
) -> None:
    """Export the checkpoint of a recipe, choose its precision, compile, verify and publish the release."""
    from build_engine.build import build_release
    from build_engine.progress import ConsoleProgress
    from build_engine.quantize import BuildError
    from build_engine.recipe import read_recipe
    from calibration.calibration_set import CalibrationError
    from edge.errors import EdgeError

    console = Console(stderr=True)
    try:
        asked = read_recipe(recipe, precision, flavour, release)
        asked = asked.stamped(datetime.now(UTC)) if stamp else asked
        with ConsoleProgress(console) as progress:
            folder = build_release(asked, lambda line: console.print(line, soft_wrap=True, markup=False), progress)
    except (BuildError, CalibrationError, EdgeError) as exc:
        console.print(f"not built: {exc}", soft_wrap=True, markup=False)
        raise typer.Exit(1) from exc
    typer.echo(f"release: {folder}")


def main() -> None:
    """Run the command line."""
    app()
