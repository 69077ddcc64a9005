"""The paper's network on the CPU, one image: the fast head as we export it, against the plain head elsewhere.

Random weights of a fixed seed, with batch normalisation that has seen images, so that numbers have the sizes that they
have in a trained network. A contender whose heatmaps are not those of the plain head in torch is not timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.aside import Aside, AsideFailed, once
from benchmarks.figures import Bar, Figure
from benchmarks.timing import Times, alternate, ratios, spread

TITLE = "The paper's network (ResNet-50, 384 px) on the CPU, one image"
SEED = 7
EXACT, HALF, INT8 = 1e-3, 0.1, 0.5  # root mean square of the difference, over the standard deviation of the right ones


@dataclass(frozen=True)
class Contender:
    """Who computes the heatmaps, how, and how far they may be off."""

    name: str
    make: str  # a function of benchmarks.network_contenders
    model: str = "plain"
    setting: str = ""
    tolerance: float = EXACT


FAST = Contender("fast head, ONNX Runtime", "onnxruntime_run", "fast")
FAST_INT8 = Contender("fast head, ONNX Runtime, INT8", "onnxruntime_run", "fast_int8", tolerance=INT8)
PLAIN = Contender("plain head, ONNX Runtime", "onnxruntime_run", setting="spin")
OTHERS = (
    PLAIN,
    Contender("plain head, ONNX Runtime, INT8", "onnxruntime_run", "plain_int8", "spin", INT8),
    Contender("plain head, OpenVINO, float32", "openvino_run", setting="f32"),
    Contender("plain head, OpenVINO, as it chooses", "openvino_run", tolerance=HALF),
    Contender("plain head, torch eager", "torch_run"),
    Contender("plain head, torch eager, channels last", "torch_run", setting="channels_last"),
    Contender("plain head, torch eager, bfloat16", "torch_run", setting="channels_last bfloat16", tolerance=HALF),
    Contender("plain head, torch.compile", "torch_run", setting="channels_last compile"),
    Contender(
        "plain head, torch.compile, bfloat16", "torch_run", setting="channels_last compile bfloat16", tolerance=HALF
    ),
)
OURS_ELSEWHERE = Contender("fast head, OpenVINO, float32", "openvino_run", "fast", "f32")


def measure(quick: bool, scratch: Path) -> Iterator[Figure]:
    """Yield the figures for one thread and for two."""
    config = {"bottom_up": "resnet18", "width": 0.25, "input_size": 128} if quick else {}
    once("benchmarks.network_graphs:prepare", {"folder": scratch, "config": config}, threads=2)
    for threads in (1, 2):
        yield from with_threads(scratch, threads, rounds=2 if quick else 5)


def with_threads(folder: Path, threads: int, rounds: int) -> Iterator[Figure]:
    """Yield the figures for so many threads; a contender that cannot be had says why in its row."""
    turns: dict[str, Callable[[], float]] = {}
    missing: dict[str, str] = {}
    with ExitStack() as stack:
        for one in (FAST, FAST_INT8, OURS_ELSEWHERE, *OTHERS):
            try:
                asked = vars(one) | {"folder": folder, "threads": threads}
                aside = Aside("benchmarks.network_contenders:contender", asked, threads)
                turns[one.name] = stack.enter_context(aside).turn
            except AsideFailed as exc:
                missing[one.name] = str(exc)
        taken = alternate(turns, rounds, SEED)
    yield from compared(taken, threads)
    for name, reason in missing.items():
        yield Figure(f"{name}, {_threads(threads)}", note=f"not measured: {reason}")


def compared(taken: Times, threads: int) -> Iterator[Figure]:
    """Yield ours against each, the bars against the plain export and against the fastest of the others."""
    for ours, bar in ((FAST, Bar(at_most=0.22)), (FAST_INT8, Bar(at_most=0.12))):
        for other in (*OTHERS, OURS_ELSEWHERE) if ours is FAST else (PLAIN,):
            if {ours.name, other.name} <= set(taken):
                yield _figure(ours.name, other.name, taken, threads, bar if other is PLAIN else None)
    others = [one.name for one in OTHERS if one.name in taken]
    best = min(others, key=lambda name: spread(taken[name]).median)
    for ours in (FAST, FAST_INT8):
        if ours.name in taken:
            fastest = _figure(ours.name, best, taken, threads, Bar(at_most=1.0))
            yield Figure(**{**vars(fastest), "against": f"{best}: the fastest of all others"})


def _figure(ours: str, other: str, taken: Times, threads: int, bar: Bar | None) -> Figure:
    mine, theirs = taken[ours], taken[other]
    what = f"{ours}, {_threads(threads)}"
    medians = (1e3 * spread(values).median for values in (mine, theirs))
    return Figure(what, next(medians), "ms", other, next(medians), ratios(mine, theirs), bar)


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"
