import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

from edge.cli import try_again_exits_with
from edge.engines import SHIPPED_RELEASE
from edge.errors import ImageUnreadable
from edge.results.publish import read_result

PATIENCE_S = 100
SETTLE_S = 0.2


@dataclass
class Watch:
    """A daemon in a process of its own."""

    process: subprocess.Popen
    log_file: Path

    @property
    def log(self):
        return self.log_file.read_text()

    def wait_until(self, condition):
        end_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert self.process.poll() is None, self.log
            assert time.monotonic() < end_s, self.log
            time.sleep(0.02)

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(timeout=PATIENCE_S)


@pytest.fixture
def shipped_config(tmp_path):
    """Return a configuration file for the drop folder ``drop`` and the shipped release, without much patience."""
    (tmp_path / "drop").mkdir()
    text = f"settle_s = {SETTLE_S}\nsweep_s = 1.0\n[[drop_folder]]\npath = '{tmp_path}/drop'\n"
    (tmp_path / "edge.toml").write_text(text)
    return tmp_path / "edge.toml"


@pytest.fixture
def config(shipped_config, quick_release):
    """Return the same for a release that opens at once."""
    shipped_config.write_text(f"release = '{quick_release}'\n{shipped_config.read_text()}")
    return shipped_config


@pytest.fixture
def watch(tmp_path, own_state):
    """Return a function that starts ``landmarknet-edge watch`` and waits until it looks at its folders."""
    started = []

    def start(*arguments):
        log_file = tmp_path / f"log {len(started)}"
        with log_file.open("wb") as log:
            command = [sys.executable, "-m", "edge.cli", "watch", *map(str, arguments)]
            process = subprocess.Popen(command, cwd=tmp_path, env=own_state, stderr=log)
        started.append(Watch(process, log_file))
        started[-1].wait_until(lambda: "event=watching" in started[-1].log)
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def results(folder):
    return sorted(folder.rglob("*.landmarks.json"))


def fingerprints(folder):
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


# --- serving ---


def test_images_that_are_there_and_images_that_arrive_get_results_once_and_sigterm_ends_it(
    watch, shipped_config, tmp_path, samples
):
    drop = tmp_path / "drop"
    present, *arriving = sorted(samples.glob("*.dcm"))
    shutil.copy(present, drop)
    daemon = watch("--config", shipped_config)
    daemon.wait_until(lambda: len(results(drop)) == 1)
    for path in arriving:
        shutil.copy(path, drop)
    daemon.wait_until(lambda: len(results(drop)) == 4)
    assert daemon.end() == 0
    assert daemon.log.count('event="result published"') == 4
    assert "event=stopped" in daemon.log
    assert "Traceback" not in daemon.log
    for path in drop.glob("*.dcm"):
        document = read_result(path.with_suffix(".landmarks.json"))
        assert (document["image"]["name"], document["status"] != "refused") == (path.name, True)
        assert path.read_bytes() == (samples / path.name).read_bytes()

    before = fingerprints(drop)
    again = watch("--config", shipped_config)
    again.wait_until(lambda: "files=4" in again.log)
    time.sleep(5 * SETTLE_S)  # there is nothing to wait for: nothing must happen
    assert again.end(signal.SIGINT) == 0
    assert fingerprints(drop) == before
    assert "result published" not in again.log


@pytest.fixture
def metrics_port(config):
    """Return a free port, on which the daemon of the configuration serves its metrics."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config.write_text(f"metrics_port = {port}\n{config.read_text()}")
    return port


def test_the_log_names_files_and_reasons_but_neither_it_nor_a_metric_ever_the_patient(
    watch, config, metrics_port, tmp_path, dicom, collimated
):
    drop = tmp_path / "drop"
    planted = {"PatientName": "Zyxwv^Planted", "PatientID": "PID-424242", "PatientBirthDate": "19470101"}
    (drop / "X.dcm").write_bytes(dicom(collimated(), **planted))
    (drop / "Y.dcm").write_bytes(dicom(collimated(), SamplesPerPixel=3, **planted))
    daemon = watch("--config", config)
    daemon.wait_until(lambda: daemon.log.count("image=") == 2)
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=PATIENCE_S) as answer:
        metrics = answer.read().decode()
    assert daemon.end() == 0
    lines = daemon.log.splitlines()
    assert any("image=X.dcm" in line and 'event="result published"' in line for line in lines)
    assert any("image=Y.dcm" in line and "event=refused" in line and "colour" in line for line in lines)
    assert 'landmarknet_edge_refusals_total{kind="UnsupportedImage"} 1.0' in metrics
    assert not any(secret in daemon.log + metrics for secret in ("Zyxwv", "Planted", "424242", "19470101"))
    assert "Traceback" not in daemon.log


def test_a_release_is_named_when_the_daemon_is_ready(watch, config, quick_release):
    daemon = watch("--config", config)
    release = json.loads((quick_release / "contract.json").read_text())["release"]
    assert f"event=ready release={release}" in daemon.log
    assert daemon.end() == 0


# --- once ---


def test_once_gives_every_image_its_result_and_ends(landmarknet_edge, config, tmp_path, dicom, collimated):
    drop = tmp_path / "drop"
    (drop / "field 1").mkdir()
    (drop / "X.dcm").write_bytes(dicom(collimated()))
    (drop / "field 1/Y [1]").write_bytes(dicom(collimated()))
    (drop / "RP.dcm").write_bytes(dicom(collimated(), SOPClassUID="1.2.840.10008.5.1.4.1.1.481.5"))
    (drop / "notes.txt").write_bytes(b"hello\n")
    done = landmarknet_edge("watch", "--once", "--config", config, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert results(drop) == [drop / "X.landmarks.json", drop / "field 1/Y [1].landmarks.json"]
    # two images with a result and a picture each, and two decoys: nothing else of ours
    assert sum(path.is_file() for path in drop.rglob("*")) == 2 * 3 + 2
    before = fingerprints(drop)
    assert landmarknet_edge("watch", "--once", "--config", config, cwd=tmp_path).returncode == 0
    assert fingerprints(drop) == before


def test_once_ends_with_1_while_the_rest_of_an_image_may_still_arrive(
    landmarknet_edge, config, tmp_path, dicom, collimated
):
    image = dicom(collimated())
    (tmp_path / "drop/X.dcm").write_bytes(image[:-5000])
    done = landmarknet_edge("watch", "--once", "--config", config, cwd=tmp_path)
    assert done.returncode == 1
    assert "waiting for the rest" in done.stderr
    assert results(tmp_path) == []
    (tmp_path / "drop/X.dcm").write_bytes(image)
    assert landmarknet_edge("watch", "--once", "--config", config, cwd=tmp_path).returncode == 0
    assert read_result(tmp_path / "drop/X.landmarks.json")["status"] != "refused"


def test_a_folder_on_the_command_line_may_be_relative_and_takes_the_place_of_the_configured_ones(
    landmarknet_edge, config, tmp_path, dicom, collimated
):
    (tmp_path / "other").mkdir()
    for folder in ("other", "drop"):
        (tmp_path / folder / "X.dcm").write_bytes(dicom(collimated()))
    done = landmarknet_edge("watch", "other", "--once", "--config", config, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert results(tmp_path) == [tmp_path / "other/X.landmarks.json"]


def test_a_drop_folder_that_is_not_there_is_an_alarm(landmarknet_edge, tmp_path):
    done = landmarknet_edge("watch", tmp_path / "nowhere", "--once", cwd=tmp_path)
    assert done.returncode == 1
    assert 'level=error event="drop folder unavailable"' in done.stderr
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_keeps_it_from_beginning_and_may_pass_is_one_line_and_ends_with_1(capsys):
    with pytest.raises(typer.Exit) as ended, try_again_exits_with(1):
        raise ImageUnreadable("the reader does not start for want of memory; it is tried again")
    assert ended.value.exit_code == 1
    assert capsys.readouterr().err == "stopped: the reader does not start for want of memory; it is tried again\n"


# --- what no restart mends ---


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("overlai = true", "unknown key overlai: did you mean overlay?"),
        ("settle_s = -1", "settle_s: "),
        ("settle_s = ", "not TOML"),
        ("", "no drop folder is set"),
        ("[[drop_folder]]\npath = 'relative'", "absolute path"),
        ("[[drop_folder]]\npath = '/tmp/a'\n[[drop_folder]]\npath = '/tmp/a/b'", "would both write below"),
        ("release = '/nowhere'\n[[drop_folder]]\npath = '/tmp/a'", "contract.json: cannot be read"),
    ],
)
def test_a_configuration_that_cannot_be_meant_ends_with_78(landmarknet_edge, tmp_path, text, said):
    (tmp_path / "edge.toml").write_text(text)
    done = landmarknet_edge("watch", "--config", tmp_path / "edge.toml", cwd=tmp_path)
    assert done.returncode == 78
    assert "stopped: " in done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_configuration_ends_with_78(landmarknet_edge, tmp_path):
    done = landmarknet_edge("watch", "--config", "none.toml", cwd=tmp_path)
    assert (done.returncode, "none.toml: cannot be read" in done.stderr) == (78, True)


@pytest.mark.parametrize("name", ["contract.json", "model.onnx", "golden.npz"])
def test_an_altered_release_ends_with_78_before_any_image_is_touched(
    landmarknet_edge, shipped_config, tmp_path, dicom, collimated, name
):
    release = shutil.copytree(SHIPPED_RELEASE, tmp_path / "release")
    data = (release / name).read_bytes()
    (release / name).write_bytes(data[: len(data) // 2])
    shipped_config.write_text(f"release = '{release}'\n" + shipped_config.read_text())
    (tmp_path / "drop/X.dcm").write_bytes(dicom(collimated()))
    done = landmarknet_edge("watch", "--once", "--config", shipped_config, cwd=tmp_path)
    assert done.returncode == 78
    assert f"stopped: {release / name}: " in done.stderr
    assert "Traceback" not in done.stderr
    assert results(tmp_path) == []
