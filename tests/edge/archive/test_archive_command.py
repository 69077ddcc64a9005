"""The command with real workers, and what kills them."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from edge.config import Config
from edge.engines import open_engine
from edge.pipeline import Pipeline, Source
from tests.faults.room import ROOT, dicom_image, put, wait_until

IMAGES = 60
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def archive(tmp_path):
    folder = tmp_path / "an archive"
    (folder / "2025").mkdir(parents=True)
    for number in range(IMAGES):
        put(folder / ("2025" if number % 2 else ".") / f"RI {number}.dcm", dicom_image(number))
    return folder


@pytest.fixture
def config(tmp_path, quick_release):
    path = tmp_path / "edge.toml"
    path.write_text(f"release = {json.dumps(str(quick_release))}\n")
    return path


@pytest.fixture
def start(archive, config, own_state, tmp_path):
    """Return a function that starts the command in a session of its own; what is left of it ends with the test."""
    started = []

    def begin(*options):
        command = [sys.executable, "-m", "edge.cli", "archive", str(archive), "--config", str(config), "--json"]
        file = tmp_path / f"stderr {len(started)}"
        with file.open("w") as error:
            started.append(
                subprocess.Popen(
                    [*command, *map(str, options)],
                    cwd=tmp_path,
                    env=own_state,
                    stdout=subprocess.PIPE,
                    stderr=error,
                    text=True,
                    start_new_session=True,
                )
            )
        started[-1].error = file.read_text
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def ended(process):
    """Return the exit status and the summary."""
    out, _ = process.communicate(timeout=200)
    return process.returncode, json.loads(out) if out else None


def results(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.landmarks.json")}


def workers_of(process):
    """Return the Dask workers: what has opened an engine."""
    below = psutil.Process(process.pid).children(recursive=True)
    found = [one.parent() for one in below if "edge.processes.worker_child" in command_of(one)]
    return [one for one in found if one is not None]


def command_of(process):
    with suppress(psutil.NoSuchProcess):  # a zombie is none
        return " ".join(process.cmdline())
    return ""


def listening(process):
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return [found.laddr.ip for found in process.net_connections() if found.status == psutil.CONN_LISTEN]
    return []


def wait_for_results(archive, number, process):
    def there():
        assert process.poll() is None, process.error()
        return len(results(archive)) >= number

    wait_until(there, why=process.error)


@contextmanager
def witnessed(archive, tmp_path):
    """Look at every result all the time: each must be whole, of its image, and stay the first that stood there."""
    witness = subprocess.Popen(
        [sys.executable, str(ROOT / "tests/faults/witness.py"), str(archive), str(archive)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield
        seen = json.loads(witness.communicate(timeout=60)[0])
    finally:
        witness.kill()
        witness.communicate()
    assert (seen["torn"], seen["changed"]) == ([], [])
    assert seen["looks"] > 1
    assert len(results(archive)) == IMAGES
    assert list(archive.rglob(".landmarks-*")) == []


def test_each_image_gets_the_result_that_one_process_makes_and_no_other_user_can_reach_the_workers(
    archive, start, quick_release, config
):
    process = start("--workers", 2)
    wait_until(lambda: len(workers_of(process)) == 2, why=process.error)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    assert {place for one in family for place in listening(one)} == {"127.0.0.1"}
    status, summary = ended(process)
    assert (status, summary["done"], summary["images"]) == (0, IMAGES, IMAGES), process.error()
    settings = Config(release=quick_release)
    pipeline = Pipeline.of(settings, open_engine(quick_release, 1))
    for path, data in results(archive).items():
        image = archive / path.with_name(path.name.replace(".landmarks.json", ".dcm"))
        one = pipeline.make(Source(image, image.name)).result
        assert data == one.model_copy(update={"timing_ms": {}}).to_json()


def test_a_worker_that_is_killed_loses_and_doubles_nothing(archive, start, tmp_path):
    with witnessed(archive, tmp_path):
        process = start("--workers", 2)
        for number in (5, 20):
            wait_for_results(archive, number, process)
            wait_until(lambda: workers_of(process), why=process.error)
            workers_of(process)[0].kill()
        status, summary = ended(process)
    assert (status, summary["done"], summary["skipped"]) == (0, IMAGES, 0), process.error()


def test_a_command_that_is_killed_is_gone_on_with(archive, start, tmp_path):
    with witnessed(archive, tmp_path):
        process = start("--workers", 2)
        wait_for_results(archive, 10, process)
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        psutil.wait_procs(family, timeout=30)
        assert not [one for one in family if one.is_running()]  # no worker outlives it
        before = results(archive)
        assert 10 <= len(before) < IMAGES
        status, summary = ended(again := start("--workers", 2))
    assert status == 0, again.error()
    assert (summary["skipped"], summary["done"]) == (len(before), IMAGES - len(before))
    assert {path: results(archive)[path] for path in before} == before


def test_an_image_that_ends_every_dask_worker_is_refused_and_the_others_are_done(tmp_path, quick_release, own_state):
    for number in range(6):
        put(tmp_path / f"RI {number}.dcm", dicom_image(number))
    put(tmp_path / "deadly.dcm", dicom_image(7))
    script = Path(__file__).with_name("deadly.py")
    command = [sys.executable, str(script), str(tmp_path), str(quick_release)]
    done = subprocess.run(command, env=own_state, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    others = {f"RI {number}.dcm": ["done", None] for number in range(6)}
    assert json.loads(done.stdout) == others | {"deadly.dcm": ["refused", "WorkerDied"]}
    reason = json.loads((tmp_path / "deadly.landmarks.json").read_bytes())["reason"]
    assert reason.startswith("deadly.dcm: every worker that had the file in hand was lost")


def test_ctrl_c_ends_it_and_says_how_to_go_on(archive, start):
    process = start("--workers", 2)
    wait_for_results(archive, 5, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process
    status, summary = ended(process)
    assert (status, summary["complete"]) == (130, False), process.error()
    assert "run the same command again to go on" in process.error()
    assert "Traceback" not in process.error()
    assert 5 <= len(results(archive)) < IMAGES
    assert list(archive.rglob(".landmarks-*")) == []


# --- an engine that is there ---


@pytest.fixture
def engine_there(own_state):
    """Return a function that starts a scheduler with workers and returns its address."""
    started = []

    def begin(workers, threads, python_path=ROOT):
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("engine_there.py")), str(workers), str(threads)],
            env=own_state | {"PYTHONPATH": str(python_path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        started.append(process)
        return process, process.stdout.readline().strip()

    yield begin
    for process in started:
        process.communicate(timeout=60)


def test_an_engine_that_is_there_is_used_and_keeps_nothing_of_it(archive, start, engine_there, tmp_path):
    there, address = engine_there(1, 1)
    status, summary = ended(process := start("--scheduler", address, "--results-dir", tmp_path / "results"))
    assert (status, summary["done"]) == (0, IMAGES), process.error()
    assert len(results(tmp_path / "results" / "2025")) == IMAGES // 2
    assert results(archive) == {}
    below = psutil.Process(there.pid).children(recursive=True)
    assert not [p for p in below if "edge.processes" in command_of(p)]


def test_a_scheduler_that_is_lost_ends_the_run_and_says_how_to_go_on(archive, start, engine_there):
    there, address = engine_there(1, 1)
    process = start("--scheduler", address)
    wait_for_results(archive, 5, process)
    there.kill()  # its workers end with it
    status, _ = ended(process)
    assert status == 1, process.error()
    assert "run the same command again to go on" in process.error()
    assert "Traceback" not in process.error()


@pytest.mark.parametrize(
    ("threads", "other_edge", "said"),
    [(2, None, "has 2 threads"), (1, "0.0.9", "has landmarknet-edge 0.0.9"), (1, "", "has no landmarknet-edge")],
)
def test_workers_that_cannot_do_it_are_told(archive, start, engine_there, tmp_path, threads, other_edge, said):
    python_path = ROOT
    if other_edge is not None:
        python_path = tmp_path / "other"
        (python_path / "edge/archive").mkdir(parents=True)
        (python_path / "edge/__init__.py").touch()
        (python_path / "edge/archive/__init__.py").touch()
        if other_edge:
            module = f"def software():\n    return {other_edge!r}\n"
            (python_path / "edge/archive/held_engine.py").write_text(module)
    _, address = engine_there(1, threads, python_path)
    status, _ = ended(process := start("--scheduler", address))
    assert status == 2, process.error()
    assert said in process.error()
    assert "nothing was processed" in process.error()
    assert results(archive) == {}


# --- misuse ---


def test_no_scheduler_at_the_address_is_told(start):
    status, _ = ended(process := start("--scheduler", "tcp://127.0.0.1:9"))
    assert status == 2, process.error()
    assert "no scheduler answers at tcp://127.0.0.1:9" in process.error()


def test_a_room_without_dask_is_told_what_to_install():
    code = (
        "import sys\n"
        "sys.modules['distributed'] = None\n"
        "sys.argv = ['landmarknet-edge', 'archive', '.']\n"
        "from edge.cli import main; main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "pip install landmarknet-edge[archive]" in done.stderr


def test_a_results_folder_of_a_drop_folder_is_not_touched(landmarknet_edge, archive, tmp_path):
    from edge.results.owner import Owner, own_results

    (tmp_path / "results").mkdir()
    own_results(tmp_path / "results", Owner.of(tmp_path / "drop"))
    done = landmarknet_edge("archive", archive, "--results-dir", tmp_path / "results", cwd=tmp_path)
    assert done.returncode == 2
    assert "holds the results of the drop folder" in done.stderr


def test_a_folder_that_is_none_is_told(landmarknet_edge, tmp_path):
    done = landmarknet_edge("archive", tmp_path / "none", cwd=tmp_path)
    assert (done.returncode, "no such folder; nothing was processed" in done.stderr) == (2, True)
    both = landmarknet_edge("archive", tmp_path, "--workers", 2, "--scheduler", "tcp://x", cwd=tmp_path)
    assert (both.returncode, "give one of the two" in both.stderr) == (2, True)
