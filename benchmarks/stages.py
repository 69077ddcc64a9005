"""Where the time goes: the median milliseconds of each stage of the room's path, on samples/, on this machine."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from edge.config import Config
from edge.engines import open_engine
from edge.pipeline import Pipeline

ROUNDS = 10
SAMPLES = Path(__file__).parent.parent / "samples"


def main() -> None:
    """Print a Markdown table."""
    engine = open_engine(None, threads=1)
    pipeline = Pipeline(engine, Config().sha256())
    timings: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        images = [Path(shutil.copy(path, folder)) for path in sorted(SAMPLES.glob("*.dcm"))]
        for _ in range(ROUNDS):
            for image in images:
                for stage, milliseconds in pipeline(image, None).timing_ms.items():
                    timings.setdefault(stage, []).append(milliseconds)
    print(f"{len(images)} images x {ROUNDS}, release {engine.contract.release}, 1 thread;")
    print(f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, {datetime.now(UTC):%Y-%m-%d}\n")
    print("| stage | median ms | lowest | highest |\n| --- | --- | --- | --- |")
    for stage, values in timings.items():
        print(f"| {stage} | {statistics.median(values):.1f} | {min(values):.1f} | {max(values):.1f} |")


if __name__ == "__main__":
    main()
