"""One candidate: the network in a precision, compiled, and judged by the gate; INT8 gives back the layers that hurt."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from build_engine.compile import compile_engine
from build_engine.compiled import Compiled, CompileSettings, Progress
from build_engine.half import to_half
from build_engine.progress import followed
from build_engine.quantize import Form, quantisable_layers, quantise
from build_engine.recipe import GateSettings, Recipe, RecipeError
from build_engine.sensitivity import LayerEffect, sensitivity
from build_engine.verify import GateResult, run_gate
from edge.backends import Backend, close_backend
from edge.backends.onnxruntime import OnnxRuntimeBackend
from edge.contract import Precision, Reading
from edge.errors import BackendFailed
from edge.portal_image import read_portal_image
from landmarknet.decode import TorchBackend
from landmarknet.evaluate import Finding, find_in, read_truths
from landmarknet.network import LandmarkNet

TIMED_ROUNDS, WARM_UP_ROUNDS = 15, 2
REFUSALS_MOST = 32  # an attempt takes minutes where it is compiled; 32 layers rarely need more than 20
Say = Callable[[str], None]
Clock = Callable[[], float]


@dataclass(frozen=True, eq=False)
class Source:
    """What every candidate is made from: the exported float32 graph, and what the float32 network finds."""

    network: LandmarkNet
    model: bytes
    reading: Reading
    reference: tuple[Finding, ...]  # empty without a gate
    inputs: tuple[np.ndarray, ...]  # golden inputs, (1, 1, S, S) float32
    probes: tuple[np.ndarray, ...] = ()  # a few of the calibration set, likewise; sensitivity is measured on them


@dataclass(frozen=True)
class Refusal:
    """An attempt that the gate refused: why, the layers in float, and those taken into INT8 beside what had passed."""

    kept_float: tuple[str, ...]
    faults: tuple[str, ...]
    taken: tuple[str, ...] = ()  # empty: all of them


@dataclass(frozen=True, eq=False)
class Candidate:
    """``ran_on`` says what computed the gate's and the golden answers; ``speed`` is time against float32, or None.

    ``refused`` are the attempts before this one, in their order; on ``batch`` it can be timed against others.
    """

    precision: Precision
    compiled: Compiled
    backend: Backend
    ran_on: str
    gate: GateResult | None
    kept_float: tuple[str, ...] = ()
    effects: tuple[LayerEffect, ...] = ()
    speed: float | None = None
    refused: tuple[Refusal, ...] = ()
    batch: np.ndarray | None = None


def warnings(candidate: Candidate) -> tuple[str, ...]:
    """Return what to know before a reduced precision is used: that it is so in name alone, or gains no time."""
    found = []
    int8 = candidate.compiled.delivered.get("int8", 0)
    layers = int8 + len(candidate.kept_float)
    if candidate.precision == "int8" and 2 * int8 < layers:
        found.append(
            f"INT8 in {int8} of {layers} layers only: the gate refuses more of them; fp16 or fp32 may be as good"
        )
    if candidate.precision != "fp32" and candidate.speed is not None and candidate.speed >= 1:
        found.append(
            f"{candidate.precision} takes {candidate.speed:.2f} of the time of float32: nothing is gained here; "
            "publish fp32, or build with --precision auto"
        )
    return tuple(found)


def tell_warnings(candidate: Candidate, say: Say) -> None:
    """Say the warnings of a candidate that the gate lets pass; of one it refuses, the faults were said."""
    if candidate.gate is None or candidate.gate.passed:
        for warning in warnings(candidate):
            say(f"WARNING: {warning}")


def reference_findings(
    network: LandmarkNet, reading: Reading, recipe: Recipe, progress: Progress
) -> tuple[Finding, ...]:
    """Return what the float32 network finds in the gate's images; empty without a gate."""
    return () if recipe.gate is None else gate_findings(TorchBackend(network), reading, recipe.gate, progress)


def gate_findings(backend: Backend, reading: Reading, gate: GateSettings, progress: Progress) -> tuple[Finding, ...]:
    """Return what a backend finds in the gate's images; in AP the Louis angle, too, where the room would report it."""
    try:
        truths = read_truths(gate.images, gate.patients)
    except ValueError as exc:  # they were there when the build began
        raise RecipeError(f"[gate]: {exc}") from exc
    images = followed(truths.items(), "verify", len(truths), progress)
    return tuple(
        finding
        for path, truth in images
        for finding in find_in(read_portal_image(path), truth, backend, reading, unlabelled_views=True)
    )


def make_candidate(
    source: Source, recipe: Recipe, precision: Precision, amax: Mapping[str, float], say: Say, progress: Progress
) -> Candidate:
    """Return the network in a precision, with the gate's verdict; INT8 in as many layers as the gate lets pass."""

    def attempt(keep: tuple[str, ...]) -> Candidate:
        return _attempt(source, recipe, precision, amax, keep, say, progress)

    if precision == "int8":
        candidate = give_back_layers(attempt, lambda: _effects(source, recipe.engine, amax, say), say)
    else:
        candidate = attempt(())
    tell_warnings(candidate, say)
    return candidate


def give_back_layers(
    attempt: Callable[[tuple[str, ...]], Candidate], effects: Callable[[], tuple[LayerEffect, ...]], say: Say
) -> Candidate:
    """Return an attempt that passes and of whose layers in float none could be taken into INT8 besides.

    What the gate refuses as a whole is taken into INT8 by parts: the half of the layers with the least effect, then the
    other; of a half that is refused beside what passed, its halves; a single layer that is refused stays in float. So
    one layer that moves a landmark does not cost those that change heatmaps more but move none. The last attempt,
    refused, where none passes: with every layer in float it would, and be INT8 in name alone. What is not returned is
    closed.
    """
    refusals: list[Refusal] = []
    chosen = attempt(())
    if passes := _passes(chosen, (), say, refusals):
        return chosen
    order = effects()
    in_float = tuple(effect.layer for effect in order)
    parts = _halves(in_float)
    while parts and len(refusals) < REFUSALS_MOST:
        part = parts.pop()
        keep = tuple(layer for layer in in_float if layer not in part)
        if any(keep == refusal.kept_float for refusal in refusals):  # its other half has passed meanwhile
            parts += _halves(part)
            continue
        say(f"{len(keep)} of {len(order)} layers in float; taken into INT8: {', '.join(part)}")
        tried = attempt(keep)
        if _passes(tried, part, say, refusals):
            chosen, in_float, passes = _instead_of(chosen, tried), keep, True
        else:
            parts += _halves(part)
            chosen = _instead_of(tried, chosen) if passes else _instead_of(chosen, tried)
    return replace(chosen, effects=order, refused=tuple(refusals))


def _halves(layers: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return two halves of some layers in their order; nothing of a single one."""
    middle = len(layers) // 2
    return [layers[:middle], layers[middle:]] if middle else []


def _instead_of(left: Candidate, taken: Candidate) -> Candidate:
    """Return a candidate, and close the other."""
    close_backend(left.backend)
    return taken


def _passes(candidate: Candidate, part: tuple[str, ...], say: Say, refusals: list[Refusal]) -> bool:
    """Return whether a candidate passed the gate, or had none to pass; say, and add to ``refusals``, why not."""
    if candidate.gate is None or candidate.gate.passed:
        return True
    say(f"gate: {'; '.join(candidate.gate.faults)}")
    refusals.append(Refusal(candidate.kept_float, candidate.gate.faults, part))
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
    candidate = Candidate(precision, compiled, backend, ran_on, None, tuple(keep), batch=source.inputs[0])
    if recipe.gate is None:
        return candidate
    say(f"verify on {', '.join(recipe.gate.patients)}, run by {ran_on}")
    found = gate_findings(backend, source.reading, recipe.gate, progress)
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
    """Open what was compiled; where it was compiled for no GPU of this machine, its graph on ONNX Runtime stands in."""
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
    if candidate.ran_on != "onnxruntime":  # a plan is timed against plans: `fastest`, `make gpu`
        return None
    plain = OnnxRuntimeBackend(source.model, 1, "fp32")
    return time_ratio(candidate.backend, plain, source.inputs[0])


def time_ratio(backend: Backend, other: Backend, batch: np.ndarray, clock: Clock = time.perf_counter) -> float:
    """Return the median of the paired ratios of two backends' inference times, in alternating order."""
    ratios = []
    for number in range(WARM_UP_ROUNDS + TIMED_ROUNDS):
        pair = (backend, other) if number % 2 else (other, backend)
        seconds = {id(one): _seconds(one, batch, clock) for one in pair}
        if number >= WARM_UP_ROUNDS:
            ratios.append(seconds[id(backend)] / seconds[id(other)])
    return float(np.median(ratios))


def _seconds(backend: Backend, batch: np.ndarray, clock: Clock) -> float:
    began = clock()
    backend.infer(batch)
    return clock() - began


def _effects(source: Source, engine: CompileSettings, amax: Mapping[str, float], say: Say) -> tuple[LayerEffect, ...]:
    say(f"sensitivity of {len(quantisable_layers(source.model))} layers, one at a time")
    plain = OnnxRuntimeBackend(source.model, 1, "fp32")
    wanted = np.stack([plain.infer(batch).heatmaps for batch in source.probes])

    def heatmap_error(graph: bytes) -> float:
        backend = OnnxRuntimeBackend(graph, 1, "int8")
        given = np.stack([backend.infer(batch).heatmaps for batch in source.probes])
        return float(np.linalg.norm(given - wanted) / np.linalg.norm(wanted))

    return tuple(sensitivity(source.model, amax, heatmap_error, say, form_of(engine)))


def fastest(candidates: Sequence[Candidate], clock: Clock = time.perf_counter) -> Candidate:
    """Return the fastest that passed the gate, and close the others; INT8 counts only if it beats float16.

    What ran on the CPU was timed against float32 there; plans that ran are timed here, against the float16 plan. A
    precision that nothing computes in, such as float16 on most CPUs, is none to choose.
    """
    passed = [c for c in candidates if c.gate is not None and c.gate.passed and _is_delivered(c)]
    if not passed:
        raise RecipeError("no precision passes the gate and is computed in; see the reports")
    absent = [f"{c.precision} did not run here ({c.ran_on})" for c in passed if c.ran_on != c.compiled.flavour]
    if absent:
        raise RecipeError(f"precision auto has to time the engines, and {'; '.join(absent)}; name a precision")
    chosen = min(passed, key=lambda c: c.speed or 0.0) if all(c.speed for c in passed) else _fastest_plan(passed, clock)
    for candidate in candidates:
        if candidate.backend is not chosen.backend:
            close_backend(candidate.backend)
    return chosen


def _is_delivered(candidate: Candidate) -> bool:
    delivered = candidate.compiled.delivered
    return not delivered or delivered.get(candidate.precision, 0) > 0


def _fastest_plan(plans: Sequence[Candidate], clock: Clock) -> Candidate:
    """Return the fastest of some plans, with its time against the float32 plan where that is among them."""
    by_precision = {plan.precision: plan for plan in plans}
    yardstick = by_precision.get("fp16", plans[0])
    ratios = [_ratio(plan, yardstick, clock) for plan in plans]
    chosen = plans[int(np.argmin(ratios))]  # the first of equals: they come from float32 to INT8
    plain = by_precision.get("fp32")
    return chosen if plain is None else replace(chosen, speed=_ratio(chosen, plain, clock))


def _ratio(plan: Candidate, other: Candidate, clock: Clock) -> float:
    if plan is other:
        return 1.0
    if plan.batch is None:
        raise ValueError(f"the {plan.precision} plan has no batch to be timed on")
    return time_ratio(plan.backend, other.backend, plan.batch, clock)
