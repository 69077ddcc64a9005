"""A checkpoint: the averaged weights to use, and what a training needs to go on. Loaded with ``weights_only``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from landmarknet.comparators import Network, new_network
from landmarknet.network import HeadForm, NetworkConfig

MACHINE_KEYS = ("ct_folder", "cache_folder", "output")
HABIT_KEYS = ("processes", "save_every")  # of how a training is run, not of what is learnt


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """``averaged`` is the EMA of the weights; ``raw`` and ``optimizer`` resume the training after ``step`` steps."""

    network: NetworkConfig
    step: int
    averaged: dict[str, Tensor]
    raw: dict[str, Tensor]
    optimizer: dict[str, Any]
    training: dict[str, Any]  # the TrainConfig, as a record of patients, seed and length


def weights_only(checkpoint: Checkpoint) -> Checkpoint:
    """Return what is worth shipping: the averaged weights and how they came about, without folders of this machine."""
    training = {key: value for key, value in checkpoint.training.items() if key not in MACHINE_KEYS}
    return replace(checkpoint, raw={}, optimizer={}, training=training)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; an interrupted write leaves the previous one."""
    partial = path.with_suffix(".partial")
    torch.save({**vars(checkpoint), "network": checkpoint.network.to_dict()}, partial)
    partial.replace(path)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint without running any code that it might hold."""
    data = torch.load(path, map_location="cpu", weights_only=True)
    return Checkpoint(**{**data, "network": NetworkConfig.from_dict(data["network"])})


def demand_same_training(checkpoint: Checkpoint, training: Mapping[str, Any], path: Path) -> None:
    """Raise `ValueError` unless a checkpoint comes from this configuration: its record of patients would be wrong."""
    same = set(checkpoint.training) & set(training) - {*MACHINE_KEYS, *HABIT_KEYS}
    stored, asked = (json.loads(json.dumps({key: one[key] for key in same})) for one in (checkpoint.training, training))
    if differing := sorted(key for key in same if stored[key] != asked[key]):
        raise ValueError(
            f"{path} comes from another configuration ({', '.join(differing)}); "
            "choose another output folder, or remove it"
        )


def load_network(path: Path, head: HeadForm = "fast") -> Network:
    """Return the averaged network of a checkpoint, of whichever architecture, in evaluation mode."""
    checkpoint = load_checkpoint(path)
    network = new_network(checkpoint.network, head)
    network.load_state_dict(checkpoint.averaged)
    return network.eval()


def checkpoint_sha256(path: Path) -> str:
    """Return the hash that names a checkpoint in contracts and results."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
