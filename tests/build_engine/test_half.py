"""The graph of the shipped release in float16, and small graphs whose weights float16 does not hold."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from build_engine.half import to_half, unfit_for_half
from build_engine.quantize import HEATMAPS, count_precisions, quantisable_layers, quantise, quantised_tensors, upstream
from edge.engines import GOLDEN_INPUT_SCALE, SHIPPED_RELEASE


@pytest.fixture(scope="module")
def model():
    return (SHIPPED_RELEASE / "model.onnx").read_bytes()


@pytest.fixture(scope="module")
def batch():
    with np.load(SHIPPED_RELEASE / "golden.npz") as golden:
        return golden["batches"][0].astype(np.float32) / GOLDEN_INPUT_SCALE


@pytest.fixture(scope="module")
def half(model):
    return to_half(model)


@pytest.fixture(scope="module")
def amax(model, batch):
    names = [name for name in quantised_tensors(model) if name != "image"]
    watched = onnx.load_from_string(model)
    watched.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    values = ort.InferenceSession(watched.SerializeToString()).run(names, {"image": batch})
    return {name: float(np.abs(v).max()) for name, v in zip(names, values, strict=True)} | {"image": 1.0}


def heatmaps(model, image):
    return ort.InferenceSession(model).run([HEATMAPS], {"image": image})[0]


def rms(values):
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def casts(graph, to):
    return [node for node in graph.node if node.op_type == "Cast" and node.attribute[0].i == to]


def decode(graph):
    before = {node.name for node in upstream(graph, HEATMAPS)}
    return {node.name: node for node in graph.node if node.name not in before}


def test_every_layer_computes_in_float16(model, half):
    layers = sum(count_precisions(model).values())
    assert count_precisions(half) == {"int8": 0, "fp16": layers, "fp32": 0}


def test_one_cast_at_the_input_and_one_at_the_heatmaps(half):
    graph = onnx.load_from_string(half).graph
    (entering,) = casts(graph, TensorProto.FLOAT16)
    assert list(entering.input) == ["image"]
    (leaving,) = [node for node in casts(graph, TensorProto.FLOAT) if node.output[0] == HEATMAPS]
    assert leaving in upstream(graph, HEATMAPS)


def test_the_decode_is_the_same_and_inputs_and_outputs_stay_float32(model, half):
    before, after = onnx.load_from_string(model).graph, onnx.load_from_string(half).graph
    assert decode(before)
    assert decode(after) == decode(before)
    for entries in ("input", "output"):
        assert getattr(after, entries) == getattr(before, entries)


def test_heatmaps_agree_as_far_as_float16_allows(model, half, batch):
    """A value is rounded about as often as layers follow each other, each time by up to 2**-11 of the largest."""
    graph = onnx.load_from_string(model).graph
    depth = dict[str, int]()
    for node in upstream(graph, HEATMAPS):
        deepest = max((depth.get(tensor, 0) for tensor in node.input), default=0)
        depth.update(dict.fromkeys(node.output, deepest + (node.op_type in ("Conv", "MatMul", "Gemm", "Add"))))
    exact = heatmaps(model, batch)
    assert np.abs(heatmaps(half, batch) - exact).max() < depth[HEATMAPS] * 2**-11 * np.abs(exact).max()


def test_int8_layers_stay_int8_and_their_scales_float32(model, amax):
    quantised = quantise(model, amax)
    graph = onnx.load_from_string(to_half(quantised)).graph
    layers = len(quantisable_layers(model))
    head = count_precisions(model)["fp32"] - layers
    assert count_precisions(to_half(quantised)) == {"int8": layers, "fp16": head, "fp32": 0}
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    scales = {types[n.input[1]] for n in graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")}
    assert scales == {TensorProto.FLOAT}


def test_nothing_is_cast_between_int8_layers(model, amax):
    graph = onnx.load_from_string(to_half(quantise(model, amax))).graph
    network = {tensor for n in graph.node if n.op_type in ("Conv", "Relu", "Add") for tensor in n.output}
    quantised = {tensor for n in graph.node if n.op_type == "QuantizeLinear" for tensor in n.input[:1]}
    cast = {node.output[0] for node in graph.node if node.op_type == "Cast"}
    assert network & quantised
    assert not cast & quantised


def test_layers_kept_from_int8_compute_in_float16(model, amax):
    layers = quantisable_layers(model)
    kept = layers[::3]
    counts = count_precisions(to_half(quantise(model, amax, kept)))
    assert counts["int8"] == len(layers) - len(kept)
    assert counts["fp32"] == 0


def test_float16_adds_little_to_the_error_of_int8(model, amax, batch):
    """Errors that know nothing of each other add as squares: 8 bits leave 2**4 times the steps of 11 and a sign."""
    exact, quantised = heatmaps(model, batch), quantise(model, amax)
    int8 = rms(heatmaps(quantised, batch) - exact)
    assert rms(heatmaps(to_half(quantised), batch) - exact) < 1.1 * int8


def matmul(weights, extra=()):
    """Return a model of heatmaps = image @ w, ``w`` an initialiser, or the outcome of ``extra`` nodes."""
    rows, columns = 2, 3
    graph = helper.make_graph(
        [*extra, helper.make_node("MatMul", ["image", "w"], ["product"], name="product"),
         helper.make_node("Relu", ["product"], [HEATMAPS], name="relu")],
        "one",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, rows])],
        [helper.make_tensor_value_info(HEATMAPS, TensorProto.FLOAT, [1, columns])],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


@pytest.mark.parametrize(("value", "why"), [(70000.0, "beyond 65504"), (1e-6, "too small")])
def test_a_layer_whose_weights_do_not_fit_stays_in_float32_and_is_named(value, why):
    model = matmul({"w": np.full((2, 3), value)})
    assert why in unfit_for_half(model)["product"]
    half = to_half(model)
    assert count_precisions(half) == {"int8": 0, "fp16": 0, "fp32": 1}
    graph = onnx.load_from_string(half).graph
    assert Counter(node.op_type for node in graph.node) == {"MatMul": 1, "Relu": 1, "Cast": 2}, "the ReLU is half"
    image = np.array([[0.5, 0.25]], np.float32)
    np.testing.assert_allclose(heatmaps(half, image), heatmaps(model, image), rtol=2**-11, atol=2**-25)


def test_a_few_weights_that_vanish_among_others_do_not_matter():
    weights = np.ones((2, 3))
    weights[0, 0] = 1e-12
    model = matmul({"w": weights})
    assert unfit_for_half(model) == {}
    assert count_precisions(to_half(model))["fp16"] == 1


def test_what_is_computed_from_weights_alone_is_computed_in_float32():
    """2048 + 1 is 2048 in float16, and that + 1 again; the true sum 2050 is a float16 number."""
    ones = np.ones((2, 3))
    sums = [
        helper.make_node("Add", ["large", "one"], ["sum"], name="sum"),
        helper.make_node("Add", ["sum", "one"], ["w"], name="w"),
    ]
    half = to_half(matmul({"large": 2048 * ones, "one": ones}, sums))
    graph = onnx.load_from_string(half).graph
    assert [node.op_type for node in graph.node] == ["Cast", "MatMul", "Relu", "Cast"]
    assert len(graph.initializer) == 1
    np.testing.assert_array_equal(heatmaps(half, np.array([[1, 0]], np.float32)), [[2050] * 3])
