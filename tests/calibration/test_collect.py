import hashlib
import tracemalloc

import numpy as np
import onnx
import pytest
from onnx import helper
from rich.console import Console
from rich.progress import Progress

from calibration.calibration_set import CalibrationError, CalibrationSet, Entry, Stratum
from calibration.collect import activation_tensors, collect, float_model, with_outputs
from calibration.observers import METHODS
from edge.engines import SHIPPED_RELEASE
from edge.portal_image import read_portal_image
from edge.preprocess import to_network_input

STRATUM = Stratum(view="ap", machine="unknown", energy="mv", exposure="level-low")
SIZE = 48


def set_of(*paths):
    entries = (Entry(path=p, sha256=hashlib.sha256(p.read_bytes()).hexdigest(), stratum=STRATUM) for p in paths)
    return CalibrationSet(seed=0, entries=tuple(entries))


@pytest.fixture
def quiet():
    return Progress(console=Console(quiet=True))


def batch_of(path, size=SIZE):
    return to_network_input(read_portal_image(path).pixels, size)[0]


def test_ranges_are_those_of_what_the_room_would_feed(network, contract, portal, quiet):
    paths = [portal("a.dcm", 1), portal("b.dcm", 2), portal("c.dcm", 3)]
    chosen = set_of(*paths)
    model = network()
    ranges = collect(model, contract(), chosen, quiet)
    batches = np.concatenate([batch_of(path) for path in paths])
    relu = np.maximum(2 * batches, 0)
    assert ranges.amax["max"] == pytest.approx(
        {
            "image": np.abs(batches).max(),
            "conv1": np.abs(2 * batches).max(),
            "relu": relu.max(),
            "conv2": 3 * relu.max(),
        },
        rel=1e-6,
    )
    assert ranges.histograms["relu"].zeros == np.count_nonzero(relu == 0)
    assert sum(ranges.histograms["image"].counts) + ranges.histograms["image"].zeros == batches.size
    assert (ranges.images, ranges.calibration_set_sha256) == (3, chosen.sha256)
    assert ranges.onnx_sha256 == hashlib.sha256(model).hexdigest()
    assert tuple(ranges.amax) == METHODS


def test_only_float_activations_that_feed_arithmetic_are_observed(network):
    before = [helper.make_node("Abs", ["image"], ["fed"])]
    assert activation_tensors(onnx.load_from_string(network())) == ("image", "conv1", "relu", "conv2")
    assert activation_tensors(onnx.load_from_string(network(before=before))) == ("fed", "conv1", "relu", "conv2")


def test_the_model_itself_stays_as_it_is(network):
    model = onnx.load_from_string(network())
    before = model.SerializeToString()
    widened = onnx.load_from_string(with_outputs(model, ("image", "relu", "conv2")))
    assert model.SerializeToString() == before
    assert [output.name for output in widened.graph.output] == ["peaks", "numbers", "relu", "conv2"]
    assert widened.graph.node == model.graph.node


def test_an_image_without_geometry_is_observed_at_each_scale_that_the_room_tries(network, contract, png, quiet):
    reading = contract(mm_per_net_px=6.0, assumed_longer_side_mm=(200.0, 250.0, 280.0))
    stored = collect(network(), reading, set_of(png("a.png", 1)), quiet).histograms["image"]
    assert sum(stored.counts) + stored.zeros == 3 * SIZE**2


def test_progress_reaches_the_number_of_images(network, contract, portal, quiet):
    collect(network(), contract(), set_of(portal("a.dcm", 1), portal("b.dcm", 2)), quiet)
    (task,) = quiet.tasks
    assert (task.completed, task.total) == (2, 2)


@pytest.mark.parametrize(
    ("operator", "said"), [("Sqrt", "fed is not a number"), ("Reciprocal", "fed is infinite")], ids=["nan", "infinite"]
)
def test_an_activation_that_is_not_finite_is_named_with_its_image(network, contract, portal, quiet, operator, said):
    # The network's input reaches from -1 to 1, and behind a Relu it holds zeros.
    before = [helper.make_node(operator, ["image" if operator == "Sqrt" else "clipped"], ["fed"])]
    before = [helper.make_node("Relu", ["image"], ["clipped"]), *before]
    with pytest.raises(CalibrationError, match=rf"activation {said} on image .*b\.dcm"):
        collect(network(before=before), contract(), set_of(portal("b.dcm", 1)), quiet)


def test_an_empty_set_is_refused(network, contract, quiet):
    with pytest.raises(CalibrationError, match="empty"):
        collect(network(), contract(), CalibrationSet(seed=0, entries=()), quiet)


def test_an_image_that_changed_is_refused(network, contract, portal, quiet):
    chosen = set_of(portal("a.dcm", 1))
    portal("a.dcm", 2)
    with pytest.raises(CalibrationError, match=r"a\.dcm is not the one that was selected"):
        collect(network(), contract(), chosen, quiet)


@pytest.mark.parametrize("model", [b"", b"no model", "other size"], ids=["empty", "garbage", "other size"])
def test_a_model_that_cannot_take_the_image_is_refused(network, contract, portal, quiet, model):
    data = network(size=SIZE + 8) if isinstance(model, str) else model
    with pytest.raises(CalibrationError, match=r"not an ONNX model|does not take one batch"):
        collect(data, contract(), set_of(portal("a.dcm", 1)), quiet)


def test_a_model_without_anything_to_observe_is_refused(tiny_model, rows, contract, portal, quiet):
    with pytest.raises(CalibrationError, match="nothing to observe"):
        collect(tiny_model(rows([], [])), contract(), set_of(portal("a.dcm", 1)), quiet)


def peak_bytes(model, reading, chosen, progress):
    tracemalloc.start()
    try:
        ranges = collect(model, reading, chosen, progress)
        return tracemalloc.get_traced_memory()[1], ranges
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_number_of_images(network, contract, portal, quiet):
    size = 256
    reading, model = contract(input_size=size), network(size=size)
    paths = [portal(f"{seed}.dcm", seed) for seed in range(24)]
    collect(model, reading, set_of(paths[0]), quiet)  # what is imported and cached once
    few, _ = peak_bytes(model, reading, set_of(*paths[:4]), quiet)
    many, ranges = peak_bytes(model, reading, set_of(*paths), quiet)
    one_activation = size * size * 4
    assert few > one_activation  # else nothing was measured
    assert many - few < one_activation  # 20 more images hold 60 more activations
    assert {len(histogram.counts) for histogram in ranges.histograms.values()} == {128}


def test_the_shipped_release_gives_ranges_for_the_input_of_every_convolution(shipped, samples, quiet):
    model = float_model(SHIPPED_RELEASE, shipped.contract)
    ranges = collect(model, shipped.contract, set_of(*sorted(samples.glob("*.dcm"))[:2]), quiet)
    fed = {node.input[0] for node in onnx.load_from_string(model).graph.node if node.op_type == "Conv"}
    assert fed
    assert fed <= set(ranges.amax["max"])
    for method in METHODS:
        assert all(0 < ranges.amax[method][tensor] <= ranges.amax["max"][tensor] for tensor in fed)


@pytest.mark.parametrize("changes", [{"precision": "int8"}, {"flavour": "tensorrt_rtx"}])
def test_a_release_that_is_no_fp32_onnx_is_refused(contract, tmp_path, changes):
    with pytest.raises(CalibrationError, match="fp32 ONNX release"):
        float_model(tmp_path, contract(**changes))


def test_a_model_that_its_contract_does_not_name_is_refused(contract, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"another")
    with pytest.raises(CalibrationError, match=r"model\.onnx: is not the model its contract names"):
        float_model(tmp_path, contract())
