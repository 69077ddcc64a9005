"""Memory of the service over thousands of images: twelve minutes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.images import SAMPLES
from benchmarks.processes import held_mb
from benchmarks.service_room import image_by_image

TITLE = "Memory over thousands of images (only when named)"
IMAGES = 5_000


def measure(quick: bool, scratch: Path) -> Iterator[Figure]:
    """Yield what supervisor, worker and reader hold after a tenth of the images, and after all."""
    count = 20 if quick else IMAGES
    taken_mb = []
    with image_by_image(scratch / "room", settles_s=0.0) as serve:
        for number in range(count):
            serve(SAMPLES[number % len(SAMPLES)])
            taken_mb.append(held_mb())
    early_mb, late_mb = taken_mb[count // 10], taken_mb[-1]
    yield Figure(f"resident after {count:,} images", late_mb, "MiB", f"after {count // 10:,}", early_mb)
