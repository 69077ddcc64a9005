"""A small network, exported once, and recipes of it; the shipped graph in every precision."""

import pytest
import torch

from build_engine.export import export_onnx
from build_engine.half import to_half
from build_engine.quantize import quantisable_layers, quantise, quantised_tensors
from build_engine.recipe import Recipe
from edge.engines import SHIPPED_RELEASE
from landmarknet.checkpoint import Checkpoint, save_checkpoint
from landmarknet.network import LandmarkNet
from tests.build_engine.recipes import NEGATIVES, PATIENTS, TINY, calibrated, calibration, mirrored, tiny_kinds


@pytest.fixture(scope="session")
def network():
    torch.manual_seed(0)
    network = LandmarkNet(TINY).eval()
    with torch.no_grad():  # spread the heatmaps and lift them above zero, so that there are peaks to compare
        network.heatmap_out.weight *= 20
        network.heatmap_out.bias.fill_(0.5)
    return network


@pytest.fixture(scope="session")
def model(network):
    return export_onnx(network)


@pytest.fixture
def exported(monkeypatch, network, model):
    """Spare the builds the 10 s of an export: the graph is the one that `test_export` looks at."""

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
        kinds=tiny_kinds(),
    )


@pytest.fixture(scope="session")
def collected(tmp_path_factory, model, samples):
    """Return a calibration set of another patient than the gate's, and the ranges over it."""
    return calibration(model, mirrored(samples, tmp_path_factory.mktemp("set") / "a.dcm", PatientID="another"))


@pytest.fixture
def int8_recipe(recipe, tmp_path, samples, collected):
    return calibrated(recipe, tmp_path, samples, *collected)


@pytest.fixture(scope="session")
def graphs():
    """The shipped network in every precision; what counts here is the form, so any range will do."""
    model = (SHIPPED_RELEASE / "model.onnx").read_bytes()
    amax = dict.fromkeys(quantised_tensors(model, (), "onnxruntime"), 10.0)
    int8 = quantise(model, amax)
    return {
        "fp32": model,
        "fp16": to_half(model),
        "int8": int8,
        "int8+fp16": to_half(int8),
        "int8 for CPUs": quantise(model, amax, (), "onnxruntime"),
        "some int8 for CPUs": quantise(model, amax, quantisable_layers(model)[::2], "onnxruntime"),
    }
