"""Draw the README's picture: the overlays of samples/, side by side."""

from __future__ import annotations

import tempfile
from pathlib import Path

from PIL import Image

from edge.config import Config
from edge.engines import open_engine
from edge.pipeline import Pipeline

ROOT = Path(__file__).parent.parent
WIDTH = 480


def main() -> None:
    """Write docs/images/overlays.png."""
    pipeline = Pipeline(open_engine(None, threads=1), Config().sha256())
    with tempfile.TemporaryDirectory() as folder:
        for image in sorted((ROOT / "samples").glob("*.dcm")):
            pipeline(image, Path(folder))
        overlays = [Image.open(path).convert("RGB") for path in sorted(Path(folder).glob("*.landmarks.png"))]
    small = [o.resize((WIDTH, round(o.height * WIDTH / o.width)), Image.Resampling.LANCZOS) for o in overlays]
    page = Image.new("RGB", (WIDTH * len(small), max(o.height for o in small)), (16, 16, 16))
    for column, overlay in enumerate(small):
        page.paste(overlay, (WIDTH * column, 0))
    page.save(ROOT / "docs" / "images" / "overlays.png", optimize=True)


if __name__ == "__main__":
    main()
