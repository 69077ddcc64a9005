"""The default backend: ONNX Runtime on the CPU."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from edge.backends import Inference
from edge.errors import BackendFailed, InferenceFailed


def import_onnxruntime() -> Any:
    """Import ONNX Runtime with its telemetry off, and return it.

    1.32 else writes a device ID and a database into the user's home, keeps a thread for them, and knows an address to
    send them to. The room sends nothing anywhere.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when its first environment is made
    import onnxruntime

    return onnxruntime


class OnnxRuntimeBackend:
    """Run ``model.onnx``; threads that wait sleep instead of spinning, since the workstation is not ours alone."""

    def __init__(self, model: bytes, threads: int, precision: str) -> None:
        ort = import_onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as exc:  # ONNX Runtime raises bare exceptions of its own kinds
            raise BackendFailed(
                f"ONNX Runtime {ort.__version__} cannot load this model ({exc}); rebuild the release for this version"
            ) from exc
        self._version = str(ort.__version__)
        self._precision = precision
        self._input = self._session.get_inputs()[0].name

    def infer(self, batch: np.ndarray) -> Inference:
        try:
            peaks, heatmaps = self._session.run(["peaks", "heatmaps"], {self._input: batch})
        except Exception as exc:
            raise InferenceFailed(
                f"ONNX Runtime {self._version} failed on a batch of shape {batch.shape} ({exc}); it is tried again; "
                "if it stays so, restart the service"
            ) from exc
        return Inference(peaks, heatmaps)

    def describe(self) -> dict[str, str]:
        return {
            "flavour": "onnxruntime",
            "version": self._version,
            "precision": self._precision,
            "device": "cpu",
        }
