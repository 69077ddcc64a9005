"""The process that finds landmarks: opens the engine, has images read by a process of its own, and publishes nothing.

`edge.processes.worker` starts it. Whatever touches a device runs on the main thread, to which its context belongs.
Others have the next image read meanwhile, and draw this one's film; then they draw, word and send its answer, in the
order of the requests.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from edge.backends import close_backend, holds_device
from edge.config import Config
from edge.constancy import KindDrift
from edge.contract import Contract, KindContract
from edge.engines import LINE_TOLERANCE_NET_PX, Engine, golden_answers, open_configured
from edge.errors import DeviceLost, EdgeError, InferenceFailed
from edge.pipeline import Made, Pipeline, Source
from edge.processes.child import Blob, Parent
from edge.processes.reader_process import ReaderLimits, ReaderProcess
from edge.processes.reading_ahead import ReadingAhead, one_thread, reading_ahead

Answer = tuple[dict[str, Any], Sequence[Blob]]


def main(parent: Parent) -> None:
    """Open what the first request configures, say so, and answer the others until the parent is gone."""
    requests = parent.requests()
    config = Config.model_validate(next(requests).header["config"])
    with ExitStack() as held:
        try:
            pipeline, reading, drawing = _opened(config, held)
        except EdgeError as exc:
            parent.answer(said(exc))
            return
        parent.answer(opened(pipeline))
        for request in reading.requests(requests):
            drawing.submit(_send, parent, named(request.header, begin(request.header, pipeline)))


def _send(parent: Parent, make: Callable[[], Answer]) -> None:
    try:
        parent.answer(*make())
    except ConnectionError:  # the parent is gone, or wants no more answers
        return
    except BaseException:  # noqa: BLE001 - nobody waits for this thread, and whoever waits for its answer must not
        traceback.print_exc()
        os._exit(1)


def _opened(config: Config, held: ExitStack) -> tuple[Pipeline, ReadingAhead, ThreadPoolExecutor]:
    reader = ReaderProcess(ReaderLimits.of(config))
    held.callback(reader.close)
    reader.start()  # it starts while the engine is opened
    engine = open_configured(config)
    held.callback(close_backend, engine.backend)
    reader.await_ready()
    reading = held.enter_context(reading_ahead(reader.read))
    drawing = held.enter_context(one_thread("drawing"))
    return Pipeline.of(config, engine, reading, lambda make: drawing.submit(make).result), reading, drawing


def opened(pipeline: Pipeline) -> dict[str, Any]:
    """Return what is said of what was opened."""
    return {
        "provenance": pipeline.provenance().model_dump_json(),
        "contract": pipeline.engine.contract.model_dump_json(by_alias=True),
        "rebuild_for": list(pipeline.engine.rebuild_for),
    }


def begin(asked: dict[str, Any], pipeline: Pipeline) -> Callable[[], Answer]:
    """Do of what is asked what needs the device; return what gives header and blobs.

    They are of a made result, of the drift, or of an error.
    """
    try:
        if asked["do"] == "golden":
            drift = golden_drift(pipeline.engine)
            return lambda: ({"kinds": [asdict(kind) for kind in drift]}, ())
        if asked["do"] == "key":
            key = pipeline.key_of(_source(asked))
            return lambda: ({"key": key}, ())
        finish = pipeline.begin(_source(asked), final=asked["final"])
    except InferenceFailed as exc:
        # after a fault a device's context answers nothing any more: what holds one is given up with its process
        error = DeviceLost(str(exc)) if holds_device(pipeline.engine.backend) else exc
        return lambda: (said(error), ())
    except EdgeError as exc:
        told = said(exc)
        return lambda: (told, ())
    return lambda: _answer(finish)


def named(asked: dict[str, Any], make: Callable[[], Answer]) -> Callable[[], Answer]:
    """Have an answer say which file it is of, by its working copy, which no other file ever has."""

    def made() -> Answer:
        header, blobs = make()
        return header | {"of": asked.get("copy")}, blobs

    return made


def _source(asked: dict[str, Any]) -> Source:
    at = asked.get("made_at")
    made_at = None if at is None else datetime.fromisoformat(at)
    return Source(Path(asked["copy"]), asked["name"], asked["sha256"], made_at)


def _answer(finish: Callable[[], Made]) -> Answer:
    try:
        made = finish()
    except EdgeError as exc:
        return said(exc), ()
    names = [name for name, _ in made.outputs]
    return {"outputs": names, "kind": made.kind}, [made.result.to_json(), *(data for _, data in made.outputs)]


def golden_drift(engine: Engine) -> tuple[KindDrift, ...]:
    """Run the golden inputs again, and compare kind by kind; raise `InferenceFailed`. Without any: nothing, no pass."""
    golden, contract = engine.golden, engine.contract
    if golden is None:
        return ()
    have = np.stack([golden_answers(engine.backend.infer(batch), contract) for batch in golden.batches])
    return tuple(
        _kind_drift(promise, golden.peaks[:, index], have[:, index], contract)
        for index, promise in enumerate(contract.kinds)
    )


def _kind_drift(promise: KindContract, want: np.ndarray, have: np.ndarray, contract: Contract) -> KindDrift:
    """Compare (m, K, 3) rows. A counterpart lies within the radius in which only one peak can be."""
    shifts, changes, missing = [0.0], [0.0], [0, 0]
    for way, (these, others) in enumerate(((want, have), (have, want))):
        for rows, counterparts in zip(these, others, strict=True):
            for x, y, score in rows[rows[:, 2] >= promise.threshold + contract.golden_tolerance_score]:
                distance = np.where(counterparts[:, 2] >= 0, np.hypot(*(counterparts[:, :2] - (x, y)).T), np.inf)
                nearest = int(np.argmin(distance))
                if not distance[nearest] <= contract.nms_radius_net_px:
                    missing[way] += 1
                    continue
                shifts.append(float(distance[nearest]))
                changes.append(abs(float(counterparts[nearest, 2] - score)))
    allowance = LINE_TOLERANCE_NET_PX if promise.shape == "line" else 0.0
    return KindDrift(promise.kind, max(shifts), max(changes), missing[0], missing[1], allowance)


def said(exc: EdgeError) -> dict[str, Any]:
    """Return an error as it travels."""
    return {"error": type(exc).__name__, "message": str(exc)}


if __name__ == "__main__":
    main(Parent(sys.argv[1:]))
