import hashlib
import json
import os

import numpy as np
import pytest
from PIL import Image

from edge.backends.function import FunctionBackend
from edge.config import Config
from edge.engines import Engine
from edge.errors import (
    DamagedImage,
    EdgeError,
    FileTooLarge,
    ImageUnreadable,
    NotAnImage,
    ResultNameTaken,
    ResultsNotWritable,
)
from edge.pipeline import Pipeline, pipeline_of
from edge.portal_image import MAX_FILE_BYTES
from tests.edge.daemon_room import swap_bytes

CONFIG = "d" * 64
SPINOUS, CARINA = [(20.0, 30.0, 0.6), (21.0, 20.0, 0.7)], [(24.0, 25.0, 0.9)]
PLANTED = {
    "PatientName": "Zyxwv^Planted",
    "PatientID": "PID-424242",
    "PatientBirthDate": "19470101",
    "InstitutionName": "Planted Hospital",
    "ReferringPhysicianName": "Planted^Doctor",
    "RTImageLabel": "Zyxwv field 1",
    "RTImageDescription": "Zyxwv PID-424242",
}
SECRETS = (b"Zyxwv", b"Planted", b"424242", b"19470101")


@pytest.fixture
def pipeline(engine):
    return Pipeline(engine(SPINOUS, CARINA), CONFIG)


@pytest.fixture
def image(write, dicom, collimated):
    """Return the path of a portal image of 192 x 256 px with a known geometry."""
    return write(dicom(collimated()), "X.dcm")


def document(path):
    return json.loads(path.read_bytes())


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# --- refusals ---


def test_a_damaged_image_gets_a_result_with_the_reason_and_no_picture(pipeline, write, dicom, collimated):
    path = write(dicom(collimated())[:-1000], "X.dcm")
    result = pipeline(path, None)
    assert names(path.parent) == ["X.dcm", "X.landmarks.json"]
    published = document(path.with_name("X.landmarks.json"))
    assert published["status"] == "refused"
    assert "X.dcm: " in published["reason"]
    assert "cut short" in published["reason"]
    assert published["image"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (published["landmarks"], published["geometry"], published["outputs"]) == ([], None, [])
    assert list(result.timing_ms) == ["read"]


def test_a_damaged_image_whose_rest_may_still_come_is_only_reported(pipeline, write, dicom, collimated):
    path = write(dicom(collimated())[:-1000], "X.dcm")
    with pytest.raises(DamagedImage):
        pipeline(path, None, final=False)
    assert names(path.parent) == ["X.dcm"]


@pytest.mark.parametrize(
    "changes",
    [{"SamplesPerPixel": 3}, {"NumberOfFrames": "2"}, {"RTImageSID": "0"}, {"RTImageSID": "-1500"}],
    ids=lambda changes: "{}={}".format(*next(iter(changes.items()))),
)
def test_an_image_that_no_waiting_mends_is_refused_at_once(pipeline, write, dicom, collimated, changes):
    path = write(dicom(collimated(), **changes), "X.dcm")
    assert pipeline(path, None, final=False).status == "refused"
    assert names(path.parent) == ["X.dcm", "X.landmarks.json"]


@pytest.mark.parametrize(
    "data", [b"", b"hello", np.random.default_rng(0).bytes(5000)], ids=["empty", "text", "random bytes"]
)
@pytest.mark.parametrize("final", [True, False])
def test_nothing_is_written_beside_what_is_no_image(pipeline, write, data, final):
    path = write(data, "X.dcm")
    with pytest.raises(NotAnImage):
        pipeline(path, None, final=final)
    assert names(path.parent) == ["X.dcm"]


def test_a_refusal_takes_the_place_of_a_result_and_removes_its_picture(pipeline, image):
    pipeline(image, None)
    image.write_bytes(image.read_bytes()[:-1000])
    pipeline(image, None)
    assert names(image.parent) == ["X.dcm", "X.landmarks.json"]


def test_a_result_takes_the_place_of_a_refusal(pipeline, image):
    whole = image.read_bytes()
    image.write_bytes(whole[:-1000])
    assert pipeline(image, None).status == "refused"
    image.write_bytes(whole)
    assert pipeline(image, None).status == "ok"
    assert document(image.with_name("X.landmarks.json"))["status"] == "ok"


@pytest.fixture
def small_limit(engine):
    """Return a pipeline of a room whose largest file has 1 MiB."""
    return pipeline_of(Config(largest_file_mb=1), engine(SPINOUS, CARINA))


def test_a_file_too_large_is_refused_unread_and_gets_no_result(small_limit, tmp_path):
    path = tmp_path / "X.dcm"
    with path.open("wb") as file:
        file.truncate(2**40)  # to hash it would take an hour
    with pytest.raises(FileTooLarge, match=rf"^X\.dcm: has {2**40} bytes, the limit is {2**20};"):
        small_limit(path, None)
    assert names(path.parent) == ["X.dcm"]


def test_a_configured_limit_above_the_reader_s_own_holds_for_reading_too(engine, tmp_path):
    path = tmp_path / "X.dcm"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(NotAnImage, match="neither DICOM nor"):  # it was looked into: nothing but zeros
        pipeline_of(Config(largest_file_mb=257), engine(SPINOUS, CARINA))(path, None)


def test_without_a_configuration_the_limit_is_the_reader_s(pipeline, tmp_path):
    path = tmp_path / "X.dcm"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(FileTooLarge, match=f"the limit is {MAX_FILE_BYTES};"):
        pipeline(path, None)


def test_a_link_is_left_alone(pipeline, image):
    link = image.with_name("link.dcm")
    link.symlink_to(image)
    with pytest.raises(NotAnImage, match=r"^link\.dcm: is a symbolic link"):
        pipeline(link, None)
    assert names(image.parent) == ["X.dcm", "link.dcm"]


def test_a_pipe_does_not_hold_the_work_up(pipeline, tmp_path):
    os.mkfifo(tmp_path / "X.dcm")
    with pytest.raises(NotAnImage, match="not a regular file"):
        pipeline(tmp_path / "X.dcm", None)


def test_bytes_that_come_with_the_old_mtime_while_it_is_processed_get_no_result_of_their_former_self(
    contract, rows, image
):
    def answer(_batch):
        swap_bytes(image, image.read_bytes()[::-1])
        return rows(SPINOUS, CARINA)

    with pytest.raises(ImageUnreadable, match="changed while"):
        Pipeline(Engine(FunctionBackend(answer, 36), contract(), "c" * 64), CONFIG)(image, None)
    assert names(image.parent) == ["X.dcm"]


def test_a_file_that_vanishes_before_its_refusal_is_tried_again(contract, image):
    def answer(_):
        image.unlink()
        raise DamagedImage("X.dcm: for the test; send it again")

    pipeline = Pipeline(Engine(FunctionBackend(answer, 36), contract(), "c" * 64), CONFIG)
    with pytest.raises(ImageUnreadable, match=r"X\.dcm.*No such file"):
        pipeline(image, None)
    assert names(image.parent) == []


# --- other files ---


def test_the_image_is_left_as_it_was(pipeline, image):
    os.utime(image, ns=(10**18, 10**18))
    before, data = image.stat(), image.read_bytes()
    pipeline(image, None)
    after = image.stat()
    assert image.read_bytes() == data
    kept = ("st_ino", "st_mode", "st_uid", "st_size", "st_mtime_ns", "st_ctime_ns", "st_nlink")
    assert [getattr(after, name) for name in kept] == [getattr(before, name) for name in kept]


def test_a_result_of_another_image_is_not_overwritten(pipeline, image):
    pipeline(image, None)
    before = image.with_name("X.landmarks.json").read_bytes()
    image.with_name("X").write_bytes(image.read_bytes())
    with pytest.raises(ResultNameTaken, match=r"X: .*belongs to X\.dcm"):
        pipeline(image.with_name("X"), None)
    assert image.with_name("X.landmarks.json").read_bytes() == before


def test_an_image_whose_name_is_taken_costs_no_time_in_the_network(pipeline, contract, rows, image):
    pipeline(image, None)
    other, asked = image.with_name("X"), []
    other.write_bytes(image.read_bytes())
    backend = FunctionBackend(lambda batch: asked.append(batch) or rows(SPINOUS, CARINA), 36)
    with pytest.raises(ResultNameTaken):
        Pipeline(Engine(backend, contract(), "c" * 64), CONFIG)(other, None)
    assert asked == []


def test_a_results_folder_that_is_not_there_is_named(pipeline, image, tmp_path):
    with pytest.raises(ResultsNotWritable, match="not there"):
        pipeline(image, tmp_path / "results")


@pytest.mark.parametrize("damaged", [False, True], ids=["good", "refused"])
def test_an_image_that_changes_while_it_is_processed_gets_no_result_of_its_former_self(
    contract, rows, image, dicom, damaged
):
    # that result would be younger than the new bytes: after a restart it would pass for theirs
    coming = dicom(np.full((192, 256), 7, "<u2") + np.arange(256, dtype="<u2"))
    if damaged:
        image.write_bytes(image.read_bytes()[:-100])

    class Clock:
        def __call__(self):  # the stages ask it; the first one is under way
            image.write_bytes(coming)
            return 0.0

    engine = Engine(FunctionBackend(lambda batch: rows(SPINOUS, CARINA), 36), contract(), "c" * 64)
    with pytest.raises(ImageUnreadable, match="changed while"):
        Pipeline(engine, CONFIG, clock=Clock())(image, None)
    assert [path.name for path in image.parent.iterdir()] == ["X.dcm"]
    assert image.read_bytes() == coming


# --- privacy ---


def test_neither_the_patient_nor_the_hospital_is_named_in_any_output(pipeline, write, dicom, collimated):
    path = write(dicom(collimated(), **PLANTED), "X.dcm")
    assert all(secret in path.read_bytes() for secret in SECRETS)
    assert pipeline(path, None).status == "ok"
    for output in sorted({*path.parent.iterdir()} - {path}):
        for secret in SECRETS:
            assert secret not in output.read_bytes()
            assert secret.decode() not in output.name
    with Image.open(path.with_name("X.landmarks.png")) as picture:
        assert picture.info == {}


def test_no_reason_names_the_patient_wherever_the_file_is_cut(pipeline, write, dicom, collimated):
    whole = dicom(collimated(64, 64, (10, 50, 10, 50)), **PLANTED)
    header = len(whole) - 2 * 64 * 64
    for length in [*range(1, header, 7), header, header + 1, len(whole) - 1]:
        path = write(whole[:length], "X.dcm")
        try:
            said = pipeline(path, None).reason
        except EdgeError as exc:
            said = str(exc)
        assert said
        assert not any(secret.decode() in said for secret in SECRETS)


def test_two_names_that_read_alike_keep_their_pictures_apart(pipeline, tmp_path, dicom, collimated):
    """A byte that is not UTF-8, and the same in letters."""
    for name in (b"a\xff.dcm", b"a\\xff.dcm"):
        (tmp_path / os.fsdecode(name)).write_bytes(dicom(collimated()))
    results = [pipeline(path, None) for path in sorted(tmp_path.glob("a*.dcm"))]
    listed = {output.name for result in results for output in result.outputs}
    assert len(listed) == 2
    assert all((tmp_path / name).is_file() for name in listed)
    assert len(list(tmp_path.glob("*.landmarks.png"))) == 2
