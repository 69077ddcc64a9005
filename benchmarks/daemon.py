"""The daemon against what it is made of: a backlog against inference alone, one image against its stages.

The backlog is served by ``landmarknet-edge watch --once``; its throughput counts from the first result to the last.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.aside import Aside
from benchmarks.figures import Bar, Figure
from benchmarks.images import write_images
from benchmarks.service_process import daemon
from benchmarks.service_room import Turn, image_by_image
from benchmarks.timing import alternate, ratios, spread, timed

TITLE = "The daemon"
BACKLOG = 500
INFERENCES = 100  # before each backlog, and after it
AT_LEAST = Bar(at_least=0.85)
ONE_BY_ONE = Bar(at_most=1.2)


def measure(quick: bool, scratch: Path) -> Iterator[Figure]:
    """Yield throughput, then latency."""
    images = write_images(scratch / "images", 4)
    yield backlog(scratch, images, 6 if quick else BACKLOG, 3 if quick else INFERENCES, 1 if quick else 3)
    yield one_at_a_time(scratch / "one", images, 3 if quick else 60)


def backlog(scratch: Path, images: list[Path], count: int, inferences: int, rounds: int) -> Figure:
    """Return the images a second of a backlog over those of inference alone, which runs before and after it."""
    ours, theirs = [], []
    with Aside("benchmarks.daemon:inference", {"image": images[0], "count": inferences}) as alone:
        alone.turn()  # to warm up
        for _ in range(rounds):
            before_s = alone.turn()
            ours.append(throughput(scratch / "backlog", images, count))
            theirs.append(2 * inferences / (before_s + alone.turn()))
    what = f"{count} images that were there at the start, as shipped"
    medians = spread(ours).median, spread(theirs).median
    return Figure(
        what, medians[0], "images/s", "inference alone, same release", medians[1], ratios(ours, theirs), AT_LEAST
    )


def inference(image: str, count: int) -> Callable[[], float]:
    """Return a turn of so many inferences of one image, as the release does them, with one thread."""
    from edge.detect import scale_ratios
    from edge.engines import open_engine
    from edge.portal_image import read_portal_image
    from edge.preprocess import to_network_input

    engine = open_engine(None, threads=1)
    portal_image, contract = read_portal_image(Path(image)), engine.contract
    (ratio,) = scale_ratios(portal_image, contract)
    batch, _ = to_network_input(portal_image.pixels, contract.input_size, ratio)
    return timed(lambda: [engine.backend.infer(batch) for _ in range(count)])


def throughput(base: Path, images: list[Path], count: int) -> float:
    """Serve a backlog of copies in real time; return images a second."""
    shutil.rmtree(base, ignore_errors=True)
    drop = base / "drop"
    drop.mkdir(parents=True)
    for number in range(count):
        shutil.copyfile(images[number % len(images)], drop / f"{number:04d}.dcm")
    with daemon(base, {}, "--once", settings="") as process:
        process.wait()
    at_ns = sorted(path.stat().st_mtime_ns for path in drop.glob("*.landmarks.json"))
    if len(at_ns) != count:
        raise RuntimeError(f"{len(at_ns)} of {count} images have a result in {drop}")
    return (count - 1) / ((at_ns[-1] - at_ns[0]) / 1e9)


def one_at_a_time(base: Path, images: list[Path], count: int) -> Figure:
    """Return what an image takes from settled to its last line in the journal, over the sum of its stages."""
    turns: list[Turn] = []
    with image_by_image(base) as serve:

        def turn() -> float:
            turns.append(serve(images[len(turns) % len(images)]))
            return turns[-1].spent_ms

        spent_ms = alternate({"": turn}, count)[""]
    stages_ms = [sum(one.made_ms.values()) for one in turns[-count:]]
    medians = spread(spent_ms).median, spread(stages_ms).median
    what = "one image at a time, settled to the journal's last line, as shipped"
    against = "its stages: read, preprocess, infer, landmarks, overlay"
    return Figure(what, medians[0], "ms", against, medians[1], ratios(spent_ms, stages_ms), ONE_BY_ONE)
