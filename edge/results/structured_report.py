"""The landmarks and the shift as a DICOM structured report: Comprehensive SR by template TID 1500 (PS3.16 A).

Each landmark is a measurement group (TID 1410) around one SCOORD point, with its score and its standard uncertainty;
a registration is a group (TID 1501) with the shift per axis, in mm. What has no code in the standard has one of ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from highdicom import sr
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.sr.coding import Code

from edge.records import Landmark
from edge.registration.register import Registration
from edge.results import report_codes as codes
from edge.results.dicom_common import MANUFACTURER, MODEL_NAME, Making, finished
from edge.results.dicom_source import DicomSource, all_notes
from edge.results.wording import DIRECTION, WARNING, ascii_text, shift_line, shift_of

PURPOSE = "structured report"
DEVICE_UID = "2.25.265455613187267292561495097945885034062"  # this software, whatever its version
CENTRE_TO_CORNER_PX = 0.5  # PS3.3 C.18.6.1.2: the corner of the first pixel is (0, 0); ours is its centre


def structured_report(
    source: DicomSource,
    making: Making,
    landmarks: Sequence[Landmark],
    registration: Registration | None = None,
    reference: DicomSource | None = None,
    remarks: Sequence[str] = (),
) -> bytes:
    """Return the bytes of a report on the image ``source``; possible for every image that has a `DicomSource`.

    ``landmarks`` in detector px, in the order of the result; none is a finding, too. ``reference`` is the planned
    image that a registration used, where its file is at hand. ``remarks`` (such as the geometry's warnings, or the
    reason why there are no millimetres) are written as comments; nothing of a patient belongs into them.
    """
    evidence = [one.reference() for one in (source, reference) if one is not None]
    groups = [_summary(source, making, landmarks, remarks)]
    groups += _landmark_groups(source, making, landmarks)
    if registration is not None:
        groups.append(_registration_group(source, making, registration, reference))
    report = sr.MeasurementReport(_observer(making), codes.IMAGING_PROCEDURE, imaging_measurements=groups)
    made = sr.ComprehensiveSR(
        evidence=evidence,
        content=report[0],
        is_complete=True,
        coding_schemes=[_scheme()],
        series_description="LandmarkNet Edge landmarks: research use only",
        **making.series(PURPOSE),
        **making.equipment,
    )
    return finished(made, source, making, PURPOSE)


def _summary(source: DicomSource, making: Making, landmarks: Sequence[Landmark], remarks: Sequence[str]) -> Any:
    """Return the group that is there even where nothing was found: the template wants one, and so does a reader."""
    counted = sr.Measurement(name=codes.LANDMARK_COUNT, value=len(landmarks), unit=codes.FIDUCIALS)
    order = "Landmarks of one kind are numbered down the image; the number is no vertebral level."
    comments = (WARNING, order, *(ascii_text(remark) for remark in remarks), *all_notes([source]))
    return _group(making, "image", [counted], comments, [source])


def _landmark_groups(source: DicomSource, making: Making, landmarks: Sequence[Landmark]) -> Iterator[Any]:
    seen: Counter[str] = Counter()
    for landmark in landmarks:
        seen[landmark.kind] += 1
        name = f"{ascii_text(landmark.kind)} {seen[landmark.kind]}"
        yield sr.PlanarROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(making.uid(f"tracking {name}"), name),
            referenced_region=sr.ImageRegion(
                graphic_type="POINT",
                graphic_data=np.array([landmark.xy_px]) + CENTRE_TO_CORNER_PX,
                source_image=sr.SourceImageForRegion(source.sop_class_uid, source.sop_instance_uid),
            ),
            finding_category=codes.ANATOMICAL_STRUCTURE,
            finding_type=codes.finding(ascii_text(landmark.kind)),
            measurements=_measured(landmark),
        )


def _measured(landmark: Landmark) -> list[Any]:
    values: list[tuple[Code, float, Code]] = [(codes.SCORE, round(landmark.score, 4), codes.ONE)]
    if landmark.sigma_px is not None:
        values.append((codes.SIGMA, round(landmark.sigma_px, 3), codes.PIXELS))
    if landmark.xy_mm is not None:
        values.append((codes.X_ISOPLANE, round(landmark.xy_mm[0], 3), codes.MM))
        values.append((codes.Y_ISOPLANE, round(landmark.xy_mm[1], 3), codes.MM))
    return [sr.Measurement(name=name, value=float(value), unit=unit) for name, value, unit in values]


def _registration_group(
    source: DicomSource, making: Making, registration: Registration, reference: DicomSource | None
) -> Any:
    """Return the group of a registration; a withheld one has its reason, and no number that could be taken for it."""
    comments = [shift_line(registration)]
    measurements = []
    if shift_of(registration) is not None:
        comments += [DIRECTION, f"Axes: {ascii_text(registration.axes or 'not given')}"]
        measurements = [sr.Measurement(name=n, value=float(v), unit=u) for n, v, u in _shift_values(registration)]
    measurements.append(sr.Measurement(name=codes.USED_COUNT, value=registration.n_used, unit=codes.FIDUCIALS))
    comments += [f"Outlier: {ascii_text(one)}" for one in registration.outliers]
    comments += [ascii_text(one) for one in registration.warnings]
    if reference is None:
        comments.append("The file of the reference image was not at hand, so it is not referred to.")
    images = [source] if reference is None else [source, reference]
    return _group(making, "registration", measurements, (*comments, *all_notes(images[1:])), images)


def _shift_values(registration: Registration) -> Iterator[tuple[Code, float, Code]]:
    shift, half, second = registration.shift_mm, registration.interval95_mm, registration.runner_up
    for axis in (0, 1):
        if shift is not None:
            yield codes.SHIFT[axis], round(shift[axis], 3), codes.MM
        if half is not None:
            yield codes.INTERVAL[axis], round(half[axis], 3), codes.MM
    if registration.rotation_deg is not None:
        yield codes.ROTATION, round(registration.rotation_deg, 3), codes.DEG
    if registration.residual_mm is not None:
        yield codes.RESIDUAL, round(registration.residual_mm, 3), codes.MM
    if second is not None:
        yield codes.RUNNER_UP[0], round(second.shift_mm[0], 3), codes.MM
        yield codes.RUNNER_UP[1], round(second.shift_mm[1], 3), codes.MM
        yield codes.MARGIN, round(second.margin, 3), codes.ONE


def _group(
    making: Making, name: str, measurements: Sequence[Any], comments: Sequence[str], images: Sequence[DicomSource]
) -> Any:
    """Return a measurement group of TID 1501 that ends in comments."""
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(making.uid(f"tracking {name}"), name),
        algorithm_id=_algorithm(making),
        measurements=measurements,
        source_images=[sr.SourceImageForMeasurementGroup(one.sop_class_uid, one.sop_instance_uid) for one in images],
    )
    group[0].ContentSequence.extend(
        sr.TextContentItem(name=codes.COMMENT, value=text, relationship_type="CONTAINS") for text in comments
    )
    return group


def _algorithm(making: Making) -> sr.AlgorithmIdentification:
    return sr.AlgorithmIdentification(name="LandmarkNet", version=making.release, parameters=[making.software])


def _observer(making: Making) -> sr.ObservationContext:
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=DEVICE_UID, name=making.software, manufacturer_name=MANUFACTURER, model_name=MODEL_NAME
    )
    return sr.ObservationContext(observer_device_context=sr.ObserverContext(sr.CodedConcept(*codes.DEVICE[:3]), device))


def _scheme() -> Any:
    return CodingSchemeIdentificationItem(codes.SCHEME, name="LandmarkNet Edge", responsible_organization=MANUFACTURER)
