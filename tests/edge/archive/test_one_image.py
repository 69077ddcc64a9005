"""One image with a maker in this process, which can be told to die."""

import json
from dataclasses import dataclass, field, replace

import pytest

from edge.archive.entries import Entry, Told
from edge.archive.one_image import TRIES, process_entry, refuse_entry
from edge.config import Config
from edge.errors import DeviceLost, InferenceFailed, ReaderDied, ResultsNotWritable, WorkerDied
from edge.pipeline import Pipeline, Source
from edge.processes.worker import Description
from tests.edge.published import names_in

MOST = 2**30


@dataclass
class HereMaker:
    """What a worker process does, done here; raises each of ``faults`` first."""

    pipeline: Pipeline
    faults: list = field(default_factory=list)
    made: int = 0
    keyed: int = 0

    def make(self, task):
        self.made += 1
        if self.faults:
            raise self.faults.pop(0)
        return self.pipeline.make(Source(task.copy, task.name, task.sha256, task.made_at), final=task.final)

    def key(self, task):
        self.keyed += 1
        return self.pipeline.key_of(Source(task.copy, task.name, task.sha256))

    def describe(self):
        contract = self.pipeline.engine.contract
        return Description(contract.release, (), self.pipeline.provenance(), contract)


@pytest.fixture
def maker(engine):
    ticks = iter(range(10_000))
    found = engine([(20.0, 10.0, 0.9)], [(24.0, 20.0, 0.8)])
    return HereMaker(Pipeline(found, Config().sha256(), clock=lambda: next(ticks) ** 2))  # no two stages take as long


@pytest.fixture
def image(write, dicom, collimated):
    return write(dicom(collimated()), "X.dcm")


def processed(image, maker, *, had_result=False, registers=False, results_dir=None):
    return process_entry(Entry(image, results_dir, had_result), maker, MOST, registers=registers)


def result_of(image):
    return json.loads(image.with_name("X.landmarks.json").read_bytes())


def test_an_image_gets_the_result_of_the_pipeline_but_for_the_times(image, maker):
    assert processed(image, maker) == Told(image, "done")
    made = maker.pipeline(image, None)
    assert made.timing_ms
    published = made.model_copy(update={"timing_ms": {}})
    (image.with_name("X.landmarks.json")).unlink()
    processed(image, maker)
    assert image.with_name("X.landmarks.json").read_bytes() == published.to_json()
    assert names_in(image.parent) == ["X.dcm", "X.landmarks.json", "X.landmarks.png"]


def test_two_workers_on_one_image_end_in_the_same_bytes(image, maker):
    def published():
        for path in image.parent.glob("*.landmarks.*"):
            path.unlink()
        processed(image, maker)
        return {path.name: path.read_bytes() for path in image.parent.iterdir()}

    assert published() == published()


def test_a_result_with_the_right_key_is_not_made_again(image, maker):
    processed(image, maker)
    assert processed(image, maker, had_result=True) == Told(image, "skipped")
    assert maker.made == 1


def test_what_a_lost_worker_published_during_the_run_is_done_not_skipped(image, maker):
    processed(image, maker)
    assert processed(image, maker, had_result=False) == Told(image, "done")
    assert maker.made == 1


def test_other_settings_are_another_key(image, maker):
    processed(image, maker)
    maker.pipeline = replace(maker.pipeline, overlay=False)
    assert processed(image, maker, had_result=True) == Told(image, "done")
    assert names_in(image.parent) == ["X.dcm", "X.landmarks.json"]


def test_another_image_of_the_same_name_is_another_key(image, maker, dicom, collimated):
    processed(image, maker)
    image.write_bytes(dicom(collimated(shadow=300)))
    assert processed(image, maker, had_result=True) == Told(image, "done")
    assert maker.made == 2


def test_a_result_whose_picture_is_gone_is_made_again(image, maker):
    processed(image, maker)
    image.with_name("X.landmarks.png").unlink()
    assert processed(image, maker, had_result=True) == Told(image, "done")
    assert image.with_name("X.landmarks.png").exists()


@pytest.mark.parametrize("said", [{"provenance": None}, {"provenance": {"key": ["x"]}}, {"provenance": {}}])
def test_a_result_without_a_key_is_made_again(image, maker, said):
    processed(image, maker)
    path = image.with_name("X.landmarks.json")
    path.write_text(json.dumps(result_of(image) | said))
    assert processed(image, maker, had_result=True) == Told(image, "done")


def test_where_images_are_registered_the_reference_decides_on_the_key(image, maker):
    processed(image, maker)
    assert processed(image, maker, had_result=True, registers=True) == Told(image, "skipped")
    assert (maker.made, maker.keyed) == (1, 1)


def test_an_image_that_ends_its_reader_once_is_tried_again(image, maker):
    maker.faults = [ReaderDied("X.dcm: the process that read it was killed by SIGSEGV")]
    assert processed(image, maker) == Told(image, "done")


@pytest.mark.parametrize("fault", [ReaderDied("X.dcm: no answer"), WorkerDied("X.dcm: no answer")])
def test_an_image_that_ends_its_process_twice_is_refused_with_a_result_that_stands(image, maker, fault):
    maker.faults = [fault, fault]
    told = processed(image, maker)
    assert (told.became, told.kind) == ("refused", type(fault).__name__)
    assert "happened 2 times" in told.reason
    result = result_of(image)
    assert (result["status"], result["reason"]) == ("refused", told.reason)
    assert processed(image, maker, had_result=True) == Told(image, "skipped", "refused")
    assert maker.made == 2


def test_what_is_not_the_file_s_fault_is_tried_thrice_and_leaves_no_result(image, maker):
    maker.faults = [DeviceLost("gone")] * TRIES
    told = processed(image, maker)
    assert (told.became, told.kind) == ("failed", "DeviceLost")
    assert names_in(image.parent) == ["X.dcm"]
    maker.faults = [InferenceFailed("memory")] * (TRIES - 1)
    assert processed(image, maker) == Told(image, "done")


def test_what_cannot_be_stored_ends_the_work(image, maker, tmp_path):
    in_the_way = tmp_path / "file"
    in_the_way.write_bytes(b"")
    with pytest.raises(ResultsNotWritable):
        processed(image, maker, results_dir=in_the_way / "results")


def test_an_image_that_cannot_be_trusted_is_refused_in_its_result(write, dicom, collimated, maker):
    image = write(dicom(collimated())[:-1000], "X.dcm")
    told = processed(image, maker)
    assert (told.became, told.kind) == ("refused", "DamagedImage")
    assert result_of(image)["reason"] == told.reason


def test_what_is_no_image_is_told_and_left_alone(write, maker):
    path = write(b"hello", "notes.txt")
    told = processed(path, maker)
    assert (told.became, told.kind) == ("refused", "NotAnImage")
    assert names_in(path.parent) == ["notes.txt"]


def test_of_x_and_x_dcm_the_first_gets_the_name(image, maker):
    (image.parent / "X").write_bytes(image.read_bytes())
    assert processed(image.parent / "X", maker).became == "done"
    assert processed(image, maker).kind == "ResultNameTaken"
    assert result_of(image)["image"]["name"] == "X"


def test_an_image_that_no_worker_outlived_is_refused_unread(image, maker):
    told = refuse_entry(Entry(image, None), "every worker was lost", maker)
    assert told == Told(image, "refused", "WorkerDied", "X.dcm: every worker was lost")
    assert result_of(image)["reason"] == told.reason
    assert maker.made == 0
