"""What a release promises: its input, its kinds, its thresholds. The room's code knows none of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge.errors import BadRelease

CONTRACT_SCHEMA: Final = "landmarknet-edge/contract/2"
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Flavour = Literal["onnxruntime", "tensorrt", "tensorrt_rtx"]
Precision = Literal["fp32", "fp16", "int8"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class KindContract(_Frozen):
    """One kind of landmark, in the order of the network's heatmaps."""

    kind: str
    threshold: Annotated[float, Field(ge=0, le=1, description="a peak below this score is no landmark")]
    at_most: Annotated[int, Field(ge=1, description="how many of this kind one image can show")]
    shape: Annotated[
        Literal["point", "line"],
        Field(description="point: peaks; line: a ridge down the image, read at regular steps along it"),
    ] = "point"
    sigma: Annotated[
        tuple[NotNegative, NotNegative] | None,
        Field(description="(a, b): standard uncertainty a + b * (width of the peak), network px; null: not known"),
    ] = None
    only_with: Annotated[
        tuple[str, ...],
        Field(description="reported only where one of these kinds is found, too: else the anatomy is another"),
    ] = ()
    lateral_only: Annotated[
        bool,
        Field(description="not reported where the gantry is known to be nearer to 0 or 180 than to 90 or 270 degrees"),
    ] = False


class Reading(_Frozen):
    """How to feed a network and how to read its answer; the part of a contract that the detection needs."""

    input_size: Annotated[int, Field(description="the network's input is (input_size, input_size) px")]
    heatmap_size: int
    rows_per_kind: int
    nms_radius_net_px: int
    mm_per_net_px: Annotated[
        Positive | None,
        Field(description="the fixed scale at the isocentre; null: the whole image fills the network's square"),
    ]
    assumed_longer_side_mm: Annotated[
        tuple[Positive, ...],
        Field(description="sizes to try where the geometry is not known; the one with the clearest peaks counts"),
    ]
    kinds: tuple[KindContract, ...]


class Contract(Reading):
    """The promise of one release, stored beside its model as ``contract.json``."""

    contract_schema: Literal["landmarknet-edge/contract/2"] = Field(default=CONTRACT_SCHEMA, alias="schema")
    release: str
    model_file: str
    model_sha256: Sha256
    golden_sha256: Sha256
    checkpoint_sha256: Sha256
    calibration_set_sha256: Sha256 | None
    flavour: Flavour
    precision: Annotated[Precision, Field(description="what was asked for, and is written in the graph")]
    delivered: Annotated[
        dict[Precision, int] | None,
        Field(description="layers that multiply, by what they compute in where it was built; null: not known"),
    ] = None
    golden_tolerance_net_px: float
    golden_tolerance_score: float
    trained_on: Annotated[
        tuple[str, ...], Field(description="patients and volumes without landmarks: no figure on them is an accuracy")
    ]

    @property
    def precision_delivered(self) -> str:
        """Return, in words for every result, what is computed in."""
        return delivered_in_words(self.precision, self.delivered or {})


def delivered_in_words(asked: str, layers: Mapping[Any, int]) -> str:
    """Return what is computed in: the precision that was asked for, or others where no layer computes in that one.

    ``layers`` counts layers by what they compute in; empty: not known.
    """
    if layers.get(asked):
        return asked
    computed = " and ".join(precision for precision, number in layers.items() if number)
    return f"{computed} computation of {asked} weights" if computed else asked


def read_contract(path: Path) -> tuple[Contract, str]:
    """Read ``contract.json`` and return it with its SHA-256; raise `BadRelease` saying which entry is wrong.

    Nothing vouches for the contract itself: that is what signed releases are for (`edge.manifest`).
    """
    try:
        data = path.read_bytes()
        return Contract.model_validate_json(data), hashlib.sha256(data).hexdigest()
    except OSError as exc:
        raise BadRelease(f"{path}: cannot be read ({exc.strerror}); name a release folder that holds one") from exc
    except ValidationError as exc:
        where = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in exc.errors())
        raise BadRelease(f"{path}: not a contract of this version ({where}); publish the release again") from exc
