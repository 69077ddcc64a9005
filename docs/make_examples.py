"""Make what the documentation shows with the shipped release: docs/examples and the README's picture."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from edge.by_hand import reference_of_image
from edge.config import Config, ReferenceRule
from edge.engines import open_engine
from edge.pipeline import Pipeline
from edge.registration.alignment import References
from edge.registration.reference import Reference, ReferenceLandmark, add_reference
from edge.results.publish import result_path

DOCS = Path(__file__).parent
SAMPLES = DOCS.parent / "samples"
WIDTH = 480
WIDEST_INTERVAL_MM = 10.0  # configured: by default the shipped release's two landmarks are withheld


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
    """Write one result of each status: a sample, a blank ramp as PNG, a sample cut short; registered, and withheld."""
    sample = SAMPLES / "lidc0002_lateral_mv_00.dcm"
    shutil.copyfile(sample, folder / "ok.dcm")
    (folder / "refused.dcm").write_bytes(sample.read_bytes()[:100_000])
    ramp = np.linspace(0, 255, 384).astype(np.uint8)
    Image.fromarray(np.broadcast_to(ramp, (384, 384))).save(folder / "no_landmarks.png")
    for image in (folder / "ok.dcm", folder / "refused.dcm", folder / "no_landmarks.png"):
        write_result(pipeline, image)
    write_registered(pipeline, folder)


def write_registered(pipeline: Pipeline, folder: Path) -> None:
    """Write the results of two samples with references: a shift from a person's landmarks, and one withheld."""
    rules = []
    for name, view in (("registered", "lateral"), ("withheld", "ap")):
        planned = SAMPLES / f"lidc0002_{view}_drr_00.dcm"
        reference = reference_of_image(planned, pipeline.engine, may_lack_beam=True)
        reference = signed(reference, planned.name) if name == "registered" else reference
        add_reference(folder / "references", reference)
        rules.append(ReferenceRule(image_name=f"{name}.dcm", reference=reference.key))
        shutil.copyfile(SAMPLES / f"lidc0002_{view}_mv_00.dcm", folder / f"{name}.dcm")
        registering = replace(pipeline, references=References(folder / "references", tuple(rules), WIDEST_INTERVAL_MM))
        write_result(registering, folder / f"{name}.dcm")


def signed(reference: Reference, name: str) -> Reference:
    """Return a reference with the sample's true landmarks, as a person would mark and sign them."""
    truth = json.loads((SAMPLES / "truth.json").read_text())["images"][name]["landmarks"]
    marked = tuple(
        ReferenceLandmark(kind=one["kind"], shape="point", x_mm=one["x_mm"], y_mm=one["y_mm"], sigma_mm=1.0)
        for one in truth
        if one["kind"] in {"tracheal_bifurcation", "louis_angle"}
    )
    by_whom = {
        "landmarks_from": "person",
        "release": None,
        "signed_off_by": "truth.json",
        "signed_off_utc": "2026-11-23",
    }
    return reference.model_copy(update={"landmarks": marked, **by_whom})


def write_result(pipeline: Pipeline, image: Path) -> None:
    """Process an image and keep its JSON."""
    (DOCS / "examples" / result_path(image, None).name).write_bytes(pipeline(image, None).to_json())


if __name__ == "__main__":
    main()
