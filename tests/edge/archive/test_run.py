from collections import Counter

import pytest

from edge.archive.run import summary
from edge.commands.archive import progress_line


def test_the_summary_sums_by_what_became_of_images_and_why():
    counts = Counter(
        {
            ("done", None): 5,
            ("skipped", None): 2,
            ("skipped", "refused"): 1,
            ("refused", "DamagedImage"): 2,
            ("refused", "NotAnImage"): 1,
            ("failed", "DeviceLost"): 1,
        }
    )
    found = summary(12, counts, 4.0)
    assert (found.done, found.skipped, found.skipped_refusals) == (5, 3, 1)
    assert found.refused == {"DamagedImage": 2, "NotAnImage": 1}
    assert found.failed == {"DeviceLost": 1}
    assert found.images_per_s == (5 + 3) / 4
    assert found.complete
    assert not found.all_done


@pytest.mark.parametrize(
    ("counts", "complete", "all_done"),
    [
        ({("done", None): 1, ("skipped", None): 1}, True, True),
        ({("done", None): 1}, False, False),
        ({("done", None): 1, ("skipped", "refused"): 1}, True, False),
        ({("done", None): 1, ("refused", "NotAnImage"): 1}, True, False),
        ({("done", None): 1, ("failed", "DeviceLost"): 1}, True, False),
    ],
)
def test_all_is_done_when_every_image_was_looked_at(counts, complete, all_done):
    found = summary(2, Counter(counts), 1.0)
    assert (found.complete, found.all_done) == (complete, all_done)


def test_a_line_of_progress_says_how_long_it_may_take():
    assert progress_line(Counter({("done", None): 25}), 100, 10.0) == "25 of 100 images after 10 s, about 30 s left"
    assert progress_line(Counter(), 100, 10.0) == "0 of 100 images after 10 s"
