"""The paper's network with random weights of a fixed seed, and its graphs: runs aside, for it needs torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from benchmarks.images import SAMPLES
from build_engine.export import INPUT_NAME, export_graph
from build_engine.quantize import HEATMAPS, quantise, quantised_tensors
from calibration.collect import with_outputs
from calibration.observers import amax, empty_histogram, observe
from edge.portal_image import read_portal_image
from edge.preprocess import to_network_input
from landmarknet.network import LandmarkNet, NetworkConfig, Residual

SEED = 7
BRANCH = 0.2  # of a residual block beside its shortcut


def prepare(folder: str, config: dict[str, Any]) -> Callable[[], None]:
    """Return a turn that writes the graphs, an input and the heatmaps that are right."""

    def turn() -> None:
        base = Path(folder)
        network, batches = new_network(config)
        (base / "config.json").write_text(json.dumps(config))
        torch.save(network.state_dict(), base / "weights.pt")
        for head in ("fast", "plain"):
            network.head = head
            model = exported(network)
            (base / f"{head}.onnx").write_bytes(model)
            (base / f"{head}_int8.onnx").write_bytes(quantise(model, ranges(model, batches), form="onnxruntime"))
        with torch.inference_mode():
            heatmaps = network(torch.from_numpy(batches[0])).heatmaps
        np.savez(base / "right.npz", **{INPUT_NAME: batches[0], "heatmaps": heatmaps.numpy()})

    return turn


def new_network(config: dict[str, Any]) -> tuple[LandmarkNet, list[np.ndarray]]:
    """Return a network of random weights with the plain head, and batches of images that it has normed itself to."""
    torch.manual_seed(SEED)
    network = LandmarkNet(NetworkConfig(**config))
    size = network.config.input_size
    batches = [to_network_input(read_portal_image(path).pixels, size)[0] for path in SAMPLES]
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all that it saw
        if isinstance(module, Residual):  # else depth magnifies each rounding a thousandfold, as training undoes
            nn.init.constant_(module.body[-1][-1].weight, BRANCH)  # type: ignore[index]
    with torch.no_grad():
        network.train()(torch.from_numpy(np.concatenate(batches)))
    return network.eval(), batches


class HeatmapsOnly(nn.Module):
    """From image to heatmaps, without mirror image and decode."""

    def __init__(self, network: LandmarkNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        heatmaps: Tensor = self.network(image).heatmaps
        return heatmaps


def exported(network: LandmarkNet) -> bytes:
    """Return the graph from image to heatmaps, made as a release's is."""
    size = network.config.input_size
    return export_graph(HeatmapsOnly(network), (torch.zeros(1, 1, size, size),), (INPUT_NAME,), (HEATMAPS,))


def ranges(model: bytes, batches: list[np.ndarray]) -> dict[str, float]:
    """Return the range of each activation that INT8 needs it of, by squared error as the recipe of a site has it."""
    tensors = [one for one in quantised_tensors(model, form="onnxruntime") if one != INPUT_NAME]
    session = onnxruntime.InferenceSession(with_outputs(onnx.load_from_string(model), tuple(tensors)))
    seen = dict.fromkeys((INPUT_NAME, *tensors), empty_histogram())
    for batch in batches:
        for name, values in zip(seen, (batch, *session.run(tensors, {INPUT_NAME: batch})), strict=True):
            seen[name] = observe(seen[name], values)
    return {name: amax(histogram)["mse"] for name, histogram in seen.items()}
