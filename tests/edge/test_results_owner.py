import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from edge.errors import BadConfig, ResultsNotWritable
from edge.process import Misuse, plan
from edge.results.files import remove_leftovers
from edge.results.owner import (
    APPLICATION_ID,
    MACHINE_ID,
    OWNER_FILE,
    Owner,
    demand_no_other_owner,
    own_machine_id,
    own_results,
    owner_of,
)
from edge.results.publish import is_own_output
from edge.service.dropfolder import results_below

ID, ANOTHER_ID = "1f" * 16, "2e" * 16
OURS, OTHERS = Owner("/srv/room 1", "edge-1", ID), Owner("/srv/room 2", "edge-1", ID)


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
        "schema": "landmarknet-edge/owner/2", "drop_folder": "/srv/room 1", "machine": "edge-1", "machine_id": ID,
    }  # fmt: skip


def test_an_owner_s_file_is_ours_but_neither_a_leftover_nor_a_result(results):
    own_results(results, OURS)
    assert is_own_output(OWNER_FILE)
    assert (remove_leftovers(results), results_below(results)) == (0, set())
    assert owner_of(results) is not None


@pytest.mark.parametrize("other", [OTHERS, Owner(OURS.drop_folder, "edge-2", ANOTHER_ID)])
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


# the machine


def test_a_machine_that_is_called_otherwise_goes_on_with_its_results(results):
    own_results(results, OURS)
    before = (results / OWNER_FILE).stat().st_ino
    own_results(results, Owner(OURS.drop_folder, "renamed", ID))
    assert (results / OWNER_FILE).stat().st_ino == before


def test_two_machines_of_one_name_and_one_path_are_told_apart(results):
    own_results(results, OURS)
    with pytest.raises(BadConfig, match=f"of edge-1.*remove {results / OWNER_FILE}"):
        own_results(results, Owner(OURS.drop_folder, "edge-1", ANOTHER_ID))


def test_machines_without_an_id_are_known_by_their_names(results):
    own_results(results, Owner("/srv/room 1", "edge-1"))
    own_results(results, Owner("/srv/room 1", "edge-1"))
    assert "machine_id" not in json.loads((results / OWNER_FILE).read_bytes())
    with pytest.raises(BadConfig, match="of edge-1"):
        own_results(results, Owner("/srv/room 1", "edge-2"))


def test_owners_that_are_equal_count_once():
    assert len({OURS, Owner(OURS.drop_folder, "renamed", ID), OTHERS, Owner(OURS.drop_folder, "edge-1")}) == 3


def older(results, drop_folder, machine):
    """Leave a file as versions did that knew a machine by its host's name alone."""
    said = {"schema": "landmarknet-edge/owner/1", "drop_folder": str(drop_folder), "machine": machine}
    (results / OWNER_FILE).write_text(json.dumps(said, indent=2) + "\n")


@pytest.fixture
def ours_of_old(results):
    """Return an owner of this machine, whose results folder has a file of the older form."""
    older(results, "/srv/room 1", os.uname().nodename)
    return Owner("/srv/room 1", os.uname().nodename, own_machine_id())


needs_machine_id = pytest.mark.skipif(own_machine_id() is None, reason="this machine has no machine-id")


@needs_machine_id
def test_an_older_file_of_ours_is_renewed(results, ours_of_old):
    demand_no_other_owner(results, ours_of_old)
    assert owner_of(results) == (results / OWNER_FILE, ours_of_old)
    own_results(results, ours_of_old)
    assert json.loads((results / OWNER_FILE).read_bytes())["machine_id"] == ours_of_old.machine_id
    assert [path.name for path in results.iterdir()] == [OWNER_FILE]
    with pytest.raises(BadConfig):
        own_results(results, Owner("/srv/room 1", ours_of_old.machine, ANOTHER_ID))


@pytest.mark.usefixtures("ours_of_old")
def test_only_a_service_renews_it(results, tmp_path):
    before = (results / OWNER_FILE).read_bytes()
    with pytest.raises(BadConfig):
        own_results(results, Owner.of(Path("/srv/room 2")))
    with pytest.raises(Misuse, match="has no place there"):
        plan([Path(__file__)], results)
    assert (results / OWNER_FILE).read_bytes() == before


@pytest.mark.parametrize(("drop_folder", "machine"), [("/srv/room 1", "edge-2"), ("/srv/room 2", os.uname().nodename)])
def test_an_older_file_of_another_is_another_s_still(results, drop_folder, machine):
    older(results, drop_folder, machine)
    before = (results / OWNER_FILE).read_bytes()
    with pytest.raises(BadConfig, match=f"of the drop folder {drop_folder} of {machine}"):
        own_results(results, Owner.of(Path("/srv/room 1")))
    assert (results / OWNER_FILE).read_bytes() == before


def test_an_older_file_above_or_below_is_understood_and_stays(results, ours_of_old):
    (results / "below").mkdir()
    own_results(results / "below", ours_of_old)
    assert "owner/1" in (results / OWNER_FILE).read_text()


def test_this_machine_s_id_is_a_hash_of_what_systemd_keeps(tmp_path):
    (tmp_path / "machine-id").write_text(ID + "\n")
    (tmp_path / "another").write_text(ANOTHER_ID + "\n")
    ids = {own_machine_id(tmp_path / name) for name in ("machine-id", "another")}
    assert len(ids) == 2
    assert all(len(one) == 32 for one in ids)
    assert not ids & {ID, ANOTHER_ID}


@needs_machine_id
@pytest.mark.skipif(shutil.which("systemd-id128") is None, reason="systemd is not installed")
def test_it_is_the_hash_that_systemd_makes():
    command = ["systemd-id128", "machine-id", f"--app-specific={APPLICATION_ID.hex}"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert own_machine_id(MACHINE_ID) == told.strip()


@pytest.mark.parametrize("text", [None, "", "uninitialized\n", "0" * 32, "1f" * 15, "1f" * 17, "no hex at all"])
def test_what_is_no_machine_id_is_none(text, tmp_path):
    if text is not None:
        (tmp_path / "machine-id").write_text(text)
    assert own_machine_id(tmp_path / "machine-id") is None
    assert Owner.of(Path("/srv/x"), tmp_path / "machine-id") == Owner("/srv/x", os.uname().nodename)


# what is no owner's file


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
