"""What the daemon counts, for Prometheus, on the loopback address only. Nothing of an image or a patient is a label."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from structlog.typing import FilteringBoundLogger

from edge.constancy import ConstancyRun
from edge.settle import State
from edge.terminal import printable

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

LOOPBACK = "127.0.0.1"
STAGE_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)


class Metrics(Protocol):
    """What the daemon tells; no method raises or waits."""

    def swept(self, folder: Path, ok: bool) -> None:
        """Say whether a drop folder could be listed."""

    def published(self, status: str, timing_ms: Mapping[str, float]) -> None:
        """Count a result by its status ("ok", "no_landmarks", "refused"), and the time of its stages."""

    def refused(self, kind: str) -> None:
        """Count a refusal by the class of its error."""

    def queue(self, counts: Mapping[State, int], not_images: int) -> None:
        """Say how many files stand where, those apart that are no images; a state that is not named has none."""

    def silent(self, folder: Path, silence: timedelta | None) -> None:
        """Say for how long of its clinic hours a drop folder has been silent; None is no alarm."""

    def constancy(self, run: ConstancyRun) -> None:
        """Say what the last run of the golden images showed."""


class NoMetrics:
    """Count nothing."""

    def swept(self, folder: Path, ok: bool) -> None: ...

    def published(self, status: str, timing_ms: Mapping[str, float]) -> None: ...

    def refused(self, kind: str) -> None: ...

    def queue(self, counts: Mapping[State, int], not_images: int) -> None: ...

    def silent(self, folder: Path, silence: timedelta | None) -> None: ...

    def constancy(self, run: ConstancyRun) -> None: ...


NO_METRICS = NoMetrics()


class PrometheusMetrics:
    """Metrics in a registry of their own; ``clock`` gives seconds since 1970."""

    def __init__(self, registry: CollectorRegistry, clock: Callable[[], float] = time.time) -> None:
        from prometheus_client import Counter, Gauge, Histogram

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"landmarknet_edge_{name}", text, labels, registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"landmarknet_edge_{name}", text, labels, registry=registry)

        self._clock = clock
        self._files = gauge("files", "Files that are known, by where they stand.", "state")
        self._not_images = gauge("not_images", "Files that are no images, and left alone.")
        self._results = counter("results", "Results published, by status.", "status")
        self._refusals = counter("refusals", "Files refused, by the class of the reason.", "kind")
        self._stages = Histogram(
            "landmarknet_edge_stage_seconds", "Time per image and stage.", ["stage"],
            buckets=STAGE_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self._last = gauge("last_success_timestamp_seconds", "When an image last got a result that is no refusal.")
        self._folder = gauge("folder_up", "1 while a drop folder can be listed.", "folder")
        self._silence = gauge("folder_silence_seconds", "Clinic hours without an image; 0: no alarm.", "folder")
        self._passed = gauge("constancy_passed", "1 when the golden images last gave their answers.")
        self._checked = gauge("constancy_timestamp_seconds", "When the golden images last ran.")
        self._shift = gauge("constancy_shift_net_px", "Worst shift of a golden landmark, px of the network.")
        self._score = gauge("constancy_score_change", "Worst change of a golden landmark's score.")
        for unknown in (self._passed, self._shift, self._score):
            unknown.set(math.nan)  # 0 would be an alarm after every restart, until the next run

    def swept(self, folder: Path, ok: bool) -> None:
        self._folder.labels(printable(str(folder))).set(ok)

    def published(self, status: str, timing_ms: Mapping[str, float]) -> None:
        self._results.labels(status).inc()
        for stage, spent_ms in timing_ms.items():
            self._stages.labels(stage).observe(spent_ms / 1000)
        if status != "refused":
            self._last.set(self._clock())

    def refused(self, kind: str) -> None:
        self._refusals.labels(kind).inc()

    def queue(self, counts: Mapping[State, int], not_images: int) -> None:
        for state in State:
            self._files.labels(str(state.value)).set(counts.get(state, 0))
        self._not_images.set(not_images)

    def silent(self, folder: Path, silence: timedelta | None) -> None:
        self._silence.labels(printable(str(folder))).set(silence.total_seconds() if silence else 0.0)

    def constancy(self, run: ConstancyRun) -> None:
        self._passed.set(run.passed)
        self._checked.set(run.when_utc.timestamp())
        self._shift.set(run.worst_shift_net_px)
        self._score.set(run.worst_score_change)


@contextmanager
def serve_metrics(port: int | None, log: FilteringBoundLogger) -> Iterator[Metrics]:
    """Give metrics that http://127.0.0.1:PORT/metrics shows meanwhile; without a port, none.

    A port that is taken is an error line: no treatment room goes without results for want of figures about them.
    """
    if port is None:
        yield NO_METRICS
        return
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    try:
        server, thread = start_http_server(port, LOOPBACK, registry)
    except OSError as exc:
        log.error("metrics are not served; set another metrics_port", port=port, reason=str(exc))  # noqa: TRY400 - no trace
        yield NO_METRICS
        return
    try:
        yield PrometheusMetrics(registry)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
