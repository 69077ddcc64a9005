import pytest

from edge.errors import StateUnusable
from edge.service.rebuild import REBUILD_WANTED, ask_rebuild


def test_the_same_reasons_are_asked_for_once_and_others_anew(tmp_path):
    assert ask_rebuild(tmp_path, ["driver 560, built for 550"])
    assert not ask_rebuild(tmp_path, ["driver 560, built for 550"])
    assert ask_rebuild(tmp_path, ["driver 570, built for 550", "library 11.5, built for 11.4"])
    lines = (tmp_path / REBUILD_WANTED).read_text().splitlines()
    assert lines == ["driver 570, built for 550", "library 11.5, built for 11.4"]


def test_a_folder_that_takes_no_file_says_what_to_do(tmp_path):
    with pytest.raises(StateUnusable, match=r"rebuild-wanted.*let the service's user write there"):
        ask_rebuild(tmp_path / "missing", ["driver"])
