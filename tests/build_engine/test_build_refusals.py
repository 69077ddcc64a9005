"""What ends a build, and that nothing is published then."""

import numpy as np
import onnx
import pytest

from build_engine.build import build_release
from build_engine.publish import PublishError
from build_engine.recipe import RecipeError
from calibration.calibration_set import CalibrationError
from calibration.ranges import read_ranges, write_ranges
from edge.errors import BackendFailed, BadConfig, BadRelease, StoreNotWritable
from landmarknet.checkpoint import Checkpoint, save_checkpoint
from tests.build_engine.recipes import PATIENTS, TINY, as_of, calibrated, mirrored, stored


def test_a_graph_that_computes_something_else_is_not_published(recipe, model, monkeypatch):
    graph = onnx.load_from_string(model)
    bias = next(i for i in graph.graph.initializer if i.name.endswith("heatmap_out.bias"))
    values = onnx.numpy_helper.to_array(bias) + np.float32(0.05)
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    monkeypatch.setattr("build_engine.build.export_onnx", lambda _: graph.SerializeToString())
    with pytest.raises(BackendFailed, match="golden image 0"):
        build_release(recipe, lambda _: None)
    assert not recipe.output.exists()


def test_kinds_must_be_the_networks_own_in_its_order(recipe):
    swapped = recipe.model_copy(update={"kinds": recipe.kinds[::-1]})
    with pytest.raises(RecipeError, match="in its order"):
        build_release(swapped, lambda _: None)


@pytest.mark.usefixtures("exported")
def test_a_checkpoint_that_does_not_say_whom_it_was_trained_on_is_refused(recipe, network):
    save_checkpoint(recipe.checkpoint, Checkpoint(TINY, 1, network.state_dict(), {}, {}, {"patients": PATIENTS}))
    with pytest.raises(RecipeError, match="does not say which negatives it was trained on"):
        build_release(recipe, lambda _: None)


def test_a_missing_checkpoint_is_named(recipe, tmp_path):
    with pytest.raises(RecipeError, match=r"gone\.pt does not exist"):
        build_release(recipe.model_copy(update={"checkpoint": tmp_path / "gone.pt"}), lambda _: None)


def test_golden_images_that_show_no_landmark_of_a_kind_prove_nothing(recipe, exported):
    high = tuple(kind.model_copy(update={"threshold": 1.0}) for kind in recipe.kinds)
    with pytest.raises(RecipeError, match="no golden image shows a spinous_process"):
        build_release(recipe.model_copy(update={"kinds": high}), lambda _: None)
    assert not recipe.output.exists()


@pytest.fixture
def published(int8_recipe):
    """Return the recipe of a release whose name the store already holds, and what its store and reports are."""
    for file in (int8_recipe.store.folder / "releases/other/model.onnx", int8_recipe.report / "other.md"):
        file.parent.mkdir(parents=True)
        file.write_text("published")
    return int8_recipe, stored(int8_recipe)


@pytest.mark.usefixtures("exported")
def test_images_of_the_calibration_set_cannot_judge(recipe, tmp_path, collected, samples):
    overlapping = calibrated(recipe, tmp_path, samples, *as_of(collected[1], samples / "lidc0002_ap_mv_00.dcm"))
    with pytest.raises(RecipeError, match=r"1 of 4 test images are in the set: lidc0002_ap_mv_00\.dcm"):
        build_release(overlapping, lambda _: None)


def test_a_patient_of_the_calibration_set_cannot_judge_in_another_image_either(recipe, tmp_path, collected, samples):
    other_seed = mirrored(samples, tmp_path / "a.dcm")
    with pytest.raises(RecipeError, match=r"apart from its images: 4 of 4 test images show a patient of it.*select"):
        build_release(calibrated(recipe, tmp_path, samples, *as_of(collected[1], other_seed)), lambda _: None)


@pytest.mark.usefixtures("exported")
def test_ranges_over_another_calibration_set_are_refused_and_nothing_changes(published):
    recipe, before = published
    path = recipe.calibration.ranges
    write_ranges(path, read_ranges(path)[0].model_copy(update={"calibration_set_sha256": "0" * 64}))
    with pytest.raises(RecipeError, match=r"collected over the calibration set 0000.*collect again"):
        build_release(recipe, lambda _: None)
    assert stored(recipe) == before


@pytest.mark.parametrize("precision", ["int8", "auto"])
def test_a_name_that_is_taken_is_refused_before_anything_is_made(published, precision):
    recipe, _ = published
    (recipe.store.folder / "releases/test-onnxruntime-int8").mkdir()
    (recipe.report / "test-onnxruntime-int8.md").write_text("of the published release")
    before, said = stored(recipe), []
    with pytest.raises(BadRelease, match="a release never changes"):
        build_release(recipe.model_copy(update={"precision": precision}), said.append)
    assert said == []
    assert stored(recipe) == before


def test_a_key_that_cannot_be_read_is_refused_before_anything_is_made(published):
    recipe, before = published
    recipe.store.signing_key.unlink()
    said = []
    with pytest.raises(BadConfig, match=r"site\.key: key cannot be read"):
        build_release(recipe, said.append)
    assert said == []
    assert stored(recipe) == before


@pytest.mark.parametrize("what", ["store", "report"])
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_made(published, tmp_path, what):
    recipe, before = published
    (tmp_path / "file").touch()
    elsewhere = tmp_path / "file" / "folder"  # nobody makes a folder below a file, root neither
    changed = recipe.store.model_copy(update={"folder": elsewhere}) if what == "store" else elsewhere
    said = []
    with pytest.raises((StoreNotWritable, RecipeError), match=f"{elsewhere}: .*(Not a directory)"):
        build_release(recipe.model_copy(update={what: changed}), said.append)
    assert said == []
    assert stored(recipe) == before


def test_a_plain_folder_that_cannot_be_written_is_refused_before_anything_is_made(recipe, tmp_path):
    (tmp_path / "file").touch()
    said = []
    with pytest.raises(PublishError, match=r"file/release: cannot be written \(Not a directory"):
        build_release(recipe.model_copy(update={"output": tmp_path / "file" / "release"}), said.append)
    assert said == []


@pytest.mark.usefixtures("exported")
def test_ranges_of_another_model_are_refused(int8_recipe):
    path = int8_recipe.calibration.ranges
    other = read_ranges(path)[0].model_copy(update={"onnx_sha256": "0" * 64})
    write_ranges(path, other)
    with pytest.raises(CalibrationError, match="0000"):
        build_release(int8_recipe, lambda _: None)


def test_patients_that_were_trained_on_cannot_judge(int8_recipe):
    trained = int8_recipe.gate.model_copy(update={"patients": ("lidc0001",)})
    with pytest.raises(RecipeError, match="trained on lidc0001"):
        build_release(int8_recipe.model_copy(update={"gate": trained}), lambda _: None)
