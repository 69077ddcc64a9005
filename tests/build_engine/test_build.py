import hashlib
import shutil

import numpy as np
import onnx
import onnxruntime as ort
import pydicom
import pytest
import torch
from rich.console import Console
from rich.progress import Progress

from build_engine.build import GateFailed, build_release
from build_engine.export import export_onnx
from build_engine.quantize import quantisable_layers
from build_engine.recipe import Recipe, RecipeError, read_recipe
from build_engine.verify import GateLimits
from calibration.calibration_set import (
    CalibrationError,
    CalibrationSet,
    Entry,
    Stratum,
    read_calibration_set,
    write_calibration_set,
)
from calibration.collect import collect
from calibration.ranges import read_ranges, write_ranges
from edge.contract import KindContract
from edge.detect import scale_ratios
from edge.engines import GOLDEN_INPUT_SCALE, golden_answers, open_engine, open_store_engine, read_golden
from edge.errors import BackendFailed, BadConfig, BadRelease
from edge.portal_image import read_portal_image
from edge.preprocess import to_network_input
from edge.signature import generate_key
from edge.store import Store
from landmarknet.checkpoint import Checkpoint, checkpoint_sha256, load_checkpoint, save_checkpoint
from landmarknet.decode import LandmarkDetector, TorchBackend
from landmarknet.network import KINDS, LINE_KINDS, LandmarkNet, NetworkConfig
from landmarknet.operating_point import reading_of

SIZE, SITES = 192, 144
TINY = NetworkConfig(bottom_up="resnet18", width=0.125, head_width=0.0625, input_size=SIZE, mm_per_net_px=1.6)
PATIENTS = ["lidc0001", "lidc0003"]
NEGATIVES = ["a_limb"]
STRATUM = Stratum(view="ap", machine="unknown", energy="mv", exposure="level-low")
# random weights find no landmarks, and the samples are few
NO_LIMITS = {
    "shift_net_px": 1e3,
    "pck_drop_points": 100.0,
    "score_margin": 1e3,
    "unclear_share": 1.0,
    "least_images": 1,
}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = LandmarkNet(TINY).eval()
    with torch.no_grad():  # spread the heatmaps and lift them above zero, so that there are peaks to compare
        network.heatmap_out.weight *= 20
        network.heatmap_out.bias.fill_(0.5)
    return network


@pytest.fixture(scope="module")
def model(network):
    return export_onnx(network)


@pytest.fixture
def exported(monkeypatch, network, model):
    """Spare the builds the 10 s of an export: the graph is the one that the tests above look at."""

    def export(asked):
        assert all(torch.equal(a, b) for a, b in zip(asked.parameters(), network.parameters(), strict=True))
        return model

    monkeypatch.setattr("build_engine.build.export_onnx", export)


@pytest.fixture
def recipe(tmp_path, network, samples):
    checkpoint = tmp_path / "weights.pt"
    save_checkpoint(
        checkpoint, Checkpoint(TINY, 1, network.state_dict(), {}, {}, {"patients": PATIENTS, "negatives": NEGATIVES})
    )
    return Recipe(
        release="test",
        checkpoint=checkpoint,
        output=tmp_path / "release",
        golden_images=(samples / "lidc0002_ap_mv_00.dcm",),
        kinds=tuple(
            KindContract(
                kind=kind, threshold=0.0, at_most=3, shape="line" if kind in LINE_KINDS else "point", sigma=(0.5, 1.0)
            )
            for kind in KINDS
        ),
    )


def test_graph_has_the_promised_inputs_and_outputs(model):
    session = ort.InferenceSession(model)
    assert [(i.name, i.shape, i.type) for i in session.get_inputs()] == [("image", [1, 1, SIZE, SIZE], "tensor(float)")]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [
        ("peaks", [len(KINDS), 24, 3]),
        ("heatmaps", [len(KINDS), SITES, SITES]),
    ]


def test_graph_gives_what_torch_gives(network, model):
    image = torch.randn(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        peaks, heatmaps = LandmarkDetector(network)(image)
    session = ort.InferenceSession(model)
    ours = session.run(["peaks", "heatmaps"], {"image": image.numpy()})
    assert (peaks[:, :, 2] > 0).any(), "no peaks would equal anything"
    assert abs(ours[1] - heatmaps.numpy()).max() < 1e-4 * float(heatmaps.abs().max())
    confident = peaks[:, :8]  # further down, rounding may swap peaks of equal height
    assert abs(ours[0][:, :8] - confident.numpy()).max() < 0.02  # px


def test_graph_needs_no_full_resolution_tensor(model):
    shapes = onnx.shape_inference.infer_shapes(onnx.load_from_string(model)).graph.value_info
    largest = max(torch.Size(d.dim_value for d in value.type.tensor_type.shape.dim).numel() for value in shapes)
    d_of_the_paper = 4 * TINY.channels(128) * SIZE * SIZE
    assert largest < d_of_the_paper / 2


def test_graph_carries_no_path_of_the_machine_that_made_it(model):
    assert b"site-packages" not in model
    assert b"/landmarknet/" not in model


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


def test_golden_images_that_show_no_landmark_of_a_kind_prove_nothing(recipe, exported):
    high = tuple(kind.model_copy(update={"threshold": 1.0}) for kind in recipe.kinds)
    with pytest.raises(RecipeError, match="no golden image shows a spinous_process"):
        build_release(recipe.model_copy(update={"kinds": high}), lambda _: None)
    assert not recipe.output.exists()


def calibrated(recipe, folder, model, samples, *images):
    """Return the recipe of a signed INT8 release, calibrated on some samples and judged on the others."""
    entries = tuple(
        Entry(path=path, sha256=hashlib.sha256(path.read_bytes()).hexdigest(), stratum=STRATUM) for path in images
    )
    chosen = CalibrationSet(seed=0, entries=entries)
    write_calibration_set(folder / "set.json", chosen)
    ranges = collect(model, reading_of(TINY, recipe.kinds), chosen, Progress(console=Console(quiet=True)))
    write_ranges(folder / "ranges.json", ranges)
    generate_key(folder / "site.key", folder / "site.pub")
    data_set = folder / "images" / "lidc0002"  # as `landmarknet-train simulate` lays it out
    data_set.mkdir(parents=True)
    for path in (*samples.glob("*.dcm"), samples / "truth.json"):
        shutil.copy(path, data_set)
    store = {"folder": folder / "store", "signing_key": folder / "site.key"}
    changes = {
        "output": None,
        "store": store,
        "precision": "int8",
        "report": folder / "reports",
        "calibration": {"set": folder / "set.json", "ranges": folder / "ranges.json", "method": "max"},
        "gate": {"images": folder / "images", "patients": ["lidc0002"], "limits": NO_LIMITS},
    }
    return Recipe.model_validate(recipe.model_dump() | changes)


def mirrored(samples, path, **tags):
    """Write a sample as another picture: neither its bytes nor its difference hash are the gate's."""
    ds = pydicom.dcmread(samples / "lidc0002_ap_drr_00.dcm")
    ds.SOPInstanceUID = "1.2.3.4.5"
    ds.PixelData = np.ascontiguousarray(ds.pixel_array[:, ::-1]).tobytes()
    for keyword, value in tags.items():
        setattr(ds, keyword, value)
    ds.save_as(path)
    return path


@pytest.fixture
def int8_recipe(recipe, tmp_path, model, samples):
    return calibrated(recipe, tmp_path, model, samples, mirrored(samples, tmp_path / "a.dcm", PatientID="another"))


def stored(recipe):
    """Return every file of a recipe's store and reports, by path."""
    roots = (recipe.store.folder, recipe.report)
    return {path: path.read_bytes() for root in roots for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def published(int8_recipe):
    """Return the recipe of a release whose name the store already holds, and what its store and reports are."""
    for file in (int8_recipe.store.folder / "releases/other/model.onnx", int8_recipe.report / "other.md"):
        file.parent.mkdir(parents=True)
        file.write_text("published")
    return int8_recipe, stored(int8_recipe)


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


@pytest.fixture
def strict_half(int8_recipe):
    """Return a recipe that the gate refuses, in float16, which needs no calibration set: there is none."""
    strict = GateLimits(shift_net_px=0.0, pck_drop_points=0.0, score_margin=0.0)
    gate = int8_recipe.gate.model_copy(update={"limits": strict})
    int8_recipe.calibration.set.unlink()
    return int8_recipe.model_copy(update={"gate": gate, "precision": "fp16"})


@pytest.mark.usefixtures("exported")
def test_a_report_that_cannot_be_written_ends_the_build_and_says_what_to_do(strict_half, tmp_path):
    (tmp_path / "file").touch()
    recipe = strict_half.model_copy(update={"report": tmp_path / "file"})
    with pytest.raises(RecipeError, match=r"the gate's report on test-onnxruntime-fp16 cannot be written .*`report`"):
        build_release(recipe, lambda _: None)


@pytest.mark.usefixtures("exported")
def test_what_moves_a_landmark_is_not_published_but_reported(strict_half):
    half = strict_half
    with pytest.raises(GateFailed, match="nothing is published"):
        build_release(half, lambda _: None)
    assert not (half.store.folder / "releases").exists()
    assert "NOT passed" in (half.report / "test-onnxruntime-fp16.md").read_text()


@pytest.mark.usefixtures("exported")
def test_images_of_the_calibration_set_cannot_judge(recipe, tmp_path, model, samples):
    overlapping = calibrated(recipe, tmp_path, model, samples, samples / "lidc0002_ap_mv_00.dcm")
    with pytest.raises(RecipeError, match=r"1 of 4 test images are in the set: lidc0002_ap_mv_00\.dcm"):
        build_release(overlapping, lambda _: None)


def test_a_patient_of_the_calibration_set_cannot_judge_in_another_image_either(recipe, tmp_path, model, samples):
    other_seed = mirrored(samples, tmp_path / "a.dcm")
    with pytest.raises(RecipeError, match=r"apart from its images: 4 of 4 test images show a patient of it.*select"):
        build_release(calibrated(recipe, tmp_path, model, samples, other_seed), lambda _: None)


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


@pytest.mark.usefixtures("exported")
def test_an_rtx_plan_is_compiled_and_says_that_it_was_not_run(int8_recipe):
    engine = int8_recipe.engine.model_copy(update={"flavour": "tensorrt_rtx"})
    folder = build_release(int8_recipe.model_copy(update={"engine": engine, "precision": "fp16"}), lambda _: None)
    release = Store(int8_recipe.store.folder, int8_recipe.store.signing_key.with_suffix(".pub")).verify(folder.name)
    assert (release.contract.flavour, release.contract.model_file) == ("tensorrt_rtx", "model.plan")
    assert release.manifest.delivered["fp16"] > 0
    if release.manifest.gpu is None:
        assert "was not run" in release.manifest.gate["ran_on"]
