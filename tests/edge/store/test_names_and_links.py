"""Names and links that lead out of the store."""

import pytest

from edge.engines import open_store_engine
from tests.edge.store.shown import links, refusal


@pytest.mark.parametrize("name", ["", ".", "..", "../staged/r4", "/etc", "r1/../r1", "r1/", ".staging", "r1\n", "r1\0"])
def test_an_id_that_could_be_a_path_is_refused(filled, staged, name):
    staged("r4")
    for action in (filled.use, filled.verify):
        assert "not the name of a release" in refusal(action, name)
    assert links(filled) == ("r2", "r1")


@pytest.mark.parametrize("name", ["../r4", "..", "a/b", ".staging"])
def test_a_signed_release_whose_name_is_a_path_is_refused(store, staged, name):
    assert "release: " in refusal(store.add, staged("r4", release=name))
    assert not store.root.exists()


def test_a_release_that_is_a_link_out_of_the_store_is_refused(filled, staged):
    (filled.root / "releases" / "r4").symlink_to(staged("r4"))
    for action in (filled.use, filled.verify):
        assert "is a link or a file" in refusal(action, "r4")
    assert links(filled) == ("r2", "r1")


def test_a_folder_of_releases_that_is_a_link_out_of_the_store_is_refused(filled, staged, tmp_path):
    (filled.root / "releases").rename(tmp_path / "outside")
    (filled.root / "releases").symlink_to(tmp_path / "outside")
    assert "is a link or a file" in refusal(filled.use, "r3")
    assert "is a link or a file" in refusal(filled.add, staged("r4"))
    assert not (tmp_path / "outside" / "r4").exists()


ASTRAY = ["../staged/r4", "{staged}", "releases/../../staged/r4", "releases", "r2", "releases/.x"]


@pytest.mark.parametrize("target", ASTRAY)
def test_a_current_that_leads_out_of_the_store_is_refused_and_can_be_mended(filled, staged, target):
    outside = staged("r4")
    (filled.root / "current").unlink()
    (filled.root / "current").symlink_to(target.format(staged=outside))
    assert "not to a release of this store" in refusal(filled.current)
    assert "not to a release of this store" in refusal(open_store_engine, filled, 1, "fallback")
    filled.use("r3")
    assert links(filled) == ("r3", "r1")


def test_a_current_that_is_no_link_is_refused(filled):
    (filled.root / "current").unlink()
    (filled.root / "current").write_text("releases/r2")
    assert "is no link to a release" in refusal(filled.current)


@pytest.mark.parametrize("link", ["current", "previous"])
def test_a_link_that_is_a_folder_is_named_as_one_and_kept(filled, link):
    (filled.root / link).unlink()
    (filled.root / link).mkdir()
    message = refusal(getattr(filled, link))
    assert f"{link}: is a folder, not a link to a release; move it out of the store" in message
    assert "is a folder" in refusal(filled.use, "r3")
    assert (filled.root / link).is_dir()
