"""The fast and the plain head on a GPU: on none yet, see docs/gpu-results.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Bar, Figure

TITLE = "On a GPU"


def measure(quick: bool, scratch: Path) -> Iterator[Figure]:  # noqa: ARG001
    """Yield that nothing was measured."""
    note = "no GPU was available; what is known of GPUs is in gpu-results.md, and `make gpu` runs there"
    yield Figure("fast head on a GPU", against="plain head, same library", bar=Bar(at_most=0.4), note=note)
