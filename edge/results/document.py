"""The result document ``X.landmarks.json``, schema ``landmarknet-edge/result/1``.

The JSON Schema in ``docs/result.schema.json`` is generated from these models.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

RESULT_SCHEMA: Final = "landmarknet-edge/result/1"
NOTICE = "Decision support for research; not a medical device. Check every landmark against the image."

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Image(_Frozen):
    """Which image this result belongs to. Carries no patient name or ID."""

    name: str
    sha256: Sha256
    sop_instance_uid: str | None
    modality: str | None
    rows: int | None
    columns: int | None


class LandmarkEntry(_Frozen):
    """One landmark. Pixels are detector pixels; (0, 0) is the centre of the top-left one."""

    kind: str
    x_px: float
    y_px: float
    x_mm: Annotated[float | None, Field(description="isocentre plane, +x right; null without trusted geometry")]
    y_mm: Annotated[float | None, Field(description="isocentre plane, +y up; null without trusted geometry")]
    sigma_px: Annotated[
        float | None,
        Field(description="standard uncertainty along each axis, of a line to its side; null: none given"),
    ]
    score: Annotated[float, Field(description="height of the heatmap at the peak, 0 to 1; not a probability")]


class Geometry(_Frozen):
    """How pixels become millimetres, or the reason why they do not."""

    status: Literal["known", "unknown"]
    reason: str | None
    sid_mm: float | None
    sad_mm: float | None
    spacing_mm: Annotated[tuple[float, float] | None, Field(description="(row, column) spacing, receptor plane")]
    first_pixel_mm: Annotated[tuple[float, float] | None, Field(description="(x, y) of pixel (0, 0), receptor plane")]
    gantry_deg: float | None
    axes: Annotated[str | None, Field(description="the frame of x_mm and y_mm")]
    polarity: str
    sources: dict[str, str]
    warnings: tuple[str, ...]


class Provenance(_Frozen):
    """What made this result."""

    software: str
    key: Annotated[
        Sha256 | None,
        Field(
            description="over the hashes of file, model, contract, manifest and settings; null: an earlier version's"
        ),
    ] = None
    release: str
    model_sha256: Sha256
    checkpoint_sha256: Sha256
    contract_sha256: Sha256
    manifest_sha256: Annotated[Sha256 | None, Field(description="of a signed release; null: not from a store")] = None
    engine_warnings: Annotated[
        tuple[str, ...], Field(description="why this engine is not what was meant; empty: it is")
    ] = ()
    calibration_set_sha256: Sha256 | None
    config_sha256: Annotated[Sha256, Field(description="of the whole configuration; no part of the key")]
    settings_sha256: Annotated[
        Sha256 | None,
        Field(description="of those settings that change what is made of an image; null: an earlier version's"),
    ] = None
    backend: dict[str, str]


class Output(_Frozen):
    """Another file that belongs to this result."""

    name: str
    sha256: Sha256


class Result(_Frozen):
    """One image's result. Everything but ``timing_ms`` is the same each time the same file is processed."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)  # every entry is always written

    result_schema: Literal["landmarknet-edge/result/1"] = Field(default=RESULT_SCHEMA, alias="schema")
    status: Literal["ok", "no_landmarks", "refused"]
    reason: Annotated[str | None, Field(description="why the image was refused; null otherwise")]
    notice: str = NOTICE
    image: Image
    landmarks: tuple[LandmarkEntry, ...]
    geometry: Geometry | None
    registration: Annotated[None, Field(description="null without a reference")] = None
    provenance: Provenance
    timing_ms: dict[str, float]
    outputs: tuple[Output, ...]

    def to_json(self) -> bytes:
        """Return the document's bytes."""
        return (self.model_dump_json(by_alias=True, indent=2) + "\n").encode()


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a result document."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Result.model_json_schema(by_alias=True, mode="serialization"),
    }


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2))  # noqa: T201 - this is the command's output
