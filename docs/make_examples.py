"""Make what the documentation shows with the shipped release: docs/examples and the README's picture."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from edge.config import Config
from edge.engines import open_engine
from edge.pipeline import Pipeline
from edge.results.publish import result_path

DOCS = Path(__file__).parent
SAMPLES = DOCS.parent / "samples"
WIDTH = 480


def main() -> None:
    """Write docs/examples and docs/images/overlays.png."""
    pipeline = Pipeline(open_engine(None, threads=1), Config().sha256())
    with tempfile.TemporaryDirectory() as folder:
        draw_overlays(pipeline, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        write_results(pipeline, Path(folder))


def draw_overlays(pipeline: Pipeline, folder: Path) -> None:
    """Draw the overlays of samples/ side by side."""
    for image in sorted(SAMPLES.glob("*.dcm")):
        pipeline(image, folder)
    overlays = [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.landmarks.png"))]
    small = [o.resize((WIDTH, round(o.height * WIDTH / o.width)), Image.Resampling.LANCZOS) for o in overlays]
    page = Image.new("RGB", (WIDTH * len(small), max(o.height for o in small)), (16, 16, 16))
    for column, overlay in enumerate(small):
        page.paste(overlay, (WIDTH * column, 0))
    page.save(DOCS / "images" / "overlays.png", optimize=True)


def write_results(pipeline: Pipeline, folder: Path) -> None:
    """Write one result of each status: a sample, a blank ramp as PNG, a sample cut short."""
    sample = SAMPLES / "lidc0002_lateral_mv_00.dcm"
    shutil.copyfile(sample, folder / "ok.dcm")
    (folder / "refused.dcm").write_bytes(sample.read_bytes()[:100_000])
    ramp = np.linspace(0, 255, 384).astype(np.uint8)
    Image.fromarray(np.broadcast_to(ramp, (384, 384))).save(folder / "no_landmarks.png")
    for image in (folder / "ok.dcm", folder / "refused.dcm", folder / "no_landmarks.png"):
        result = pipeline(image, None)
        (DOCS / "examples" / result_path(image, None).name).write_bytes(result.to_json())


if __name__ == "__main__":
    main()
