"""The calibration set of an INT8 engine: which images, named by their hashes and by what each of them stands for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge.contract import Sha256
from edge.errors import EdgeError
from edge.portal_image import read_portal_image
from edge.records import PortalImage

SET_SCHEMA: Final = "landmarknet-edge/calibration-set/1"


class CalibrationError(ValueError):
    """A calibration set, or ranges over it, that cannot be used; the message says what to do."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Stratum(_Frozen):
    """What an image stands for. Names no patient, and a machine only by a hash."""

    view: Literal["ap", "lateral", "oblique", "unknown"]
    machine: Annotated[str, Field(description="8 hex digits of a hash of serial number or station, or unknown")]
    energy: Literal["kv", "mv", "unknown"]
    exposure: Annotated[str, Field(description="what was compared, and the third of its machine and energy: mu-low")]


class Entry(_Frozen):
    """One image. ``path`` as the working directory finds it; in the file, a relative one starts at the manifest."""

    path: Path
    sha256: Sha256
    stratum: Stratum


class CalibrationSet(_Frozen):
    """The images of one calibration set, in the order of their hashes."""

    set_schema: Literal["landmarknet-edge/calibration-set/1"] = Field(default=SET_SCHEMA, alias="schema")
    seed: int
    entries: tuple[Entry, ...]

    @property
    def sha256(self) -> str:
        """Hash of the images' hashes: the same for the same images, whatever their names and folders."""
        return hashlib.sha256("\n".join(sorted(entry.sha256 for entry in self.entries)).encode()).hexdigest()


def read_calibration_set(path: Path) -> CalibrationSet:
    """Read a manifest; its images are verified when they are read. Raise `CalibrationError` naming the wrong entry."""
    try:
        stored = CalibrationSet.model_validate_json(path.read_bytes())
    except OSError as exc:
        raise CalibrationError(
            f"{path}: cannot be read ({exc.strerror}); make one: landmarknet-calibrate select"
        ) from exc
    except ValidationError as exc:
        raise CalibrationError(f"{path}: not a calibration set ({faults(exc)}); select it again") from exc
    return _with_paths(stored, [path.parent / entry.path for entry in stored.entries])


def write_calibration_set(path: Path, calibration_set: CalibrationSet) -> None:
    """Write a manifest, whole or not at all. Relative paths of images are written relative to it, others as given."""
    paths = [
        entry.path if entry.path.is_absolute() else Path(os.path.relpath(entry.path.resolve(), path.parent.resolve()))
        for entry in calibration_set.entries
    ]
    document = _with_paths(calibration_set, paths).model_dump_json(by_alias=True, indent=1)
    write_whole(path, f"{document}\n".encode())


def images(calibration_set: CalibrationSet) -> Iterator[tuple[Path, PortalImage]]:
    """Yield each image as the room reads it; raise `CalibrationError` for an empty set, and for one that changed."""
    if not calibration_set.entries:
        raise CalibrationError("the calibration set is empty: nothing can be learned from it; select images for it")
    for entry in calibration_set.entries:
        try:
            image = read_portal_image(entry.path)
        except EdgeError as exc:
            raise CalibrationError(f"calibration image {entry.path} cannot be used: {exc}; or select again") from exc
        if image.identity.sha256 != entry.sha256:
            raise CalibrationError(
                f"calibration image {entry.path} is not the one that was selected (SHA-256 is "
                f"{image.identity.sha256[:12]}, the set says {entry.sha256[:12]}); bring it back, or select again"
            )
        yield entry.path, image


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is complete as soon as it has its name; raise `CalibrationError` where that fails."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as exc:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise CalibrationError(f"{path}: cannot be written ({exc.strerror}); name another place for it") from exc


def _with_paths(calibration_set: CalibrationSet, paths: list[Path]) -> CalibrationSet:
    entries = (
        entry.model_copy(update={"path": path}) for entry, path in zip(calibration_set.entries, paths, strict=True)
    )
    return calibration_set.model_copy(update={"entries": tuple(entries)})


def faults(exc: ValidationError) -> str:
    """Return what pydantic found wrong, in one line."""
    said = [f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in exc.errors()]
    return "; ".join(said[:3]) + (f"; and {len(said) - 3} more" if len(said) > 3 else "")
