"""Checkpoint -> export -> precision -> compile -> verify -> publish. The first stage that fails ends it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import numpy as np

from build_engine.candidate import Candidate, Say, Source, fastest, make_candidate, reference_findings
from build_engine.compiled import Progress, SilentProgress
from build_engine.export import export_onnx
from build_engine.gate_report import gate_summary, report_files
from build_engine.golden import TOLERANCES, answers, demand_proof, golden_file, golden_input
from build_engine.publish import demand_writable_folder, hashes, publish_folder, publish_to_store
from build_engine.recipe import Recipe, RecipeError
from calibration.audit import shared_with
from calibration.calibration_set import CalibrationSet, images, read_calibration_set
from calibration.ranges import read_ranges
from edge import __version__
from edge.backends.onnxruntime import OnnxRuntimeBackend
from edge.contract import Contract, Precision, Reading
from edge.detect import scale_ratios
from edge.engines import Golden, require_golden_answers
from edge.manifest import Manifest
from edge.preprocess import to_network_input
from edge.store import Store, try_to_write
from landmarknet.checkpoint import checkpoint_sha256, load_checkpoint, load_network
from landmarknet.decode import TorchBackend
from landmarknet.evaluate import read_truths
from landmarknet.network import LandmarkNet
from landmarknet.operating_point import reading_of
from landmarknet.report import demand_unseen

PROBES = 8


class GateFailed(RecipeError):
    """The candidate moves landmarks; the report says which."""


@dataclass(frozen=True)
class Ranges:
    """The calibrated ranges of the graph's tensors, and where they come from; empty for a float engine."""

    amax: dict[str, float]
    calibration_set_sha256: str | None = None
    ranges_sha256: str | None = None


def build_release(recipe: Recipe, say: Say, progress: Progress | None = None) -> Path:
    """Build what a recipe asks for; return the release folder, which replaces one of that name, or joins a store."""
    asked: tuple[Precision, ...] = get_args(Precision) if recipe.precision == "auto" else (recipe.precision,)
    _demand_place(recipe, asked)
    network = _network(recipe)
    calibration_set = _calibration_set(recipe)
    _demand_held_out(recipe, calibration_set)
    say(f"export {recipe.checkpoint}")
    model = export_onnx(network)
    ranges = _ranges(recipe, calibration_set, model)
    say(f"verify the export against PyTorch on {len(recipe.golden_images)} golden images")
    follow = progress or SilentProgress()
    source = _source(recipe, network, model, calibration_set, follow)
    candidates = [make_candidate(source, recipe, p, ranges.amax, say, follow) for p in asked]
    for candidate in candidates:
        _write_report(recipe, candidate, say)
    chosen = _choose(recipe, candidates)
    contract, golden = _promise(recipe, source.reading, chosen, source)
    say(f"publish {contract.release}")
    return _publish(recipe, contract, golden, chosen, ranges, source)


def _demand_place(recipe: Recipe, asked: Sequence[Precision]) -> None:
    """Demand a key that signs, names that are free, and folders that can be written, hours before they are used."""
    if recipe.gate is not None:
        _demand_report_folder(recipe.report)
    if isinstance(place := recipe.place, Path):
        demand_writable_folder(place)
        return
    store = Store.for_publishing(place.folder, place.signing_key)
    for precision in asked:
        store.demand_new(recipe.release_id(recipe.engine.flavour, precision))  # reports have those names, too
    store.demand_writable()


def _demand_report_folder(report: Path) -> None:
    try:
        try_to_write(report)
    except OSError as exc:
        raise _no_report(report, "the gate's report", exc) from exc


def _no_report(folder: Path, report: str, exc: OSError) -> RecipeError:
    return RecipeError(
        f"{folder}: {report} cannot be written ({exc.strerror}), and without it nothing is published; free some space, "
        "or name another folder as `report`"
    )


def _network(recipe: Recipe) -> LandmarkNet:
    if not recipe.checkpoint.is_file():
        raise RecipeError(f"checkpoint {recipe.checkpoint} does not exist; train one, or name another")
    try:
        network = load_network(recipe.checkpoint)
    except Exception as exc:  # of a damaged file torch, zipfile and pickle raise many kinds
        raise RecipeError(
            f"checkpoint {recipe.checkpoint} cannot be loaded ({type(exc).__name__}): it is damaged, or of another "
            "version; bring it back, train it again, or name another"
        ) from exc
    if not isinstance(network, LandmarkNet):
        raise RecipeError(f"checkpoint {recipe.checkpoint} holds a comparator; only LandmarkNet makes a release")
    named = tuple(k.kind for k in recipe.kinds)
    if named != network.config.kinds:
        raise RecipeError(f"kinds {named} are not the network's {network.config.kinds}, in its order")
    return network


def _calibration_set(recipe: Recipe) -> CalibrationSet | None:
    """Read the calibration set of what has INT8 in it; None where nobody asks for its images."""
    if recipe.calibration is None or not recipe.may_be_int8:
        return None
    return read_calibration_set(recipe.calibration.set)


def _demand_held_out(recipe: Recipe, calibration_set: CalibrationSet | None) -> None:
    """Demand that the gate's images are there, were not trained on, and show no patient that INT8 was calibrated on."""
    if recipe.gate is None:
        return
    try:
        demand_unseen(_trained_on(recipe), recipe.gate.patients)
        gate_images = read_truths(recipe.gate.images, recipe.gate.patients)
    except ValueError as exc:
        raise RecipeError(f"[gate]: {exc}") from exc
    if calibration_set is not None and (shared := shared_with(calibration_set, tuple(gate_images))):
        raise RecipeError(f"[gate]: the calibration set is not apart from its images: {'; '.join(shared)}")


def _trained_on(recipe: Recipe) -> tuple[str, ...]:
    training = load_checkpoint(recipe.checkpoint).training
    try:
        return (*training["patients"], *training["negatives"])
    except KeyError as exc:
        raise RecipeError(
            f"checkpoint {recipe.checkpoint} does not say which {exc.args[0]} it was trained on, and so nothing could "
            "judge it; train it again, or name another"
        ) from exc


def _ranges(recipe: Recipe, calibration_set: CalibrationSet | None, model: bytes) -> Ranges:
    if recipe.calibration is None or calibration_set is None or not recipe.may_be_int8:
        return Ranges({})
    ranges, ranges_sha256 = read_ranges(recipe.calibration.ranges)
    chosen = calibration_set.sha256
    if ranges.calibration_set_sha256 != chosen:
        raise RecipeError(
            f"{recipe.calibration.ranges} was collected over the calibration set {ranges.calibration_set_sha256}, not "
            f"over {recipe.calibration.set} ({chosen}); collect again"
        )
    amax = ranges.of(recipe.calibration.method, onnx_sha256=hashlib.sha256(model).hexdigest())
    return Ranges(amax, chosen, ranges_sha256)


def _source(
    recipe: Recipe, network: LandmarkNet, model: bytes, calibration_set: CalibrationSet | None, progress: Progress
) -> Source:
    """Prepare what candidates are judged by; the exported graph must answer the golden images as PyTorch does."""
    if not recipe.golden_images:
        raise RecipeError("golden_images names none; name images that show a landmark of every kind")
    reading = reading_of(network.config, recipe.kinds)
    inputs = tuple(golden_input(path, reading) for path in recipe.golden_images)
    exported = OnnxRuntimeBackend(model, 1, "fp32")
    ours = answers(exported, reading, inputs)
    contract = _contract(recipe, reading, "fp32", "onnxruntime", "model.onnx", model, golden_file(ours))
    demand_proof(contract, ours)
    require_golden_answers(exported, contract, answers(TorchBackend(network), reading, inputs))
    found = reference_findings(network, reading, recipe, progress)
    return Source(network, model, reading, found, inputs, _probes(calibration_set, reading))


def _probes(calibration_set: CalibrationSet | None, reading: Reading) -> tuple[np.ndarray, ...]:
    """Return a few images of the calibration set, spread over it, as the network sees them; none changed since."""
    if calibration_set is None:
        return ()
    entries = calibration_set.entries
    few = calibration_set.model_copy(update={"entries": entries[:: max(1, len(entries) // PROBES)][:PROBES]})
    return tuple(
        to_network_input(image.pixels, reading.input_size, scale_ratios(image, reading)[0])[0]
        for _, image in images(few)
    )


def _write_report(recipe: Recipe, candidate: Candidate, say: Say) -> None:
    if candidate.gate is None:
        return
    stem = f"{recipe.release}-{candidate.compiled.flavour}-{candidate.precision}"
    files = report_files(candidate)
    try:
        recipe.report.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (recipe.report / f"{stem}.{name}").write_bytes(data)
    except OSError as exc:
        raise _no_report(recipe.report, f"the gate's report on {stem}", exc) from exc
    speed = "" if candidate.speed is None else f"; {candidate.speed:.2f} of the time of float32"
    say(f"gate, {candidate.precision}: {candidate.gate.in_words}{speed}; see {recipe.report}")


def _choose(recipe: Recipe, candidates: Sequence[Candidate]) -> Candidate:
    if recipe.precision == "auto":
        return fastest(candidates)
    (only,) = candidates
    if only.gate is not None and not only.gate.passed:
        raise GateFailed(f"the gate refuses {only.precision}: {'; '.join(only.gate.faults)}; nothing is published")
    return only


def _promise(recipe: Recipe, reading: Reading, chosen: Candidate, source: Source) -> tuple[Contract, Golden]:
    golden = answers(chosen.backend, reading, source.inputs)
    compiled = chosen.compiled
    contract = _contract(
        recipe, reading, chosen.precision, compiled.flavour, compiled.file_name, compiled.data, golden_file(golden)
    )
    demand_proof(contract, golden)
    return contract, golden


def _contract(
    recipe: Recipe, reading: Reading, precision: Precision, flavour: str, name: str, model: bytes, golden: bytes
) -> Contract:
    px, score = TOLERANCES[precision]
    return Contract.model_validate(
        reading.model_dump()
        | {
            "schema": "landmarknet-edge/contract/2",
            "release": recipe.release_id(flavour, precision),
            "model_file": name,
            "model_sha256": hashlib.sha256(model).hexdigest(),
            "golden_sha256": hashlib.sha256(golden).hexdigest(),
            "checkpoint_sha256": checkpoint_sha256(recipe.checkpoint),
            "calibration_set_sha256": None,
            "flavour": flavour,
            "precision": precision,
            "golden_tolerance_net_px": px if recipe.golden_tolerance_net_px is None else recipe.golden_tolerance_net_px,
            "golden_tolerance_score": score if recipe.golden_tolerance_score is None else recipe.golden_tolerance_score,
            "trained_on": _trained_on(recipe),
        }
    )


def _publish(
    recipe: Recipe, contract: Contract, golden: Golden, chosen: Candidate, ranges: Ranges, source: Source
) -> Path:
    facts = {"calibration_set_sha256": ranges.calibration_set_sha256, "delivered": chosen.compiled.delivered}
    contract = contract.model_copy(update=facts)
    files = {
        contract.model_file: chosen.compiled.data,
        "golden.npz": golden_file(golden),
        "contract.json": (contract.model_dump_json(by_alias=True, indent=2) + "\n").encode(),
    }
    place = recipe.place
    if isinstance(place, Path):
        publish_folder(place, files)
        return place
    files |= {f"gate.{name}": data for name, data in report_files(chosen).items()}
    manifest = _manifest(recipe, contract, chosen, ranges, source, hashes(files))
    return publish_to_store(Store.for_publishing(place.folder, place.signing_key), place.signing_key, manifest, files)


def _manifest(
    recipe: Recipe, contract: Contract, chosen: Candidate, ranges: Ranges, source: Source, files: dict[str, str]
) -> Manifest:
    compiled = chosen.compiled
    return Manifest(
        release=contract.release,
        software=__version__,
        created_utc=datetime.now(UTC).replace(microsecond=0),
        files=files,
        checkpoint_sha256=contract.checkpoint_sha256,
        onnx_sha256=hashlib.sha256(source.model).hexdigest(),
        calibration_set_sha256=ranges.calibration_set_sha256,
        ranges_sha256=ranges.ranges_sha256,
        recipe_sha256=recipe.sha256(),
        flavour=contract.flavour,
        flavour_version=compiled.version,
        gpu=compiled.gpu,
        compute_capability=compiled.compute_capability,
        driver=compiled.driver,
        precision=contract.precision,
        delivered=compiled.delivered,
        gate=gate_summary(chosen),
    )
