"""The ranges of a model's activations over a calibration set, bound by hashes to both."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from calibration.calibration_set import CalibrationError, faults, write_whole
from calibration.observers import BINS, Histogram
from edge.contract import NotNegative, Sha256

RANGES_SCHEMA: Final = "landmarknet-edge/activation-ranges/1"
COARSE_BINS = 128

Method = Literal["max", "percentile", "entropy", "mse"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CoarseHistogram(_Frozen):
    """Counts of absolute values in equal bins over [0, ``reach``], for people to look at; exact zeros apart."""

    reach: NotNegative
    zeros: Annotated[int, Field(ge=0)]
    counts: Annotated[tuple[int, ...], Field(min_length=COARSE_BINS, max_length=COARSE_BINS)]


class ActivationRanges(_Frozen):
    """``amax`` maps method and tensor to the absolute value that becomes 127 in INT8; 0: the tensor is always zero."""

    ranges_schema: Literal["landmarknet-edge/activation-ranges/1"] = Field(default=RANGES_SCHEMA, alias="schema")
    onnx_sha256: Sha256
    calibration_set_sha256: Sha256
    images: Annotated[int, Field(ge=1)]
    amax: dict[Method, dict[str, NotNegative]]
    histograms: dict[str, CoarseHistogram] = {}

    @model_validator(mode="after")
    def _methods_agree_on_tensors(self) -> ActivationRanges:
        if not self.amax or len({frozenset(ranges) for ranges in self.amax.values()}) != 1:
            raise ValueError("amax holds no method, or methods of different tensors")
        return self

    def of(self, method: str, *, onnx_sha256: str) -> dict[str, float]:
        """Return amax per tensor by one method; raise `CalibrationError` where the model is another one."""
        if onnx_sha256 != self.onnx_sha256:
            raise CalibrationError(
                f"the ranges were collected on model {self.onnx_sha256}, and the model to quantise is {onnx_sha256}, "
                "of another checkpoint, or exported by another PyTorch, ONNX or version of this software; publish fp32 "
                "anew, then collect on it: landmarknet-calibrate collect --release FOLDER"
            )
        chosen = {str(name): ranges for name, ranges in self.amax.items()}.get(method)
        if chosen is None:
            raise CalibrationError(f"no ranges by method {method!r}; there are {', '.join(self.amax)}")
        return dict(chosen)


def write_ranges(path: Path, ranges: ActivationRanges) -> None:
    """Write ranges as JSON, whole or not at all; raise `CalibrationError` where that fails."""
    write_whole(path, f"{ranges.model_dump_json(by_alias=True)}\n".encode())


def read_ranges(path: Path) -> tuple[ActivationRanges, str]:
    """Read ranges and return them with the SHA-256 of the file; raise `CalibrationError` saying what is wrong."""
    try:
        data = path.read_bytes()
        return ActivationRanges.model_validate_json(data), hashlib.sha256(data).hexdigest()
    except OSError as exc:
        raise CalibrationError(
            f"{path}: cannot be read ({exc.strerror}); make it: landmarknet-calibrate collect"
        ) from exc
    except ValidationError as exc:
        raise CalibrationError(f"{path}: not activation ranges ({faults(exc)}); collect them again") from exc


def coarse(histogram: Histogram) -> CoarseHistogram:
    """Return a histogram small enough to be stored for each tensor."""
    counts = histogram.counts.reshape(COARSE_BINS, BINS // COARSE_BINS).sum(axis=1)
    return CoarseHistogram(reach=histogram.reach, zeros=histogram.zeros, counts=tuple(counts.tolist()))
