"""What to build, from one TOML file."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator

from build_engine.compiled import CompileSettings
from build_engine.quantize import BuildError
from build_engine.verify import GateLimits
from calibration.ranges import Method
from edge.config_mends import mend_toml
from edge.contract import KindContract, Precision


class RecipeError(BuildError):
    """A recipe that cannot be followed; the message says which entry and what it should be."""


def _name(text: str) -> str:
    if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9._-]{0,59}", text):
        raise ValueError(
            f"{text!r} is no name for a release; take up to 60 letters, digits, dots, dashes and underscores, the "
            "first of them a letter or digit"
        )
    return text


# `edge.manifest.PlainName` leaves the rest for time, flavour and precision.
ReleaseName = Annotated[str, AfterValidator(_name)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CalibrationSettings(_Frozen):
    """Where INT8 gets its scales from: a calibration set and the ranges that were collected over it."""

    set: Path
    ranges: Path
    method: Method = "entropy"


class GateSettings(_Frozen):
    """The held-out images of the gate: a data set of ``landmarknet-train simulate``, and patients in it."""

    images: Path
    patients: tuple[str, ...]
    limits: GateLimits = GateLimits()


class StoreSettings(_Frozen):
    """The room's store of signed releases, and the key of the site."""

    folder: Path
    signing_key: Path  # the private key; it stays where releases are made


class Recipe(_Frozen):
    """Relative paths start at the working directory. Published into ``output``, a plain folder, or into a store."""

    release: ReleaseName
    checkpoint: Path
    output: Path | None = None
    store: StoreSettings | None = None
    precision: Precision | Literal["auto"] = "fp32"
    engine: CompileSettings = CompileSettings()
    calibration: CalibrationSettings | None = None
    gate: GateSettings | None = None
    report: Path = Path("work/gate")  # folder for the gate's reports, those of refused candidates too
    golden_images: tuple[Path, ...]
    golden_tolerance_net_px: float | None = None  # None: by precision
    golden_tolerance_score: float | None = None
    kinds: tuple[KindContract, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.output is None) == (self.store is None):
            raise ValueError("give either `output`, a folder, or [store], the room's store of signed releases")
        if self.may_be_int8 and self.calibration is None:
            raise ValueError(f"precision {self.precision} needs [calibration] with set and ranges")
        if self.precision != "fp32" and self.gate is None:
            raise ValueError(f"precision {self.precision} needs [gate] with held-out images and patients")
        if self.engine.flavour != "onnxruntime" and self.gate is None:
            raise ValueError(
                f"flavour {self.engine.flavour} needs [gate] with held-out images and patients, in fp32 too: what a "
                "compiler makes of the network is judged by nothing else"
            )
        return self

    @property
    def may_be_int8(self) -> bool:
        """Tell whether a candidate in INT8 is built, which alone needs the calibration set."""
        return self.precision in ("int8", "auto")

    @property
    def place(self) -> Path | StoreSettings:
        """Return where the release goes."""
        place = self.output or self.store
        if place is None:
            raise RecipeError("the recipe names neither output nor store")
        return place

    def stamped(self, at: datetime) -> Self:
        """Return the recipe with the minute (UTC) in its release's name: a store keeps each name once."""
        return self.model_copy(update={"release": f"{self.release}-{at.astimezone(UTC):%Y%m%dT%H%MZ}"})

    def release_id(self, flavour: str, precision: str) -> str:
        """Return the release's name; in a store, where several live side by side, with flavour and precision."""
        return self.release if self.store is None else f"{self.release}-{flavour}-{precision}"

    def sha256(self) -> str:
        """Return the hash of all settings, defaults included, however the file spells or orders them."""
        settings = json.dumps(self.model_dump(), default=str, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(settings.encode()).hexdigest()


def read_recipe(
    path: Path, precision: str | None = None, flavour: str | None = None, release: str | None = None
) -> Recipe:
    """Read a recipe, with another precision, flavour or name where given; raise `RecipeError` naming what is wrong.

    ``kinds`` may name a file that holds them: what ``landmarknet-train operating-point`` printed.
    """
    asked = _toml(path)
    if isinstance(asked.get("kinds"), str):
        asked["kinds"] = _toml(Path(asked["kinds"])).get("kinds", [])
    named = {"precision": precision, "release": release}
    asked |= {key: value for key, value in named.items() if value is not None}
    if flavour is not None and isinstance(engine := asked.get("engine", {}), dict):
        asked["engine"] = {**engine, "flavour": flavour}
    try:
        return Recipe.model_validate(asked)
    except ValidationError as exc:
        where = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in exc.errors())
        raise RecipeError(f"{path}: {where}") from exc


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode())
    except OSError as exc:
        raise RecipeError(f"{path}: cannot be read ({exc.strerror}); name a recipe that can") from exc
    except ValueError as exc:  # not UTF-8, too
        raise RecipeError(f"{path}: not TOML ({exc}); correct it there: {mend_toml(str(exc))}") from exc
