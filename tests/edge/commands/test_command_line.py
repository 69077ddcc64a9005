"""``landmarknet-edge`` itself: what it prints, and what it loads."""

import re

from typer.testing import CliRunner

from edge.cli import app


def test_the_version_is_printed():
    outcome = CliRunner().invoke(app, ["--version"])
    assert outcome.exit_code == 0
    assert re.fullmatch(r"landmarknet-edge \d+\.\d+\.\d+\n", outcome.stdout)


def test_without_a_command_there_is_help():
    outcome = CliRunner().invoke(app, [])
    assert all(command in outcome.output for command in ("process", "watch", "demo"))


def test_the_command_line_starts_without_loading_what_it_does_not_yet_need(run_python):
    code = "import sys, edge.cli; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    heavy = {"torch", "onnx", "matplotlib", "scipy", "onnxruntime", "numpy", "PIL", "pydicom", "pydantic", "gdcm"}
    assert not heavy & set(done.stdout.split())


def test_processing_loads_neither_torch_nor_onnx(run_python, write, dicom, collimated):
    path = write(dicom(collimated()), "X.dcm")
    code = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in {'torch', 'onnx', 'matplotlib', 'scipy'}: raise ImportError(name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
        f"sys.argv = ['landmarknet-edge', 'process', {str(path)!r}]\n"
        "from edge.cli import main; main()\n"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert path.with_name("X.landmarks.json").exists()
