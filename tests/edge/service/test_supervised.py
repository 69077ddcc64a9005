import hashlib
import json
from dataclasses import dataclass, field, replace

import pytest

from edge.errors import (
    DamagedImage,
    FileTooLarge,
    ImageUnreadable,
    NotAnImage,
    ReaderDied,
    ResultNameTaken,
    ResultsNotWritable,
    SpoolFull,
    StateUnusable,
    WorkerDied,
)
from edge.pipeline import Pipeline, Source
from edge.processes.worker import Description
from edge.service.spool import clear_spool
from edge.service.supervised import SupervisedProcess
from edge.service.surroundings import Upcoming
from edge.settle import NEXT, Happening, State, signature_of

CONFIG = "d" * 64
CLAIMED, INFERRED, PUBLISHED = Happening.CLAIMED, Happening.INFERRED, Happening.PUBLISHED


@dataclass
class WorkerHere:
    """A worker in this process, by the worker's seam; ``meanwhile`` is called with the copy in hand."""

    pipeline: Pipeline
    meanwhile: object = staticmethod(lambda _copy: None)
    seen: list = field(default_factory=list)
    ahead: list = field(default_factory=list)
    tasks: list = field(default_factory=list)

    def make(self, task, then):
        self.seen.append(task.copy)
        self.tasks.append(task)
        self.ahead.append(then())
        self.meanwhile(task.copy)
        return self.pipeline.make(Source(task.copy, task.name, task.sha256, task.made_at), final=task.final)

    def describe(self):
        provenance = self.pipeline.provenance()
        return Description(provenance.release, (), provenance, self.pipeline.engine.contract)


@pytest.fixture
def worker(engine):
    return WorkerHere(Pipeline(engine([(20.0, 20.0, 0.6)], [(24.0, 25.0, 0.9)]), CONFIG))


@pytest.fixture
def drop_folder(tmp_path):
    (tmp_path / "drop").mkdir()
    return tmp_path / "drop"


@pytest.fixture
def image(drop_folder, dicom, collimated):
    path = drop_folder / "X.dcm"
    path.write_bytes(dicom(collimated()))
    return path


@pytest.fixture
def process(worker, tmp_path):
    """Return a supervised process that claims files of up to 1 MiB."""
    clear_spool(tmp_path / "spool")
    return SupervisedProcess(worker, tmp_path / "spool", largest_file_bytes=2**20)


@pytest.fixture
def told():
    """Return a `Tell` that keeps what it hears; its ``heard`` must be what the daemon's table allows."""

    class Told:
        def __init__(self):
            self.heard, self.state = [], State.STABLE

        def __call__(self, happening, **facts):
            self.state = NEXT[self.state, happening]  # a pair that the table lacks is a KeyError
            self.heard.append((happening, facts))

    return Told()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- the way of a good image ---


def test_an_image_is_claimed_made_and_published(process, image, told):
    result = process(image, None, final=True, tell=told)
    assert names(image.parent) == ["X.dcm", "X.landmarks.json", "X.landmarks.png"]
    assert image.with_name("X.landmarks.json").read_bytes() == result.to_json()
    assert (result.status, result.image.name, result.image.sha256) == ("ok", "X.dcm", sha256(image))


def test_each_step_is_told_as_it_is_taken(process, worker, image, told):
    steps = []

    def tell(happening, **facts):
        told(happening, **facts)
        steps.append((happening, len(worker.seen), image.with_name("X.landmarks.json").exists()))

    result = process(image, None, final=True, tell=tell)
    assert told.heard == [
        (CLAIMED, {"sha256": sha256(image)}),
        (INFERRED, {"key": result.provenance.key}),
        (PUBLISHED, {}),
    ]
    assert steps == [(CLAIMED, 0, False), (INFERRED, 1, False), (PUBLISHED, 1, True)]


def test_results_go_to_another_folder_where_one_is_named(process, image, tmp_path, told):
    (tmp_path / "results").mkdir()
    process(image, tmp_path / "results", final=True, tell=told)
    assert names(tmp_path / "results") == ["X.landmarks.json", "X.landmarks.png"]
    assert names(image.parent) == ["X.dcm"]


def test_only_the_copy_is_read_by_the_worker(process, worker, image, told):
    process(image, None, final=True, tell=told)
    (copy,) = worker.seen
    assert copy.parent == process.spool
    assert names(process.spool) == []


def test_the_same_file_twice_has_the_same_key(process, image, told):
    keys = []
    for _ in range(2):
        told.state = State.STABLE
        keys.append(process(image, None, final=True, tell=told).provenance.key)
    assert keys[0] == keys[1] == json.loads(image.with_name("X.landmarks.json").read_bytes())["provenance"]["key"]


def test_progress_is_heard_of(worker, process, image, told):
    heard = []
    SupervisedProcess(worker, process.spool, 2**20, lambda: heard.append(1))(image, None, final=True, tell=told)
    assert heard == [1]  # the image is one piece


# --- refusals ---


def test_a_refusal_of_the_worker_is_published_and_has_no_inference(process, image, dicom, collimated, told):
    image.write_bytes(dicom(collimated(), SamplesPerPixel=3))
    assert process(image, None, final=False, tell=told).status == "refused"
    assert told.heard == [(CLAIMED, {"sha256": sha256(image)}), (PUBLISHED, {"kind": "UnsupportedImage"})]
    assert names(image.parent) == ["X.dcm", "X.landmarks.json"]


def test_a_damaged_image_whose_rest_may_still_come_is_only_reported(process, image, told):
    image.write_bytes(image.read_bytes()[:-1000])
    with pytest.raises(DamagedImage):
        process(image, None, final=False, tell=told)
    assert names(image.parent) == ["X.dcm"]


def test_nothing_is_written_beside_what_is_no_image(process, image, told):
    image.write_bytes(b"hello")
    with pytest.raises(NotAnImage):
        process(image, None, final=True, tell=told)
    assert names(image.parent) == ["X.dcm"]


def test_a_file_too_large_is_refused_unread_and_gets_no_result(process, worker, image, told):
    with image.open("r+b") as file:
        file.truncate(2**40)  # to hash it would take an hour
    with pytest.raises(FileTooLarge, match="the limit is 1048576"):
        process(image, None, final=True, tell=told)
    assert names(image.parent) == ["X.dcm"]
    assert (told.heard, worker.seen) == ([], [])


# --- the file that most likely comes next ---


@pytest.fixture
def other(image, dicom, collimated):
    path = image.with_name("Y.dcm")
    path.write_bytes(dicom(collimated(), PatientID="other"))
    return path


def comes_next(path, *, final=True):
    settled = signature_of(path.lstat())
    return lambda: Upcoming(path, settled, final)


def test_the_next_file_is_claimed_while_the_worker_has_the_first(process, worker, image, other, told, tmp_path):
    process(image, None, final=True, tell=told, upcoming=comes_next(other))
    assert names(image.parent) == ["X.dcm", "X.landmarks.json", "X.landmarks.png", "Y.dcm"]
    task = worker.ahead[0]
    assert (task.name, task.sha256) == ("Y.dcm", sha256(other))
    process(other, None, final=True, tell=type(told)())
    assert worker.seen == [worker.seen[0], task.copy]
    assert names(process.spool) == []


def test_a_next_file_that_changed_is_claimed_anew(process, worker, image, other, told):
    process(image, None, final=True, tell=told, upcoming=comes_next(other))
    other.write_bytes(image.read_bytes())
    result = process(other, None, final=True, tell=type(told)())
    assert result.image.sha256 == sha256(image)
    assert worker.seen[1] != worker.ahead[0].copy
    assert names(process.spool) == []


def test_a_next_file_whose_rest_can_no_longer_arrive_is_asked_for_anew(process, worker, image, other, told):
    process(image, None, final=True, tell=told, upcoming=comes_next(other, final=False))
    process(other, None, final=True, tell=type(told)())
    assert worker.tasks[1] == replace(worker.ahead[0], final=True)


def test_a_next_file_that_cannot_be_claimed_waits_for_its_turn(process, worker, image, told):
    gone = image.with_name("gone.dcm")
    gone.write_bytes(b"x")
    upcoming = comes_next(gone)
    gone.unlink()
    process(image, None, final=True, tell=told, upcoming=upcoming)
    assert worker.ahead == [None]
    assert told.state is State.PUBLISHED


def test_another_version_than_the_settled_one_is_not_claimed_ahead(process, worker, image, other, told):
    upcoming = comes_next(other)
    other.write_bytes(other.read_bytes() + b"x")
    process(image, None, final=True, tell=told, upcoming=upcoming)
    assert worker.ahead == [None]
    assert names(process.spool) == []


def test_a_hint_that_fails_costs_the_image_in_hand_nothing(process, worker, image, told):
    def fail():
        raise SpoolFull("for the test")

    process(image, None, final=True, tell=told, upcoming=fail)
    assert told.state is State.PUBLISHED


def test_another_file_than_expected_lets_go_of_the_claim(process, worker, image, other, told):
    process(image, None, final=True, tell=told, upcoming=comes_next(other))
    process(image, None, final=True, tell=type(told)())
    assert names(process.spool) == []


def test_what_had_no_turn_is_let_go_of_at_the_end(process, image, other, told):
    process(image, None, final=True, tell=told, upcoming=comes_next(other))
    assert len(names(process.spool)) == 1
    process.rest()
    process.rest()
    assert names(process.spool) == []


# --- what needs no worker ---


def test_a_reason_that_stands_already_can_be_published(process, worker, image, told):
    result = process.refuse(image, None, "X.dcm: the process that read it was killed by SIGSEGV, twice", told)
    assert json.loads(image.with_name("X.landmarks.json").read_bytes()) == json.loads(result.to_json())
    assert (result.status, result.image.sha256) == ("refused", sha256(image))
    assert result.reason.endswith("twice")
    assert result.provenance.release == worker.describe().release
    assert result.provenance.key is not None
    assert told.heard == [(PUBLISHED, {})]
    assert worker.seen == []


# --- what prevents a result ---


def test_an_image_that_changes_meanwhile_gets_no_result_of_its_former_self(process, worker, image, told):
    def change(_copy):
        with image.open("ab") as file:
            file.write(b"x")

    worker.meanwhile = change
    with pytest.raises(ImageUnreadable, match="changed while"):
        process(image, None, final=True, tell=told)
    assert names(image.parent) == ["X.dcm"]
    assert PUBLISHED not in [happening for happening, _ in told.heard]


@pytest.mark.parametrize("kind", [WorkerDied, ReaderDied])
def test_a_death_is_raised_and_nothing_is_left(process, worker, image, told, kind):
    def die(_copy):
        raise kind("X.dcm: for the test")

    worker.meanwhile = die
    with pytest.raises(kind):
        process(image, None, final=True, tell=told)
    assert names(image.parent) == ["X.dcm"]
    assert names(process.spool) == []


def test_an_image_whose_name_is_taken_is_not_even_claimed(process, worker, image, told):
    process(image, None, final=True, tell=told)
    image.with_name("X").write_bytes(image.read_bytes())
    told.heard.clear()
    with pytest.raises(ResultNameTaken):
        process(image.with_name("X"), None, final=True, tell=told)
    with pytest.raises(ResultNameTaken):
        process.refuse(image.with_name("X"), None, "for the test", told)
    assert (told.heard, len(worker.seen)) == ([], 1)


def test_a_results_folder_that_is_not_there_is_named(process, image, tmp_path, told):
    with pytest.raises(ResultsNotWritable, match="not there"):
        process(image, tmp_path / "results", final=True, tell=told)


def test_a_state_folder_that_is_gone_stops_the_service(process, image, told):
    process.spool.rmdir()
    with pytest.raises(StateUnusable):
        process(image, None, final=True, tell=told)
