"""The process that finds landmarks: opens the engine, has images read by a process of its own, and publishes nothing.

`edge.processes.worker` starts it. Everything runs on the main thread, to which a device's context belongs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
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
from edge.pipeline import Pipeline, Source
from edge.processes.child import Blob, Parent
from edge.processes.reader_process import ReaderLimits, ReaderProcess

Answer = tuple[dict[str, Any], Sequence[Blob]]


def main(parent: Parent) -> None:
    """Open what the first request configures, say so, and answer the others until the parent is gone."""
    requests = parent.requests()
    config = Config.model_validate(next(requests).header["config"])
    with ExitStack() as held:
        try:
            pipeline = _opened(config, held)
        except EdgeError as exc:
            parent.answer(said(exc))
            return
        parent.answer(opened(pipeline))
        for request in requests:
            parent.answer(*answer(request.header, pipeline))


def _opened(config: Config, held: ExitStack) -> Pipeline:
    reader = ReaderProcess(ReaderLimits.of(config))
    held.callback(reader.close)
    reader.start()  # it starts while the engine is opened
    engine = open_configured(config)
    held.callback(close_backend, engine.backend)
    reader.await_ready()
    return Pipeline.of(config, engine, reader.read)


def opened(pipeline: Pipeline) -> dict[str, Any]:
    """Return what is said of what was opened."""
    return {
        "provenance": pipeline.provenance().model_dump_json(),
        "contract": pipeline.engine.contract.model_dump_json(by_alias=True),
        "rebuild_for": list(pipeline.engine.rebuild_for),
    }


def answer(asked: dict[str, Any], pipeline: Pipeline) -> Answer:
    """Do what is asked, and return header and blobs: of a made result, of the drift, or of an error."""
    try:
        if asked["do"] == "golden":
            return {"kinds": [asdict(kind) for kind in golden_drift(pipeline.engine)]}, ()
        if asked["do"] == "key":
            return {"key": pipeline.key_of(Source(Path(asked["path"]), asked["name"], asked["sha256"]))}, ()
        return _make(asked, pipeline)
    except InferenceFailed as exc:
        # after a fault a device's context answers nothing any more: what holds one is given up with its process
        return said(DeviceLost(str(exc)) if holds_device(pipeline.engine.backend) else exc), ()
    except EdgeError as exc:
        return said(exc), ()


def _make(asked: dict[str, Any], pipeline: Pipeline) -> Answer:
    at = asked.get("made_at")
    made_at = None if at is None else datetime.fromisoformat(at)
    source = Source(Path(asked["path"]), asked["name"], asked["sha256"], made_at)
    made = pipeline.make(source, final=asked["final"])
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
