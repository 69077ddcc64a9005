"""What other commands measure: a row each that names the command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Bar, Figure

TITLE = "Measured by other commands"


def measure(quick: bool, scratch: Path) -> Iterator[Figure]:  # noqa: ARG001
    """Yield what was not measured here, with the command that does."""
    gpu = (
        "no GPU was available; what is known of GPUs is in [gpu-results.md](gpu-results.md), and `make gpu` runs there"
    )
    yield Figure("fast head on a GPU", against="plain head, same library", bar=Bar(at_most=0.4), note=gpu)
