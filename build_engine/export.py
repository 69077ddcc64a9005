"""Checkpoint to ONNX: the fast head, non-maximum suppression and sub-pixel refinement in one graph."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Sequence

import onnx
import torch
from torch import Tensor, nn

from landmarknet.decode import LandmarkDetector
from landmarknet.network import LandmarkNet

OPSET = 18
INPUT_NAME, OUTPUT_NAMES = "image", ("peaks", "heatmaps")


def export_onnx(network: LandmarkNet) -> bytes:
    """Return a checked ONNX model: image (1, 1, S, S) to peaks (n, K, 3) and heatmaps (n, 3S/4, 3S/4)."""
    size = network.config.input_size
    return export_graph(LandmarkDetector(network), (torch.zeros(1, 1, size, size),), (INPUT_NAME,), OUTPUT_NAMES)


def export_graph(
    module: nn.Module, examples: tuple[Tensor, ...], inputs: Sequence[str], outputs: Sequence[str]
) -> bytes:
    """Return a checked ONNX model of a module, for inputs of the shapes of ``examples``."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses packages that nothing here uses
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        program = torch.onnx.export(
            module.eval(),
            examples,
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            dynamo=True,
            optimize=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    model = program.model_proto
    strip_machine_details(model)
    onnx.checker.check_model(model, full_check=True)
    buffer = io.BytesIO()
    onnx.save_model(model, buffer)
    return buffer.getvalue()


def strip_machine_details(model: onnx.ModelProto) -> None:
    """Remove the stack traces and paths that the exporter leaves in the file."""
    del model.metadata_props[:]
    for entry in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del entry.metadata_props[:]
        entry.doc_string = ""
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
    del model.graph.metadata_props[:]
