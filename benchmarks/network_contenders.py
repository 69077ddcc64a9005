"""Who computes the heatmaps of the paper's network, one per process; each imports no library but its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.aside import AsideFailed
from benchmarks.timing import timed


def contender(
    folder: str, threads: int, name: str, make: str, model: str, setting: str, tolerance: float
) -> Callable[[], float]:
    """Return a turn that infers once, if what it infers is right."""
    base = Path(folder)
    right = np.load(base / "right.npz")
    run = {"onnxruntime_run": onnxruntime_run, "openvino_run": openvino_run, "torch_run": torch_run}[make]
    infer = run(base, model, setting.split(), threads, right["image"])
    off = difference(infer(), right["heatmaps"])
    if not off <= tolerance:
        raise AsideFailed(f"{name}: its heatmaps are off by {off:.2g} of their spread, more than {tolerance:g}")
    return timed(infer)


def difference(heatmaps: np.ndarray, right: np.ndarray) -> float:
    """Return the root mean square of the difference over the right ones' standard deviation; sites are repeated."""
    if heatmaps.shape != right.shape:  # the middle row and column of each block of 3 x 3 sites are two of 4 x 4 px
        for axis in (-2, -1):
            heatmaps = np.repeat(heatmaps, np.tile((1, 2, 1), heatmaps.shape[axis] // 3), axis)
    return float(np.sqrt(np.mean((heatmaps - right) ** 2)) / right.std())


def onnxruntime_run(
    base: Path, model: str, setting: list[str], threads: int, image: np.ndarray
) -> Callable[[], np.ndarray]:
    """Return an inference by ONNX Runtime; "spin" is its own default, the room's is to sleep."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if "spin" in setting else "0")
    session = onnxruntime.InferenceSession(
        (base / f"{model}.onnx").read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, {"image": image})[0]


def openvino_run(
    base: Path, model: str, setting: list[str], threads: int, image: np.ndarray
) -> Callable[[], np.ndarray]:
    """Return an inference by OpenVINO, set for the latency of one image."""
    import openvino

    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    if "f32" in setting:
        options["INFERENCE_PRECISION_HINT"] = "f32"
    compiled = openvino.Core().compile_model(base / f"{model}.onnx", "CPU", options)
    request = compiled.create_infer_request()
    return lambda: request.infer([image])[0]


def torch_run(base: Path, _model: str, setting: list[str], threads: int, image: np.ndarray) -> Callable[[], np.ndarray]:
    """Return an inference by torch with the plain head."""
    import torch

    from landmarknet.network import LandmarkNet, NetworkConfig

    torch.set_num_threads(threads)
    network = LandmarkNet(NetworkConfig(**json.loads((base / "config.json").read_text())), "plain")
    network.load_state_dict(torch.load(base / "weights.pt", weights_only=True))
    network.eval()
    batch = torch.from_numpy(image)
    if "channels_last" in setting:
        network, batch = network.to(memory_format=torch.channels_last), batch.to(memory_format=torch.channels_last)
    run = torch.compile(network) if "compile" in setting else network

    def infer() -> np.ndarray:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled="bfloat16" in setting):
            return run(batch).heatmaps.float().numpy()

    return infer
