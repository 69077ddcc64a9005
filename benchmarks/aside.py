"""A contender in a process of its own, with its own threads and its own memory.

    python -m benchmarks.aside MODULE:FUNCTION ARGUMENTS

The function gets the arguments (JSON) by name and returns what is called for each turn; every answer is a line of JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.processes import peaks_mb

ROOT = Path(__file__).parents[1]
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class AsideFailed(RuntimeError):
    """A contender that cannot be had, with the last line that it said."""


class Aside:
    """Use it in a ``with``; `turn` has the contender do its work once. ``threads`` None: as its libraries choose."""

    def __init__(self, function: str, arguments: Mapping[str, Any], threads: int | None = 1) -> None:
        self._name = function
        chosen = {} if threads is None else dict.fromkeys(THREAD_VARIABLES, str(threads))
        environment = {k: v for k, v in os.environ.items() if k not in THREAD_VARIABLES} | chosen
        command = [sys.executable, "-m", "benchmarks.aside", function, json.dumps(dict(arguments), default=str)]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - a pipe that nobody empties would hold it up
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self._answer()  # ready

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._process.communicate()
        self._errors.close()

    def turn(self) -> Any:
        """Have the contender do its work once, and return what it says of it."""
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._answer()

    def peak_mb(self) -> float:
        """Return the most MiB that the contender and its children held so far."""
        return sum(peaks_mb(self._process.pid))

    def _answer(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self._process.communicate()
            self._errors.seek(0)
            said = self._errors.read().strip().splitlines() or ["it said nothing"]
            self._errors.close()
            raise AsideFailed(f"{self._name}: {said[-1][:300]}")
        return json.loads(line)


def once(function: str, arguments: Mapping[str, Any], threads: int | None = 1) -> tuple[Any, float]:
    """Return what one turn gives, and the process's peak in MiB."""
    with Aside(function, arguments, threads) as contender:
        return contender.turn(), contender.peak_mb()


def main(function: str, arguments: str) -> None:
    """Answer one line for each that is asked; whatever else is printed goes to the errors."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    module, _, name = function.partition(":")
    make: Callable[..., Callable[[], Any]] = getattr(importlib.import_module(module), name)
    turn = make(**json.loads(arguments))
    print(json.dumps("ready"), file=answers)
    for _ in sys.stdin:
        print(json.dumps(turn()), file=answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
