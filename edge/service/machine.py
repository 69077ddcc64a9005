"""What `check` asks of the machine that it runs on, as seams."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge.config import Config
from edge.processes import landlock
from edge.service.spool import free_bytes

if TYPE_CHECKING:
    from edge.engines import Engine
    from edge.staleness import MachineFacts

ANSWER_S = 5.0  # the longest that a folder may keep us waiting: a share whose server is gone does so for ever
TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised


def run_program(command: Sequence[str]) -> str | None:
    """Return what a program prints; None where it is not there, or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)  # noqa: S603 - ours
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def clock_synchronised() -> bool | None:
    """Ask the kernel whether something keeps the clock right; None where it does not say."""
    nothing_to_change = ctypes.create_string_buffer(1024)  # larger than struct timex, whose first field asks changes
    state = ctypes.CDLL(None).adjtimex(nothing_to_change)
    return None if state < 0 else state != TIME_ERROR


def open_engine(config: Config) -> Engine:
    """Open the release of a configuration; raise `Stop`."""
    from edge.engines import open_configured

    return open_configured(config)


def machine_facts(flavour: str) -> MachineFacts:
    """Ask for driver and library of a flavour; raise `BackendFailed`."""
    from edge.staleness import machine_facts

    return machine_facts(flavour)


@dataclass(frozen=True)
class Machine:
    """What is asked of the machine; a test puts other answers in place."""

    run: Callable[[Sequence[str]], str | None] = run_program
    mounts: Callable[[], str] = Path("/proc/self/mountinfo").read_text
    clock: Callable[[], bool | None] = clock_synchronised
    free_bytes: Callable[[Path], int] = free_bytes
    open_engine: Callable[[Config], Engine] = open_engine
    facts: Callable[[str], MachineFacts] = machine_facts
    user_id: int = os.geteuid()
    landlock_abi: Callable[[], int] = landlock.supported_abi
    answer_s: float = ANSWER_S
    cores: Callable[[], int] = lambda: len(os.sched_getaffinity(0))
