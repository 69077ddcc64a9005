"""What the service works with: a release that gives its golden answers here, and references that are whole."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from edge.backends import close_backend
from edge.config import Config
from edge.errors import EdgeError, InferenceFailed
from edge.registration.alignment import look_over_references
from edge.service.finding import Finding, fault_of
from edge.service.machine import Machine

if TYPE_CHECKING:
    from edge.engines import Engine

TIMED = 5  # inferences, of which the median is told
MORE_THREADS = (1, 2, 4, 8)  # that are tried beside what is configured, as far as there are cores


def check_release(config: Config, here: Machine) -> Iterator[Finding]:
    """Say what is in use, whether it fits this machine, on which library it runs, and how fast by threads."""
    try:
        engine = here.open_engine(config)
        try:
            facts = here.facts(engine.contract.flavour)
            spent_ms = inference_ms(engine)
        finally:
            close_backend(engine.backend)
    except InferenceFailed as exc:
        yield Finding("fault", str(exc).rpartition("; ")[0] or str(exc), "free memory or the device, and check again")
        return
    except EdgeError as exc:
        yield fault_of(exc, "choose another release: landmarknet-edge engine list")
        return
    contract, release = engine.contract, f"engine {engine.contract.release}"
    yield Finding("ok", f"{release} ({contract.flavour}, {contract.precision_delivered}): golden answers given")
    for warning in engine.warnings:
        yield Finding("warning", f"{release}: {warning}", engine.mend)
    parts = (f"{contract.flavour} {facts.flavour_version}", facts.gpu, facts.driver and f"driver {facts.driver}")
    yield Finding("ok", f"library: {', '.join(part for part in parts if part)}")
    if contract.flavour != "onnxruntime" or engine.rebuild_for:  # what stands in for another is not worth a choice
        yield Finding("ok", f"inference: {spent_ms:.3g} ms")
        return
    others = ", ".join(f"{other_ms:.3g} with {other}" for other, other_ms in _with_others(config, here))
    compared = others and f"; just now {others} (other programs need processors, too)"
    yield Finding("ok", f"inference: {spent_ms:.3g} ms with threads = {config.threads}, as configured{compared}")


def _with_others(config: Config, here: Machine) -> Iterator[tuple[int, float]]:
    """Yield other numbers of threads than the configured one, and what an inference takes with them.

    One with which it fails is left out: nobody asked for it.
    """
    for threads in MORE_THREADS:
        if threads == config.threads or threads > here.cores():
            continue
        with suppress(EdgeError):
            engine = here.open_engine(config.model_copy(update={"threads": threads}))
            try:
                yield threads, inference_ms(engine)
            finally:
                close_backend(engine.backend)


def inference_ms(engine: Engine) -> float:
    """Return how long an inference takes just now, the first not counted; raise `InferenceFailed`."""
    size = engine.contract.input_size
    batch, spent_ms = np.zeros((1, 1, size, size), np.float32), []
    for _ in range(TIMED + 1):
        began_s = time.perf_counter()
        engine.backend.infer(batch)
        spent_ms.append(1e3 * (time.perf_counter() - began_s))
    return median(spent_ms[1:])


def check_references(config: Config) -> Iterator[Finding]:
    """Say what is right or wrong with the references of a room; nothing where it has none."""
    return (Finding(*said) for said in look_over_references(config))
