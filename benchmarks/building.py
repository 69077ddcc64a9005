"""Ranges for INT8 over more and more images, and the build of the shipped release: time and peak memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.aside import ROOT, once
from benchmarks.figures import Bar, Figure
from benchmarks.images import write_images
from benchmarks.timing import ratios, timed

TITLE = "Calibration for INT8, and the engine's build"
COUNTS = (16, 64, 256)
SHAPE = (384, 512)  # of the simulated portal images
FLAT = Bar(at_most=1.1)  # of the peak with the fewest images
RECIPE = ROOT / "build_engine/recipes/room_cpu.toml"


def measure(quick: bool, scratch: Path) -> Iterator[Figure]:
    """Yield what ``landmarknet-calibrate collect`` costs by image and holds at most; then the build in float32."""
    counts = (2, 4) if quick else COUNTS
    write_images(scratch / "images", counts[-1], SHAPE)
    told = [once("benchmarks.building:collected", {"folder": scratch / "images", "count": count}) for count in counts]
    seconds, peaks_mb = zip(*told, strict=True)
    for count, spent_s, peak_mb in zip(counts, seconds, peaks_mb, strict=True):
        against = f"{counts[0]} images"
        a_second = [spent_s / count], [seconds[0] / counts[0]]
        yield Figure(
            f"ranges over {count} images, by image", a_second[0][0], "s", against, a_second[1][0], ratios(*a_second)
        )
        held = [peak_mb], [peaks_mb[0]]
        yield Figure(
            f"ranges over {count} images, peak memory", peak_mb, "MiB", against, peaks_mb[0], ratios(*held), FLAT
        )
    spent_s, peak_mb = once("benchmarks.building:built", {"folder": scratch})
    yield Figure("build of the shipped release, float32", spent_s, "s")
    yield Figure("build of the shipped release, peak memory", peak_mb, "MiB")


def collected(folder: str, count: int) -> Callable[[], float]:
    """Return a turn that collects the ranges over so many images, as the command does."""
    from rich.progress import Progress

    from calibration.calibration_set import CalibrationSet, Entry, Stratum
    from calibration.collect import collect, float_model
    from edge.contract import read_contract
    from edge.engines import SHIPPED_RELEASE

    contract, _ = read_contract(SHIPPED_RELEASE / "contract.json")
    stratum = Stratum(view="unknown", machine="unknown", energy="unknown", exposure="unknown")
    paths = sorted(Path(folder).glob("*.dcm"))[:count]
    entries = [Entry(path=p, sha256=hashlib.sha256(p.read_bytes()).hexdigest(), stratum=stratum) for p in paths]
    chosen = CalibrationSet(seed=0, entries=tuple(entries))
    model = float_model(SHIPPED_RELEASE, contract)
    return timed(lambda: collect(model, contract, chosen, Progress(disable=True)))


def built(folder: str) -> Callable[[], float]:
    """Return a turn that builds the shipped release elsewhere."""
    from build_engine.build import build_release
    from build_engine.recipe import read_recipe

    recipe = read_recipe(RECIPE).model_copy(
        update={"output": Path(folder) / "release", "report": Path(folder) / "report"}
    )
    return timed(lambda: build_release(recipe, lambda _line: None))
