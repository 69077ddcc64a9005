import hashlib

import numpy as np
import pytest

from build_engine.build import GateFailed, build_release
from build_engine.quantize import quantisable_layers
from build_engine.recipe import RecipeError, read_recipe
from build_engine.verify import GateLimits
from calibration.calibration_set import read_calibration_set
from edge.detect import scale_ratios
from edge.engines import GOLDEN_INPUT_SCALE, golden_answers, open_engine, open_store_engine, read_golden
from edge.portal_image import read_portal_image
from edge.preprocess import to_network_input
from edge.store import Store
from landmarknet.checkpoint import checkpoint_sha256, load_checkpoint
from landmarknet.decode import TorchBackend
from landmarknet.network import KINDS
from landmarknet.operating_point import reading_of
from tests.build_engine.recipes import NEGATIVES, PATIENTS, SITES, SIZE, TINY


@pytest.mark.usefixtures("exported")
def test_build_publishes_a_release_that_opens(recipe):
    said = []
    folder = build_release(recipe, said.append)
    assert open_engine(folder, threads=1).contract.release == "test"
    assert [line.split()[0] for line in said] == ["export", "verify", "precision", "compile", "publish"]
    assert sorted(p.name for p in folder.iterdir()) == ["contract.json", "golden.npz", "model.onnx"]


@pytest.mark.usefixtures("exported")
def test_the_contract_says_how_the_network_is_fed_and_read(recipe):
    promise = open_engine(build_release(recipe, lambda _: None), threads=1).contract
    assert (promise.input_size, promise.heatmap_size, promise.mm_per_net_px) == (SIZE, SITES, 1.6)
    reading = reading_of(TINY, recipe.kinds)
    assert {name: getattr(promise, name) for name in reading.model_dump()} == dict(reading)
    assert promise.kinds == recipe.kinds
    assert promise.trained_on == (*PATIENTS, *NEGATIVES)


@pytest.mark.usefixtures("exported")
def test_golden_images_are_fed_at_the_release_s_scale(recipe, network):
    folder = build_release(recipe, lambda _: None)
    image = read_portal_image(recipe.golden_images[0])
    (ratio,) = scale_ratios(image, reading_of(TINY))
    assert ratio is not None
    batch, placement = to_network_input(image.pixels, SIZE, ratio)
    assert placement.scale[0] < SIZE / max(image.pixels.shape)  # else the whole image would do as well
    golden = read_golden(folder, open_engine(folder, threads=1).contract)
    np.testing.assert_allclose(golden.batches[0], batch, rtol=0, atol=0.5 / GOLDEN_INPUT_SCALE + 1e-6)  # stored as int8
    expected = golden_answers(TorchBackend(network).infer(golden.batches[0]), reading_of(TINY))
    np.testing.assert_allclose(golden.peaks[0][:, :8], expected[:, :8], rtol=0, atol=0.02)  # px; as above


@pytest.mark.usefixtures("exported")
def test_build_again_keeps_the_model_card_and_leaves_nothing_behind(recipe):
    build_release(recipe, lambda _: None)
    (recipe.output / "MODEL_CARD.md").write_text("card")
    build_release(recipe, lambda _: None)
    assert (recipe.output / "MODEL_CARD.md").read_text() == "card"
    assert sorted(p.name for p in recipe.output.parent.iterdir()) == ["release", "weights.pt"]


def test_the_shipped_release_is_what_its_recipe_makes_of_the_shipped_checkpoint(samples, shipped):
    root = samples.parent
    recipe = read_recipe(root / "build_engine/recipes/room_cpu.toml")
    assert shipped.contract.release == recipe.release
    assert shipped.contract.kinds == recipe.kinds
    assert tuple(k.kind for k in recipe.kinds) == KINDS
    checkpoint = load_checkpoint(root / recipe.checkpoint)
    assert shipped.contract.checkpoint_sha256 == checkpoint_sha256(root / recipe.checkpoint)
    trained_on = (*checkpoint.training["patients"], *checkpoint.training["negatives"])
    assert shipped.contract.trained_on == trained_on
    reading = reading_of(checkpoint.network, recipe.kinds)
    assert {name: getattr(shipped.contract, name) for name in reading.model_dump()} == dict(reading)


@pytest.mark.usefixtures("exported")
def test_an_int8_release_is_judged_signed_and_put_into_the_store(int8_recipe, model):
    folder = build_release(int8_recipe, lambda _: None)
    store = Store(int8_recipe.store.folder, int8_recipe.store.signing_key.with_suffix(".pub"))
    release = store.verify("test-onnxruntime-int8")
    assert folder == release.folder
    assert store.current() is None, "a release is not in use before someone says so"
    assert release.manifest.precision == release.contract.precision == "int8"
    assert release.manifest.delivered["int8"] == len(quantisable_layers(model))
    assert release.manifest.onnx_sha256 == hashlib.sha256(model).hexdigest()
    assert release.manifest.calibration_set_sha256 == read_calibration_set(int8_recipe.calibration.set).sha256
    assert release.manifest.gate["passed"] is True
    assert {"gate.md", "gate.json", "gate.png"} < set(release.files)
    store.use("test-onnxruntime-int8")
    assert open_store_engine(store, 1, "refuse").backend.describe()["precision"] == "int8"


@pytest.mark.usefixtures("exported")
def test_a_float16_release_says_what_it_computes_in_on_this_processor(int8_recipe):
    folder = build_release(int8_recipe.model_copy(update={"precision": "fp16"}), lambda _: None)
    store = Store(int8_recipe.store.folder, int8_recipe.store.signing_key.with_suffix(".pub"))
    release = store.verify(folder.name)
    assert release.contract.precision == "fp16"
    assert release.contract.delivered == release.manifest.delivered
    native = release.manifest.delivered["fp16"] > 0
    store.use(folder.name)
    said = open_store_engine(store, 1, "refuse").backend.describe()["precision"]
    assert said == ("fp16" if native else "fp32 computation of fp16 weights")


@pytest.fixture
def strict_half(int8_recipe):
    """Return a recipe that the gate refuses, in float16, which needs no calibration set: there is none."""
    strict = GateLimits(shift_net_px=0.0, pck_drop_points=0.0, score_margin=0.0)
    gate = int8_recipe.gate.model_copy(update={"limits": strict})
    int8_recipe.calibration.set.unlink()
    return int8_recipe.model_copy(update={"gate": gate, "precision": "fp16"})


@pytest.mark.usefixtures("exported")
def test_a_report_that_cannot_be_written_any_more_ends_the_build_and_says_what_to_do(strict_half):
    def then(line):
        if line.startswith("compile"):
            strict_half.report.touch()  # where the folder was to be made

    with pytest.raises(RecipeError, match=r"the gate's report on test-onnxruntime-fp16 cannot be written .*`report`"):
        build_release(strict_half, then)


@pytest.mark.usefixtures("exported")
def test_what_moves_a_landmark_is_not_published_but_reported(strict_half):
    half = strict_half
    with pytest.raises(GateFailed, match="nothing is published"):
        build_release(half, lambda _: None)
    assert not (half.store.folder / "releases").exists()
    assert "NOT passed" in (half.report / "test-onnxruntime-fp16.md").read_text()


@pytest.mark.usefixtures("exported")
def test_an_rtx_plan_is_compiled_and_says_that_it_was_not_run(int8_recipe):
    engine = int8_recipe.engine.model_copy(update={"flavour": "tensorrt_rtx"})
    folder = build_release(int8_recipe.model_copy(update={"engine": engine, "precision": "fp16"}), lambda _: None)
    release = Store(int8_recipe.store.folder, int8_recipe.store.signing_key.with_suffix(".pub")).verify(folder.name)
    assert (release.contract.flavour, release.contract.model_file) == ("tensorrt_rtx", "model.plan")
    assert release.manifest.delivered["fp16"] > 0
    if release.manifest.gpu is None:
        assert "was not run" in release.manifest.gate["ran_on"]
