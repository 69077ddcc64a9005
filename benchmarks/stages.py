"""Everything but inference, stage by stage, as the daemon runs it; overlay and DICOM outputs costed apart.

Four services take turns: without any output but the JSON, and with one output more each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks.figures import Bar, Figure
from benchmarks.images import write_images
from benchmarks.service_room import Turn, image_by_image
from benchmarks.timing import alternate, differences, ratios, spread

TITLE = "Everything but inference, 1024 x 1280 images on a local disk"
BAR = Bar(at_most=20.0)
BARE = "without overlay"
OUTPUTS = {
    BARE: {"overlay": False},
    "overlay": {"overlay": True},
    "structured report": {"overlay": False, "structured_report": True},
    "presentation state": {"overlay": False, "presentation_state": True},
}


def measure(quick: bool, scratch: Path) -> Iterator[Figure]:
    """Yield the median beyond inference, its stages, and what each output adds."""
    images = write_images(scratch / "images", 4)
    seen: dict[str, list[Turn]] = {name: [] for name in OUTPUTS}
    with ExitStack() as stack:

        def turn(name: str, serve: Callable[[Path], Turn]) -> Callable[[], float]:
            def one() -> float:
                seen[name].append(serve(images[len(seen[name]) % len(images)]))
                return seen[name][-1].beyond_ms

            return one

        services = {
            name: stack.enter_context(image_by_image(scratch / name, **settings)) for name, settings in OUTPUTS.items()
        }
        turns = {name: turn(name, serve) for name, serve in services.items()}
        rounds = 3 if quick else 40
        alternate(turns, rounds, warm_up=1 if quick else 4)
    yield from figures({name: turns[-rounds:] for name, turns in seen.items()})


def figures(seen: dict[str, list[Turn]]) -> Iterator[Figure]:
    """Yield the figures of services that took turns.

    What an output adds is told of the whole time: part of it is made while the network runs, and may slow it.
    """
    bare = seen[BARE]
    infer_ms, beyond_ms = [one.made_ms["infer"] for one in bare], [one.beyond_ms for one in bare]
    inference = "inference of the shipped release", spread(infer_ms).median
    beyond = spread(beyond_ms)
    note = f"between {beyond.low:.1f} and {beyond.high:.1f} ms in four of five images"
    whole = "settled to published and in the journal, without overlay"
    yield Figure(whole, beyond.median, "ms", *inference, ratios(beyond_ms, infer_ms), BAR, note, bar_on_ours=True)
    for values in parts(bare):
        name, spent_ms = values
        yield Figure(f"of that, {name}", spread(spent_ms).median, "ms", *inference, ratios(spent_ms, infer_ms))
    for name in list(OUTPUTS)[1:]:
        more = differences([one.spent_ms for one in seen[name]], [one.spent_ms for one in bare])
        note = f"between {more.low:.1f} and {more.high:.1f} ms more in four of five images"
        yield Figure(f"{name}, besides", more.median, "ms", *inference, note=note)


def parts(turns: list[Turn]) -> Iterator[tuple[str, list[float]]]:
    """Yield the milliseconds of each stage, and of what is in none."""
    for stage in turns[0].made_ms:
        if stage != "infer":
            yield stage, [one.made_ms[stage] for one in turns]
    for stage in turns[0].around_ms:
        yield stage, [one.around_ms[stage] for one in turns]
    yield "sweep, audit log, rest", [one.spent_ms - sum((one.made_ms | one.around_ms).values()) for one in turns]
