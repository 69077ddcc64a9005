"""Run a release's graph: network, non-maximum suppression and sub-pixel refinement in one call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True, eq=False)
class Inference:
    """What one run of the graph gives.

    ``peaks`` is (n, K, 3) float32 with x, y in network px and the score, best first; unused rows are -1.
    ``heatmaps`` is (n, 3S/4, 3S/4) float32, at the sample sites 4b + (0, 1.5, 3) network px of block b along each axis.
    """

    peaks: np.ndarray
    heatmaps: np.ndarray


class Backend(Protocol):
    """Anything that maps a (1, 1, S, S) float32 batch to an `Inference`."""

    def infer(self, batch: np.ndarray) -> Inference:
        """Run the graph; raise `InferenceFailed` where the device or memory fails."""
        ...

    def describe(self) -> dict[str, str]:
        """Return flavour, version, precision delivered and device, for the provenance of a result."""
        ...


def close_backend(backend: Backend) -> None:
    """Give back the device that a backend holds; one on the CPU holds nothing, and has no ``close``."""
    close = getattr(backend, "close", None)
    if close is not None:
        close()


def holds_device(backend: Backend) -> bool:
    """Tell whether a backend has a device to give back; see `close_backend`."""
    return getattr(backend, "close", None) is not None
