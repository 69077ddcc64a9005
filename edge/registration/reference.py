"""The store of references: what the plan says an image of a beam should show, one signed-off JSON file per beam.

``FOLDER/<key>.reference.json``, where the key is the hash of plan, beam and patient (`planned_beam.beam_key`); so
neither names nor contents say whose reference it is. A reference's landmarks come from the same network, run on the
planned DRR, or from a person who signs for them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edge.config import ReferenceRule
from edge.durable import sync_folder
from edge.errors import BadReference, StoreNotWritable
from edge.registration.sighting import PlaneLandmark, Shape, Sighting

REFERENCE_SCHEMA: Final = "landmarknet-edge/reference/1"
SUFFIX = ".reference.json"
_KEY = re.compile(r"[0-9a-f]{64}")
Key = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Uid = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]*)([.](0|[1-9][0-9]*))+$", max_length=64)]  # PS3.5 9.1
Millimetres = Annotated[float, Field(allow_inf_nan=False)]
Degrees = Annotated[float, Field(ge=0, lt=360)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ReferenceLandmark(_Frozen):
    """One landmark of the plan in the isocentre plane: +x right and +y up in the image."""

    kind: str
    shape: Shape
    x_mm: Millimetres
    y_mm: Millimetres
    sigma_mm: Annotated[float, Field(gt=0, allow_inf_nan=False, description="standard uncertainty along each axis")]


class PlannedImage(_Frozen):
    """By which UIDs DICOM objects refer to a planned image; kept only where whoever made the reference asked for it."""

    sop_class_uid: Uid
    sop_instance_uid: Uid
    study_instance_uid: Uid
    series_instance_uid: Uid
    rows: Annotated[int, Field(ge=1, le=65535)]
    columns: Annotated[int, Field(ge=1, le=65535)]


class Reference(_Frozen):
    """What one beam's planned image shows. Carries no patient name or ID."""

    reference_schema: Literal["landmarknet-edge/reference/1"] = Field(default=REFERENCE_SCHEMA, alias="schema")
    key: Key
    plan: Annotated[Key | None, Field(description="`plan_key`; null: not known")] = None
    image: Annotated[Key | None, Field(description="`image_key` of the planned image; null: none")]
    planned_image: Annotated[PlannedImage | None, Field(description="null: DICOM objects do not refer to it")] = None
    landmarks_from: Literal["network", "person"]
    release: Annotated[str | None, Field(description="of the network; null: a person's landmarks")]
    signed_off_by: Annotated[str | None, Field(description="who answers for the landmarks; null: nobody yet")]
    signed_off_utc: str | None
    gantry_deg: Degrees | None
    support_deg: Degrees | None
    window_mm: Annotated[
        tuple[Millimetres, Millimetres, Millimetres, Millimetres], Field(description="left, bottom, right, top")
    ]
    axes: str
    warnings: tuple[str, ...]
    landmarks: Annotated[tuple[ReferenceLandmark, ...], Field(min_length=1, max_length=200)]

    @model_validator(mode="after")
    def _somebody_answers_for_a_person_s_landmarks(self) -> Reference:
        if self.landmarks_from == "person" and not (self.signed_off_by and self.signed_off_utc):
            raise ValueError("landmarks of a person need signed_off_by and signed_off_utc")
        return self

    def sighting(self) -> Sighting:
        """Return what `edge.registration.register` takes."""
        return Sighting(
            landmarks=tuple(PlaneLandmark(o.kind, o.shape, (o.x_mm, o.y_mm), o.sigma_mm) for o in self.landmarks),
            window_mm=self.window_mm,
            axes=self.axes,
            gantry_deg=self.gantry_deg,
            support_deg=self.support_deg,
            warnings=self.warnings,
        )

    def in_words(self) -> tuple[str, ...]:
        """Return what a person wants to know of it, in short lines, the first for a list."""
        gantry = "gantry not known" if self.gantry_deg is None else f"gantry {self.gantry_deg:g} deg"
        by = f"signed by {self.signed_off_by}" if self.signed_off_by else "signed by nobody"
        first = f"{gantry}, {len(self.landmarks)} landmarks by {self.release or 'a person'}, {by}"
        return first, *(f"warning: {one}" for one in self.warnings)

    def to_json(self) -> bytes:
        """Return the file's bytes."""
        return (self.model_dump_json(by_alias=True, indent=2) + "\n").encode()

    def sha256(self) -> str:
        """Return the hash of the file's bytes, for a result's provenance."""
        return hashlib.sha256(self.to_json()).hexdigest()


def reference_from_sighting(
    key: str,
    seen: Sighting,
    *,
    release: str,
    image: str | None = None,
    plan: str | None = None,
    planned_image: PlannedImage | None = None,
) -> Reference:
    """Make a reference of the network's own landmarks on the planned image; those of no known uncertainty are left out.

    Raises `BadReference` where none is left.
    """
    landmarks = [
        ReferenceLandmark(
            kind=one.kind, shape=one.shape, x_mm=round(x, 3), y_mm=round(y, 3), sigma_mm=round(one.sigma_mm, 3)
        )
        for one in seen.landmarks
        for x, y in [one.xy_mm]
        if one.sigma_mm is not None
    ]
    if not landmarks:
        raise BadReference("the planned image shows no landmark of a known uncertainty; let a person mark and sign it")
    return Reference(
        key=key,
        plan=plan,
        image=image,
        planned_image=planned_image,
        landmarks_from="network",
        release=release,
        signed_off_by=None,
        signed_off_utc=None,
        gantry_deg=seen.gantry_deg,
        support_deg=seen.support_deg,
        window_mm=seen.window_mm,
        axes=seen.axes,
        warnings=seen.warnings,
        landmarks=tuple(landmarks),
    )


def parse_reference(data: bytes, name: str) -> Reference:
    """Return the reference that a JSON file holds; raise `BadReference` naming every entry that is wrong."""
    try:
        return Reference.model_validate_json(data)
    except ValidationError as exc:
        wrong = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in exc.errors(include_input=False)
        )
        raise BadReference(f"{name}: not a reference of this version ({wrong}); correct it, or make it anew") from exc


def add_reference(folder: Path, reference: Reference, *, replace: bool = False) -> Path:
    """Store a reference, whole or not at all, and return its path.

    Raises `BadReference` where its beam has one and ``replace`` is not asked for, `StoreNotWritable` where it fails.
    """
    path = _path(folder, reference.key)
    temporary = folder / f".{secrets.token_hex(8)}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.write(reference.to_json())
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.rename(path)
        else:
            os.link(temporary, path)  # unlike a rename, fails where there is one
        sync_folder(folder)
    except FileExistsError as exc:
        raise BadReference(f"{path}: this beam has a reference; look at it, then replace or remove it") from exc
    except OSError as exc:
        raise StoreNotWritable(f"{folder}: references cannot be stored there ({exc.strerror})") from exc
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def list_references(folder: Path) -> tuple[str, ...]:
    """Return the keys of all references, sorted; none where there is no folder. Raises `BadReference`."""
    try:
        names = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return ()
    except OSError as exc:
        raise BadReference(f"{folder}: cannot be listed ({exc.strerror}); name the folder of references") from exc
    keys = (name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX))
    return tuple(sorted(key for key in keys if _KEY.fullmatch(key)))


def show_reference(folder: Path, key: str) -> Reference:
    """Return one reference; raise `BadReference` where there is none, or it is damaged or another beam's."""
    reference = _stored(folder, key)
    if reference is None:
        raise BadReference(f"{_path(folder, key)}: there is no such reference; list them, or add it")
    return reference


def _stored(folder: Path, key: str) -> Reference | None:
    path = _path(folder, key)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise BadReference(f"{path}: cannot be read ({exc.strerror})") from exc
    reference = parse_reference(data, str(path))
    if reference.key != key:
        raise BadReference(f"{path}: holds the reference of another beam; remove it and add the right one")
    return reference


def remove_reference(folder: Path, key: str) -> None:
    """Remove one reference; raises `BadReference` where there is none, `StoreNotWritable` where it fails."""
    path = _path(folder, key)
    try:
        path.unlink()
        sync_folder(folder)
    except FileNotFoundError as exc:
        raise BadReference(f"{path}: there is no such reference; list them") from exc
    except OSError as exc:
        raise StoreNotWritable(f"{path}: cannot be removed ({exc.strerror})") from exc


def key_by_rule(image_name: str, rules: Iterable[ReferenceRule]) -> str | None:
    """Return the reference of the first rule that matches a file name, or None."""
    return next((rule.reference for rule in rules if re.fullmatch(rule.image_name, image_name)), None)


def find_reference(folder: Path, key: str | None) -> Reference | str | None:
    """Return the reference of an image's beam, the reason why it cannot be used, or None where there is none.

    For the daemon, which goes on: a damaged reference withholds a registration and stops nothing.
    """
    try:
        return None if key is None else _stored(folder, key)
    except BadReference as exc:
        return str(exc).replace(f"{folder}{os.sep}", "")  # it stands in results: names, no folders


def reference_schema() -> str:
    """Return the JSON Schema of a reference file."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Reference.model_json_schema(by_alias=True)}
    return json.dumps(schema, indent=2) + "\n"


def _path(folder: Path, key: str) -> Path:
    if not _KEY.fullmatch(key):
        raise BadReference(f"{key[:80]!r} is no key of a reference: a key has 64 hexadecimal digits")
    return folder / f"{key}{SUFFIX}"
