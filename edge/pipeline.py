"""One portal image from file to published result: read -> preprocess -> infer -> landmarks -> overlay -> JSON."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edge import __version__
from edge.detect import detect
from edge.engines import Engine
from edge.errors import DamagedImage, ImageUnreadable, Refused
from edge.portal_image import read_portal_image
from edge.records import Landmark, PortalImage
from edge.results.document import Geometry, Image, LandmarkEntry, Output, Provenance, Result
from edge.results.overlay import draw_overlay
from edge.results.publish import claim_name, image_name, publish, result_path, result_stem
from edge.settle import Signature, signature_of

OVERLAY_SUFFIX = ".landmarks.png"


@dataclass(frozen=True)
class Pipeline:
    """The stages with what they need. Calling it processes one image; it is the daemon's `edge.daemon.Process`."""

    engine: Engine
    config_sha256: str
    overlay: bool = True
    clock: Callable[[], float] = time.perf_counter

    def __call__(self, image: Path, results_dir: Path | None, *, final: bool = True) -> Result:
        """Publish the result of ``image``, beside it or in ``results_dir``, and return it.

        A refusal is published and returned too, but for a `DamagedImage` that is not ``final`` (the rest may still
        arrive), and for what is not an image or has no name of its own: those are raised. Raises `TryAgain`, `Stop`.
        """
        target = result_path(image, results_dir)
        claim_name(image, target)
        watch = Stopwatch(self.clock)
        before = _signature(image)
        try:
            result, outputs = self._make(image, watch)
        except Refused as exc:
            if not exc.writes_reason or (isinstance(exc, DamagedImage) and not final):
                raise
            result, outputs = self._refusal(image, str(exc), watch), []
        if _signature(image) != before:  # its result would be younger than the new bytes, and look like theirs
            raise ImageUnreadable(f"{image_name(image)}: changed while it was read; it is tried again")
        publish([(target.with_name(name), data) for name, data in outputs], (target, result.to_json()))
        return result

    def _make(self, path: Path, watch: Stopwatch) -> tuple[Result, list[tuple[str, bytes]]]:
        contract = self.engine.contract
        with watch.stage("read"):
            image = read_portal_image(path, name=image_name(path))
        found = detect(image, self.engine.backend, contract, watch.stage)
        outputs = []
        if self.overlay:
            with watch.stage("overlay"):
                picture = draw_overlay(
                    image, found.landmarks, found.inference.heatmaps, found.placement, contract.kinds
                )
            outputs.append((result_stem(image_name(path)) + OVERLAY_SUFFIX, picture))  # text: the result lists it
        return self._result(image, found.landmarks, outputs, watch), outputs

    def _result(
        self,
        image: PortalImage,
        landmarks: Sequence[Landmark],
        outputs: Sequence[tuple[str, bytes]],
        watch: Stopwatch,
    ) -> Result:
        return Result(
            status="ok" if landmarks else "no_landmarks",
            reason=None,
            image=Image(**vars(image.identity)),
            landmarks=tuple(_entry(landmark) for landmark in landmarks),
            geometry=_geometry(image),
            provenance=self._provenance(),
            timing_ms=watch.timing_ms,
            outputs=tuple(Output(name=name, sha256=hashlib.sha256(data).hexdigest()) for name, data in outputs),
        )

    def _refusal(self, path: Path, reason: str, watch: Stopwatch) -> Result:
        name, digest = image_name(path), _sha256(path)
        return Result(
            status="refused",
            reason=reason,
            image=Image(name=name, sha256=digest, sop_instance_uid=None, modality=None, rows=None, columns=None),
            landmarks=(),
            geometry=None,
            provenance=self._provenance(),
            timing_ms=watch.timing_ms,
            outputs=(),
        )

    def _provenance(self) -> Provenance:
        contract = self.engine.contract
        return Provenance(
            software=f"landmarknet-edge {__version__}",
            release=contract.release,
            model_sha256=contract.model_sha256,
            checkpoint_sha256=contract.checkpoint_sha256,
            contract_sha256=self.engine.contract_sha256,
            manifest_sha256=self.engine.manifest_sha256,
            engine_warnings=self.engine.warnings,
            calibration_set_sha256=contract.calibration_set_sha256,
            config_sha256=self.config_sha256,
            backend=self.engine.backend.describe(),
        )


@dataclass
class Stopwatch:
    """Collects milliseconds per stage."""

    clock: Callable[[], float]
    timing_ms: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block as stage ``name``, also when it raises."""
        began = self.clock()
        try:
            yield
        finally:
            spent = self.timing_ms.get(name, 0.0) + (self.clock() - began) * 1e3  # a stage can run several times
            self.timing_ms[name] = round(spent, 3)


def _signature(path: Path) -> Signature | None:
    """Return what tells this version of the file from the next; None where there is no file to ask."""
    try:
        return signature_of(path.stat())
    except OSError:
        return None


def _sha256(path: Path) -> str:
    """Hash a file in pieces: what is refused may have any size."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        name = image_name(path)
        raise ImageUnreadable(f"{name}: cannot be read just now ({exc.strerror}); it is tried again") from exc


def _entry(landmark: Landmark) -> LandmarkEntry:
    x_mm, y_mm = landmark.xy_mm if landmark.xy_mm else (None, None)
    return LandmarkEntry(
        kind=landmark.kind,
        x_px=round(landmark.xy_px[0], 3),
        y_px=round(landmark.xy_px[1], 3),
        x_mm=None if x_mm is None else round(x_mm, 3),
        y_mm=None if y_mm is None else round(y_mm, 3),
        sigma_px=None if landmark.sigma_px is None else round(landmark.sigma_px, 3),
        score=round(landmark.score, 4),
    )


def _geometry(image: PortalImage) -> Geometry:
    known = image.geometry
    status: Literal["known", "unknown"] = "unknown" if known is None else "known"
    return Geometry(
        status=status,
        reason=image.geometry_reason,
        sid_mm=known.sid_mm if known else None,
        sad_mm=known.sad_mm if known else None,
        spacing_mm=known.spacing_mm if known else None,
        first_pixel_mm=known.first_pixel_mm if known else None,
        gantry_deg=known.gantry_deg if known else None,
        axes=known.axes if known else None,
        polarity=image.polarity_source,
        sources=dict(known.sources) if known else {},
        warnings=known.warnings if known else (),
    )
