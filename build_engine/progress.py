"""A compiler's phases as bars on the terminal; one line each in a log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from build_engine import compiled

Item = TypeVar("Item")


class ConsoleProgress:
    """`build_engine.compiled.Progress` for people; a context manager, so that the terminal is left as it was."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._console = console
        self._bars = Progress(*columns, console=console, transient=True) if console.is_terminal else None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def phase(self, name: str, steps: int) -> None:
        if self._bars is None:
            self._console.print(f"{name}: {steps} steps", soft_wrap=True, markup=False, highlight=False)
        else:
            self._tasks[name] = self._bars.add_task(name, total=steps)

    def step(self, name: str, done: int) -> None:
        if self._bars is not None:
            self._bars.update(self._tasks[name], completed=done)

    def finished(self, name: str) -> None:
        if self._bars is not None:
            self._bars.remove_task(self._tasks.pop(name))


def followed(items: Iterable[Item], name: str, steps: int, progress: compiled.Progress) -> Iterator[Item]:
    """Yield items as they come, as the steps of a phase."""
    progress.phase(name, steps)
    try:
        for number, item in enumerate(items, 1):
            yield item
            progress.step(name, number)
    finally:
        progress.finished(name)
