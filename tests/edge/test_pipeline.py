import hashlib
import io
import json
import os
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from PIL import Image

from edge.backends.function import FunctionBackend
from edge.config import Config
from edge.engines import Engine
from edge.errors import DamagedImage, ImageUnreadable
from edge.keys import result_key, settings_sha256
from edge.pipeline import Pipeline, Source, publish_made
from edge.results.document import Result
from edge.settle import Happening

CONFIG = "d" * 64
SETTINGS = settings_sha256({"overlay": True})
SPINOUS, CARINA = [(20.0, 30.0, 0.6), (21.0, 20.0, 0.7)], [(24.0, 25.0, 0.9)]
STAGES = ["read", "preprocess", "infer", "landmarks", "overlay"]


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


def test_a_result_has_the_key_of_its_file_release_and_settings(pipeline, image):
    result = pipeline(image, None)
    said = result.provenance
    expected = result_key(result.image.sha256, said.model_sha256, said.contract_sha256, None, SETTINGS)
    assert (said.key, said.settings_sha256) == (expected, SETTINGS)
    assert document(image.with_name("X.landmarks.json"))["provenance"]["key"] == expected


def test_a_refusal_has_the_key_that_a_result_would_have(pipeline, image):
    image.write_bytes(image.read_bytes()[:-1000])
    result = pipeline(image, None)
    said = result.provenance
    assert said.key == result_key(result.image.sha256, said.model_sha256, said.contract_sha256, None, SETTINGS)


def test_other_settings_have_another_key(engine, image):
    keys = {Pipeline(engine(SPINOUS, CARINA), CONFIG, overlay)(image, None).provenance.key for overlay in (True, False)}
    assert len(keys) == 2


def test_another_width_of_interval_is_another_key_only_where_images_are_registered(engine, image, tmp_path):
    def key(widest_interval_mm, **references):
        config = Config(widest_interval_mm=widest_interval_mm, **references)
        return replace(Pipeline.of(config, engine(SPINOUS, CARINA)), config_sha256=CONFIG)(image, None).provenance.key

    assert len({key(5.0), key(10.0)}) == 1
    assert len({key(5.0), key(5.0, references=tmp_path), key(10.0, references=tmp_path)}) == 2


def test_another_configuration_that_makes_the_same_has_the_same_key(engine, image):
    keys = {Pipeline(engine(SPINOUS, CARINA), config * 64)(image, None).provenance.key for config in "ab"}
    assert len(keys) == 1


def test_the_release_s_manifest_is_part_of_the_key(engine, image):
    of_a_store = replace(engine(SPINOUS, CARINA), manifest_sha256="e" * 64)
    said = Pipeline(of_a_store, CONFIG)(image, None).provenance
    sha256 = hashlib.sha256(image.read_bytes()).hexdigest()
    assert said.key == result_key(sha256, said.model_sha256, said.contract_sha256, "e" * 64, SETTINGS)


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


def test_the_overlay_s_film_is_begun_before_the_network_runs(contract, rows, image):
    order = []

    def infer(batch):
        order.append("infer")
        return rows(SPINOUS, CARINA)

    def aside(make):
        order.append("film")
        film = make()
        return lambda: film

    engine = Engine(FunctionBackend(infer, 36), contract(), "c" * 64)
    made = Pipeline(engine, CONFIG, aside=aside).make(Source(image, "X.dcm"))
    assert order == ["film", "infer"]
    assert made.outputs == Pipeline(engine, CONFIG).make(Source(image, "X.dcm")).outputs


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
