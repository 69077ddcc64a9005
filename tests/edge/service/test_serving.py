from contextlib import contextmanager

import pytest
import structlog
from structlog.testing import LogCapture

from edge.config import Config, DropFolderConfig
from edge.errors import BadConfig, DeviceLost, SpoolFull
from edge.service.serving import serving
from edge.service.state import AUDIT_LOG, JOURNAL
from edge.service.surroundings import local_now


@pytest.fixture
def config(tmp_path):
    (tmp_path / "drop").mkdir()
    return Config(drop_folder=(DropFolderConfig(path=tmp_path / "drop"),), state_dir=tmp_path / "state")


@pytest.fixture
def begun(config):
    """Return a context manager: what `watch` serves with, and the log it writes."""

    @contextmanager
    def begin():
        log = LogCapture()
        with serving(config, structlog.wrap_logger(None, processors=[log])) as served:
            yield served, log

    return begin


def test_the_largest_file_is_in_mib(begun, config):
    with begun() as (served, _):
        process = served.open(config.model_copy(update={"largest_file_mb": 3}))
        assert process.largest_file_bytes == 3 * 2**20


def test_the_engine_is_named_in_log_and_audit_and_gives_its_golden_answers(begun, config, shipped):
    with begun() as (served, log):
        served.open(config)
        (ready,) = [entry for entry in log.entries if entry["event"] == "ready"]
        assert ready["release"] == shipped.contract.release
        assert shipped.contract.model_sha256 in (config.state_dir / AUDIT_LOG).read_text()
        run = served.check_golden(local_now())
        assert (run.passed, run.release) == (True, shipped.contract.release)


def test_the_worker_of_a_configuration_that_cannot_be_recorded_ends_and_the_old_one_stays(begun, config, monkeypatch):
    def full(*_):
        raise SpoolFull("audit.jsonl: cannot be written just now")

    with begun() as (served, _):
        before = served.open(config)
        monkeypatch.setattr(served.around.audit, "engine", full)
        with pytest.raises(SpoolFull):
            served.reopened(config.model_copy(update={"overlay": False}))
        starts = before.worker.starts
        assert served.check_golden(local_now()).passed
        assert before.worker.starts == starts  # it had not ended


def test_the_state_cannot_be_moved_under_a_daemon_that_runs(begun, config, tmp_path):
    with begun() as (served, _), pytest.raises(BadConfig, match="restart it"):
        served.reopened(config.model_copy(update={"state_dir": tmp_path / "other"}))


def test_golden_images_without_a_worker_are_asked_for_later(begun):
    with begun() as (served, _), pytest.raises(DeviceLost):
        served.check_golden(local_now())


def test_a_journal_that_is_damaged_is_begun_anew_with_an_error_line(begun, config):
    config.state_dir.mkdir()
    (config.state_dir / JOURNAL).write_bytes(b"no database, but long enough to be taken for one" * 100)
    with begun() as (served, log):
        assert served.around.journal.last_order() == 0
        (line,) = [entry for entry in log.entries if entry["log_level"] == "error"]
        assert "damaged" in line["event"]
        assert line["set_aside"].startswith(str(config.state_dir))


def test_another_port_of_the_metrics_is_for_a_restart(begun, config):
    with (
        begun() as (served, _),
        pytest.raises(BadConfig, match=r"metrics_port cannot go from None to 9464.*restart it"),
    ):
        served.reopened(config.model_copy(update={"metrics_port": 9464}))
