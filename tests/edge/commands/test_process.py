import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from edge.cli import app
from edge.errors import BackendFailed, DamagedImage, ResultsNotWritable
from edge.pipeline import Pipeline
from edge.process import Misuse, Outcome, plan, process_all
from edge.results.document import Result

RANDOM = np.random.default_rng(0).bytes(20_000)


@pytest.fixture
def process():
    """Return a function that runs ``landmarknet-edge process`` in this process; nothing but SystemExit may escape."""

    def run(*arguments):
        outcome = CliRunner().invoke(app, ["process", *map(str, arguments)])
        assert outcome.exception is None or isinstance(outcome.exception, SystemExit), outcome.exception
        assert "Traceback" not in outcome.output
        return outcome

    return run


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def result(path):
    return json.loads(path.read_bytes())


def run_python(*arguments):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )


# --- what is processed, and where its result goes (no release is opened) ---


def planned(root, *named, results_dir=None):
    jobs = plan([root / name for name in named], results_dir)
    return [(str(job.image.relative_to(root)), job.results_dir) for job in jobs]


@pytest.fixture
def tree(tmp_path):
    for name in ("a/X.dcm", "a/deep er/X.dcm", "b/X", ".hidden/X.dcm", "a/.X.dcm", "a/X.landmarks.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "a/.landmarks-0123.tmp").write_bytes(b"")
    (tmp_path / "a/X.landmarks.png").write_bytes(b"")
    return tmp_path


def test_a_folder_means_all_files_below_it_but_hidden_ones_and_our_own(tree):
    assert planned(tree, "a") == [("a/X.dcm", None), ("a/deep er/X.dcm", None)]


def test_files_and_folders_are_taken_in_the_order_named(tree):
    assert [image for image, _ in planned(tree, "b/X", "a")] == ["b/X", "a/X.dcm", "a/deep er/X.dcm"]


def test_what_is_named_twice_is_processed_once(tree):
    assert [image for image, _ in planned(tree, "a/X.dcm", "a", "a/X.dcm")] == ["a/X.dcm", "a/deep er/X.dcm"]


def test_a_hidden_file_that_is_named_is_meant(tree):
    assert planned(tree, "a/.X.dcm") == [("a/.X.dcm", None)]


@pytest.mark.parametrize("name", ["a/X.landmarks.json", "a/X.landmarks.png", "a/.landmarks-0123.tmp"])
def test_our_own_outputs_are_passed_over_even_when_named(tree, name):
    """A shell names them: ``process drop/*``, after a first run."""
    assert planned(tree, name, "b/X") == [("b/X", None)]


def test_a_results_folder_keeps_the_tree_of_a_named_folder(tree):
    results = tree / "results"
    assert planned(tree, "a", results_dir=results) == [("a/X.dcm", results), ("a/deep er/X.dcm", results / "deep er")]


@pytest.mark.parametrize("named", [("a/X.dcm", "a/deep er/X.dcm"), ("a/X.dcm", "b/X"), ("a", "b")])
def test_two_results_of_one_name_in_one_folder_are_misuse(tree, named):
    with pytest.raises(Misuse, match=r"share one name.*nothing was processed"):
        planned(tree, *named, results_dir=tree / "results")


def test_beside_their_images_results_of_one_name_do_not_meet(tree):
    assert len(planned(tree, "a/X.dcm", "b/X", "a/deep er/X.dcm")) == 3


def test_a_name_that_does_not_exist_is_misuse(tree):
    with pytest.raises(Misuse, match=r"nowhere: no such file or folder; nothing was processed"):
        planned(tree, "a", "nowhere")


CLOSED_FOLDER = """
import os, tempfile
from pathlib import Path
from edge.process import Misuse, plan
if os.geteuid() == 0:
    os.setuid(65534)  # root may list everything
root = Path(tempfile.mkdtemp())
(root / "closed").mkdir(mode=0)
try:
    plan([root], None)
except Misuse as exc:
    print(exc)
finally:
    (root / "closed").rmdir()
    root.rmdir()
"""


def test_a_folder_that_may_not_be_listed_is_misuse_and_not_empty():
    done = run_python("-c", CLOSED_FOLDER)
    assert done.returncode == 0, done.stderr
    assert re.search(r"closed: cannot be listed \(Permission denied\); nothing was processed", done.stdout)


# --- what becomes of each ---


class Answers:
    """Stands in for the pipeline: raises or returns what is scripted."""

    def __init__(self, *answers):
        self._answers = iter(answers)

    def __call__(self, image, results_dir):
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture(scope="module")
def documented():
    """Return the documented example of each status."""
    examples = Path(__file__).parents[3] / "docs" / "examples"
    files = (examples / f"{name}.landmarks.json" for name in ("ok", "no_landmarks.png", "refused"))
    return [Result.model_validate_json(path.read_bytes()) for path in files]


def outcomes_of(*answers):
    heard = []
    jobs = plan([Path(__file__)], None) * len(answers)
    assert process_all(jobs, Answers(*answers), heard.append) == heard
    return heard


def test_each_image_is_told_of_in_one_line(documented):
    ok, none, refused = outcomes_of(*documented)
    assert (ok.done, none.done, refused.done) == (True, True, False)
    assert (ok.summary, none.summary) == (f"ok: {len(documented[0].landmarks)} landmarks", "no_landmarks")
    assert len(documented[0].landmarks) > 1
    assert refused.summary == f"refused: {documented[2].reason}"


def test_one_landmark_is_one(documented):
    one = documented[0].model_copy(update={"landmarks": documented[0].landmarks[:1]})
    assert Outcome(Path("X"), one, None).summary == "ok: 1 landmark"


def test_a_failure_of_the_surroundings_is_not_called_a_refusal():
    refused, failed = outcomes_of(DamagedImage("X: broken"), ResultsNotWritable("Y: full"))
    assert (refused.summary, failed.summary) == ("refused: X: broken", "not processed: Y: full")
    assert not failed.done


def test_one_bad_file_keeps_no_other_from_its_result(documented):
    assert [one.done for one in outcomes_of(DamagedImage("X"), documented[0], ResultsNotWritable("Y"))] == [0, 1, 0]


def test_a_backend_that_fails_ends_the_work(documented):
    with pytest.raises(BackendFailed):
        outcomes_of(documented[0], BackendFailed("no memory"), documented[0])


# --- the command ---


def test_an_image_gets_its_result_and_the_command_ends_with_0(process, write, dicom, collimated):
    path = write(dicom(collimated()), "X.dcm")
    outcome = process(path)
    assert outcome.exit_code == 0
    assert names(path.parent) == ["X.dcm", "X.landmarks.json", "X.landmarks.png"]
    assert outcome.stdout == ""
    assert outcome.stderr.startswith(f"{path}: ")
    assert outcome.stderr.count("\n") == 1


BAD = {
    # name: (data, what is said, whether the reason is left beside it)
    "empty file": (lambda make, image: b"", "neither DICOM nor PNG nor TIFF", False),
    "random bytes": (lambda make, image: RANDOM, "neither DICOM nor PNG nor TIFF", False),
    "text": (lambda make, image: b"not an image\n", "neither DICOM nor PNG nor TIFF", False),
    "truncated image": (lambda make, image: make(image)[:-5000], "cut short", True),
    "truncated header": (lambda make, image: make(image)[:400], "send", True),
    "truncated PNG": (lambda make, image: png(image)[:-3000], "send it again", True),
    "0 x 0": (lambda make, image: make(image, Rows=0, Columns=0, PixelData=b""), "0 rows and 0 columns", True),
    "65535 x 65535": (lambda make, image: make(image, Rows=65535, Columns=65535), "65535 x 65535 pixels", True),
    "NaN-producing rescale": (lambda make, image: make(image, RescaleSlope="1e38"), "not finite", True),
    "rescale is no number": (lambda make, image: make(image, RescaleSlope="NaN"), "RescaleSlope is not a number", True),
    "all zeros": (lambda make, image: make(image * 0), "every pixel has the same value", True),
    "file of zeros": (lambda make, image: bytes(50_000), "neither DICOM nor PNG nor TIFF", False),
    "receptor behind the source": (lambda make, image: make(image, RTImageSID="0"), "RTImageSID is 0 mm", True),
    "an RT Plan": (
        lambda make, image: make(image, SOPClassUID="1.2.840.10008.5.1.4.1.1.481.5"), "RT Plan Storage", False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_refused_in_one_line_and_the_command_ends_with_1(process, write, dicom, collimated, kind):
    make, said, leaves_reason = BAD[kind]
    path = write(make(dicom, collimated()), "X.dcm")
    outcome = process(path)
    assert outcome.exit_code == 1
    assert outcome.stdout == ""
    (line,) = outcome.stderr.splitlines()
    assert line.startswith(f"{path}: refused: X.dcm: ")
    assert said in line
    assert names(path.parent) == ["X.dcm", "X.landmarks.json"][: 1 + leaves_reason]
    if leaves_reason:
        assert said in result(path.with_name("X.landmarks.json"))["reason"]


def test_a_name_that_does_not_exist_ends_with_2_and_nothing_is_processed(process, write, dicom, collimated):
    path = write(dicom(collimated()), "X.dcm")
    outcome = process(path, path.parent / "nowhere")
    assert outcome.exit_code == 2
    assert "nowhere: no such file or folder" in outcome.stderr
    assert names(path.parent) == ["X.dcm"]


def test_nothing_named_ends_with_2(process):
    assert process().exit_code == 2


def test_a_folder_without_files_says_so(process, tmp_path):
    outcome = process(tmp_path)
    assert outcome.exit_code == 0
    assert "nothing to process" in outcome.stderr


def test_a_results_folder_that_is_a_file_is_named_with_its_mend(process, write, dicom, collimated):
    path = write(dicom(collimated()), "X.dcm")
    (path.parent / "file").write_bytes(b"")
    outcome = process(path, "--results-dir", path.parent / "file" / "results")
    assert outcome.exit_code == 1
    assert "not processed: " in outcome.stderr
    assert "name another results folder" in outcome.stderr
    assert names(path.parent) == ["X.dcm", "file"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc here")
def test_a_results_folder_that_takes_no_files_is_named(process, write, dicom, collimated):
    outcome = process(write(dicom(collimated()), "X.dcm"), "--results-dir", "/proc")
    assert outcome.exit_code == 1
    assert re.search(r"not processed: /proc: results cannot be stored there \(.+\); ", outcome.stderr)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_beside_an_image_on_a_read_only_share_nothing_can_be_stored(write, dicom, collimated, tmp_path):
    path = write(dicom(collimated()), "X.dcm")
    steps = (
        f"mount --bind {tmp_path} {tmp_path} && mount -o remount,bind,ro {tmp_path} || exit 99;"
        f"exec {sys.executable} -m edge.cli process {path}"
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", steps],
        cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == 99 or "unshare failed" in done.stderr:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    assert done.returncode == 1, done.stderr
    assert f"({os.strerror(errno.EROFS)}); it is mounted read-only: mount it read-write" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_configuration_key_ends_with_2_and_its_likely_meaning(process, write, dicom, collimated):
    path = write(dicom(collimated()), "X.dcm")
    config = write(b"overlai = false\n", "edge.toml")
    outcome = process(path, "--config", config)
    assert outcome.exit_code == 2
    assert "unknown key overlai: did you mean overlay?" in outcome.stderr
    assert names(path.parent) == ["X.dcm", "edge.toml"]


@pytest.mark.parametrize(
    ("text", "said"),
    [(b"overlay = maybe", "not TOML"), (b"overlay = 1", "overlay: "), (b'release = "here"', "absolute path")],
)
def test_a_wrong_configuration_ends_with_2_and_names_the_entry(process, write, text, said):
    outcome = process(write(RANDOM, "X.dcm"), "--config", write(text, "edge.toml"))
    assert outcome.exit_code == 2
    assert "edge.toml: " in outcome.stderr
    assert said in outcome.stderr


def test_a_missing_configuration_or_release_ends_with_2(process, write, tmp_path):
    path = write(RANDOM, "X.dcm")
    outcome = process(path, "--config", tmp_path / "none.toml")
    assert (outcome.exit_code, "none.toml: cannot be read" in outcome.stderr) == (2, True)
    config = write(f'release = "{tmp_path}/none"\n'.encode(), "edge.toml")
    outcome = process(path, "--config", config)
    assert (outcome.exit_code, "contract.json: cannot be read" in outcome.stderr) == (2, True)


def test_the_configuration_applies(process, write, dicom, collimated):
    path = write(dicom(collimated()), "X.dcm")
    assert process(path, "--config", write(b"overlay = false\nthreads = 1\n", "edge.toml")).exit_code == 0
    assert names(path.parent) == ["X.dcm", "X.landmarks.json", "edge.toml"]


def test_a_folder_of_mixed_files_gives_each_image_its_result(process, tmp_path, dicom, collimated):
    image = dicom(collimated())
    (tmp_path / "drop/sub folder").mkdir(parents=True)
    for name, data in {
        "RI.1.dcm": image,
        "RI 2 (copy) [1].DCM": image,
        "headless": dicom(collimated(), headless=True),
        "sub folder/X.png": png(collimated()),
        "DICOMDIR": dicom(collimated(), SOPClassUID="1.2.840.10008.1.3.10"),
        "half.dcm": image[:-5000],
        "notes.txt": b"hello\n",
    }.items():
        (tmp_path / "drop" / name).write_bytes(data)
    outcome = process(tmp_path / "drop")
    assert outcome.exit_code == 1  # three are refused
    assert len(outcome.stderr.splitlines()) == 7
    assert sum("refused: " in line for line in outcome.stderr.splitlines()) == 3
    results = [name for name in names(tmp_path / "drop") if name.endswith(".json")]
    assert results == [
        "RI 2 (copy) [1].landmarks.json",
        "RI.1.landmarks.json",
        "half.landmarks.json",
        "headless.landmarks.json",
        "sub folder/X.png.landmarks.json",
    ]


def test_processing_again_with_the_shell_s_star_processes_the_same_images(process, write, dicom, collimated):
    path = write(dicom(collimated()), "X.dcm")
    assert process(*path.parent.iterdir()).exit_code == 0
    before = names(path.parent)
    assert process(*path.parent.iterdir()).exit_code == 0
    assert names(path.parent) == before


@pytest.mark.parametrize("name", ["RI (1) [x].dcm", "a [bold]b[red] :cat: 100%.dcm", "a'b\"c$d;e.dcm", "Größe µ.dcm"])
def test_a_name_is_printed_as_it_is(process, write, dicom, collimated, name):
    path = write(dicom(collimated()), name)
    outcome = process(path)
    assert outcome.exit_code == 0
    assert outcome.stderr.startswith(f"{path}: ")
    assert result(path.with_name(name[:-4] + ".landmarks.json"))["image"]["name"] == name


@pytest.mark.parametrize(
    ("name", "printed"),
    [(b"a\nb.dcm", r"a\nb.dcm"), (b"a\x1b[31mb.dcm", r"a\x1b[31mb.dcm"), (b"\xe4.dcm", r"\xe4.dcm")],
)
def test_a_name_cannot_forge_a_line(landmarknet_edge, tmp_path, dicom, collimated, name, printed):
    """Nor colour the terminal, nor stop the work."""
    (tmp_path / os.fsdecode(name)).write_bytes(dicom(collimated()))
    done = landmarknet_edge("process", tmp_path, cwd="/")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(f"{tmp_path}/{printed}: ")
    assert done.stderr.count("\n") == 1


def test_a_long_line_is_not_wrapped(process, tmp_path, dicom, collimated):
    folder = tmp_path / ("a long folder name " * 9).strip()
    folder.mkdir()
    (folder / "X.dcm").write_bytes(dicom(collimated()))
    assert process(folder).stderr.count("\n") == 1


def test_json_prints_an_array_of_the_results_and_nothing_else(process, tmp_path, dicom, collimated):
    for name, data in {"X.dcm": dicom(collimated()), "Y.dcm": dicom(collimated())[:-5000], "Z": RANDOM}.items():
        (tmp_path / name).write_bytes(data)
    outcome = process(tmp_path, "--json")
    assert outcome.exit_code == 1
    printed = json.loads(outcome.stdout)
    assert printed == [result(tmp_path / f"{name}.landmarks.json") for name in ("X", "Y")]
    (line,) = outcome.stderr.splitlines()  # what has no result is told of here
    assert line.startswith(f"{tmp_path / 'Z'}: refused: ")


def test_json_of_nothing_is_an_empty_array(process, tmp_path):
    assert json.loads(process(tmp_path, "--json").stdout) == []


def test_a_results_folder_is_made_and_keeps_the_tree(process, tmp_path, dicom, collimated):
    (tmp_path / "drop/a/b").mkdir(parents=True)
    for name in ("X.dcm", "a/X.dcm", "a/b/X.dcm"):
        (tmp_path / "drop" / name).write_bytes(dicom(collimated()))
    before = names(tmp_path / "drop")
    outcome = process(tmp_path / "drop", "--results-dir", tmp_path / "out/results")
    assert outcome.exit_code == 0
    assert names(tmp_path / "drop") == before
    results = [f"{folder}X.landmarks.{suffix}" for folder in ("", "a/", "a/b/") for suffix in ("json", "png")]
    assert names(tmp_path / "out/results") == sorted(results)


def test_two_images_of_one_name_do_not_go_into_one_results_folder(process, tmp_path, dicom, collimated):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "X.dcm").write_bytes(dicom(collimated()))
    outcome = process(tmp_path / "a/X.dcm", tmp_path / "b/X.dcm", "--results-dir", tmp_path / "out")
    assert outcome.exit_code == 2
    assert "share one name" in outcome.stderr
    assert not (tmp_path / "out").exists()


def test_of_x_and_x_dcm_the_first_gets_the_name_and_the_other_is_told(process, tmp_path, dicom, collimated):
    for name in ("X", "X.dcm"):
        (tmp_path / name).write_bytes(dicom(collimated()))
    outcome = process(tmp_path)
    assert outcome.exit_code == 1
    first, second = outcome.stderr.splitlines()
    assert first.startswith(f"{tmp_path / 'X'}: ")
    assert "X.dcm: refused: " in second
    assert "already belongs to X; rename one of the two images" in second
    assert result(tmp_path / "X.landmarks.json")["image"]["name"] == "X"


def test_the_version_is_printed():
    outcome = CliRunner().invoke(app, ["--version"])
    assert outcome.exit_code == 0
    assert re.fullmatch(r"landmarknet-edge \d+\.\d+\.\d+\n", outcome.stdout)


def test_without_a_command_there_is_help():
    outcome = CliRunner().invoke(app, [])
    assert all(command in outcome.output for command in ("process", "watch", "demo"))


def test_the_command_line_starts_without_loading_what_it_does_not_yet_need():
    code = "import sys, edge.cli; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    heavy = {"torch", "onnx", "matplotlib", "scipy", "onnxruntime", "numpy", "PIL", "pydicom", "pydantic", "gdcm"}
    assert not heavy & set(done.stdout.split())


def test_processing_loads_neither_torch_nor_onnx(landmarknet_edge, write, dicom, collimated):
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
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    assert path.with_name("X.landmarks.json").exists()


# --- real files ---


@pytest.fixture
def real_folders(real_file, tmp_path):
    """Return a function: copies of these folders of ../shared/portal, which itself stays as it is."""

    def copy(*folders):
        for folder in folders:
            (tmp_path / folder).mkdir()
            shutil.copyfile(real_file(folder), tmp_path / folder / real_file(folder).name)
        return [tmp_path / folder for folder in folders]

    return copy


def test_real_images_without_a_thorax_get_a_result_with_geometry_and_no_landmarks(process, real_folders):
    folders = real_folders("s13", "s12", "s09", "s02")
    outcome = process(*folders)
    assert outcome.exit_code == 0
    for folder in folders:
        (path,) = folder.glob("*.landmarks.json")
        assert len(list(folder.glob("*.landmarks.png"))) == 1
        document = result(path)
        assert (document["status"], document["reason"]) == ("no_landmarks", None)
        assert document["geometry"]["status"] == "known", document["geometry"]["reason"]


def test_real_files_that_are_no_images_are_refused_by_what_is_wrong(process, real_folders):
    damaged, plan_folder = real_folders("s03", "s04")
    outcome = process(damaged, plan_folder, "/etc/hostname")
    assert outcome.exit_code == 1
    lines = outcome.stderr.splitlines()
    assert all("refused: " in line for line in lines)
    for line, said in zip(
        lines, ("text-mode transfer", "RT Plan Storage", "neither DICOM nor PNG nor TIFF"), strict=True
    ):
        assert said in line
    assert names(damaged) == ["RI_v2.dcm", "RI_v2.landmarks.json"]
    assert "text-mode transfer" in result(damaged / "RI_v2.landmarks.json")["reason"]
    assert names(plan_folder) == ["RP_v1.dcm"]
    assert not list(Path("/etc").glob("hostname.landmarks*"))


def test_the_pipeline_is_what_the_command_calls(process, write, dicom, collimated, shipped):
    path = write(dicom(collimated()), "X.dcm")
    process(path)
    published = result(path.with_name("X.landmarks.json"))
    again = json.loads(Pipeline(shipped, published["provenance"]["config_sha256"])(path, None).to_json())
    assert again | {"timing_ms": 0} == published | {"timing_ms": 0}
