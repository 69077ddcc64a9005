"""One candidate: the network in a precision, compiled, and judged by the gate; INT8 gives back the layers that hurt."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from build_engine.compile import compile_engine
from build_engine.compiled import Compiled, CompileSettings, Progress
from build_engine.half import to_half
from build_engine.quantize import Form, quantisable_layers, quantise
from build_engine.recipe import Recipe, RecipeError
from build_engine.sensitivity import LayerEffect, sensitivity
from build_engine.verify import GateResult, run_gate
from edge.backends import Backend
from edge.backends.onnxruntime import OnnxRuntimeBackend
from edge.contract import Precision, Reading
from edge.errors import BackendFailed
from landmarknet.decode import TorchBackend
from landmarknet.evaluate import Finding, find
from landmarknet.network import LandmarkNet

TIMED_ROUNDS, WARM_UP_ROUNDS = 15, 2
Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Source:
    """What every candidate is made from: the exported float32 graph, and what the float32 network finds."""

    network: LandmarkNet
    model: bytes
    reading: Reading
    reference: tuple[Finding, ...]  # empty without a gate
    inputs: tuple[np.ndarray, ...]  # golden inputs, (1, 1, S, S) float32
    probes: tuple[np.ndarray, ...] = ()  # a few of the calibration set, likewise; sensitivity is measured on them


@dataclass(frozen=True, eq=False)
class Candidate:
    """``ran_on`` says what computed the gate's and the golden answers; ``speed`` is time against float32, or None."""

    precision: Precision
    compiled: Compiled
    backend: Backend
    ran_on: str
    gate: GateResult | None
    kept_float: tuple[str, ...] = ()
    effects: tuple[LayerEffect, ...] = ()
    speed: float | None = None


def reference_findings(network: LandmarkNet, reading: Reading, recipe: Recipe) -> tuple[Finding, ...]:
    """Return what the float32 network finds in the gate's images; empty without a gate."""
    if recipe.gate is None:
        return ()
    return tuple(find(TorchBackend(network), reading, recipe.gate.images, recipe.gate.patients))


def make_candidate(
    source: Source, recipe: Recipe, precision: Precision, amax: Mapping[str, float], say: Say, progress: Progress
) -> Candidate:
    """Return the network in a precision, with the gate's verdict; INT8 in as many layers as the gate lets pass."""

    def attempt(keep: tuple[str, ...]) -> Candidate:
        return _attempt(source, recipe, precision, amax, keep, say, progress)

    if precision != "int8":
        return attempt(())
    return give_back_layers(attempt, lambda: _effects(source, recipe.engine, amax, say), say)


def give_back_layers(
    attempt: Callable[[tuple[str, ...]], Candidate], effects: Callable[[], tuple[LayerEffect, ...]], say: Say
) -> Candidate:
    """Return the attempt that passes with the fewest layers in float, the worst ones first.

    Twice as many each time, later half of what is left, until one passes; then between that and the last refused. The
    last attempt, refused, where none passes: with every layer in float it would, and be INT8 in name alone.
    """
    candidate = attempt(())
    if _passes(candidate, say):
        return candidate
    order = effects()

    def with_worst_in_float(number: int) -> Candidate:
        keep = tuple(effect.layer for effect in order[:number])
        say(f"{number} of {len(order)} layers go back to float: {', '.join(keep)}")
        return attempt(keep)

    refused = kept = 0
    passes = False
    while not passes and refused < len(order) - 1:
        kept = max(1, min(2 * refused, (refused + len(order)) // 2))
        candidate = with_worst_in_float(kept)
        passes = _passes(candidate, say)
        refused = refused if passes else kept
    while passes and kept - refused > 1:
        middle = (refused + kept) // 2
        between = with_worst_in_float(middle)
        if _passes(between, say):
            candidate, kept = between, middle
        else:
            refused = middle
    return replace(candidate, effects=order)


def _passes(candidate: Candidate, say: Say) -> bool:
    """Return whether a candidate passed the gate, or had none to pass; say why not."""
    if candidate.gate is None or candidate.gate.passed:
        return True
    say(f"gate: {'; '.join(candidate.gate.faults)}")
    return False


def _attempt(
    source: Source, recipe: Recipe, precision: Precision, amax: Mapping[str, float], keep: Sequence[str], say: Say,
    progress: Progress,
) -> Candidate:  # fmt: skip
    say(f"precision {precision}")
    graph = precision_graph(source.model, precision, recipe.engine, amax, keep)
    say(f"compile for {recipe.engine.flavour}")
    compiled = compile_engine(graph, recipe.engine, progress)
    for note in compiled.notes:
        say(f"note: {note}")
    backend, ran_on = _open(compiled, graph, precision)
    candidate = Candidate(precision, compiled, backend, ran_on, None, tuple(keep))
    if recipe.gate is None:
        return candidate
    say(f"verify on {', '.join(recipe.gate.patients)}, run by {ran_on}")
    found = find(backend, source.reading, recipe.gate.images, recipe.gate.patients)
    verdict = run_gate(source.reference, found, source.reading, recipe.gate.limits)
    return replace(candidate, gate=verdict, speed=_speed(source, candidate))


def precision_graph(
    model: bytes, precision: Precision, engine: CompileSettings, amax: Mapping[str, float], keep: Sequence[str]
) -> bytes:
    """Return the graph in a precision. What INT8 leaves is float16, but float32 for a CPU, which has no half."""
    if precision == "fp32":
        return model
    if precision == "fp16":
        return to_half(model)
    quantised = quantise(model, amax, keep, form_of(engine))
    return quantised if engine.flavour == "onnxruntime" else to_half(quantised)


def form_of(engine: CompileSettings) -> Form:
    """Return the form of Q/DQ that a flavour turns into integer kernels."""
    return "onnxruntime" if engine.flavour == "onnxruntime" else "tensorrt"


def _open(compiled: Compiled, graph: bytes, precision: Precision) -> tuple[Backend, str]:
    """Open what was compiled; without the device, the same graph on ONNX Runtime stands in, and that is said."""
    if compiled.flavour == "onnxruntime":
        return OnnxRuntimeBackend(compiled.data, 1, precision), "onnxruntime"
    from edge.backends.tensorrt import TensorRTBackend

    try:
        return TensorRTBackend(compiled.data, compiled.flavour, precision), compiled.flavour
    except BackendFailed as exc:
        if compiled.gpu is not None:
            raise
        stand_in = OnnxRuntimeBackend(graph, 1, precision)
        return stand_in, f"onnxruntime in place of {compiled.flavour}, whose plan was not run ({exc})"


def _speed(source: Source, candidate: Candidate) -> float | None:
    """Return the time of one inference against the float32 graph's, paired and alternating; None where it never ran."""
    if candidate.ran_on != "onnxruntime":  # a plan is timed against plans: `make gpu`
        return None
    plain = OnnxRuntimeBackend(source.model, 1, "fp32")
    return time_ratio(candidate.backend, plain, source.inputs[0])


def time_ratio(backend: Backend, other: Backend, batch: np.ndarray) -> float:
    """Return the median of the paired ratios of two backends' inference times, in alternating order."""
    ratios = []
    for number in range(WARM_UP_ROUNDS + TIMED_ROUNDS):
        pair = (backend, other) if number % 2 else (other, backend)
        seconds = {id(one): _seconds(one, batch) for one in pair}
        if number >= WARM_UP_ROUNDS:
            ratios.append(seconds[id(backend)] / seconds[id(other)])
    return float(np.median(ratios))


def _seconds(backend: Backend, batch: np.ndarray) -> float:
    began = time.perf_counter()
    backend.infer(batch)
    return time.perf_counter() - began


def _effects(source: Source, engine: CompileSettings, amax: Mapping[str, float], say: Say) -> tuple[LayerEffect, ...]:
    say(f"sensitivity of {len(quantisable_layers(source.model))} layers, one at a time")
    plain = OnnxRuntimeBackend(source.model, 1, "fp32")
    wanted = np.stack([plain.infer(batch).heatmaps for batch in source.probes])

    def heatmap_error(graph: bytes) -> float:
        backend = OnnxRuntimeBackend(graph, 1, "int8")
        given = np.stack([backend.infer(batch).heatmaps for batch in source.probes])
        return float(np.linalg.norm(given - wanted) / np.linalg.norm(wanted))

    return tuple(sensitivity(source.model, amax, heatmap_error, say, form_of(engine)))


def fastest(candidates: Sequence[Candidate]) -> Candidate:
    """Return the fastest that passed the gate; INT8 counts only if it beats float16 in the same run."""
    passed = [c for c in candidates if c.gate is not None and c.gate.passed]
    if not passed:
        raise RecipeError("no precision passes the gate; see the reports")
    if any(c.speed is None for c in passed):
        raise RecipeError("precision auto has to time the engines, and they do not run here; name a precision")
    return min(passed, key=lambda c: c.speed or 0.0)
