import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from calibration import cli

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["landmarknet-calibrate", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return ended.value.code or 0, said.out, said.err

    return call


def test_select_audit_collect_and_show_follow_one_another(run, samples, tmp_path):
    chosen, ranges, picture = (tmp_path / name for name in ("set.json", "ranges.json", "ranges.png"))
    status, said, _ = run("select", samples, "--output", chosen, "--count", 3)
    assert status == 0
    assert "4 images read, 0 unreadable" in said
    assert len(json.loads(chosen.read_text())["entries"]) == 3
    status, said, _ = run("audit", chosen, "--test", samples)
    assert status == 1
    assert "ACT: overlap: 3 of 4 test images are in the set" in said
    assert run("collect", chosen, "--output", ranges)[0] == 0
    status, said, _ = run("show", ranges, "--plot", picture)
    assert status == 0
    assert all(word in said for word in ("percentile", "entropy", "mse", json.loads(ranges.read_text())["onnx_sha256"]))
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_an_audit_without_findings_ends_with_status_0(run, portal, tmp_path):
    portal("images/a.dcm", 1)
    run("select", tmp_path / "images", "--output", tmp_path / "set.json")
    assert run("audit", tmp_path / "set.json")[0] == 0


def test_select_says_what_it_left_out(run, portal, tmp_path):
    portal("images/a.dcm", 1, PatientID="P1")
    portal("images/b.dcm", 2)
    cut = portal("images/cut.dcm", 3)
    cut.write_bytes(cut.read_bytes()[:-500])
    listed = tmp_path / "patients.txt"
    listed.write_text("P1\n")
    _, said, _ = run("select", tmp_path / "images", "--output", tmp_path / "set.json", "--exclude-patients", listed)
    assert "unreadable: cut.dcm: " in said
    assert "left out: 1 of excluded patients, 0 copies, 0 near-duplicates" in said
    assert "1 chosen images name no patient" in said


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (("select", "{none}", "--output", "{there}"), "none: is not there"),
        (("select", "{empty}", "--output", "{there}"), "no portal image that can be read"),
        (("audit", "{none}"), "none: cannot be read"),
        (("audit", "{bad}"), "not a calibration set"),
        (("audit", "{set}", "--release", "{none}"), "contract.json: cannot be read"),
        (("audit", "{set}", "--test", "{empty}"), "no portal image that can be read"),
        (("collect", "{bad}", "--output", "{there}"), "not a calibration set"),
        (("collect", "{set}", "--output", "{there}", "--release", "{empty}"), "contract.json: cannot be read"),
        (("show", "{bad}"), "not activation ranges"),
        (("show", "{set}"), "not activation ranges"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(run, portal, tmp_path, arguments, wrong):
    portal("images/a.dcm", 1)
    places = {name: tmp_path / name for name in ("none", "empty", "bad", "set", "there")}
    places["empty"].mkdir()
    places["bad"].write_text("{")
    run("select", tmp_path / "images", "--output", places["set"])
    status, _, said = run(*(text.format_map(places) for text in arguments))
    assert status == 2
    (error,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert wrong in error
    assert said.rstrip().endswith(error)
    assert not places["there"].exists()


def test_a_damaged_release_is_refused(run, portal, shipped, tmp_path):
    from edge.engines import SHIPPED_RELEASE

    portal("images/a.dcm", 1)
    run("select", tmp_path / "images", "--output", tmp_path / "set.json")
    release = tmp_path / "release"
    shutil.copytree(SHIPPED_RELEASE, release)
    model = release / shipped.contract.model_file
    model.write_bytes(model.read_bytes()[:-1])
    status, _, said = run("collect", tmp_path / "set.json", "--output", tmp_path / "r.json", "--release", release)
    assert status == 2
    assert "is not the model its contract names" in said
    assert not (tmp_path / "r.json").exists()


def test_where_the_bench_is_not_installed_the_command_says_how_to_install_it(portal, tmp_path):
    portal("images/a.dcm", 1)
    without = "import sys; sys.modules['onnx'] = None; from calibration import cli; cli.main()"
    chosen = tmp_path / "set.json"

    def run_without_onnx(*arguments):
        command = [sys.executable, "-c", without, *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert run_without_onnx("select", tmp_path / "images", "--output", chosen).returncode == 0
    ended = run_without_onnx("collect", chosen, "--output", tmp_path / "ranges.json")
    assert ended.returncode == 2
    assert "error: onnx is not installed: this belongs to the bench; pip install '.[build]'" in ended.stderr
    assert "Traceback" not in ended.stderr
