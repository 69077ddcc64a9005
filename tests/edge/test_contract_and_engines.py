import hashlib
import io
import json
import shutil

import numpy as np
import pytest

from edge.backends import Inference
from edge.backends.function import FunctionBackend
from edge.config import Config
from edge.contract import KindContract, read_contract
from edge.engines import (
    SHIPPED_RELEASE,
    Golden,
    golden_answers,
    load_backend,
    open_configured,
    open_engine,
    require_golden_answers,
)
from edge.errors import BackendFailed, BadRelease

SPINOUS = [(20.0, 10.0, 0.9), (20.0, 30.0, 0.6)]
CARINA = [(24.0, 20.0, 0.8)]


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def golden_bytes(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@pytest.fixture
def release(tmp_path, contract, rows, tiny_model):
    """Return a function that writes a release folder; ``model``, ``golden`` and ``entries`` replace what is right."""

    def write(model=None, golden=None, **entries):
        peaks = rows(SPINOUS, CARINA)
        model = tiny_model(peaks) if model is None else model
        if golden is None:
            golden = golden_bytes(batches=np.zeros((2, 1, 1, 48, 48), np.int8), peaks=np.stack([peaks, peaks]))
        document = json.loads(contract().model_dump_json(by_alias=True))
        document |= {"model_sha256": sha256(model), "golden_sha256": sha256(golden)} | entries
        (tmp_path / "model.onnx").write_bytes(model)
        (tmp_path / "golden.npz").write_bytes(golden)
        (tmp_path / "contract.json").write_text(json.dumps(document))
        return tmp_path

    return write


def refused(folder, error=BadRelease):
    """Return the message with which the release in ``folder`` is refused."""
    with pytest.raises(error) as caught:
        open_engine(folder, threads=1)
    assert type(caught.value) is error
    message = str(caught.value)
    assert any(todo in message for todo in ("publish the release again", "name a release", "use a", "rebuild")), message
    return message


# --- a release on disk ---


def test_a_release_that_keeps_its_promise_is_ready(release, rows):
    folder = release()
    engine = open_engine(folder, threads=1)
    assert engine.contract == read_contract(folder / "contract.json")[0]
    assert engine.contract_sha256 == sha256((folder / "contract.json").read_bytes())
    answer = engine.backend.infer(np.zeros((1, 1, 48, 48), np.float32))
    assert np.array_equal(answer.peaks, rows(SPINOUS, CARINA))


def test_the_shipped_release_keeps_its_promise_and_is_the_default(shipped):
    assert shipped.contract == read_contract(SHIPPED_RELEASE / "contract.json")[0]
    assert shipped.contract_sha256 == sha256((SHIPPED_RELEASE / "contract.json").read_bytes())


def test_the_shipped_release_has_the_form_that_the_design_promises(shipped):
    promise = shipped.contract
    assert (promise.input_size, promise.heatmap_size) == (256, 192)
    assert promise.mm_per_net_px is not None
    assert promise.assumed_longer_side_mm
    assert [(kind.kind, kind.shape) for kind in promise.kinds] == [
        ("spinous_process", "point"), ("tracheal_bifurcation", "point"), ("louis_angle", "point"),
        ("spine_line", "line"),
    ]  # fmt: skip
    assert all(kind.at_most <= promise.rows_per_kind for kind in promise.kinds if kind.shape == "point")
    assert [kind.at_most for kind in promise.kinds][1:3] == [1, 1]


def test_the_samples_patient_is_none_that_the_shipped_release_was_trained_on(shipped, samples):
    images = json.loads((samples / "truth.json").read_text())["images"]
    assert shipped.contract.trained_on
    assert {image["patient"] for image in images.values()}.isdisjoint(shipped.contract.trained_on)


@pytest.mark.parametrize("name", ["contract.json", "model.onnx", "golden.npz"])
def test_a_missing_file_is_named(release, name):
    folder = release()
    (folder / name).unlink()
    message = refused(folder)
    assert str(folder / name) in message
    assert "No such file" in message


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz"])
def test_an_altered_file_is_named(release, name):
    folder = release()
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    message = refused(folder)
    assert str(folder / name) in message
    assert "SHA-256" in message


def test_the_shipped_model_with_one_bit_changed_is_not_loaded(tmp_path):
    folder = shutil.copytree(SHIPPED_RELEASE, tmp_path / "release")
    with (folder / "model.onnx").open("r+b") as file:
        file.seek(1_000_000)
        bit = file.read(1)[0] ^ 1
        file.seek(1_000_000)
        file.write(bytes([bit]))
    assert "SHA-256" in refused(folder)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"thresholds": 1}, "thresholds"),
        ({"schema": "landmarknet-edge/contract/3"}, "schema"),
        ({"model_sha256": "abc"}, "model_sha256"),
        ({"flavour": "openvino"}, "flavour"),
        ({"kinds": [{"kind": "louis_angle", "threshold": 1.5, "at_most": 1}]}, "kinds.0.threshold"),
        ({"kinds": [{"kind": "louis_angle", "threshold": 0.5, "at_most": 0}]}, "kinds.0.at_most"),
        ({"kinds": [{"kind": "louis_angle", "threshold": 0.5, "at_most": 1, "width": 3}]}, "kinds.0.width"),
        ({"kinds": [{"kind": "louis_angle", "threshold": 0.5, "at_most": 1, "sigma": 3}]}, "kinds.0.sigma"),
        ({"kinds": [{"kind": "louis_angle", "threshold": 0.5, "at_most": 1, "sigma": [1, 2, 3]}]}, "kinds.0.sigma"),
        ({"kinds": [{"kind": "louis_angle", "threshold": 0.5, "at_most": 1, "sigma": ["1 mm", 2]}]}, "kinds.0.sigma.0"),
        ({"kinds": [{"kind": "louis_angle", "threshold": 0.5, "at_most": 1, "shape": "area"}]}, "kinds.0.shape"),
        ({"mm_per_net_px": "fine"}, "mm_per_net_px"),
        ({"assumed_longer_side_mm": 300}, "assumed_longer_side_mm"),
        ({"trained_on": None}, "trained_on"),
        ({"input_size": "large"}, "input_size"),
        ({"release": None}, "release"),
    ],
)
def test_a_contract_of_another_sort_is_refused_and_its_entry_named(release, entries, said):
    assert f"{said}: " in refused(release(**entries))


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"mm_per_net_px": 0}, "mm_per_net_px"),
        ({"mm_per_net_px": -1.6}, "mm_per_net_px"),
        ({"assumed_longer_side_mm": [300, 0]}, "assumed_longer_side_mm.1"),
        ({"kinds": [{"kind": "louis_angle", "threshold": 0.5, "at_most": 1, "sigma": [-1, 0]}]}, "kinds.0.sigma.0"),
    ],
)
def test_what_no_length_can_be_is_refused(release, entries, said):
    assert f"{said}: " in refused(release(**entries))


def test_an_unknown_shape_is_refused_with_those_that_there_are(release):
    kinds = [{"kind": "louis_angle", "threshold": 0.5, "at_most": 1, "shape": "area"}]
    message = refused(release(kinds=kinds))
    assert "kinds.0.shape: " in message
    assert "'point' or 'line'" in message


def test_a_kind_without_shape_and_sigma_is_a_point_of_unknown_uncertainty(release):
    folder = release(kinds=[{"kind": kind, "threshold": 0.5, "at_most": 4} for kind in ("a", "b")])
    promise, _ = read_contract(folder / "contract.json")
    assert [(kind.shape, kind.sigma) for kind in promise.kinds] == [("point", None)] * 2


def test_a_release_of_the_former_contract_is_refused_and_must_be_published_again(release):
    folder = release(schema="landmarknet-edge/contract/1")
    document = json.loads((folder / "contract.json").read_text())
    for new in ("mm_per_net_px", "assumed_longer_side_mm", "trained_on"):
        del document[new]
    for kind in document["kinds"]:
        del kind["shape"], kind["sigma"]
    (folder / "contract.json").write_text(json.dumps(document))
    message = refused(folder)
    assert "schema: " in message
    assert "contract/2" in message
    assert message.endswith("publish the release again")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"contract"'])
def test_what_is_no_contract_at_all_is_refused(release, text):
    folder = release()
    (folder / "contract.json").write_text(text)
    assert "not a contract" in refused(folder)


@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt_rtx"])
def test_a_plan_in_a_plain_folder_is_refused_since_nobody_signed_it(release, flavour):
    message = refused(release(flavour=flavour))
    assert flavour in message
    assert "use a store" in message


@pytest.mark.parametrize("name", ["contract.json", "golden.npz", "model.onnx"])
def test_a_plain_folder_is_not_loaded_before_its_bytes_were_checked(release, name):
    def never(*_):
        raise AssertionError("nothing must be loaded")

    folder = release()
    with (folder / name).open("ab") as file:
        file.write(b"x")
    with pytest.raises(BadRelease):
        open_engine(folder, 1, never)


def test_an_engine_of_a_plain_folder_has_neither_manifest_nor_warnings(release):
    engine = open_engine(release(), threads=1)
    assert (engine.manifest_sha256, engine.warnings) == (None, ())


def test_a_configuration_without_store_and_release_opens_the_shipped_one(shipped, release):
    assert open_configured(Config()).contract == shipped.contract
    assert open_configured(Config(release=release())).contract.release == "small-1"


@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt_rtx"])
def test_a_plan_goes_to_the_backend_of_its_flavour(contract, flavour):
    """Where there is no GPU that backend says so; where there is one, it refuses what is no plan."""
    with pytest.raises(BackendFailed, match=r"TensorRT|pycuda|NVIDIA|GPU"):
        load_backend(b"no plan", contract(flavour=flavour), 1)


def test_a_model_that_is_none_fails_in_the_backend(release):
    assert "ONNX Runtime" in refused(release(model=b"not a model" * 100), BackendFailed)


@pytest.mark.parametrize(
    "golden",
    [
        b"not an archive",
        b"",
        golden_bytes(peaks=np.zeros((1, 2, 4, 3), np.float32)),
        golden_bytes(batches=np.zeros((0, 1, 1, 48, 48), np.int8), peaks=np.zeros((0, 2, 4, 3), np.float32)),
        golden_bytes(batches=np.zeros((2, 1, 1, 48, 48), np.int8), peaks=np.zeros((1, 2, 4, 3), np.float32)),
        golden_bytes(batches=np.zeros((1, 1, 1, 64, 64), np.int8), peaks=np.zeros((1, 2, 4, 3), np.float32)),
        golden_bytes(batches=np.zeros((1, 1, 1, 48, 48), np.int8), peaks=np.zeros((1, 3, 4, 3), np.float32)),
        golden_bytes(batches=np.array([{}]), peaks=np.zeros((1, 2, 4, 3), np.float32)),
    ],
    ids=["garbage", "empty", "no inputs", "no images", "answers missing", "other size", "other kinds", "pickled"],
)
def test_golden_answers_that_prove_nothing_are_refused(release, golden):
    assert "golden.npz" in refused(release(golden=golden))


# --- golden answers ---


@pytest.fixture
def verdict(contract, rows):
    """Return a function: the fault found in a backend that answers ``actual`` where ``expected`` is golden, or None."""

    def judge(expected, actual, heatmap_size=36):
        golden = Golden(np.zeros((1, 1, 1, 48, 48), np.float32), expected[None])
        try:
            require_golden_answers(FunctionBackend(lambda _: actual, heatmap_size), contract(), golden)
        except BackendFailed as exc:
            return str(exc)
        return None

    return judge


def test_the_same_answers_pass(verdict, rows):
    assert verdict(rows(SPINOUS, CARINA), rows(SPINOUS, CARINA)) is None


def test_no_answers_pass_where_none_are_golden(verdict, rows):
    assert verdict(rows([], []), rows([], [])) is None


@pytest.mark.parametrize("moved", [(24.04, 20, 0.8), (24, 19.96, 0.8), (24.03, 20.03, 0.804), (24, 20, 0.796)])
def test_a_peak_within_the_tolerances_passes(verdict, rows, moved):
    # contract: 0.05 network px, 0.005 of the score
    assert verdict(rows(SPINOUS, CARINA), rows(SPINOUS, [moved])) is None


@pytest.mark.parametrize(
    "moved", [(24.06, 20, 0.8), (24, 19.94, 0.8), (24.04, 20.04, 0.8), (24, 20, 0.807), (24, 20, 0.793)]
)
def test_a_peak_that_moved_by_more_fails(verdict, rows, moved):
    fault = verdict(rows(SPINOUS, CARINA), rows(SPINOUS, [moved]))
    assert "golden image 0, tracheal_bifurcation: lost a peak at (24.00, 20.00) with score 0.800" in fault
    assert "release small-1" in fault


def test_a_lost_peak_fails(verdict, rows):
    assert "spinous_process: lost a peak at (20.00, 30.00)" in verdict(rows(SPINOUS, CARINA), rows(SPINOUS[:1], CARINA))


def test_a_gained_peak_fails(verdict, rows):
    more = [*SPINOUS, (30, 40, 0.5)]
    assert "spinous_process: gained a peak at (30.00, 40.00)" in verdict(rows(SPINOUS, CARINA), rows(more, CARINA))


def test_peaks_that_change_kinds_fail(verdict, rows):
    assert verdict(rows(CARINA, SPINOUS), rows(SPINOUS, CARINA)) is not None


def test_the_order_of_equal_peaks_does_not_matter(verdict, rows):
    assert verdict(rows(SPINOUS, CARINA), rows(SPINOUS[::-1], CARINA)) is None


@pytest.mark.parametrize(("score", "passes"), [(0.49, True), (0.504, True), (0.506, False)])
def test_a_peak_at_the_threshold_may_come_or_go(verdict, rows, score, passes):
    # threshold 0.5, tolerance of the score 0.005
    assert (verdict(rows([], [(24, 20, score)]), rows([], [])) is None) == passes
    assert (verdict(rows([], []), rows([], [(24, 20, score)])) is None) == passes


@pytest.mark.parametrize(
    ("shape", "heatmap_size"), [((3, 4, 3), 36), ((2, 5, 3), 36), ((2, 4, 2), 36), ((2, 4, 3), 35)]
)
def test_answers_of_another_form_than_the_contract_s_fail(verdict, rows, shape, heatmap_size):
    assert "shape" in verdict(rows([], []), np.full(shape, -1, np.float32), heatmap_size)


def test_every_golden_image_is_asked(contract, rows):
    asked = []

    def answer(batch):
        asked.append(float(batch[0, 0, 0, 0]))
        return rows([], CARINA if asked[-1] == 2 else [])

    batches = np.arange(3, dtype=np.float32).repeat(48 * 48).reshape(3, 1, 1, 48, 48)
    golden = Golden(batches, np.stack([rows([], [])] * 3))
    with pytest.raises(BackendFailed, match="golden image 2"):
        require_golden_answers(FunctionBackend(answer, 36), contract(), golden)
    assert asked == [0, 1, 2]


def test_the_golden_answer_of_a_line_is_its_clearest_points_and_may_slip_by_rounding(contract, painted):
    line = KindContract(kind="line", threshold=0.5, at_most=9, shape="line")
    reading = contract().model_copy(update={"kinds": (line,), "rows_per_kind": 3})
    heatmap = np.zeros((1, 36, 36), np.float32)
    heatmap[0, :, 10] = np.linspace(0.2, 0.9, 36)  # a ridge that grows clearer downwards, at 13.5 px
    answers = golden_answers(Inference(np.full((1, 3, 3), 7.0), heatmap), reading)
    assert answers[0, :, 1].tolist() == [41.5, 33.5, 25.5], "sites 31, 25 and 19: blocks 10, 8 and 6, and 1.5 px"
    assert answers[0, :, 0].tolist() == pytest.approx([13.5] * 3, abs=0.01)
    golden = Golden(np.zeros((1, 1, 1, 48, 48), np.float32), answers[None])
    require_golden_answers(painted(lambda _: (answers, heatmap)), reading, golden)

    def backend(column):
        moved = np.zeros_like(heatmap)
        moved[0, :, column] = heatmap[0, :, 10]
        return painted(lambda _: (answers, moved))

    with pytest.raises(BackendFailed, match="line: lost a peak"):
        require_golden_answers(backend(11), reading, golden)  # 1.5 px aside
