import pytest

from edge.errors import StateUnusable
from edge.service.rebuild import REBUILD_WANTED, ask_rebuild


def test_the_same_parts_are_asked_for_once_and_others_anew(tmp_path):
    assert ask_rebuild(tmp_path, ["driver 560"])
    assert not ask_rebuild(tmp_path, ["driver 560"])
    assert ask_rebuild(tmp_path, ["driver 570", "library 11.5"])
    assert (tmp_path / REBUILD_WANTED).read_text().splitlines() == ["driver 570", "library 11.5"]


def test_a_part_that_was_asked_for_among_others_is_not_asked_for_again(tmp_path):
    assert ask_rebuild(tmp_path, ["driver 570", "library 11.5"])
    assert not ask_rebuild(tmp_path, ["library 11.5"])
    assert not ask_rebuild(tmp_path, ["driver 570"])


def test_where_a_rebuild_mends_nothing_none_is_asked_for(tmp_path):
    assert not ask_rebuild(tmp_path, [])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_takes_no_file_says_what_to_do(tmp_path):
    with pytest.raises(StateUnusable, match=r"rebuild-wanted.*let the service's user write there"):
        ask_rebuild(tmp_path / "missing", ["driver"])
