import json
import os
from pathlib import Path

import pytest

from edge.errors import BadConfig, ResultsNotWritable
from edge.results.publish import (
    OWNER_FILE,
    Owner,
    demand_no_other_owner,
    is_own_output,
    own_results,
    owner_of,
    remove_leftovers,
)
from edge.service.dropfolder import results_below

OURS, OTHERS = Owner("/srv/room 1", "edge-1"), Owner("/srv/room 2", "edge-1")


@pytest.fixture
def results(tmp_path):
    (tmp_path / "results").mkdir()
    return tmp_path / "results"


def test_a_results_folder_says_whose_results_it_holds(results):
    assert owner_of(results) is None
    own_results(results, OURS)
    own_results(results, OURS)  # once more is no news
    assert owner_of(results) == (results / OWNER_FILE, OURS)
    assert [path.name for path in results.iterdir()] == [OWNER_FILE]
    assert json.loads((results / OWNER_FILE).read_bytes()) == {
        "schema": "landmarknet-edge/owner/1", "drop_folder": "/srv/room 1", "machine": "edge-1",
    }  # fmt: skip


def test_an_owner_s_file_is_ours_but_neither_a_leftover_nor_a_result(results):
    own_results(results, OURS)
    assert is_own_output(OWNER_FILE)
    assert (remove_leftovers(results), results_below(results)) == (0, set())
    assert owner_of(results) is not None


@pytest.mark.parametrize("other", [OTHERS, Owner(OURS.drop_folder, "edge-2")])
def test_another_drop_folder_s_results_do_not_go_there(results, other):
    own_results(results, OURS)
    with pytest.raises(BadConfig) as caught:
        own_results(results, other)
    assert str(caught.value) == (
        f"{results}: holds the results of the drop folder /srv/room 1 of edge-1, which those of {other.drop_folder} "
        f"of {other.machine} would overwrite where images have one name; name another results_dir, or, if this drop "
        f"folder takes the place of that one, remove {results / OWNER_FILE}"
    )
    assert owner_of(results) == (results / OWNER_FILE, OURS)


def test_nor_into_a_folder_below(results):
    own_results(results, OURS)
    (results / "a").mkdir()
    for folder in (results / "a", results / "a" / "not there yet"):
        with pytest.raises(BadConfig, match=f"remove {results / OWNER_FILE}"):
            own_results(folder, OTHERS)
        demand_no_other_owner(folder, OURS)


def test_nor_into_a_folder_above(results):
    (results / "a/b").mkdir(parents=True)
    own_results(results / "a/b", OURS)
    with pytest.raises(BadConfig, match=f"remove {results / 'a/b' / OWNER_FILE}"):
        own_results(results, OTHERS)
    assert not (results / OWNER_FILE).exists()


def test_nor_by_way_of_a_link(results, tmp_path):
    own_results(results, OURS)
    (results / "a").mkdir()
    (tmp_path / "link").symlink_to(results / "a")
    with pytest.raises(BadConfig):
        own_results(tmp_path / "link", OTHERS)


def test_a_person_can_give_the_folder_to_another(results):
    own_results(results, OURS)
    (results / OWNER_FILE).unlink()
    own_results(results, OTHERS)
    assert owner_of(results) == (results / OWNER_FILE, OTHERS)


def test_of_two_that_come_at_once_one_has_the_folder(results, monkeypatch):
    """Without locks of folders, as on NFS, the other may come between the look and the writing."""
    link = os.link

    def beaten(*arguments, **options):
        monkeypatch.setattr(os, "link", link)
        own_results(results, OTHERS)
        link(*arguments, **options)

    monkeypatch.setattr(os, "link", beaten)
    with pytest.raises(BadConfig):
        own_results(results, OURS)
    assert owner_of(results) == (results / OWNER_FILE, OTHERS)
    assert [path.name for path in results.iterdir()] == [OWNER_FILE]


def test_where_there_are_no_hard_links_the_file_is_renamed(results, monkeypatch):
    def refuse(*_arguments, **_options):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    own_results(results, OURS)
    assert owner_of(results) == (results / OWNER_FILE, OURS)
    assert [path.name for path in results.iterdir()] == [OWNER_FILE]


ODD = {"schema": "landmarknet-edge/owner/1", "machine": "edge-1"}


@pytest.mark.parametrize("odd", [{"drop_folder": 3}, {"drop_folder": "/a\0b"}, {}, {"drop_folder": "/a", "more": "b"}])
def test_what_is_no_owner_is_not_taken_for_one(results, odd):
    (results / OWNER_FILE).write_text(json.dumps(ODD | odd))
    with pytest.raises(BadConfig, match="does not say whose results lie there"):
        owner_of(results)


def test_whoever_sends_images_cannot_keep_a_service_from_the_results_in_its_drop_folder(tmp_path):
    drop = tmp_path / "drop"
    (drop / "results").mkdir(parents=True)
    (drop / OWNER_FILE).write_bytes(b"any")
    own_results(drop / "results", Owner.of(drop))
    own_results(drop / "results", Owner.of(drop))
    assert owner_of(drop / "results") == (drop / "results" / OWNER_FILE, Owner.of(drop))
    with pytest.raises(BadConfig):
        own_results(drop / "results", Owner.of(tmp_path / "another"))


def test_nor_from_the_results_around_its_drop_folder(results):
    (results / "drop").mkdir()
    (results / "drop" / OWNER_FILE).write_bytes(b"any")
    own_results(results, Owner.of(results / "drop"))
    assert owner_of(results) == (results / OWNER_FILE, Owner.of(results / "drop"))


@pytest.mark.parametrize("said", [b"", b"torn {", b"[]", b"{}", b'{"schema": "landmarknet-edge/owner/2"}', b"3"])
def test_what_does_not_say_whose_it_is_stops_everybody(results, said):
    (results / OWNER_FILE).write_bytes(said)
    with pytest.raises(BadConfig, match="does not say whose results lie there; remove it"):
        own_results(results, OURS)
    assert (results / OWNER_FILE).read_bytes() == said


def test_a_link_in_the_place_of_an_owner_s_file_is_not_followed(results, tmp_path):
    own_results(results, OURS)
    (results / OWNER_FILE).rename(tmp_path / "elsewhere")
    (results / OWNER_FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadConfig, match="does not say"):
        own_results(results, OURS)


def test_a_folder_that_is_not_there_is_tried_again(tmp_path):
    with pytest.raises(ResultsNotWritable, match="create it or mount its share"):
        own_results(tmp_path / "none", OURS)


def test_a_drop_folder_whose_name_is_no_text_is_known_again(results):
    ours = Owner.of(Path(os.fsdecode(b"/srv/J\xfcrgen")))
    own_results(results, ours)
    own_results(results, ours)
    assert owner_of(results)[1] == ours
