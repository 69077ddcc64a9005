"""Which files are processed in what order, where their results go, and what a person is told of each."""

import re
from pathlib import Path

import pytest

from edge.errors import BackendFailed, DamagedImage, ResultsNotWritable
from edge.process import Misuse, Outcome, plan, process_all
from edge.results.document import Result


def planned(root, *named, results_dir=None):
    jobs = plan([root / name for name in named], results_dir)
    return [(str(job.image.relative_to(root)), job.results_dir) for job in jobs]


@pytest.fixture
def tree(tmp_path):
    for name in ("a/X.dcm", "a/deep er/X.dcm", "b/X", ".hidden/X.dcm", "a/.X.dcm", "a/X.landmarks.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "a/.landmarks-0123.tmp").write_bytes(b"")
    (tmp_path / "a/X.landmarks.png").write_bytes(b"")
    return tmp_path


def test_a_folder_means_all_files_below_it_but_hidden_ones_and_our_own(tree):
    assert planned(tree, "a") == [("a/X.dcm", None), ("a/deep er/X.dcm", None)]


def test_files_and_folders_are_taken_in_the_order_named(tree):
    assert [image for image, _ in planned(tree, "b/X", "a")] == ["b/X", "a/X.dcm", "a/deep er/X.dcm"]


def test_what_is_named_twice_is_processed_once(tree):
    assert [image for image, _ in planned(tree, "a/X.dcm", "a", "a/X.dcm")] == ["a/X.dcm", "a/deep er/X.dcm"]


def test_a_hidden_file_that_is_named_is_meant(tree):
    assert planned(tree, "a/.X.dcm") == [("a/.X.dcm", None)]


@pytest.mark.parametrize("name", ["a/X.landmarks.json", "a/X.landmarks.png", "a/.landmarks-0123.tmp"])
def test_our_own_outputs_are_passed_over_even_when_named(tree, name):
    """A shell names them: ``process drop/*``, after a first run."""
    assert planned(tree, name, "b/X") == [("b/X", None)]


def test_a_results_folder_keeps_the_tree_of_a_named_folder(tree):
    results = tree / "results"
    assert planned(tree, "a", results_dir=results) == [("a/X.dcm", results), ("a/deep er/X.dcm", results / "deep er")]


@pytest.mark.parametrize("named", [("a/X.dcm", "a/deep er/X.dcm"), ("a/X.dcm", "b/X"), ("a", "b")])
def test_two_results_of_one_name_in_one_folder_are_misuse(tree, named):
    with pytest.raises(Misuse, match=r"share one name.*nothing was processed"):
        planned(tree, *named, results_dir=tree / "results")


def test_beside_their_images_results_of_one_name_do_not_meet(tree):
    assert len(planned(tree, "a/X.dcm", "b/X", "a/deep er/X.dcm")) == 3


def test_a_name_that_does_not_exist_is_misuse(tree):
    with pytest.raises(Misuse, match=r"nowhere: no such file or folder; nothing was processed"):
        planned(tree, "a", "nowhere")


CLOSED_FOLDER = """
import os, tempfile
from pathlib import Path
from edge.process import Misuse, plan
if os.geteuid() == 0:
    os.setuid(65534)  # root may list everything
root = Path(tempfile.mkdtemp())
(root / "closed").mkdir(mode=0)
try:
    plan([root], None)
except Misuse as exc:
    print(exc)
finally:
    (root / "closed").rmdir()
    root.rmdir()
"""


def test_a_folder_that_may_not_be_listed_is_misuse_and_not_empty(run_python):
    done = run_python(CLOSED_FOLDER)
    assert done.returncode == 0, done.stderr
    assert re.search(r"closed: cannot be listed \(Permission denied\); nothing was processed", done.stdout)


# --- what becomes of each ---


class Answers:
    """Stands in for the pipeline: raises or returns what is scripted."""

    def __init__(self, *answers):
        self._answers = iter(answers)

    def __call__(self, image, results_dir):
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture(scope="module")
def documented():
    """Return the documented example of each status."""
    examples = Path(__file__).parents[3] / "docs" / "examples"
    files = (examples / f"{name}.landmarks.json" for name in ("ok", "no_landmarks.png", "refused"))
    return [Result.model_validate_json(path.read_bytes()) for path in files]


def outcomes_of(*answers):
    heard = []
    jobs = plan([Path(__file__)], None) * len(answers)
    assert process_all(jobs, Answers(*answers), heard.append) == heard
    return heard


def test_each_image_is_told_of_in_one_line(documented):
    ok, none, refused = outcomes_of(*documented)
    assert (ok.done, none.done, refused.done) == (True, True, False)
    assert (ok.summary, none.summary) == (f"ok: {len(documented[0].landmarks)} landmarks", "no_landmarks")
    assert len(documented[0].landmarks) > 1
    assert refused.summary == f"refused: {documented[2].reason}"


def test_one_landmark_is_one(documented):
    one = documented[0].model_copy(update={"landmarks": documented[0].landmarks[:1]})
    assert Outcome(Path("X"), one, None).summary == "ok: 1 landmark"


def test_a_failure_of_the_surroundings_is_not_called_a_refusal():
    refused, failed = outcomes_of(DamagedImage("X: broken"), ResultsNotWritable("Y: full"))
    assert (refused.summary, failed.summary) == ("refused: X: broken", "not processed: Y: full")
    assert not failed.done


def test_one_bad_file_keeps_no_other_from_its_result(documented):
    assert [one.done for one in outcomes_of(DamagedImage("X"), documented[0], ResultsNotWritable("Y"))] == [0, 1, 0]


def test_a_backend_that_fails_ends_the_work(documented):
    with pytest.raises(BackendFailed):
        outcomes_of(documented[0], BackendFailed("no memory"), documented[0])
