"""``landmarknet-edge archive``: an archive of portal images processed again, by many workers.

Exit status: 0 all done, 1 some refused or the run ended early, 2 misuse or an engine that cannot do it, 130 Ctrl-C.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge.errors import Stop, TryAgain
from edge.terminal import MISUSE, err, say, stop_exits_with

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from distributed import Client

    from edge.archive.entries import Entry
    from edge.archive.run import Counts, Summary
    from edge.config import Config

INCOMPLETE, INTERRUPTED = 1, 130
LINE_S = 10.0  # between lines of progress where there is no terminal
NOT_INSTALLED = "this needs Dask distributed: pip install landmarknet-edge[archive]"
RESUME = "what is published stays; run the same command again to go on"


def archive(
    folder: Annotated[Path, typer.Argument(help="a folder of images, with all folders in it")],
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="of a Dask scheduler; without, workers on this machine")
    ] = None,
    results_dir: Annotated[Path | None, typer.Option(help="put results here, as the tree of FOLDER")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="on this machine; without, one per core")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file; without one, the defaults")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the summary as JSON")] = False,
) -> None:
    """Process an archive of images again, on many cores or machines. Run it again to go on where it ended."""
    if find_spec("distributed") is None:
        say(NOT_INSTALLED)
        raise typer.Exit(MISUSE)
    if scheduler is not None and workers is not None:
        say("--workers is for workers on this machine; a scheduler has its own: give one of the two")
        raise typer.Exit(MISUSE)
    from edge.archive.engine import connected, embedded

    with _failures():
        settings = _config(config)
        entries = _entries(folder, results_dir)
        opened = connected(scheduler) if scheduler is not None else embedded(workers or len(os.sched_getaffinity(0)))
        found = _processed(entries, settings, _results_of(folder, results_dir), opened, embedded=scheduler is None)
    _report(found, as_json=as_json)
    raise typer.Exit(0 if found.all_done else INCOMPLETE if found.complete else INTERRUPTED)


def add_to(app: typer.Typer) -> None:
    """Add the command to ``landmarknet-edge``."""
    app.command()(archive)


def _config(path: Path | None) -> Config:
    from edge.config import Config, read_config

    return Config() if path is None else read_config(path)


def _entries(folder: Path, results_dir: Path | None) -> list[Entry]:
    """Return the images meant, by paths that mean the same to a worker in another folder."""
    from edge.archive.entries import entries_of
    from edge.process import Misuse, plan

    if not folder.is_dir():
        raise Misuse(f"{folder}: no such folder; nothing was processed")
    jobs = plan([Path(os.path.abspath(folder))], results_dir and Path(os.path.abspath(results_dir)))  # noqa: PTH100 - links stay
    return entries_of(jobs)


def _results_of(folder: Path, results_dir: Path | None) -> Path:
    return Path(os.path.abspath(results_dir or folder))  # noqa: PTH100 - links stay as they are


def _processed(
    entries: list[Entry], config: Config, results: Path, opened: AbstractContextManager[Client], *, embedded: bool
) -> Summary:
    """Process the images on an engine, and return the sums."""
    from edge.archive.engine import close_everywhere, opened_everywhere
    from edge.archive.entries import batches
    from edge.archive.order import Order, marked, promise_of, sample_of
    from edge.archive.run import run, summary
    from edge.results.files import remove_leftovers
    from edge.service.watch import stop_on_signals

    counts: Counts = Counter()
    if not entries:
        say("nothing to process: no files but hidden ones and our own results")
        return summary(0, counts, 0.0)
    name = f"landmarknet-edge-{secrets.token_hex(8)}"
    with ExitStack() as held:
        stop = held.enter_context(stop_on_signals())
        promise = promise_of(config)
        remove_leftovers(results)
        mark = held.enter_context(marked(results, name, make=not results.exists()))
        client = held.enter_context(opened)
        order = Order(name, config, promise, mark, sample_of(entries), embedded)
        held.callback(close_everywhere, client, order)
        for warning in opened_everywhere(client, order, stop.is_set):
            say(f"warning: {warning}")
        began_s = time.monotonic()
        tell = held.enter_context(_progress(len(entries), lambda: time.monotonic() - began_s))
        for told in run(client, name, batches(entries), stop.is_set):
            for one in told:
                counts[one.became, one.kind] += 1
                if one.reason:
                    say(f"{one.image}: {one.became}: {one.reason}")
            tell(counts)
        spent_s = time.monotonic() - began_s  # over the images: workers that end are not their time
    remove_leftovers(results)  # of workers that were lost
    return summary(len(entries), counts, spent_s)


@contextmanager
def _progress(images: int, elapsed_s: Callable[[], float]) -> Iterator[Callable[[Counts], None]]:
    """Give a function that shows how far the work is: a bar on a terminal, otherwise a line now and then."""
    if not err.is_terminal:
        yield _Lines(images, elapsed_s)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("portal images", total=images)
        yield lambda counts: progress.update(task, completed=counts.total())


class _Lines:
    """Says a line every `LINE_S`."""

    def __init__(self, images: int, elapsed_s: Callable[[], float]) -> None:
        self._images, self._elapsed_s, self._said_s = images, elapsed_s, 0.0

    def __call__(self, counts: Counts) -> None:
        now_s = self._elapsed_s()
        if now_s - self._said_s >= LINE_S:
            self._said_s = now_s
            say(progress_line(counts, self._images, now_s))


def progress_line(counts: Counts, images: int, elapsed_s: float) -> str:
    """Return how far a run is, as a line."""
    told = counts.total()
    left_s = (images - told) * elapsed_s / told if told else None
    left = "" if left_s is None else f", about {left_s:.0f} s left"
    return f"{told} of {images} images after {elapsed_s:.0f} s{left}"


def _report(found: Summary, *, as_json: bool) -> None:
    from edge.service.status import NOTICE

    refused = sum(found.refused.values())
    by_kind = ", ".join(f"{kind} {number}" for kind, number in found.refused.items())
    failed = ", ".join(f"{kind} {number}" for kind, number in found.failed.items())
    earlier = f" ({found.skipped_refusals} of them refused then)" if found.skipped_refusals else ""
    say(
        f"{found.images} images: {found.done} done, {found.skipped} skipped{earlier}, "
        f"{refused} refused{f' ({by_kind})' if by_kind else ''}, {sum(found.failed.values())} failed"
        f"{f' ({failed})' if failed else ''}; {found.seconds:.1f} s, {found.images_per_s:.2f} images/s"
    )
    if not found.complete:
        say(f"stopped before the end: {RESUME}")
    elif found.failed:
        say("failed images have no result: run the same command again to try them once more")
    say(NOTICE)
    if as_json:
        typer.echo(json.dumps(found.to_json() | {"notice": NOTICE}, indent=2))


@contextmanager
def _failures() -> Iterator[None]:
    """End with 2 for misuse and an engine that cannot do the work, with 1 where a run cannot go on."""
    from edge.archive.order import Unfit
    from edge.archive.run import Ended
    from edge.process import Misuse

    try:
        with stop_exits_with(MISUSE, Stop):
            yield
    except Misuse as exc:
        say(str(exc))
        raise typer.Exit(MISUSE) from exc
    except Unfit as exc:
        say(f"this engine cannot be used: {exc}; nothing was processed")
        raise typer.Exit(MISUSE) from exc
    except (Ended, TryAgain) as exc:
        say(f"stopped: {exc}; {RESUME}")
        raise typer.Exit(INCOMPLETE) from exc
