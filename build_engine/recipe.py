"""What to build, from one TOML file."""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from edge.contract import KindContract


class RecipeError(Exception):
    """A recipe that cannot be followed; the message says which entry and what it should be."""


class Recipe(BaseModel):
    """Relative paths start at the working directory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    release: str
    checkpoint: Path
    output: Path
    golden_images: tuple[Path, ...]
    golden_tolerance_net_px: float = 0.05
    golden_tolerance_score: float = 0.005
    kinds: tuple[KindContract, ...]


def read_recipe(path: Path) -> Recipe:
    """Read a recipe; raise `RecipeError` naming the entry that is wrong."""
    try:
        return Recipe.model_validate(tomllib.loads(path.read_text()))
    except OSError as exc:
        raise RecipeError(f"{path}: cannot be read ({exc.strerror})") from exc
    except tomllib.TOMLDecodeError as exc:
        raise RecipeError(f"{path}: not TOML ({exc})") from exc
    except ValidationError as exc:
        where = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors())
        raise RecipeError(f"{path}: {where}") from exc
