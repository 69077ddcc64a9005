"""What the room's commands share: lines for a person, and an error of ours as an exit status."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from edge.errors import Stop

MISUSE = 2
err = Console(stderr=True)


@contextmanager
def stop_exits_with(status: int, kind: type[Stop] = Stop) -> Iterator[None]:
    """Turn a `Stop` of this kind into its message and an exit status."""
    try:
        yield
    except kind as exc:
        say(f"stopped: {exc}")
        raise typer.Exit(status) from exc


def say(text: str) -> None:
    """Print one line for a person to standard error. No file name can break it, colour it or forge another."""
    err.print(printable(text), markup=False, emoji=False, soft_wrap=True)


def printable(text: str) -> str:
    r"""Return the text with every character that is none, and every byte that is not UTF-8, written as ``\x1b``."""
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a pair: JSON can hold one, a file name cannot
        data = text.encode("utf-8", "backslashreplace")
    text = data.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
