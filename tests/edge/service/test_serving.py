from contextlib import contextmanager
from dataclasses import replace

import pytest
import structlog
from structlog.testing import LogCapture

from edge.config import Config, DropFolderConfig, PageConfig
from edge.contract import read_contract
from edge.errors import BadConfig, DeviceLost, SpoolFull
from edge.processes.worker import Worker
from edge.results.owner import Owner, own_results, owner_of
from edge.service.rebuild import REBUILD_WANTED
from edge.service.serving import _given_to_page, serving
from edge.service.state import AUDIT_LOG, JOURNAL
from edge.service.surroundings import local_now


@pytest.fixture
def config(tmp_path, quick_release):
    (tmp_path / "drop").mkdir()
    folder = DropFolderConfig(path=tmp_path / "drop")
    return Config(drop_folder=(folder,), state_dir=tmp_path / "state", release=quick_release)


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


def test_the_engine_is_named_in_log_and_audit_and_gives_its_golden_answers(begun, config):
    contract, _ = read_contract(config.release / "contract.json")
    with begun() as (served, log):
        served.open(config)
        (ready,) = [entry for entry in log.entries if entry["event"] == "ready"]
        assert ready["release"] == contract.release
        assert "Landlock" in ready["reader"]
        assert contract.model_sha256 in (config.state_dir / AUDIT_LOG).read_text()
        run = served.check_golden(local_now())
        assert (run.passed, run.release) == (True, contract.release)


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


# the page beside it


def test_the_page_is_begun_anew_for_another_configuration_or_token_and_for_nothing_else(tmp_path):
    (token := tmp_path / "token").write_text("one")
    config = Config(page=PageConfig(token_file=token))
    given = _given_to_page(config)
    assert _given_to_page(config.model_copy()) == given
    assert _given_to_page(config.model_copy(update={"threads": 7})) != given
    (tmp_path / "new").write_text("two")
    (tmp_path / "new").replace(token)
    assert _given_to_page(config) != given


# asking for a rebuild


@pytest.fixture
def stale(begun, config, monkeypatch):
    """Return a function: start with a policy where the release does not fit; was a rebuild asked for?"""
    described = Worker.describe

    def begin(policy, release="r1", rebuild_for=("driver 560",)):
        said = {"warnings": (f"release {release} does not fit",), "rebuild_for": rebuild_for}
        monkeypatch.setattr(Worker, "describe", lambda self: replace(described(self), **said))
        with begun() as (served, log):
            served.open(config.model_copy(update={"stale": policy}))
            return any(entry["event"] == "a rebuild is asked for" for entry in log.entries)

    return begin


def test_a_room_that_does_not_fit_asks_for_a_rebuild_once(stale, config):
    assert stale("rebuild")
    assert (config.state_dir / REBUILD_WANTED).read_text() == "driver 560\n"
    assert not stale("rebuild")  # a restart asks for no second one
    assert not stale("rebuild", release="r2")  # nor does another release


def test_no_rebuild_is_asked_for_where_none_mends_what_does_not_fit(stale, config):
    assert not stale("rebuild", rebuild_for=())
    assert not (config.state_dir / REBUILD_WANTED).exists()


@pytest.mark.parametrize("policy", ["refuse", "fallback", "serve"])
def test_no_rebuild_is_asked_for_where_the_room_does_not_want_one(stale, config, policy):
    assert not stale(policy)
    assert not (config.state_dir / REBUILD_WANTED).exists()


def test_a_room_that_fits_asks_for_nothing(begun, config):
    with begun() as (served, _):
        served.open(config.model_copy(update={"stale": "rebuild"}))
    assert not (config.state_dir / REBUILD_WANTED).exists()


# results folders


@pytest.fixture
def other_results(config, tmp_path):
    """Return a configuration whose results are to go where those of another drop folder are."""
    (tmp_path / "results").mkdir()
    own_results(tmp_path / "results", Owner.of(tmp_path / "another drop"))
    folder = config.drop_folder[0].model_copy(update={"results_dir": tmp_path / "results"})
    return config.model_copy(update={"drop_folder": (folder,)})


def test_nothing_is_served_where_another_drop_folder_has_its_results(begun, other_results):
    with begun() as (served, log):
        with pytest.raises(BadConfig, match=r"another drop of .*name another results_dir"):
            served.open(other_results)
        assert log.entries == []  # no engine was opened for it


def test_a_reload_to_the_results_folder_of_another_is_refused_and_the_old_one_stays(begun, config, other_results):
    with begun() as (served, _):
        before = served.open(config)
        with pytest.raises(BadConfig, match="name another results_dir"):
            served.reopened(other_results)
        starts = before.worker.starts
        assert served.check_golden(local_now()).passed
        assert before.worker.starts == starts


def test_a_results_folder_is_its_drop_folder_s_from_the_start(begun, config, tmp_path):
    (tmp_path / "results").mkdir()
    folder = config.drop_folder[0].model_copy(update={"results_dir": tmp_path / "results"})
    with begun() as (served, _):
        served.open(config.model_copy(update={"drop_folder": (folder,)}))
    assert owner_of(tmp_path / "results")[1] == Owner.of(folder.path)


def test_a_results_folder_that_is_not_there_yet_holds_nobody_up(begun, config, tmp_path):
    folder = config.drop_folder[0].model_copy(update={"results_dir": tmp_path / "results"})
    with begun() as (served, _):
        served.open(config.model_copy(update={"drop_folder": (folder,)}))
    assert not (tmp_path / "results").exists()


def test_whoever_sends_images_cannot_keep_the_service_from_starting(begun, config):
    own_results(config.drop_folder[0].path, Owner("/srv/another", "edge-2"))
    with begun() as (served, _):
        served.open(config)


@pytest.fixture
def serve_once(landmarknet_edge, tmp_path, quick_release):
    """Return a function that runs a service of its own over one image, until that has been tried."""

    def run(name, image):
        drop = tmp_path / name
        drop.mkdir()
        (drop / "IMG.dcm").write_bytes(image)
        settings = f"release = '{quick_release}'\nstate_dir = '{tmp_path}/state of {name}'\nsettle_s = 0.1\n"
        folder = f"[[drop_folder]]\npath = '{drop}'\nresults_dir = '{tmp_path}/results'\n"
        (tmp_path / f"{name}.toml").write_text(settings + folder)
        return landmarknet_edge("watch", "--once", "--config", tmp_path / f"{name}.toml", cwd="/")

    return run


def test_of_two_services_one_after_the_other_the_second_stops_with_78(serve_once, tmp_path, dicom, collimated):
    (tmp_path / "results").mkdir()
    assert serve_once("room 1", dicom(collimated())).returncode == 0
    result = (tmp_path / "results" / "IMG.landmarks.json").read_bytes()
    done = serve_once("room 2", dicom(collimated(shadow=500)))
    assert done.returncode == 78
    assert f"stopped: {tmp_path}/results: holds the results of the drop folder {tmp_path}/room 1 of " in done.stderr
    assert f"remove {tmp_path}/results/.landmarks.owner.json" in done.stderr
    assert (tmp_path / "results" / "IMG.landmarks.json").read_bytes() == result


def test_of_two_services_at_the_same_time_the_second_stops_with_78(begun, config, serve_once, tmp_path):
    (tmp_path / "results").mkdir()
    folder = config.drop_folder[0].model_copy(update={"results_dir": tmp_path / "results"})
    with begun() as (served, _):
        served.open(config.model_copy(update={"drop_folder": (folder,)}))
        assert serve_once("room 2", b"").returncode == 78
        assert served.check_golden(local_now()).passed
    assert [path.name for path in (tmp_path / "results").iterdir()] == [".landmarks.owner.json"]
