import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import ResultNameTaken, ResultsNotWritable
from edge.results.files import OURS_MOST_BYTES, remove_leftovers
from edge.results.publish import (
    claim_name,
    image_name,
    is_done,
    is_own_output,
    mirrored_folder,
    read_result,
    result_path,
    result_stem,
)
from tests.edge.published import document, names_in, publish_for, sha256


@pytest.fixture
def image(tmp_path):
    image = tmp_path / "X.dcm"
    image.write_bytes(b"pixels")
    return image


# names


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("X.dcm", "X.landmarks.json"),
        ("X.DCM", "X.landmarks.json"),
        ("X.png", "X.png.landmarks.json"),
        ("X.dcm.png", "X.dcm.png.landmarks.json"),
        ("X.dcm.dcm", "X.dcm.landmarks.json"),
        ("RI.1.2.3", "RI.1.2.3.landmarks.json"),
        ("RI.4711.Field 1-NA [2].dcm", "RI.4711.Field 1-NA [2].landmarks.json"),
        ("Xdcm", "Xdcm.landmarks.json"),
        (".dcm", ".dcm.landmarks.json"),
    ],
)
def test_the_result_is_named_after_the_image(name, result):
    assert result_path(Path("/drop/a b") / name, None) == Path("/drop/a b") / result
    assert result_path(Path("/drop/a b") / name, Path("/results")) == Path("/results") / result


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=255))
def test_every_result_name_is_ours_and_fits_into_a_name(name):
    stem = result_stem(name)
    assert is_own_output(stem + ".landmarks.json")
    assert len(os.fsencode(stem + ".landmarks.sr.dcm")) <= 255
    assert stem == result_stem(name)


def test_overlong_names_that_begin_alike_stay_apart():
    one, other = "ä" * 120 + "1.dcm", "ä" * 120 + "2.dcm"
    assert result_stem(one) != result_stem(other)


@pytest.mark.parametrize("name", ["X.landmarks.json", "X.landmarks.png", "X.landmarks.sr.dcm", "X.landmarks.new"])
def test_what_we_write_is_never_taken_for_an_image(name):
    assert is_own_output(name)


@pytest.mark.parametrize("name", ["X.dcm", "landmarks.dcm", "X.landmarks", "landmarks.json", "X landmarks.png"])
def test_what_others_write_is_not_ours(name):
    assert not is_own_output(name)


def test_a_results_folder_mirrors_the_drop_folder():
    root, results = Path("/drop"), Path("/results")
    assert mirrored_folder(root / "a b/c/X.dcm", root, results) == results / "a b/c"
    assert mirrored_folder(root / "X.dcm", root, results) == results
    assert mirrored_folder(root / "a/X.dcm", root, None) is None


def test_a_name_that_is_not_utf8_is_printable(tmp_path):
    image = tmp_path / os.fsdecode(b"J\xfcrgen.dcm")
    image.write_bytes(b"pixels")
    assert image_name(image) == r"J\xfcrgen.dcm"
    assert is_done(image, publish_for(image))


# publishing


def test_a_result_and_its_outputs_are_published_whole(image):
    result = publish_for(image, {"X.landmarks.png": b"drawing"})
    assert json.loads(result.read_bytes())["outputs"] == [{"name": "X.landmarks.png", "sha256": sha256(b"drawing")}]
    assert names_in(image.parent) == ["X.dcm", "X.landmarks.json", "X.landmarks.png"]
    assert (image.parent / "X.landmarks.png").read_bytes() == b"drawing"
    assert image.read_bytes() == b"pixels"


def test_publishing_again_replaces(image):
    publish_for(image, {"X.landmarks.png": b"old"})
    publish_for(image, {"X.landmarks.png": b"new"})
    assert (image.parent / "X.landmarks.png").read_bytes() == b"new"


def test_outputs_that_the_new_result_lacks_are_removed(image):
    publish_for(image, {"X.landmarks.png": b"drawing"})
    publish_for(image)
    assert names_in(image.parent) == ["X.dcm", "X.landmarks.json"]


def test_a_result_that_names_foreign_files_does_not_get_them_removed(image, tmp_path):
    (tmp_path / "sub").mkdir()
    kept = [tmp_path / "Y.dcm", tmp_path / "sub/Y.landmarks.png"]
    for path in kept:
        path.write_bytes(b"kept")
    forged = document(image, {"Y.dcm": b"", "sub/Y.landmarks.png": b""})
    result_path(image, None).write_bytes(forged)
    publish_for(image)
    assert all(path.read_bytes() == b"kept" for path in kept)


@pytest.mark.parametrize(("first", "second"), [("X.dcm", "X"), ("X", "X.dcm"), ("X.dcm", "X.DCM")])
def test_a_name_that_belongs_to_another_image_is_never_overwritten(tmp_path, first, second):
    for name in (first, second):
        (tmp_path / name).write_bytes(name.encode())
    result = publish_for(tmp_path / first, {"X.landmarks.png": b"first"})
    before = result.read_bytes()
    with pytest.raises(ResultNameTaken, match=f"already belongs to {first}; rename"):
        claim_name(tmp_path / second, result)
    with pytest.raises(ResultNameTaken):
        publish_for(tmp_path / second, {"X.landmarks.png": b"second"})
    assert result.read_bytes() == before
    assert (tmp_path / "X.landmarks.png").read_bytes() == b"first"
    assert is_done(tmp_path / first, result)
    assert not is_done(tmp_path / second, result)


@pytest.mark.parametrize("foreign", [b"{}", b"[]", b'{"image": {"name": "X.dcm"}}', b'{"schema": 1, "image": 2}', b"3"])
def test_what_another_program_wrote_is_never_overwritten(image, foreign):
    result = result_path(image, None)
    result.write_bytes(foreign)
    with pytest.raises(ResultNameTaken, match="belongs to another program"):
        publish_for(image)
    assert result.read_bytes() == foreign
    assert not is_done(image, result)


@pytest.mark.parametrize("torn", [b"", b'{"schema": "landmarknet-edge/result/1", "ima', b"\0" * 99, b"[" * 99_999])
def test_a_torn_result_is_no_result_and_is_replaced(image, torn):
    result = result_path(image, None)
    result.write_bytes(torn)
    assert read_result(result) is None
    claim_name(image, result)
    assert is_done(image, publish_for(image))


def test_a_missing_folder_is_named_with_its_mend(image, tmp_path):
    with pytest.raises(
        ResultsNotWritable, match=r"gone: results cannot be stored there .*create it or mount its share"
    ):
        publish_for(image, results_dir=tmp_path / "gone")
    assert not (tmp_path / "gone").exists()


def test_a_folder_that_is_a_file_is_named_with_its_mend(image):
    with pytest.raises(ResultsNotWritable, match="is a file"):
        publish_for(image, results_dir=image)


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)


def test_a_write_that_fails_half_way_changes_nothing(image):
    publish_for(image, {"X.landmarks.png": b"old"})
    before = {path: path.read_bytes() for path in image.parent.iterdir()}
    script = """
        import json, resource, sys
        from pathlib import Path
        from edge.errors import ResultsNotWritable
        from edge.results.publish import publish
        result = Path(sys.argv[1])
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        document = {"schema": "landmarknet-edge/result/1", "image": {"name": "X.dcm"}, "outputs": []}
        try:
            publish([(result.with_name("X.landmarks.png"), bytes(5000))], (result, json.dumps(document).encode()))
        except ResultsNotWritable as exc:
            print(exc)
    """
    done = run(script, result_path(image, None))
    assert done.stdout.startswith(f"{image.parent}: results cannot be stored there (File too large); check ")
    assert {path: path.read_bytes() for path in image.parent.iterdir()} == before


KILLED_AT_CALL = """
    import os, signal, sys
    from pathlib import Path
    from edge.results.publish import publish
    result, document, drawing, at = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    content = document.read_bytes(), drawing.read_bytes()
    calls = 0
    def hook(event, arguments):
        global calls
        if event in {"open", "os.rename", "os.remove"}:
            calls += 1
            if calls == at:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    publish([(result.with_name("X.landmarks.png"), content[1])], (result, content[0]))
"""


@pytest.mark.parametrize("standing", [None, b"old", b"new"], ids=["first result", "other result", "same again"])
def test_a_kill_at_any_call_leaves_a_whole_result_or_none(tmp_path, standing):
    new = {"X.landmarks.png": b"new"}
    drawing, written = tmp_path / "drawing", tmp_path / "document"
    drawing.write_bytes(b"new")
    seen = set()
    for at in range(1, 99):
        image = tmp_path / str(at) / "X.dcm"
        image.parent.mkdir()
        image.write_bytes(b"pixels")
        if standing:
            publish_for(image, {"X.landmarks.png": standing})
        written.write_bytes(document(image, new))
        died = run(KILLED_AT_CALL, result_path(image, None), written, drawing, at).returncode == -9

        result = read_result(result_path(image, None))
        drawn = image.with_name("X.landmarks.png")
        if result is not None:
            assert result["outputs"] == [{"name": drawn.name, "sha256": sha256(drawn.read_bytes())}]
        seen.add((result is not None, drawn.read_bytes() if drawn.exists() else None))

        remove_leftovers(image.parent)
        publish_for(image, new)
        assert names_in(image.parent) == ["X.dcm", "X.landmarks.json", "X.landmarks.png"]
        if not died:
            break
    else:
        pytest.fail("the publication never came to its end")
    assert at > 4  # it was killed at the opening of two temporaries and at two renames, at least
    if standing == b"new":
        assert seen == {(True, b"new")}  # never withdrawn
    else:
        assert {(False, b"new"), (True, b"new")} <= seen  # the outputs come before the commit


def test_a_pipe_by_a_result_s_name_belongs_to_another_program_and_holds_nobody_up(tmp_path):
    os.mkfifo(tmp_path / "X.landmarks.json")
    assert read_result(tmp_path / "X.landmarks.json") == {}
    with pytest.raises(ResultNameTaken, match="another program"):
        claim_name(tmp_path / "X.dcm", tmp_path / "X.landmarks.json")


@pytest.mark.parametrize("target", ["/dev/zero", "/nowhere"])
def test_a_link_by_a_result_s_name_is_not_followed(tmp_path, target):
    (tmp_path / "X.landmarks.json").symlink_to(target)
    assert read_result(tmp_path / "X.landmarks.json") == {}


def test_what_is_too_large_to_be_a_result_is_not_read(tmp_path):
    large = tmp_path / "X.landmarks.json"
    large.write_bytes(b"[")
    os.truncate(large, OURS_MOST_BYTES + 1)
    assert read_result(large) == {}
