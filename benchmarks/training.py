"""A training step with our head against one with the plain head: the same weights, images and loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.aside import Aside
from benchmarks.figures import Bar, Figure
from benchmarks.processes import forget_peak, held_mb, peaks_mb
from benchmarks.timing import alternate, ratios, spread, timed

TITLE = "A training step, bfloat16, one thread"
TIME, MEMORY = Bar(at_most=0.25), Bar(at_most=0.45)
NETWORKS: dict[str, tuple[dict[str, Any], int]] = {
    "the paper's network, batch of 1": ({}, 1),
    "the shipped network, batch of 4": (
        {"bottom_up": "resnet18", "width": 0.5, "head_width": 0.25, "input_size": 256},
        4,
    ),
}
SMALL: dict[str, tuple[dict[str, Any], int]] = {
    "a small network": ({"bottom_up": "resnet18", "width": 0.25, "input_size": 128}, 1)
}


def measure(quick: bool, scratch: Path) -> Iterator[Figure]:  # noqa: ARG001
    """Yield time and memory of each network."""
    for name, (network, batch) in (SMALL if quick else NETWORKS).items():
        yield from of_network(name, network, batch, rounds=2 if quick else 3)


def of_network(name: str, network: dict[str, Any], batch: int, rounds: int) -> Iterator[Figure]:
    """Yield the step's time, what it holds more than between steps, and what the process holds at most."""
    heads = "fast", "plain"
    told: dict[str, list[dict[str, float]]] = {head: [] for head in heads}
    with ExitStack() as stack:

        def turn(head: str) -> Callable[[], float]:
            arguments = {"network": network, "batch": batch, "head": head}
            aside = stack.enter_context(Aside("benchmarks.training:steps", arguments))

            def one() -> float:
                told[head].append(aside.turn())
                return told[head][-1]["s"]

            return one

        taken = alternate({head: turn(head) for head in heads}, rounds)
    medians = [spread(taken[head]).median for head in heads]
    yield Figure(f"{name}, step", medians[0], "s", "plain head", medians[1], ratios(*taken.values()), TIME)
    for what, key in (
        ("peak of a step above what is held between steps", "step_mb"),
        ("peak of the process", "all_mb"),
    ):
        mine, theirs = ([one[key] for one in told[head][-rounds:]] for head in heads)
        medians = [spread(values).median for values in (mine, theirs)]
        bar = MEMORY if key == "step_mb" else None
        yield Figure(f"{name}, {what}", medians[0], "MiB", "plain head", medians[1], ratios(mine, theirs), bar)


def steps(network: dict[str, Any], batch: int, head: Any) -> Callable[[], dict[str, float]]:
    """Return a turn that trains one step on images of noise, and says what it took and held."""
    import torch

    from landmarknet.dataset import Sample
    from landmarknet.network import STRIDES, NetworkConfig
    from landmarknet.train import TrainConfig, new_model, training_step

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = TrainConfig("", "", "", (), (), network=NetworkConfig(**network), head=head, batch=batch, processes=1)
    model = new_model(config).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.peak_rate, weight_decay=config.weight_decay)
    kinds, size = len(config.network.kinds), config.network.input_size
    sample = Sample(
        image=torch.randn(batch, 1, size, size).to(memory_format=torch.channels_last),
        target=torch.rand(batch, kinds, size * 3 // 4, size * 3 // 4),
        by_level=tuple(torch.rand(batch, kinds, size // stride, size // stride) for stride in STRIDES),
        mask=torch.ones(batch, kinds, size * 3 // 4, 1),
        present=torch.ones(batch, kinds),
    )
    step = timed(lambda: training_step(model, optimizer, sample, config.peak_rate, config))

    def turn() -> dict[str, float]:
        before_mb = held_mb()
        forget_peak()
        spent_s = step()
        (peak_mb,) = peaks_mb()
        return {"s": spent_s, "step_mb": peak_mb - before_mb, "all_mb": peak_mb}

    return turn
