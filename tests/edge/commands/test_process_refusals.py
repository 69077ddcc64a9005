"""``landmarknet-edge process``: what it refuses, and where nothing can be stored."""

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.edge.commands.process_files import RANDOM, names, png, result

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
