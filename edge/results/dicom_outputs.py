"""All DICOM outputs of one image that a room wants, or for each the reason why there is none."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from edge.contract import KindContract
from edge.errors import InferenceFailed
from edge.records import Landmark, PortalImage
from edge.results.dicom_common import Making
from edge.results.dicom_source import DicomSource, read_source
from edge.results.wording import Alignment

Output = Literal["structured_report", "presentation_state", "spatial_registration"]
SUFFIXES: dict[Output, str] = {
    "structured_report": ".landmarks.sr.dcm",
    "presentation_state": ".landmarks.pr.dcm",
    "spatial_registration": ".landmarks.reg.dcm",
}


@dataclass(frozen=True)
class Findings:
    """What is said of an image."""

    landmarks: Sequence[Landmark]
    kinds: Sequence[KindContract]
    alignment: Alignment | None = None  # with the registration, where a reference is known
    reference: DicomSource | None = None  # `read_source` of the reference's file, where it is at hand
    remarks: Sequence[str] = ()  # into the report: polarity, the geometry's reason or warnings; nothing of a patient


def dicom_outputs(
    wanted: Collection[Output], data: bytes, image: PortalImage, findings: Findings, making: Making
) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """Return the wanted objects by the suffix of their name, and notes: why one is missing, what was not taken over.

    ``data`` are the bytes of the file from which ``image`` was read. A note names attributes and never their values.
    Loads highdicom (20 MB, then 110 MB at the first object) where an object is possible, and not before.
    """
    if not wanted:
        return {}, ()
    source = read_source(data, image.identity.name, image.pixels.shape)
    if isinstance(source, str):
        return {}, (source,)
    made = {SUFFIXES[output]: _made(output, source, image, findings, making) for output in SUFFIXES if output in wanted}
    missing = tuple(reason for reason in made.values() if isinstance(reason, str))
    return {suffix: one for suffix, one in made.items() if isinstance(one, bytes)}, (*source.notes, *missing)


def _made(output: Output, source: DicomSource, image: PortalImage, findings: Findings, making: Making) -> bytes | str:
    try:
        return _object(output, source, image, findings, making)
    except MemoryError as exc:
        raise InferenceFailed(
            f"{image.identity.name}: no memory for its {output.replace('_', ' ')} just now; it is tried again"
        ) from exc
    except Exception as exc:  # noqa: BLE001 - a foreign message may quote the patient; an optional file stops no result
        return f"no {output.replace('_', ' ')}, since it cannot be made ({type(exc).__name__}); please report it"


def _object(output: Output, source: DicomSource, image: PortalImage, findings: Findings, making: Making) -> bytes | str:
    alignment, reference = findings.alignment, findings.reference
    if output == "structured_report":
        from edge.results.structured_report import structured_report

        registration = None if alignment is None else alignment.registration
        return structured_report(source, making, findings.landmarks, registration, reference, findings.remarks)
    if output == "presentation_state":
        from edge.results.presentation_state import presentation_state

        return presentation_state(source, making, image, findings.landmarks, findings.kinds, alignment)
    if alignment is None:
        return "no registration object, since there is no registration"
    from edge.results.spatial_registration import spatial_registration

    return spatial_registration(source, reference, making, alignment.registration)
