"""``landmarknet-build-engine``: from a recipe to a release that the room can load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def build(recipe: Annotated[Path, typer.Argument(help="TOML file, see build_engine/recipes")]) -> None:
    """Export the checkpoint of a recipe, verify the graph against PyTorch, publish the release."""
    from build_engine.build import build_release
    from build_engine.recipe import RecipeError, read_recipe
    from edge.errors import EdgeError

    console = Console(stderr=True)
    try:
        folder = build_release(read_recipe(recipe), lambda line: console.print(line, soft_wrap=True))
    except (RecipeError, EdgeError) as exc:
        console.print(f"not built: {exc}", soft_wrap=True, markup=False)
        raise typer.Exit(1) from exc
    typer.echo(f"release: {folder}")


def main() -> None:
    """Run the command line."""
    app()
