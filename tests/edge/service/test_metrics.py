import io
import math
import socket
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from edge.constancy import ConstancyRun
from edge.log import open_log
from edge.service.metrics import NO_METRICS, NoMetrics, PrometheusMetrics, serve_metrics
from edge.settle import State

NOW_S = 1_780_000_000.0
ROOM = Path("/rooms/one")
RUN = ConstancyRun(datetime(2026, 6, 1, 3, tzinfo=UTC), "r1", False, 0.3, 0.02, "drifted")


class Counted:
    """`PrometheusMetrics` at a fixed time, and what Prometheus would read of it."""

    def __init__(self):
        self.registry = CollectorRegistry()
        self.metrics = PrometheusMetrics(self.registry, clock=lambda: NOW_S)

    def __getitem__(self, what):
        name, *labels = what if isinstance(what, tuple) else (what,)
        return self.registry.get_sample_value(f"landmarknet_edge_{name}", dict(labels))


@pytest.fixture
def counted():
    return Counted()


@pytest.fixture
def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_results_are_counted_by_status(counted):
    for status in ("ok", "ok", "no_landmarks", "refused"):
        counted.metrics.published(status, {})
    found = {status: counted["results_total", ("status", status)] for status in ("ok", "no_landmarks", "refused")}
    assert found == {"ok": 2, "no_landmarks": 1, "refused": 1}


def test_stages_are_timed_in_seconds(counted):
    counted.metrics.published("ok", {"read": 20.0, "infer": 300.0})
    counted.metrics.published("ok", {"read": 30.0, "infer": 500.0})
    assert counted["stage_seconds_sum", ("stage", "read")] == pytest.approx(0.05)
    assert counted["stage_seconds_count", ("stage", "infer")] == 2
    # one of the two inferences took at most half a second, the other more than a quarter: both lie in this bucket
    assert counted["stage_seconds_bucket", ("stage", "infer"), ("le", "0.25")] == 0
    assert counted["stage_seconds_bucket", ("stage", "infer"), ("le", "0.5")] == 2


def test_a_refusal_is_no_success(counted):
    counted.metrics.published("refused", {})
    assert counted["last_success_timestamp_seconds"] == 0
    counted.metrics.published("no_landmarks", {})
    assert counted["last_success_timestamp_seconds"] == NOW_S


def test_refusals_are_counted_by_the_class_of_the_reason(counted):
    for kind in ("DamagedImage", "UnsupportedImage", "DamagedImage"):
        counted.metrics.refused(kind)
    assert counted["refusals_total", ("kind", "DamagedImage")] == 2


def test_a_state_that_is_not_named_has_no_files(counted):
    counted.metrics.queue({State.SEEN: 3, State.DONE: 7}, 0)
    counted.metrics.queue({State.DONE: 10}, 5)
    assert {state: counted["files", ("state", state.value)] for state in State} == {
        state: 10 if state is State.DONE else 0 for state in State
    }
    assert counted["not_images"] == 5


def test_a_folder_is_up_until_it_cannot_be_listed(counted):
    counted.metrics.swept(ROOM, True)
    assert counted["folder_up", ("folder", "/rooms/one")] == 1
    counted.metrics.swept(ROOM, False)
    assert counted["folder_up", ("folder", "/rooms/one")] == 0


def test_silence_is_in_seconds_and_ends(counted):
    counted.metrics.silent(ROOM, timedelta(hours=2))
    assert counted["folder_silence_seconds", ("folder", "/rooms/one")] == 7200
    counted.metrics.silent(ROOM, None)
    assert counted["folder_silence_seconds", ("folder", "/rooms/one")] == 0


def test_the_last_constancy_run_is_shown(counted):
    counted.metrics.constancy(RUN)
    assert counted["constancy_passed"] == 0
    assert counted["constancy_timestamp_seconds"] == RUN.when_utc.timestamp()
    assert counted["constancy_shift_net_px"] == pytest.approx(0.3)
    assert counted["constancy_score_change"] == pytest.approx(0.02)


def test_before_the_first_run_constancy_is_neither_passed_nor_an_alarm(counted):
    for figure in ("constancy_passed", "constancy_shift_net_px", "constancy_score_change"):
        assert math.isnan(counted[figure])


def test_a_folder_name_that_is_not_utf8_can_be_shown(counted):
    counted.metrics.swept(Path("/rooms/\udcff"), True)
    assert rb"/rooms/\\xff" in generate_latest(counted.registry)


def test_labels_are_states_statuses_classes_stages_and_folders_only(counted):
    metrics = counted.metrics
    metrics.published("ok", {"read": 1.0})
    metrics.refused("DamagedImage")
    metrics.queue({}, 0)
    metrics.swept(ROOM, True)
    metrics.silent(ROOM, None)
    metrics.constancy(RUN)
    names = {label for family in counted.registry.collect() for sample in family.samples for label in sample.labels}
    assert names == {"state", "status", "kind", "stage", "le", "folder"}


def test_counting_nothing_takes_all_that_the_others_take():
    told = [name for name in vars(PrometheusMetrics) if not name.startswith("_")]
    assert told
    assert [name for name in vars(NoMetrics) if not name.startswith("_")] == told


# --- served ---


def test_figures_are_served_on_loopback_while_the_daemon_runs(free_port):
    with serve_metrics(free_port, open_log(io.StringIO())) as metrics:
        metrics.queue({State.STABLE: 4}, 0)
        with urllib.request.urlopen(f"http://127.0.0.1:{free_port}/metrics", timeout=60) as answer:
            text = answer.read().decode()
        with pytest.raises(OSError):  # noqa: PT011 - refused or unreachable, as this machine has it
            socket.create_connection(("127.0.0.2", free_port), timeout=60).close()
    assert 'landmarknet_edge_files{state="stable"} 4.0' in text
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", free_port), timeout=60).close()


def test_without_a_port_nothing_listens_and_nothing_is_counted():
    with serve_metrics(None, open_log(io.StringIO())) as metrics:
        assert metrics is NO_METRICS


def test_a_port_that_is_taken_is_an_error_line_and_no_more():
    log = io.StringIO()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with serve_metrics(port, open_log(log)) as metrics:
            metrics.published("ok", {})
    assert metrics is NO_METRICS
    assert "level=error" in log.getvalue()
    assert f"port={port}" in log.getvalue()
    assert "set another metrics_port" in log.getvalue()
