"""Train a network: AdamW, warm-up and cosine, EMA, checkpoints that resume with the data they would have seen.

On a CPU two processes of one thread each are used instead of two threads (docs/adr/0003).
"""

from __future__ import annotations

import copy
import csv
import ctypes
import math
import multiprocessing
import os
import threading
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from landmarknet.checkpoint import Checkpoint, demand_same_training, load_checkpoint, save_checkpoint, weights_only
from landmarknet.comparators import Network, new_network
from landmarknet.dataset import CachedView, Grid, Sample, TrainingSet, cache_files, cache_views, collate
from landmarknet.losses import LEVEL_SHARE, coordinate_terms, loss_terms
from landmarknet.network import HeadForm, NetworkConfig
from landmarknet.targets import PAPER_SIGMA_NET_PX
from landmarknet.training_curves import training_curves

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
    finish_steps: int = 0  # more steps, at ``finish_rate``, in which jaws are closed over landmarks (docs/adr/0015)
    finish_rate: float = 3e-4
    weight_decay: float = 1e-2
    ema: float = 0.995
    poses: int = 32
    negative_poses: int = 12
    seed: int = 0
    save_every: int = 50
    sigma_net_px: float = PAPER_SIGMA_NET_PX  # of the targets
    mixed: bool = True  # bodies are warped and take on the build of others (docs/adr/0009)
    shuffled: bool = False  # each image has another's labels: what is reached then is chance
    clip_norm: float = 5.0  # of the gradient
    hard_share: float = 0.0  # of a batch's images, those with the largest error, count twice
    level_share: float = LEVEL_SHARE  # weight of the intermediate supervision; 0 trains without it

    @property
    def all_steps(self) -> int:
        return self.steps + self.finish_steps

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_train_config(path: Path) -> TrainConfig:
    """Read a TOML file whose keys are those of `TrainConfig`; its relative paths start at the working directory."""
    try:
        return TypeAdapter(TrainConfig).validate_python(tomllib.loads(path.read_text()))
    except (OSError, tomllib.TOMLDecodeError, ValidationError) as exc:
        raise ValueError(f"{path}: not a training configuration: {exc}") from exc


def learning_rate(step: int, config: TrainConfig) -> float:
    """Rise linearly, then fall along a cosine to zero at the last step; the same again, lower, to finish."""
    peak_rate, steps = config.peak_rate, config.steps
    if step >= config.steps and config.finish_steps:
        peak_rate, step, steps = config.finish_rate, step - config.steps, config.finish_steps
    if step < config.warm_up_steps:
        return peak_rate * (step + 1) / config.warm_up_steps
    progress = (step - config.warm_up_steps) / max(1, steps - config.warm_up_steps)
    return peak_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def training_set(config: TrainConfig) -> TrainingSet:
    """Return the training set of a config; projects what the cache lacks, one CT after the other."""
    cache = Path(config.cache_folder)

    def views(patients: Iterable[tuple[Path, int]]) -> list[CachedView]:
        return [view for ct, poses in patients for view in cache_views(ct, cache, poses, config.seed)]

    grid = Grid.of(config.network, config.sigma_net_px)
    labelled, negatives = views(_labelled(config)), views(_negatives(config))
    jaws_from = config.steps * config.batch
    return TrainingSet(labelled, negatives, config.seed, grid, config.mixed, config.shuffled, jaws_from)


def _labelled(config: TrainConfig) -> list[tuple[Path, int]]:
    return [(Path(config.ct_folder) / f"{patient}.nii.gz", config.poses) for patient in config.patients]


def _negatives(config: TrainConfig) -> list[tuple[Path, int]]:
    return [(Path(config.ct_folder) / f"{patient}.nii.gz", config.negative_poses) for patient in config.negatives]


def fill_cache(config: TrainConfig) -> None:
    """Project the CTs that the cache lacks, over ``config.processes`` processes; says on stderr how far it is."""
    cache = Path(config.cache_folder)
    jobs = [
        (ct, cache, poses, config.seed)
        for ct, poses in (*_labelled(config), *_negatives(config))
        if not _is_cached(ct, cache, poses, config.seed)
    ]
    if not jobs:
        return
    console = Console(stderr=True)
    processes = min(config.processes, len(jobs))
    if processes == 1:
        for job in track(jobs, "projecting CTs", console=console):
            _project(job)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _start_projecting) as pool:
        for _ in track(pool.map(_project, jobs), "projecting CTs", total=len(jobs), console=console):
            pass


def _is_cached(ct: Path, cache: Path, poses: int, seed: int) -> bool:
    return all(file.exists() for file in cache_files(ct, cache, poses, seed).values())


def _project(job: tuple[Path, Path, int, int]) -> None:
    cache_views(*job)


def _start_projecting() -> None:
    """Give a projecting process one thread, and the end of the process that started it."""
    torch.set_num_threads(1)
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"  # read when ITK is first imported, which is later
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # a pool's process would wait for work for ever


def train(config: TrainConfig, after_save: Callable[[int], None] = lambda _step: None) -> Path:
    """Train, or go on from ``output/last.pt``; return the path of ``weights.pt``, the averaged weights alone.

    Raises `ValueError` where ``last.pt`` comes from another configuration. ``after_save`` hears the number of steps
    done after each checkpoint, in a training of one process.
    """
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    last = output / "last.pt"
    if last.exists():
        demand_same_training(load_checkpoint(last), config.to_dict(), last)
    fill_cache(config)  # before the processes share it
    if config.processes == 1:
        _train_process(0, config, "", after_save)
    else:
        rendezvous = f"file://{output.resolve()}/rendezvous.{time.time_ns()}"
        spawn(_train_process, args=(config, rendezvous), nprocs=config.processes)
    save_checkpoint(output / "weights.pt", weights_only(load_checkpoint(last)))
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
    model = new_model(config).to(device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stub
    parallel: nn.Module = model
    if rendezvous:
        dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=config.processes)
        parallel = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.peak_rate, weight_decay=config.weight_decay)
    averaged = copy.deepcopy(model)
    last, log = Path(config.output) / "last.pt", Path(config.output) / "losses.csv"
    start = _resume(last, model, averaged, optimizer) if last.exists() else 0
    if rank == 0 and log.exists():
        drop_rows(log, start)

    began = time.monotonic()
    batches = _batches(training_set(config), config, rank, start)
    for step, sample in zip(range(start, config.all_steps), batches, strict=False):
        if rendezvous and os.getppid() != parent:  # it was killed: do not write into the next run's checkpoints
            raise SystemExit("the training was ended")
        terms = training_step(parallel, optimizer, _to(sample, device), learning_rate(step, config), config)
        _update_average(averaged, model, min(config.ema, (step + 1) / (step + 10)))
        if rank == 0:
            _log(log, step, learning_rate(step, config), terms, began)
            if (step + 1) % config.save_every == 0 or step + 1 == config.all_steps:
                checkpoint = Checkpoint(
                    config.network, step + 1, averaged.state_dict(), model.state_dict(), optimizer.state_dict(),
                    config.to_dict(),
                )  # fmt: skip
                save_checkpoint(last, checkpoint)
                training_curves(log, Path(config.output) / "curves.png")
                if after_save is not None:
                    after_save(step + 1)
    if rendezvous:
        dist.destroy_process_group()


def new_model(config: TrainConfig) -> Network:
    """Start with nearly empty heatmaps and open gates."""
    model = new_network(config.network, config.head)
    for out in model.heatmap_layers():
        nn.init.normal_(out.weight, std=0.01)
        if out.bias is not None:
            nn.init.zeros_(out.bias)
    if model.gate is not None:
        final = model.gate[-1]
        assert isinstance(final, nn.Linear)
        nn.init.constant_(final.bias, GATE_BIAS)
    return model


def _resume(last: Path, model: nn.Module, averaged: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    checkpoint = load_checkpoint(last)
    model.load_state_dict(checkpoint.raw)
    averaged.load_state_dict(checkpoint.averaged)
    optimizer.load_state_dict(checkpoint.optimizer)
    return checkpoint.step


def _batches(data: TrainingSet, config: TrainConfig, rank: int, start: int) -> Iterator[Sample]:
    """Yield this process's share of each batch, from step ``start``."""
    for step in range(start, config.all_steps):
        first = step * config.batch
        yield collate(
            [data.sample(i) for i in islice(range(first, first + config.batch), rank, None, config.processes)]
        )


def training_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, sample: Sample, rate: float, config: TrainConfig
) -> dict[str, float]:
    """Improve the model on one batch, and return the terms of its loss."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    with torch.autocast(sample.image.device.type, torch.bfloat16):
        prediction = model(sample.image, with_levels=True)
    if config.network.architecture == "dsnt":
        terms = coordinate_terms(prediction, sample, config.sigma_net_px, config.hard_share, config.network.kinds)
    else:
        terms = loss_terms(prediction, sample, config.sigma_net_px, config.hard_share, config.level_share)
    optimizer.zero_grad(set_to_none=True)
    torch.stack(list(terms.values())).sum().backward()
    nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
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


def drop_rows(log: Path, start: int) -> None:
    """Rewrite ``losses.csv`` without the steps from ``start`` on: a resumed training takes and logs them again."""
    with log.open(newline="") as file:
        rows = list(csv.reader(file))
    whole = [row for row in rows[1:] if len(row) == len(LOG_HEADER)]  # the last may be cut off
    kept = [row for row in whole if int(row[0]) < start]
    partial = log.with_suffix(".partial")
    with partial.open("w", newline="") as file:
        csv.writer(file).writerows([LOG_HEADER, *kept])
    partial.replace(log)


def _log(path: Path, step: int, rate: float, terms: dict[str, float], began: float) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(LOG_HEADER)
        values = [f"{terms[name]:.5f}" for name in LOG_HEADER[2:-1]]
        writer.writerow([step, f"{rate:.3e}", *values, f"{time.monotonic() - began:.1f}"])
