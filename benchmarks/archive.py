"""An archive processed again on two cores: filled by its own command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Bar, Figure

TITLE = "An archive, processed again on two cores"


def measure(quick: bool, scratch: Path) -> Iterator[Figure]:  # noqa: ARG001
    """Yield that nothing was measured yet."""
    yield Figure("two workers against one", bar=Bar(at_least=1.8), note="filled by `make bench ROWS=archive`")
