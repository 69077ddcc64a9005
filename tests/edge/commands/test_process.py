"""``landmarknet-edge process``: results, names, JSON, configuration."""

import json
import os

import pytest

from edge.pipeline import Pipeline
from tests.edge.commands.process_files import RANDOM, names, png, result


def test_an_image_gets_its_result_and_the_command_ends_with_0(process, write, dicom, collimated):
    path = write(dicom(collimated()), "X.dcm")
    outcome = process(path)
    assert outcome.exit_code == 0
    assert names(path.parent) == ["X.dcm", "X.landmarks.json", "X.landmarks.png"]
    assert outcome.stdout == ""
    assert outcome.stderr.startswith(f"{path}: ")
    assert outcome.stderr.count("\n") == 1


def test_the_pipeline_is_what_the_command_calls(process, write, dicom, collimated, shipped):
    path = write(dicom(collimated()), "X.dcm")
    process(path)
    published = result(path.with_name("X.landmarks.json"))
    again = json.loads(Pipeline(shipped, published["provenance"]["config_sha256"])(path, None).to_json())
    assert again | {"timing_ms": 0} == published | {"timing_ms": 0}


def test_a_folder_without_files_says_so(process, tmp_path):
    outcome = process(tmp_path)
    assert outcome.exit_code == 0
    assert "nothing to process" in outcome.stderr


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
