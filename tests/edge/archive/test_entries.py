from pathlib import Path

from edge.archive.entries import BATCH, Entry, apart, batches, entries_of
from edge.process import Job
from tests.edge.published import publish_for


def entries(*names):
    return [Entry(Path("/a", name), None) for name in names]


def test_every_image_is_in_one_batch():
    many = entries(*(f"X{number}" for number in range(3 * BATCH + 1)))
    found = list(batches(many))
    assert [entry for batch in found for entry in batch] == many
    assert [len(batch) for batch in found] == [BATCH, BATCH, BATCH, 1]


def test_images_whose_results_would_share_a_name_are_in_one_batch_in_their_order():
    """Two workers would each find the name free."""
    first, *others, last = entries("X", "X-1", "X-2", "X-3", "X-4", "X.dcm")
    found = list(batches([first, *others, last], size=2))
    assert found[0] == (first, last)
    assert sorted(entry.image.name for batch in found for entry in batch) == sorted(
        ["X", *(e.image.name for e in others), "X.dcm"]
    )


def test_equal_names_in_two_folders_of_a_results_tree_do_not_stay_together():
    two = [Entry(Path("/a/p/X"), Path("/r/p")), Entry(Path("/a/q/X"), Path("/r/q"))]
    assert list(batches(two, size=1)) == [(two[0],), (two[1],)]


def test_a_batch_that_costs_workers_is_split_as_far_as_names_allow():
    x, y, x_dcm = entries("X", "Y", "X.dcm")
    assert apart((x, x_dcm, y)) == [(x, x_dcm), (y,)]


def test_an_entry_knows_whether_a_result_was_there(tmp_path):
    for name in ("X.dcm", "Y.dcm"):
        (tmp_path / name).write_bytes(b"pixels")
    publish_for(tmp_path / "X.dcm")
    found = entries_of([Job(tmp_path / name, None) for name in ("X.dcm", "Y.dcm")])
    assert [entry.had_result for entry in found] == [True, False]
