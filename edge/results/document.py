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

    name: Annotated[str, Field(description="of the file, without its folder")]
    sha256: Annotated[Sha256, Field(description="of the file")]
    sop_instance_uid: Annotated[str | None, Field(description="null: it has none, or was refused")]
    modality: Annotated[str | None, Field(description="of DICOM, where it is a known one")]
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
    reason: Annotated[str | None, Field(description="why there are no millimetres; null otherwise")]
    sid_mm: Annotated[float | None, Field(description="source to receptor")]
    sad_mm: Annotated[float | None, Field(description="source to isocentre")]
    spacing_mm: Annotated[tuple[float, float] | None, Field(description="(row, column) spacing, receptor plane")]
    first_pixel_mm: Annotated[tuple[float, float] | None, Field(description="(x, y) of pixel (0, 0), receptor plane")]
    gantry_deg: Annotated[float | None, Field(description="0 to 360, only where it can be trusted")]
    axes: Annotated[str | None, Field(description="the frame of x_mm and y_mm")]
    polarity: Annotated[str, Field(description="what decided that bright means more dose")]
    sources: Annotated[dict[str, str], Field(description="each number's attribute, or why there is none")]
    warnings: Annotated[tuple[str, ...], Field(description="what to know before trusting the millimetres")]


class Vector(_Frozen):
    """Two numbers in the image's axes: x right, y up, in the isocentre plane."""

    x: float
    y: float


class RunnerUpEntry(_Frozen):
    """The best alignment elsewhere, such as one vertebra off."""

    shift_mm: Vector
    margin: Annotated[float, Field(description="how much less likely, in nats")]


class ReferenceEntry(_Frozen):
    """Which reference was used; hashes only."""

    key: Annotated[Sha256, Field(description="over plan, beam and patient")]
    plan: Annotated[Sha256 | None, Field(description="over plan and patient; null: not known")]
    sha256: Annotated[Sha256, Field(description="of the reference's JSON")]
    landmarks_from: Literal["network", "person"]
    release: Annotated[str | None, Field(description="of the network; null: a person's landmarks")]
    signed_off: Annotated[bool, Field(description="whether a person answers for the landmarks")]


class RegistrationEntry(_Frozen):
    """Where the anatomy lies against its reference: detected minus planned; to undo it the PATIENT moves oppositely."""

    status: Literal["ok", "withheld"]
    reason: Annotated[str | None, Field(description="why it is withheld; then there is no number of a shift")]
    reference: Annotated[ReferenceEntry | None, Field(description="null: it cannot be used, see reason")]
    shift_mm: Vector | None
    rotation_deg: Annotated[float | None, Field(description="counter-clockwise; null: the landmarks do not fix it")]
    interval95_mm: Annotated[Vector | None, Field(description="the 95 % interval is shift_mm +- this")]
    covariance_mm2: Annotated[tuple[tuple[float, float], tuple[float, float]] | None, Field(description="of shift_mm")]
    axes: str
    n_used: Annotated[int, Field(description="points that agree; lines are not counted")]
    residual_mm: Annotated[float | None, Field(description="root mean square over points and axes")]
    runner_up: Annotated[RunnerUpEntry | None, Field(description="null: nothing else is possible")]
    outliers: Annotated[tuple[str, ...], Field(description="found, but not where the others say")]
    warnings: tuple[str, ...]
    gantry_deg: float | None
    support_deg: Annotated[float | None, Field(description="the turn of the couch; null: not stated")]


class Provenance(_Frozen):
    """What made this result."""

    software: str
    key: Annotated[
        Sha256 | None,
        Field(
            description="over the hashes of file, model, contract, manifest, settings and reference; null: an earlier "
            "version's"
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
    """One image's result. Everything but ``timing_ms`` is the same each time one machine processes the same file."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)  # every entry is always written

    result_schema: Annotated[
        Literal["landmarknet-edge/result/1"], Field(alias="schema", description="what these entries mean")
    ] = RESULT_SCHEMA
    status: Annotated[
        Literal["ok", "no_landmarks", "refused"], Field(description="ok: at least one landmark; refused: not looked at")
    ]
    reason: Annotated[str | None, Field(description="why the image was refused; null otherwise")]
    notice: str = NOTICE
    image: Image
    landmarks: Annotated[tuple[LandmarkEntry, ...], Field(description="kind by kind, each from the top of the image")]
    geometry: Annotated[Geometry | None, Field(description="null: the image was refused")]
    registration: Annotated[RegistrationEntry | None, Field(description="null without a reference")] = None
    provenance: Provenance
    timing_ms: Annotated[dict[str, float], Field(description="per stage; differs from time to time")]
    outputs: Annotated[tuple[Output, ...], Field(description="the files that belong to this result, in its folder")]
    output_notes: Annotated[
        tuple[str, ...], Field(description="why a wanted DICOM output is missing, or what it could not take over")
    ] = ()

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
