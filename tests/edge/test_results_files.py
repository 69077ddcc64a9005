import fcntl

import pytest

from edge.errors import ResultsNotWritable
from edge.results.files import make_folder, remove_leftovers


@pytest.fixture
def image(tmp_path):
    image = tmp_path / "X.dcm"
    image.write_bytes(b"pixels")
    return image


def test_a_results_folder_is_made_with_those_above_it_or_its_mend_is_named(tmp_path, image):
    make_folder(tmp_path / "a b" / "c")
    make_folder(tmp_path / "a b" / "c")
    assert (tmp_path / "a b" / "c").is_dir()
    with pytest.raises(ResultsNotWritable, match="a folder of that path is a file"):
        make_folder(image / "c")


def test_temporaries_of_the_dead_are_removed_and_nothing_else(tmp_path):
    (tmp_path / "a b").mkdir()
    abandoned = [tmp_path / ".landmarks-1.tmp", tmp_path / "a b" / ".landmarks-2.tmp"]
    kept = [tmp_path / ".other.tmp", tmp_path / "X.dcm", tmp_path / "X.landmarks.json"]
    for path in abandoned + kept:
        path.write_bytes(b"x")
    assert remove_leftovers(tmp_path) == 2
    assert not any(path.exists() for path in abandoned)
    assert all(path.exists() for path in kept)
    assert remove_leftovers(tmp_path) == 0


def test_a_temporary_of_a_living_writer_is_left_alone(tmp_path):
    temporary = tmp_path / ".landmarks-1.tmp"
    with temporary.open("wb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        assert remove_leftovers(tmp_path) == 0
        assert temporary.exists()
    assert remove_leftovers(tmp_path) == 1


def test_a_link_in_the_place_of_a_temporary_is_not_followed(tmp_path, image):
    (tmp_path / ".landmarks-1.tmp").symlink_to(image)
    assert remove_leftovers(tmp_path) == 0
    assert image.read_bytes() == b"pixels"


def test_a_folder_that_is_not_there_has_no_leftovers(tmp_path):
    assert remove_leftovers(tmp_path / "gone") == 0
