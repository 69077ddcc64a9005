"""A compiler's phases as bars on the terminal; one line each in a log."""

from __future__ import annotations

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class ConsoleProgress:
    """`build_engine.compiled.Progress` for people; a context manager, so that the terminal is left as it was."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bars = Progress(*columns, console=console, transient=True)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._bars.stop()

    def phase(self, name: str, steps: int) -> None:
        self._tasks[name] = self._bars.add_task(name, total=steps)

    def step(self, name: str, done: int) -> None:
        self._bars.update(self._tasks[name], completed=done)

    def finished(self, name: str) -> None:
        self._bars.remove_task(self._tasks.pop(name))
