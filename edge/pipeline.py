"""One portal image from file to published result: read -> infer -> register -> outputs -> JSON.

Making a result and publishing it are apart: the daemon's worker makes, its supervisor publishes (docs/adr/0012).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from PIL.Image import Image as Picture

from edge import __version__
from edge.config import Config
from edge.detect import Detection, detect
from edge.engines import Engine
from edge.errors import DamagedImage, ImageUnreadable, Refused
from edge.keys import derived_uid, result_key, settings_sha256
from edge.portal_image import MAX_FILE_BYTES, read_portal_image
from edge.records import PortalImage
from edge.registration.alignment import Aligned, References, align, with_plan
from edge.registration.reference import Reference
from edge.registration.register import Rules
from edge.results.dicom_common import Making
from edge.results.dicom_outputs import Findings, dicom_outputs
from edge.results.dicom_outputs import Output as DicomOutput
from edge.results.document import Image, Output, Provenance, Result
from edge.results.image_entries import geometry_entry, landmark_entry
from edge.results.overlay import draw_overlay, film_of
from edge.results.publish import OVERLAY_SUFFIX, claim_name, image_name, output_stem, publish, result_path, result_stem
from edge.results.registration_entry import registration_entry
from edge.results.shown import planned_of, remarks, shown_alignment
from edge.settle import Happening, Tell
from edge.source_file import demand_not_too_large, demand_unchanged, hash_file, signature

LATEST_MTIME_S = 4e9  # in 2096: a share may give any date, and not each is one of DICOM's
NO_TIMES: Mapping[str, float] = MappingProxyType({})
T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """A file to read, and the name that messages and results give it: a spooled copy lies under another."""

    path: Path
    name: str
    sha256: str | None = None  # where it is known already; the file must then be that one
    made_at: datetime | None = None  # as the DICOM outputs have it, local time; None: when the file was last changed


@dataclass(frozen=True, eq=False)
class Made:
    """A result and the files that belong to it, by name; nothing of it is stored yet."""

    result: Result
    outputs: Sequence[tuple[str, bytes]] = ()
    kind: str | None = None  # of a refusal: the class of its error


@dataclass(frozen=True, eq=False)
class _Seen:
    """What was found in one image; its result is yet to be drawn and worded."""

    image: PortalImage
    found: Detection
    aligned: Aligned | None
    film: Callable[[], Picture] | None  # what an overlay is drawn on, where one is wanted


Read = Callable[[Path, str], PortalImage]  # path, name


def read_here(path: Path, name: str) -> PortalImage:
    """Read an image in this process."""
    return read_portal_image(path, name=name)


class Aside(Protocol):
    """Begins what the network need not wait for; what it returns waits for that, and gives it."""

    def __call__(self, make: Callable[[], T], /) -> Callable[[], T]: ...


def when_wanted(make: Callable[[], T], /) -> Callable[[], T]:
    """Begin nothing before it is waited for."""
    return make


def tell_nobody(happening: Happening, **facts: str) -> None:
    """Keep no journal."""


@dataclass(frozen=True)
class Pipeline:
    """The stages with what they need. Calling it processes one image, in this process."""

    engine: Engine
    config_sha256: str
    overlay: bool = True
    clock: Callable[[], float] = time.perf_counter
    read: Read = read_here
    largest_file_bytes: int = MAX_FILE_BYTES
    references: References | None = None
    dicom: frozenset[DicomOutput] = frozenset()
    aside: Aside = when_wanted

    @classmethod
    def of(cls, config: Config, engine: Engine, read: Read = read_here, aside: Aside = when_wanted) -> Pipeline:
        """Return the pipeline that a configuration describes, with an engine that is open."""
        kept = None
        if config.references is not None:
            kept = References(config.references, config.reference_rule, config.widest_interval_mm)
        wanted = {
            "structured_report": config.structured_report,
            "presentation_state": config.presentation_state,
            "spatial_registration": config.spatial_registration,
        }
        dicom: frozenset[Any] = frozenset(name for name, is_wanted in wanted.items() if is_wanted)
        most_bytes = config.largest_file_mb * 2**20
        return cls(engine, config.sha256(), config.overlay, time.perf_counter, read, most_bytes, kept, dicom, aside)

    def __call__(
        self, image: Path, results_dir: Path | None, *, final: bool = True, tell: Tell = tell_nobody
    ) -> Result:
        """Publish the result of ``image``, beside it or in ``results_dir``, and return it.

        A refusal is published and returned too, but for a `DamagedImage` that is not ``final`` (the rest may still
        arrive), and for what is not an image, a link included, is too large (unread), or has no name of its own: those
        are raised. Raises `TryAgain`, `Stop`.
        """
        name = image_name(image)
        claim_name(image, result_path(image, results_dir))
        before = signature(image, name)
        demand_not_too_large(name, before, self.largest_file_bytes)
        made = self.make(Source(image, name), final=final)
        demand_unchanged(image, before, name)
        result = publish_made(made, image, results_dir)
        tell(Happening.PUBLISHED, **facts_of_refusal(made))
        return result

    def make(self, source: Source, *, final: bool = True) -> Made:
        """Make the result of one file. What is raised and what becomes a refusal is as when it is called."""
        return self.begin(source, final=final)()

    def begin(self, source: Source, *, final: bool = True) -> Callable[[], Made]:
        """Look for the landmarks of one file; return what then draws and words its result, on any thread."""
        watch = Stopwatch(self.clock)
        try:
            seen = self._look(source, watch)
        except Refused as exc:
            refused = self._refused(source, exc, watch, final=final)
            return lambda: refused

        def finish() -> Made:
            try:
                return self._made(source, seen, watch)
            except Refused as exc:
                return self._refused(source, exc, watch, final=final)

        return finish

    def _refused(self, source: Source, exc: Refused, watch: Stopwatch, *, final: bool) -> Made:
        if not exc.writes_reason or (isinstance(exc, DamagedImage) and not final):
            raise exc
        digest = source.sha256 or hash_file(source.path, source.name)
        result = refusal(source.name, digest, str(exc), self.provenance(), watch.timing_ms)
        return Made(result, kind=type(exc).__name__)

    def key_of(self, source: Source) -> str | None:
        """Return the key of the result that `make` would make of a file, were it not refused. Raises as `make` does."""
        image = self.read(source.path, source.name)
        _demand_claimed(source, image)
        reference = self.references.of(image) if self.references else None
        return keyed(self.provenance(), image.identity.sha256, _reference_sha256(reference)).key

    def provenance(self) -> Provenance:
        """Return what stands in every result; its key is that of no file yet."""
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
            settings_sha256=settings_sha256(self._settings()),
            backend=self.engine.backend.describe(),
        )

    def _settings(self) -> dict[str, bool | float]:
        """Return each setting that changes what is made; what is off by default counts only where it is on."""
        widest_mm = self._rules().widest_interval_mm
        other_rules = {} if widest_mm == Rules().widest_interval_mm else {"widest_interval_mm": widest_mm}
        return {"overlay": self.overlay} | dict.fromkeys(sorted(self.dicom), True) | other_rules

    def _rules(self) -> Rules:
        return Rules() if self.references is None else Rules(widest_interval_mm=self.references.widest_interval_mm)

    def _look(self, source: Source, watch: Stopwatch) -> _Seen:
        contract = self.engine.contract
        with watch.stage("read"):
            image = self.read(source.path, source.name)
        _demand_claimed(source, image)
        reference = self.references.of(image) if self.references else None
        image = with_plan(image, reference)
        film = self.aside(partial(film_of, image.pixels)) if self.overlay else None
        found = detect(image, self.engine.backend, contract, watch.stage)
        aligned = None
        if reference is not None:
            with watch.stage("registration"):
                aligned = align(image, found.landmarks, contract.kinds, reference, contract.release, self._rules())
        return _Seen(image, found, aligned, film)

    def _made(self, source: Source, seen: _Seen, watch: Stopwatch) -> Made:
        outputs, notes = self._outputs(source, seen, watch)
        return Made(self._result(seen, outputs, notes, watch), outputs)

    def _outputs(
        self, source: Source, seen: _Seen, watch: Stopwatch
    ) -> tuple[list[tuple[str, bytes]], tuple[str, ...]]:
        """Return the files that belong to the result, by name, and notes on what is missing."""
        image, found, aligned = seen.image, seen.found, seen.aligned
        stem, kinds, shown = result_stem(source.name), self.engine.contract.kinds, shown_alignment(aligned)
        outputs = []
        if seen.film:
            with watch.stage("overlay"):
                heatmaps, placement = found.inference.heatmaps, found.placement
                picture = draw_overlay(image, found.landmarks, heatmaps, placement, kinds, shown, seen.film())
            outputs.append((stem + OVERLAY_SUFFIX, picture))
        if not self.dicom:
            return outputs, ()
        with watch.stage("dicom"):
            findings = Findings(found.landmarks, kinds, shown, planned_of(aligned), remarks(image))
            data = _bytes(source, image.identity.sha256)
            objects, notes = dicom_outputs(self.dicom, data, image, findings, self._making(source, image, aligned))
        return [*outputs, *((stem + suffix, one) for suffix, one in objects.items())], notes

    def _making(self, source: Source, image: PortalImage, aligned: Aligned | None) -> Making:
        said = keyed(self.provenance(), image.identity.sha256, _sha256_used(aligned))
        made_at = source.made_at or changed_at(source.path)
        return Making(partial(derived_uid, str(said.key)), made_at, said.software, said.release)

    def _result(
        self, seen: _Seen, outputs: Sequence[tuple[str, bytes]], notes: tuple[str, ...], watch: Stopwatch
    ) -> Result:
        image, landmarks, aligned = seen.image, seen.found.landmarks, seen.aligned
        return Result(
            status="ok" if landmarks else "no_landmarks",
            reason=None,
            image=Image(**vars(image.identity)),
            landmarks=tuple(landmark_entry(landmark) for landmark in landmarks),
            geometry=geometry_entry(image),
            registration=None if aligned is None else registration_entry(aligned),
            provenance=keyed(self.provenance(), image.identity.sha256, _sha256_used(aligned)),
            timing_ms=watch.timing_ms,
            outputs=tuple(Output(name=name, sha256=hashlib.sha256(data).hexdigest()) for name, data in outputs),
            output_notes=notes,
        )


def pipeline_of(config: Config, engine: Engine) -> Pipeline:
    """Return the pipeline that a configuration means, reading in this process: for files that a person names."""
    most_bytes = config.largest_file_mb * 2**20

    def read(path: Path, name: str) -> PortalImage:
        return read_portal_image(path, most_bytes, name=name)

    return Pipeline.of(config, engine, read)


def publish_made(made: Made, image: Path, results_dir: Path | None) -> Result:
    """Publish what was made of ``image`` and return its result; raise `ResultNameTaken` or `ResultsNotWritable`."""
    target, named = result_path(image, results_dir), _named_apart(made, image)
    publish([(target.with_name(name), data) for name, data in named.outputs], (target, named.result.to_json()))
    return named.result


def _named_apart(made: Made, image: Path) -> Made:
    """Give outputs names that no other image's have."""
    stem, apart = result_stem(image_name(image)), output_stem(image)
    if stem == apart:
        return made
    outputs = [(name.replace(stem, apart, 1), data) for name, data in made.outputs]
    listed = tuple(one.model_copy(update={"name": one.name.replace(stem, apart, 1)}) for one in made.result.outputs)
    return replace(made, result=made.result.model_copy(update={"outputs": listed}), outputs=outputs)


def facts_of_refusal(made: Made) -> dict[str, str]:
    """Return what the journal hears of a refusal besides its reason."""
    return {"kind": made.kind} if made.kind else {}


def refusal(
    name: str, sha256: str, reason: str, provenance: Provenance, timing_ms: Mapping[str, float] = NO_TIMES
) -> Result:
    """Return the result of a file that is refused."""
    return Result(
        status="refused",
        reason=reason,
        image=Image(name=name, sha256=sha256, sop_instance_uid=None, modality=None, rows=None, columns=None),
        landmarks=(),
        geometry=None,
        provenance=keyed(provenance, sha256),
        timing_ms=dict(timing_ms),
        outputs=(),
    )


def keyed(provenance: Provenance, file_sha256: str, reference_sha256: str | None = None) -> Provenance:
    """Return the provenance with the key of a file's result; ``reference_sha256`` as `edge.keys.result_key` has it."""
    key = result_key(
        file_sha256,
        provenance.model_sha256,
        provenance.contract_sha256,
        provenance.manifest_sha256,
        provenance.settings_sha256,
        reference_sha256,
    )
    return provenance.model_copy(update={"key": key})


def _sha256_used(aligned: Aligned | None) -> str | None:
    return None if aligned is None else _reference_sha256(aligned.reference or "")


def _reference_sha256(reference: Reference | str | None) -> str | None:
    """Return the hash of a reference for the key: empty where it cannot be used, None where there is none."""
    if reference is None:
        return None
    return "" if isinstance(reference, str) else reference.sha256()


def _demand_claimed(source: Source, image: PortalImage) -> None:
    if source.sha256 not in {None, image.identity.sha256}:
        raise ImageUnreadable(f"{source.name}: its working copy is not what was claimed; it is tried again")


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


def changed_at(path: Path) -> datetime:
    """Return when a file was last changed, in local time; the same each time the same file is asked."""
    try:
        changed_s = path.stat().st_mtime
    except OSError as exc:
        raise ImageUnreadable(f"{path.name}: cannot be asked just now ({exc.strerror}); it is tried again") from exc
    return local_time(changed_s)


def local_time(seconds: float) -> datetime:
    """Return a time of the file system in local time, as a date that DICOM can hold."""
    return datetime.fromtimestamp(min(max(seconds, 0.0), LATEST_MTIME_S), UTC).astimezone()


def _bytes(source: Source, sha256: str) -> bytes:
    """Return the file's bytes again: those that were read, or `ImageUnreadable` is raised."""
    try:
        data = source.path.read_bytes()
    except OSError as exc:
        raise ImageUnreadable(f"{source.name}: cannot be read just now ({exc.strerror}); it is tried again") from exc
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ImageUnreadable(f"{source.name}: changed while it was read; it is tried again")
    return data
