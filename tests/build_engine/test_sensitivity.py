import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from build_engine.quantize import HEATMAPS, QuantiseError, int8_layers
from build_engine.sensitivity import LayerEffect, sensitivity

LAYERS = ("first", "second", "third")
AMAX = {"image": 1.0, "after_first": 1.0, "after_second": 1.0}


@pytest.fixture
def model():
    """Three 1x1 convolutions, one after the other."""
    tensors = ["image", "after_first", "after_second", HEATMAPS]
    shape = [1, 2, 4, 4]
    graph = helper.make_graph(
        [helper.make_node("Conv", [tensors[n], f"w{n}"], [tensors[n + 1]], name=name) for n, name in enumerate(LAYERS)],
        "three",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(HEATMAPS, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.ones((2, 2, 1, 1), np.float32), f"w{n}") for n in range(3)],
    )
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def measured(effects, seen=None):
    """Return a measure that gives the effect of the one layer that is INT8."""

    def measure(graph):
        (layer,) = int8_layers(onnx.load_from_string(graph).graph)
        if seen is not None:
            seen.append(layer.name)
        return effects[layer.name]

    return measure


def test_each_layer_is_quantised_alone_and_the_worst_comes_first(model):
    seen, said = [], []
    effects = sensitivity(model, AMAX, measured({"first": 0.1, "second": 0.5, "third": 0.2}, seen), said.append)
    assert seen == list(LAYERS)
    assert effects == [LayerEffect("second", 0.5), LayerEffect("third", 0.2), LayerEffect("first", 0.1)]
    assert [line.split(":")[0] for line in said] == ["sensitivity 1/3", "sensitivity 2/3", "sensitivity 3/3"]


def test_layers_of_equal_effect_keep_their_order(model):
    effects = sensitivity(model, AMAX, measured(dict.fromkeys(LAYERS, 0.1)), lambda _: None)
    assert [each.layer for each in effects] == list(LAYERS)


def test_an_effect_that_is_not_a_number_is_the_worst(model):
    effects = sensitivity(model, AMAX, measured({"first": 9.0, "second": float("nan"), "third": 1.0}), lambda _: None)
    assert [each.layer for each in effects] == ["second", "first", "third"]


def test_a_missing_range_is_named(model):
    with pytest.raises(QuantiseError, match="after_first has no range"):
        sensitivity(model, {"image": 1.0}, lambda _: 0.0, lambda _: None)
