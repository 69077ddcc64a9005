"""Train LandmarkNet: AdamW, warm-up and cosine, EMA, checkpoints that resume with the data they would have seen.

On a CPU two processes of one thread each are used instead of two threads (docs/adr/0003).
"""

from __future__ import annotations

import copy
import csv
import ctypes
import math
import os
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from landmarknet.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, weights_only
from landmarknet.dataset import CachedView, Sample, TrainingSet, cache_views, collate
from landmarknet.losses import loss_terms
from landmarknet.network import HeadForm, LandmarkNet, NetworkConfig

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h
GATE_BIAS = 2.0  # gates start open
LOG_HEADER = ("step", "learning_rate", "heatmaps", "levels", "presence", "seconds")


@dataclass(frozen=True)
class TrainConfig:
    """One training. Patients that are not named are never read: hold a patient out by leaving it out."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}  # read from TOML by pydantic

    ct_folder: str
    cache_folder: str
    output: str
    patients: tuple[str, ...]
    negatives: tuple[str, ...]
    network: NetworkConfig = field(default_factory=NetworkConfig)
    head: HeadForm = "fast"  # "plain" trains the same weights as the paper does, at five times the arithmetic
    steps: int = 1500
    batch: int = 24
    processes: int = 2
    peak_rate: float = 2e-3
    warm_up_steps: int = 60
    weight_decay: float = 1e-2
    ema: float = 0.995
    poses: int = 24
    negative_poses: int = 8
    seed: int = 0
    save_every: int = 50

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_train_config(path: Path) -> TrainConfig:
    """Read a TOML file whose keys are those of `TrainConfig`; its relative paths start at the working directory."""
    try:
        return TypeAdapter(TrainConfig).validate_python(tomllib.loads(path.read_text()))
    except (OSError, tomllib.TOMLDecodeError, ValidationError) as exc:
        raise ValueError(f"{path}: not a training configuration: {exc}") from exc


def learning_rate(step: int, config: TrainConfig) -> float:
    """Rise linearly, then fall along a cosine to zero at the last step."""
    if step < config.warm_up_steps:
        return config.peak_rate * (step + 1) / config.warm_up_steps
    progress = (step - config.warm_up_steps) / max(1, config.steps - config.warm_up_steps)
    return config.peak_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def training_set(config: TrainConfig) -> TrainingSet:
    """Return the training set of a config; projects what the cache lacks."""
    folder, cache = Path(config.ct_folder), Path(config.cache_folder)

    def views(patients: tuple[str, ...], poses: int) -> list[CachedView]:
        return [v for p in patients for v in cache_views(folder / f"{p}.nii.gz", cache, poses, config.seed)]

    return TrainingSet(
        views(config.patients, config.poses), views(config.negatives, config.negative_poses), config.seed
    )


def train(config: TrainConfig, after_save: Callable[[int], None] = lambda _step: None) -> Path:
    """Train, or go on from ``output/last.pt``; return the path of ``weights.pt``, the averaged weights alone.

    ``after_save`` hears the number of steps done after each checkpoint, in a training of one process.
    """
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    training_set(config)  # project once, before the processes share the cache
    if config.processes == 1:
        _train_process(0, config, "", after_save)
    else:
        rendezvous = f"file://{output.resolve()}/rendezvous.{time.time_ns()}"
        spawn(_train_process, args=(config, rendezvous), nprocs=config.processes)
    save_checkpoint(output / "weights.pt", weights_only(load_checkpoint(output / "last.pt")))
    return output / "weights.pt"


def keep_freed_memory() -> None:
    """Ask glibc to reuse large blocks instead of returning them to the kernel at every step (docs/adr/0003)."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(M_TOP_PAD, 2**28)


def _train_process(
    rank: int, config: TrainConfig, rendezvous: str, after_save: Callable[[int], None] | None = None
) -> None:
    parent = os.getppid()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
        keep_freed_memory()
    torch.manual_seed(config.seed)
    model = _new_model(config).to(device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stub
    parallel: nn.Module = model
    if rendezvous:
        dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=config.processes)
        parallel = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.peak_rate, weight_decay=config.weight_decay)
    averaged = copy.deepcopy(model)
    last = Path(config.output) / "last.pt"
    start = _resume(last, model, averaged, optimizer) if last.exists() else 0

    began = time.monotonic()
    batches = _batches(training_set(config), config, rank, start)
    for step, sample in zip(range(start, config.steps), batches, strict=False):
        if rendezvous and os.getppid() != parent:  # it was killed: do not write into the next run's checkpoints
            raise SystemExit("the training was ended")
        terms = _step(parallel, optimizer, _to(sample, device), learning_rate(step, config), device)
        _update_average(averaged, model, min(config.ema, (step + 1) / (step + 10)))
        if rank == 0:
            _log(Path(config.output) / "losses.csv", step, learning_rate(step, config), terms, began)
            if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
                checkpoint = Checkpoint(
                    config.network, step + 1, averaged.state_dict(), model.state_dict(), optimizer.state_dict(),
                    config.to_dict(),
                )  # fmt: skip
                save_checkpoint(last, checkpoint)
                if after_save is not None:
                    after_save(step + 1)
    if rendezvous:
        dist.destroy_process_group()


def _new_model(config: TrainConfig) -> LandmarkNet:
    """Start with nearly empty heatmaps and open gates."""
    model = LandmarkNet(config.network, config.head)
    for out in (model.heatmap_out, *model.by_level):
        assert isinstance(out, nn.Conv2d)
        assert out.bias is not None
        nn.init.normal_(out.weight, std=0.01)
        nn.init.zeros_(out.bias)
    final = model.gate[-1]
    assert isinstance(final, nn.Linear)
    nn.init.constant_(final.bias, GATE_BIAS)
    return model


def _resume(last: Path, model: LandmarkNet, averaged: LandmarkNet, optimizer: torch.optim.Optimizer) -> int:
    checkpoint = load_checkpoint(last)
    model.load_state_dict(checkpoint.raw)
    averaged.load_state_dict(checkpoint.averaged)
    optimizer.load_state_dict(checkpoint.optimizer)
    return checkpoint.step


def _batches(data: TrainingSet, config: TrainConfig, rank: int, start: int) -> Iterator[Sample]:
    """Yield this process's share of each batch, from step ``start``."""
    for step in range(start, config.steps):
        first = step * config.batch
        yield collate(
            [data.sample(i) for i in islice(range(first, first + config.batch), rank, None, config.processes)]
        )


def _step(
    model: nn.Module, optimizer: torch.optim.Optimizer, sample: Sample, rate: float, device: torch.device
) -> dict[str, float]:
    for group in optimizer.param_groups:
        group["lr"] = rate
    with torch.autocast(device.type, torch.bfloat16):
        prediction = model(sample.image, with_levels=True)
    terms = loss_terms(prediction, sample)
    optimizer.zero_grad(set_to_none=True)
    torch.stack(list(terms.values())).sum().backward()
    optimizer.step()
    return {name: float(value.detach()) for name, value in terms.items()}


def _to(sample: Sample, device: torch.device) -> Sample:
    def move(t: Tensor) -> Tensor:
        return t.to(device)

    return Sample(
        image=move(sample.image).to(memory_format=torch.channels_last),
        target=move(sample.target),
        by_level=tuple(move(t) for t in sample.by_level),
        mask=move(sample.mask),
        present=move(sample.present),
    )


@torch.no_grad()
def _update_average(averaged: nn.Module, model: nn.Module, keep: float) -> None:
    for mine, new in zip(averaged.state_dict().values(), model.state_dict().values(), strict=True):
        if mine.dtype.is_floating_point:
            mine.lerp_(new, 1 - keep)
        else:
            mine.copy_(new)


def _log(path: Path, step: int, rate: float, terms: dict[str, float], began: float) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(LOG_HEADER)
        values = [f"{terms[name]:.5f}" for name in LOG_HEADER[2:-1]]
        writer.writerow([step, f"{rate:.3e}", *values, f"{time.monotonic() - began:.1f}"])
