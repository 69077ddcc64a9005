"""Structure on the graph of the shipped release, as the exporter writes it; numbers on a convolution of one's own."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from build_engine.quantize import (
    HEATMAPS,
    QuantiseError,
    count_precisions,
    quantisable_layers,
    quantise,
    quantised_tensors,
    upstream,
)
from edge.engines import GOLDEN_INPUT_SCALE, SHIPPED_RELEASE


@pytest.fixture(scope="module")
def model():
    return (SHIPPED_RELEASE / "model.onnx").read_bytes()


@pytest.fixture(scope="module")
def plain(model):
    return onnx.load_from_string(model).graph


@pytest.fixture(scope="module")
def ranges(model):
    """Largest absolute values on the golden inputs, of all that either form needs."""
    with np.load(SHIPPED_RELEASE / "golden.npz") as golden:
        batches = golden["batches"].astype(np.float32) / GOLDEN_INPUT_SCALE
    names = sorted({*quantised_tensors(model), *quantised_tensors(model, (), "onnxruntime")} - {"image"})
    watched = onnx.load_from_string(model)
    watched.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    session = ort.InferenceSession(watched.SerializeToString())
    found = [[np.abs(value).max() for value in session.run(names, {"image": batch})] for batch in batches]
    return dict(zip(names, np.max(found, axis=0).tolist(), strict=True)) | {"image": float(np.abs(batches).max())}


@pytest.fixture(scope="module")
def tensorrt(model, ranges):
    return onnx.load_from_string(quantise(model, ranges)).graph


@pytest.fixture(scope="module")
def cpu(model, ranges):
    return onnx.load_from_string(quantise(model, ranges, (), "onnxruntime")).graph


def producers(graph):
    return {tensor: node for node in graph.node for tensor in node.output}


def made_by(graph, operator):
    return {node.output[0] for node in graph.node if node.op_type == operator}


def weights(graph):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def named(graph):
    return {node.name: node for node in graph.node}


def test_every_convolution_before_the_heatmaps_may_be_int8_and_nothing_else(model, plain):
    expected = [node.name for node in upstream(plain, HEATMAPS) if node.op_type == "Conv"]
    assert expected
    assert list(quantisable_layers(model)) == expected
    head = sum(node.op_type in ("MatMul", "Gemm") for node in plain.node)
    assert count_precisions(model) == {"int8": 0, "fp16": 0, "fp32": len(expected) + head}


@pytest.mark.parametrize("form", ["tensorrt", "onnxruntime"])
def test_int8_convolutions_read_both_factors_dequantised(model, ranges, form):
    layers = quantisable_layers(model)
    counts = count_precisions(quantise(model, ranges, (), form))
    assert counts["int8"] == len(layers)
    assert counts["fp32"] == count_precisions(model)["fp32"] - len(layers)


def test_one_pair_per_tensor_with_the_range_as_127_and_0_as_0(model, ranges, tensorrt):
    values = weights(tensorrt)
    quantisers = {node.input[0]: node for node in tensorrt.node if node.op_type == "QuantizeLinear"}
    assert sorted(quantisers) == sorted(quantised_tensors(model))
    assert sum(node.op_type == "QuantizeLinear" for node in tensorrt.node) == len(quantisers)
    for tensor, node in quantisers.items():
        scale, zero_point = (values[name] for name in node.input[1:])
        assert scale.shape == ()
        assert scale == pytest.approx(ranges[tensor] / 127, rel=1e-6)
        assert (zero_point.dtype, int(zero_point)) == (np.int8, 0)
        (back,) = (n for n in tensorrt.node if n.op_type == "DequantizeLinear" and n.input[0] == node.output[0])
        assert list(back.input[1:]) == list(node.input[1:])


@pytest.mark.parametrize(("form", "largest"), [("tensorrt", 127), ("onnxruntime", 63)])
def test_weights_are_int8_per_output_channel_and_no_further_off_than_half_a_step(model, ranges, plain, form, largest):
    graph = onnx.load_from_string(quantise(model, ranges, (), form)).graph
    values, before, made, nodes = weights(graph), weights(plain), producers(graph), named(graph)
    for layer in quantisable_layers(model):
        dequantise, original = made[nodes[layer].input[1]], before[named(plain)[layer].input[1]]
        whole, scale, zero_points = (values[name] for name in dequantise.input)
        assert [(a.name, a.i) for a in dequantise.attribute] == [("axis", 0)]
        assert (whole.dtype, whole.shape) == (np.int8, original.shape)
        assert scale.shape == zero_points.shape == original.shape[:1]
        assert not zero_points.any()
        assert np.abs(whole.astype(int)).max() == largest
        step = scale[:, None, None, None]
        assert (np.abs(whole * step - original) <= step * (0.5 + 1e-4)).all()  # 1e-4: rounding in float32


def test_biases_stay_float_and_as_they_were(model, plain, tensorrt):
    before, after = weights(plain), weights(tensorrt)
    for layer in quantisable_layers(model):
        bias = named(tensorrt)[layer].input[2]
        assert after[bias].dtype == np.float32
        np.testing.assert_array_equal(after[bias], before[bias])


def test_nothing_stands_between_a_convolution_or_sum_and_its_relu(plain, tensorrt):
    relus = [node for node in plain.node if node.op_type == "Relu"]
    assert relus
    for node in relus:
        assert named(tensorrt)[node.name].input[0] == node.input[0]


def test_only_the_skip_of_a_sum_is_quantised(plain, tensorrt):
    """The skip joins without the block's second convolution, so fewer convolutions lie before it."""
    dequantised, convolved = made_by(tensorrt, "DequantizeLinear"), made_by(plain, "Conv")
    sums = [node for node in upstream(plain, HEATMAPS) if node.op_type == "Add" and convolved & set(node.input)]
    identities = [node for node in sums if len(convolved & set(node.input)) == 1]
    shortcuts = [node for node in sums if len(convolved & set(node.input)) == 2]
    assert identities
    assert shortcuts

    def convolutions_before(tensor):
        return sum(node.op_type == "Conv" for node in upstream(plain, tensor))

    for node in sums:
        ends = max(convolved & set(node.input), key=convolutions_before)
        quantised = [
            t for t, now in zip(node.input, named(tensorrt)[node.name].input, strict=True) if now in dequantised
        ]
        assert quantised == [tensor for tensor in node.input if tensor != ends]


def test_head_and_decode_read_what_they_read_before(plain, tensorrt):
    touched = {n.name for n in plain.node if n.SerializeToString() != named(tensorrt)[n.name].SerializeToString()}
    assert {named(plain)[name].op_type for name in touched} == {"Conv", "Add"}
    assert touched <= {node.name for node in upstream(plain, HEATMAPS)}


def test_a_layer_kept_in_float_stays_as_it_was(model, ranges, plain):
    kept = quantisable_layers(model)[5]
    data = quantise(model, ranges, [kept])
    graph = onnx.load_from_string(data).graph
    assert named(graph)[kept] == named(plain)[kept]
    assert count_precisions(data)["int8"] == len(quantisable_layers(model)) - 1


@pytest.mark.parametrize("form", ["tensorrt", "onnxruntime"])
def test_keeping_a_layer_in_float_asks_for_no_further_range(model, form):
    needed = set(quantised_tensors(model, (), form))
    for layer in quantisable_layers(model):
        assert set(quantised_tensors(model, [layer], form)) <= needed


def test_all_layers_kept_in_float_leave_the_graph_alone(model):
    assert onnx.load_from_string(quantise(model, {}, quantisable_layers(model))) == onnx.load_from_string(model)


def test_a_layer_that_there_is_not_cannot_be_kept(model):
    with pytest.raises(QuantiseError, match="node_elsewhere: no layer"):
        quantise(model, {}, ["node_elsewhere"])


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf"), 1e-60])
def test_a_range_that_no_scale_fits_names_its_tensor(model, ranges, value):
    tensor = quantised_tensors(model)[3]
    with pytest.raises(QuantiseError, match=f"tensor {tensor} has the range {value}"):
        quantise(model, ranges | {tensor: value})


def test_a_missing_range_names_its_tensor(model, ranges):
    tensor = quantised_tensors(model)[3]
    with pytest.raises(QuantiseError, match=f"tensor {tensor} has no range"):
        quantise(model, {name: value for name, value in ranges.items() if name != tensor})


def test_the_form_for_cpus_is_unsigned_from_0_after_a_relu_and_around_128_elsewhere(plain, cpu):
    values, made = weights(cpu), producers(plain)
    relus = made_by(plain, "Relu")
    zero_points = {n.input[0]: values[n.input[2]] for n in cpu.node if n.op_type == "QuantizeLinear"}
    assert all(zero_point.dtype == np.uint8 for zero_point in zero_points.values())
    for tensor, zero_point in zero_points.items():
        positive = tensor in relus or (tensor in made and made[tensor].op_type == "MaxPool")  # of a ReLU, here
        assert zero_point == (0 if positive else 128), tensor


def test_the_form_for_cpus_quantises_what_its_kernels_put_out(model, plain, cpu):
    quantised = {node.input[0] for node in cpu.node if node.op_type == "QuantizeLinear"}
    relu_of = {node.input[0]: node.output[0] for node in plain.node if node.op_type == "Relu"}
    for layer in quantisable_layers(model):
        output = named(plain)[layer].output[0]
        assert relu_of.get(output, output) in quantised


def convolution(channels, outputs, faint=1.0):
    """Return a model of one 1x1 convolution with bias from "image" (1, C, 4, 4) to the heatmaps, and its numbers.

    Its first output's weights are multiplied by ``faint``.
    """
    random = np.random.default_rng(0)
    kernel = random.normal(size=(outputs, channels, 1, 1)).astype(np.float32)
    kernel[0] *= np.float32(faint)
    bias = random.normal(size=outputs).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w", "b"], [HEATMAPS], name="conv")],
        "one",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, channels, 4, 4])],
        [helper.make_tensor_value_info(HEATMAPS, TensorProto.FLOAT, [1, outputs, 4, 4])],
        [numpy_helper.from_array(kernel, "w"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return model.SerializeToString(), kernel[:, :, 0, 0]


def run(model, image):
    return ort.InferenceSession(model).run([HEATMAPS], {"image": image})[0]


def largest_error(image, kernel, amax, largest_weight, largest_value):
    """Return per output the bound sum(|w| dx + |x| dw + dx dw), where dx and dw are half a step of each grid."""
    half_x = amax / largest_value / 2
    half_w = np.abs(kernel).max(axis=1, keepdims=True) / largest_weight / 2
    x = np.abs(image[0]).reshape(len(image[0]), -1)
    return (np.abs(kernel) * half_x).sum(axis=1)[:, None] + half_w * x.sum(axis=0) + kernel.shape[1] * half_x * half_w


@pytest.mark.parametrize(("form", "largest_weight"), [("tensorrt", 127), ("onnxruntime", 63)])
def test_int8_is_no_further_from_float_than_its_steps_allow(form, largest_weight):
    model, kernel = convolution(channels=16, outputs=8)
    image = np.random.default_rng(1).uniform(-2, 2, (1, 16, 4, 4)).astype(np.float32)
    amax = {"image": 2.0, HEATMAPS: float(np.abs(run(model, image)).max())}
    error = np.abs(run(quantise(model, amax, (), form), image) - run(model, image))[0].reshape(8, -1)
    allowed = largest_error(image, kernel, 2.0, largest_weight, 127)
    if form == "onnxruntime":
        allowed = allowed + amax[HEATMAPS] / 127  # its output is rounded, too, and its bias
    assert (error <= allowed).all()
    assert error.max() > 0, "nothing was quantised"


@pytest.mark.parametrize("faint", [0.0, 1e-42])
def test_an_output_without_weights_is_its_bias(faint):
    model, _ = convolution(channels=16, outputs=8, faint=faint)
    image = np.ones((1, 16, 4, 4), np.float32)
    np.testing.assert_allclose(run(quantise(model, {"image": 1.0}), image)[0, 0], run(model, image)[0, 0], atol=1e-6)


def test_a_scale_off_by_4_breaks_what_int8_keeps():
    model, kernel = convolution(channels=16, outputs=8)
    image = np.random.default_rng(1).uniform(-2, 2, (1, 16, 4, 4)).astype(np.float32)
    error = np.abs(run(quantise(model, {"image": 2.0 / 4}), image) - run(model, image))[0].reshape(8, -1)
    assert error.max() > 3 * largest_error(image, kernel, 2.0, 127, 127).max()
