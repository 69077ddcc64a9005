import hashlib
import io
import json
import os
import tracemalloc
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from PIL import Image

from edge.backends.function import FunctionBackend
from edge.engines import Engine
from edge.errors import DamagedImage, EdgeError, ImageUnreadable, NotAnImage, ResultNameTaken, ResultsNotWritable
from edge.keys import result_key
from edge.pipeline import Pipeline, Source, publish_made
from edge.portal_image import MAX_FILE_BYTES
from edge.results.document import Result
from edge.settle import Happening

CONFIG = "d" * 64
SPINOUS, CARINA = [(20.0, 30.0, 0.6), (21.0, 20.0, 0.7)], [(24.0, 25.0, 0.9)]
STAGES = ["read", "preprocess", "infer", "landmarks", "overlay"]
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


# --- results ---


def test_an_image_gets_its_landmarks_and_a_picture_beside_it(pipeline, image):
    result = pipeline(image, None)
    assert names(image.parent) == ["X.dcm", "X.landmarks.json", "X.landmarks.png"]
    assert image.with_name("X.landmarks.json").read_bytes() == result.to_json()
    published = document(image.with_name("X.landmarks.json"))
    assert (published["status"], published["reason"]) == ("ok", None)
    # 256 px on a grid of 48, 6 rows of padding above: x = (x' + 0.5) 256/48 - 0.5, y likewise after the padding
    expected = [
        ("spinous_process", 20.0, 20.0, 0.7, 21.0),
        ("spinous_process", 20.0, 30.0, 0.6, 20.0),
        ("tracheal_bifurcation", 24.0, 25.0, 0.9, 24.0),
    ]
    for entry, (kind, _, y_net, score, x_net) in zip(published["landmarks"], expected, strict=True):
        assert (entry["kind"], entry["score"]) == (kind, score)
        x_px, y_px = (x_net + 0.5) * 256 / 48 - 0.5, (y_net - 6 + 0.5) * 192 / 36 - 0.5
        assert (entry["x_px"], entry["y_px"]) == pytest.approx((x_px, y_px), abs=5.1e-4)  # px; 3 decimals
        # a centred panel, 0.8 mm a pixel, SAD/SID 1000/1500
        x_mm, y_mm = (entry["x_px"] - 127.5) * 0.8 / 1.5, -(entry["y_px"] - 95.5) * 0.8 / 1.5
        assert (entry["x_mm"], entry["y_mm"]) == pytest.approx((x_mm, y_mm), abs=1e-3)  # mm; 3 decimals of each


def test_a_result_says_which_image_it_is_about(pipeline, image):
    pipeline(image, None)
    assert document(image.with_name("X.landmarks.json"))["image"] == {
        "name": "X.dcm",
        "sha256": hashlib.sha256(image.read_bytes()).hexdigest(),
        "sop_instance_uid": "1.2.3.4",
        "modality": "RTIMAGE",
        "rows": 192,
        "columns": 256,
    }


def test_a_result_says_what_made_it(pipeline, image, contract):
    provenance = pipeline(image, None).provenance
    promise = contract()
    assert provenance.software.startswith("landmarknet-edge ")
    assert (provenance.release, provenance.model_sha256) == (promise.release, promise.model_sha256)
    assert (provenance.contract_sha256, provenance.config_sha256) == ("c" * 64, CONFIG)
    assert provenance.backend["flavour"] == "function"


def test_a_result_has_the_key_of_its_file_release_and_configuration(pipeline, image):
    result = pipeline(image, None)
    said = result.provenance
    expected = result_key(result.image.sha256, said.model_sha256, said.contract_sha256, None, CONFIG)
    assert said.key == expected
    assert document(image.with_name("X.landmarks.json"))["provenance"]["key"] == expected


def test_a_refusal_has_the_key_that_a_result_would_have(pipeline, image):
    image.write_bytes(image.read_bytes()[:-1000])
    result = pipeline(image, None)
    said = result.provenance
    assert said.key == result_key(result.image.sha256, said.model_sha256, said.contract_sha256, None, CONFIG)


def test_other_settings_have_another_key(engine, image):
    keys = {Pipeline(engine(SPINOUS, CARINA), config * 64)(image, None).provenance.key for config in "ab"}
    assert len(keys) == 2


def test_the_release_s_manifest_is_part_of_the_key(engine, image):
    of_a_store = replace(engine(SPINOUS, CARINA), manifest_sha256="e" * 64)
    said = Pipeline(of_a_store, CONFIG)(image, None).provenance
    sha256 = hashlib.sha256(image.read_bytes()).hexdigest()
    assert said.key == result_key(sha256, said.model_sha256, said.contract_sha256, "e" * 64, CONFIG)


# --- making apart from publishing ---


def test_what_is_made_is_what_is_published_and_making_stores_nothing(pipeline, image):
    made = pipeline.make(Source(image, "X.dcm"))
    assert names(image.parent) == ["X.dcm"]
    publish_made(made, image, None)
    published = image.with_name("X.landmarks.json").read_bytes()
    assert published == made.result.to_json()
    assert image.with_name("X.landmarks.png").read_bytes() == dict(made.outputs)["X.landmarks.png"]
    pipeline(image, None)
    again = Result.model_validate_json(image.with_name("X.landmarks.json").read_bytes())
    assert again.model_copy(update={"timing_ms": {}}) == made.result.model_copy(update={"timing_ms": {}})


def test_a_result_is_of_the_name_that_was_given_not_of_the_copy(pipeline, image):
    copy = image.rename(image.with_name("0123.copy"))
    made = pipeline.make(Source(copy, "X.dcm"))
    assert made.result.image.name == "X.dcm"
    assert [name for name, _ in made.outputs] == ["X.landmarks.png"]


def test_a_refusal_is_of_the_name_that_was_given_too(pipeline, image):
    image.write_bytes(image.read_bytes()[:-1000])
    made = pipeline.make(Source(image.rename(image.with_name("0123.copy")), "X.dcm"))
    assert (made.result.status, made.result.image.name, made.outputs) == ("refused", "X.dcm", ())
    assert "X.dcm: " in made.result.reason
    assert "0123" not in made.result.reason


def test_a_file_that_is_not_the_one_that_was_hashed_is_tried_again(pipeline, image):
    with pytest.raises(ImageUnreadable, match=r"^X\.dcm: its working copy is not what was claimed"):
        pipeline.make(Source(image, "X.dcm", "0" * 64))


def test_an_image_can_be_read_by_somebody_else(engine, image):
    def read(path, name):
        raise DamagedImage(f"{name}: {path.name} for the test")

    made = Pipeline(engine(SPINOUS, CARINA), CONFIG, read=read).make(Source(image, "Y.dcm"))
    assert made.result.reason == "Y.dcm: X.dcm for the test"


def test_the_pipeline_tells_that_it_has_published(pipeline, image):
    told = []
    pipeline(image, None, tell=lambda happening, **facts: told.append((happening, facts)))
    assert told == [(Happening.PUBLISHED, {})]


def test_an_image_without_peaks_has_no_landmarks_and_a_picture(engine, image):
    result = Pipeline(engine([], []), CONFIG)(image, None)
    assert (result.status, result.reason, result.landmarks) == ("no_landmarks", None, ())
    assert names(image.parent) == ["X.dcm", "X.landmarks.json", "X.landmarks.png"]


def test_a_picture_file_has_landmarks_in_pixels_and_the_reason_why_not_in_millimetres(pipeline, write, collimated):
    stream = io.BytesIO()
    Image.fromarray(collimated()).save(stream, "PNG")
    result = pipeline(write(stream.getvalue(), "X.png"), None)
    assert result.status == "ok"
    assert all(entry.x_mm is None and entry.y_mm is None for entry in result.landmarks)
    assert result.geometry.status == "unknown"
    assert "no geometry" in result.geometry.reason


def test_the_outputs_that_a_result_lists_are_there_with_these_bytes(pipeline, image):
    (output,) = pipeline(image, None).outputs
    assert output.name == "X.landmarks.png"
    assert hashlib.sha256(image.with_name(output.name).read_bytes()).hexdigest() == output.sha256


def test_the_outputs_of_a_name_that_is_no_text_are_listed_by_the_name_they_have(pipeline, image):
    path = image.rename(image.with_name(os.fsdecode(b"\xe4.dcm")))
    (output,) = pipeline(path, None).outputs
    assert output.name.startswith(r"\xe4~")  # and not the name of an image that is called so in letters
    assert hashlib.sha256(path.with_name(output.name).read_bytes()).hexdigest() == output.sha256


def test_results_go_to_another_folder_where_one_is_named(pipeline, image, tmp_path):
    (tmp_path / "results").mkdir()
    pipeline(image, tmp_path / "results")
    assert names(tmp_path / "results") == ["X.landmarks.json", "X.landmarks.png"]
    assert names(tmp_path) == ["X.dcm", "results"]


def test_without_overlay_there_is_no_picture(engine, image):
    result = Pipeline(engine(SPINOUS, CARINA), CONFIG, overlay=False)(image, None)
    assert names(image.parent) == ["X.dcm", "X.landmarks.json"]
    assert result.outputs == ()
    assert list(result.timing_ms) == STAGES[:-1]


def test_every_stage_is_timed(engine, image):
    ticks = count()  # a clock that moves on by 2 ms each time it is read: once before and once after a stage
    pipeline = Pipeline(engine(SPINOUS, CARINA), CONFIG, clock=lambda: next(ticks) * 2e-3)
    assert pipeline(image, None).timing_ms == dict.fromkeys(STAGES, 2.0)


def test_a_stage_that_runs_several_times_is_timed_as_one(contract, rows, write, collimated):
    stream = io.BytesIO()
    Image.fromarray(collimated()).save(stream, "PNG")  # no geometry, so that three sizes are tried
    promise = contract(mm_per_net_px=2.0, assumed_longer_side_mm=(40.0, 60.0, 80.0))
    engine = Engine(FunctionBackend(lambda _: rows(SPINOUS, CARINA), 36), promise, "c" * 64)
    ticks = count()
    result = Pipeline(engine, CONFIG, clock=lambda: next(ticks) * 2e-3)(write(stream.getvalue(), "X.png"), None)
    assert result.timing_ms == dict.fromkeys(STAGES, 2.0) | {"preprocess": 6.0, "infer": 6.0}
    assert list(result.timing_ms) == STAGES


def test_an_image_of_known_geometry_is_read_at_the_release_s_scale(contract, rows, image):
    # 256 px of 0.8 mm at SID 1500 are 136.5 mm at the isocentre: 27 px of 5 mm, in the middle of 48
    engine = Engine(FunctionBackend(lambda _: rows([], CARINA), 36), contract(mm_per_net_px=5.0), "c" * 64)
    (entry,) = Pipeline(engine, CONFIG)(image, None).landmarks
    # the peak (24, 25) lies 24 - 23.5 and 25 - 23.5 network px off the middle; an image of 27 x 20 px, where it should
    # be 27.3 x 20.5, may lie half a px beside it
    assert (entry.x_mm, entry.y_mm) == pytest.approx((0.5 * 5, -1.5 * 5), abs=0.5 * 5 + 0.2)
    off_px = entry.x_px - 127.5, entry.y_px - 95.5
    assert (entry.x_mm, entry.y_mm) == pytest.approx((off_px[0] * 0.8 / 1.5, -off_px[1] * 0.8 / 1.5), abs=1e-3)


def test_a_line_and_its_uncertainty_are_published(contract, rows, painted, image):
    kinds = [
        {"kind": "spinous_process", "threshold": 0.35, "at_most": 3},
        {"kind": "spine_line", "threshold": 0.5, "at_most": 64, "shape": "line", "sigma": [0.75, 0.0]},
    ]
    heatmaps = np.zeros((2, 36, 36), np.float32)
    heatmaps[1, :30, 18] = 0.9  # site 18 is network px 24, and site 29 network px 39
    engine = Engine(painted(lambda _: (rows(SPINOUS, []), heatmaps)), contract(kinds=kinds), "c" * 64)
    result = Pipeline(engine, CONFIG)(image, None)
    published = document(image.with_name("X.landmarks.json"))["landmarks"]
    assert [one["kind"] for one in published] == ["spinous_process"] * 2 + ["spine_line"] * 4
    assert [one["sigma_px"] for one in published] == [None] * 2 + [pytest.approx(0.75 * 256 / 48, abs=5e-4)] * 4
    # one point every 8 network px, 4b + 1.5, from row 6 on, where the image begins: 9.5, 17.5, 25.5, 33.5
    assert [one.y_px for one in result.landmarks[2:]] == pytest.approx(
        [(y - 6 + 0.5) * 192 / 36 - 0.5 for y in (9.5, 17.5, 25.5, 33.5)], abs=5.1e-4
    )
    assert [one.x_px for one in result.landmarks[2:]] == pytest.approx([24.5 * 256 / 48 - 0.5] * 4, abs=5.1e-4)


def test_the_same_file_twice_gives_the_same_bytes_but_for_the_times(pipeline, image):
    first, picture = pipeline(image, None), image.with_name("X.landmarks.png").read_bytes()
    second = pipeline(image, None)
    assert second.model_copy(update={"timing_ms": {}}).to_json() == first.model_copy(update={"timing_ms": {}}).to_json()
    assert image.with_name("X.landmarks.png").read_bytes() == picture


def test_the_network_sees_the_preprocessed_image(contract, rows, image):
    seen = []

    def answer(batch):
        seen.append(batch)
        return rows(SPINOUS, CARINA)

    Pipeline(Engine(FunctionBackend(answer, 36), contract(), "c" * 64), CONFIG)(image, None)
    (batch,) = seen
    assert (batch.shape, batch.dtype) == ((1, 1, 48, 48), np.float32)
    assert (batch.min(), batch.max()) == (-1, 1)


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


def test_a_file_far_too_large_is_refused_without_being_taken_into_memory(pipeline, tmp_path):
    path = tmp_path / "X.dcm"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    tracemalloc.start()
    try:
        result = pipeline(path, None)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert result.status == "refused"
    assert "limit" in result.reason
    assert peak_bytes < 16 * 2**20  # the file has 256 MiB


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
