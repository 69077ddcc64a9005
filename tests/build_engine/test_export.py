import onnx
import onnxruntime as ort
import torch

from landmarknet.decode import LandmarkDetector
from landmarknet.network import KINDS
from tests.build_engine.recipes import SITES, SIZE, TINY


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
