import os
from pathlib import Path

import pytest

from edge.errors import NotAnImage
from edge.pipeline import Pipeline
from edge.portal_image import MAX_FILE_BYTES
from edge.process import Job, Misuse, plan, process_all
from edge.results.owner import OWNER_FILE, Owner, own_results


@pytest.fixture
def drop(tmp_path):
    """Return a drop folder with one image, not looked into, and one below it of the same name."""
    for name in ("X.dcm", "a/X.dcm"):
        (tmp_path / "drop" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "drop" / name).write_bytes(b"")
    return tmp_path / "drop"


@pytest.fixture
def results(drop, tmp_path):
    """Return the results folder of a service that serves the drop folder."""
    (tmp_path / "results").mkdir()
    own_results(tmp_path / "results", Owner.of(drop))
    return tmp_path / "results"


# links


def test_a_link_that_a_person_names_means_what_it_leads_to(drop, tmp_path):
    link = tmp_path / "link.dcm"
    link.symlink_to("drop/X.dcm")
    assert plan([link], None) == plan([link, drop / "X.dcm"], None) == [Job(drop / "X.dcm", None)]


def test_a_link_to_one_of_our_outputs_is_passed_over(drop):
    (drop / "X.landmarks.png").write_bytes(b"")
    (drop / "link.png").symlink_to("X.landmarks.png")
    assert plan([drop / "link.png"], None) == []


def test_a_link_that_leads_nowhere_does_not_exist(drop):
    (drop / "link.dcm").symlink_to("none")
    with pytest.raises(Misuse, match="no such file or folder"):
        plan([drop / "link.dcm"], None)


def test_a_link_found_in_a_folder_is_left_alone_and_said_to_be(engine, drop, tmp_path):
    (drop / "link.dcm").symlink_to("X.dcm")
    jobs = [job for job in plan([drop], None) if job.image.name == "link.dcm"]
    (outcome,) = process_all(jobs, Pipeline(engine([], []), "d" * 64), lambda _: None)
    assert isinstance(outcome.error, NotAnImage)
    assert outcome.summary == "refused: link.dcm: is a symbolic link, so it is left alone"


def test_a_folder_may_be_named_by_a_link(drop, tmp_path):
    (tmp_path / "link").symlink_to("drop")
    below = [str(job.image.relative_to(tmp_path)) for job in plan([tmp_path / "link"], None)]
    assert below == ["link/X.dcm", "link/a/X.dcm"]


# what is too large


def test_a_file_too_large_is_refused_by_the_command_without_being_hashed(landmarknet_edge, tmp_path):
    (tmp_path / "X.dcm").touch()
    os.truncate(tmp_path / "X.dcm", 2**40)  # to hash it would take longer than the command may
    done = landmarknet_edge("process", tmp_path / "X.dcm", cwd="/")
    assert done.returncode == 1
    assert f"refused: X.dcm: has {2**40} bytes, the limit is {MAX_FILE_BYTES};" in done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["X.dcm"]


# results folders of services


def test_a_drop_folder_s_results_can_be_made_again_each_in_its_place(drop, results):
    everything = [Job(drop / "X.dcm", results), Job(drop / "a/X.dcm", results / "a")]
    assert plan([drop], results) == everything
    assert plan([drop / "X.dcm"], results) == everything[:1]
    assert plan([drop / "a"], results / "a") == everything[1:]


@pytest.mark.parametrize("named", ["drop/a/X.dcm", "drop/a", "other", "other/X.dcm"])
def test_nothing_else_goes_into_the_results_folder_of_a_service(drop, results, tmp_path, named):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/X.dcm").write_bytes(b"")
    with pytest.raises(Misuse, match=rf"^{results}: holds the results of the drop folder {drop} of .*nothing was proc"):
        plan([tmp_path / named], results)


def test_a_folder_below_a_service_s_results_is_no_other(drop, results, tmp_path):
    (tmp_path / "other").write_bytes(b"")
    with pytest.raises(Misuse, match="holds the results of the drop folder"):
        plan([tmp_path / "other"], results / "new" / "deep")


def test_the_results_of_another_machine_are_not_made_again_here(drop, results):
    (results / OWNER_FILE).unlink()
    own_results(results, Owner(str(drop), "another machine"))
    with pytest.raises(Misuse, match="of another machine, and that of"):
        plan([drop], results)


def test_an_owner_that_cannot_be_understood_is_named(drop, results):
    (results / OWNER_FILE).write_bytes(b"{}")
    with pytest.raises(Misuse, match=rf"{OWNER_FILE}: does not say whose results lie there; remove it"):
        plan([drop], results)


def test_a_person_s_results_folder_is_nobody_s(drop, tmp_path):
    (tmp_path / "mine").mkdir()
    plan([drop], tmp_path / "mine")
    assert list((tmp_path / "mine").iterdir()) == []


def test_the_command_ends_with_2_where_a_service_has_its_results(landmarknet_edge, results, tmp_path):
    (tmp_path / "other.dcm").write_bytes(b"")
    done = landmarknet_edge("process", Path("other.dcm"), "--results-dir", "results", cwd=tmp_path)
    assert done.returncode == 2
    assert "name another results folder" in done.stderr
    assert [path.name for path in results.iterdir()] == [OWNER_FILE]
