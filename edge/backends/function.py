"""A public fake: a function in the shape of a backend, for tests and for trying the room without a model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edge.backends import Inference


class FunctionBackend:
    """Answer with ``function(batch) -> peaks (n, K, 3)``; the heatmaps are zeros."""

    def __init__(self, function: Callable[[np.ndarray], np.ndarray], heatmap_size: int = 144) -> None:
        self._function = function
        self._heatmap_size = heatmap_size

    def infer(self, batch: np.ndarray) -> Inference:
        peaks = np.asarray(self._function(batch), np.float32)
        return Inference(peaks, np.zeros((len(peaks), self._heatmap_size, self._heatmap_size), np.float32))

    def describe(self) -> dict[str, str]:
        return {"flavour": "function", "version": "0", "precision": "fp32", "device": "none"}
