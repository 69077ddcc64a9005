"""One 1024 x 1280 16-bit image from file to result: the shipped default, against the script that people write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.aside import ROOT, Aside
from benchmarks.figures import Bar, Figure
from benchmarks.images import write_images
from benchmarks.timing import alternate, ratios, spread, timed

TITLE = "The whole path of one 1024 x 1280 image, shipped release"
WEIGHTS = ROOT / "landmarknet/weights/room_cpu.pt"
OURS = "landmarknet-edge process, as shipped (1 thread, overlay, everything synced to disk)"
BAR = Bar(at_most=0.15)
SAME_NET_PX = 1.5  # the script takes the middle of equal pixels, we the vertex of a parabola
CLEAR = 0.35  # a score that is above the script's threshold in both

SCRIPTS: dict[str, tuple[int | None, dict[str, Any]]] = {
    "the usual script, mirror image as the release": (None, {"mirrored": True}),
    "the same, 1 thread": (1, {"mirrored": True}),
    "the usual script, without the mirror image (another answer)": (None, {"mirrored": False}),
    "the usual script with the paper's network, 384 px (random weights)": (None, {"mirrored": False, "paper": True}),
}


def measure(quick: bool, scratch: Path) -> Iterator[Figure]:
    """Yield ours against each form of the script."""
    images = [str(path) for path in write_images(scratch, 4)]
    with ExitStack() as stack:

        def turn(function: str, threads: int | None, **asked: Any) -> Callable[[], float]:
            return stack.enter_context(
                Aside(f"benchmarks.whole_path:{function}", {"images": images} | asked, threads)
            ).turn

        turns = {OURS: turn("ours", 1)}
        turns |= {name: turn("script", threads, **asked) for name, (threads, asked) in SCRIPTS.items()}
        taken = alternate(turns, 2 if quick else 12, warm_up=1 if quick else 2)
    for name in SCRIPTS:
        mine, theirs = (1e3 * spread(taken[one]).median for one in (OURS, name))
        bar = BAR if name == next(iter(SCRIPTS)) else None
        yield Figure(OURS, mine, "ms", name, theirs, ratios(taken[OURS], taken[name]), bar)


def ours(images: list[str]) -> Callable[[], float]:
    """Return a turn that processes the next image as the command does."""
    from edge.config import Config
    from edge.engines import open_configured
    from edge.pipeline import pipeline_of

    config = Config()
    pipeline = pipeline_of(config, open_configured(config))
    numbers = iter(range(10**9))
    return timed(lambda: pipeline(Path(images[next(numbers) % len(images)]), None))


def script(images: list[str], mirrored: bool, paper: bool = False) -> Callable[[], float]:
    """Return a turn that processes the next image as the script does; the release's network gives the same points."""
    from benchmarks.peers.usual_script import Options, load_network, process

    options = Options(mirrored)
    network = paper_network() if paper else load_network(WEIGHTS)
    if mirrored:
        for image in images:
            demand_same(process(Path(image), network, options), Path(image))
    numbers = iter(range(10**9))
    return timed(lambda: process(Path(images[next(numbers) % len(images)]), network, options))


def paper_network() -> Any:
    """Return the network as published: nobody has its weights, and its speed does not depend on them."""
    import torch

    from landmarknet.network import LandmarkNet, NetworkConfig

    torch.manual_seed(0)
    return LandmarkNet(NetworkConfig(), "plain").eval().to(memory_format=torch.channels_last)


def demand_same(found: list[dict[str, Any]], image: Path) -> None:
    """Raise unless each clear single point of one is among the other's."""
    from edge.by_hand import see
    from edge.detect import detect
    from edge.engines import open_engine

    engine = open_engine(None, 1)
    inference = detect(see(image, engine).image, engine.backend, engine.contract).inference
    for promise, rows in zip(engine.contract.kinds, inference.peaks, strict=True):
        if promise.shape == "line":
            continue
        theirs = np.array([(p["x_net"], p["y_net"], p["score"]) for p in found if p["kind"] == promise.kind])
        theirs = theirs.reshape(-1, 3)
        for mine, others in ((rows, theirs), (theirs, rows)):
            for x, y, score in mine[mine[:, 2] > CLEAR]:
                if not (np.hypot(others[:, 0] - x, others[:, 1] - y) <= SAME_NET_PX).any():
                    raise RuntimeError(
                        f"{image.name}: {promise.kind} at ({x:.1f}, {y:.1f}), {score:.2f}, is in one only"
                    )
