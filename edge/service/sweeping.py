"""One look at a whole drop folder: what is new, what is gone, what changed, and what people asked for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from edge.errors import FolderUnavailable
from edge.results.files import remove_leftovers
from edge.results.publish import result_path
from edge.service.dropfolder import HeldFolder, results_below
from edge.service.journal import Entry, Request
from edge.service.surroundings import Surroundings
from edge.service.tracking import Served, Tracking, is_refused_image
from edge.settle import FINISHED, Happening, Signature, State, Tracked, first_seen, happen


def sweep(tracking: Tracking, index: int, around: Surroundings, log: FilteringBoundLogger) -> None:
    """Bring what is known of a drop folder's files up to date."""
    served = tracking.served[index]
    began_s = around.clock()
    try:
        found = served.looking.sweep(served.files)
    except FolderUnavailable as exc:
        _miss(tracking, index, exc, around, log)
        return
    ended_s = around.clock()
    known = {} if served.available else _begin(served, len(found), around, log)
    new, moving = _news(served, found)
    if len(found) - len(new) < len(served.files):
        _let_go(tracking, index, found)
    _take_up(tracking, index, found, new, known, ended_s, around)
    for path in moving + new:
        tracking.take_in(index, path, found[path], began_s, ended_s)
    served.available, served.swept_s = True, ended_s
    _requeue(tracking, tracking.new_requests(), log)
    around.metrics.swept(served.folder.path, ok=True)
    around.metrics.queue(tracking.counts_of_images(), tracking.not_images)


def _news(served: Served, found: dict[str, Signature]) -> tuple[list[str], list[str]]:
    """Return the paths that are not tracked, and those whose files changed or have yet to settle."""
    new, moving, files, seen = [], [], served.files, State.SEEN
    for path, signature in found.items():  # thousands that are done, every few seconds
        tracked = files.get(path)
        if tracked is None:
            new.append(path)
        elif tracked.state is seen or (tracked.signature is not signature and tracked.signature != signature):
            moving.append(path)
    return new, moving


def _let_go(tracking: Tracking, index: int, found: dict[str, Signature]) -> None:
    for path in tracking.served[index].files.keys() - found.keys():
        tracking.drop(index, path)
        tracking.note_presence({path: False})


def _miss(
    tracking: Tracking, index: int, exc: FolderUnavailable, around: Surroundings, log: FilteringBoundLogger
) -> None:
    served = tracking.served[index]
    if served.available is not False:
        log.error("drop folder unavailable", folder=str(served.folder.path), reason=str(exc))
    # forgetting is safe: when the files show up again, the journal and their results say what is done
    for path in list(served.files):
        tracking.drop(index, path)
    served.available, served.swept_s = False, around.clock()
    around.metrics.swept(served.folder.path, ok=False)


def _begin(served: Served, files: int, around: Surroundings, log: FilteringBoundLogger) -> dict[str, Entry]:
    folders = [served.folder.path] + ([served.results.path] if served.results else [])
    removed = sum(remove_leftovers(folder) for folder in folders)
    log.info("watching", folder=str(served.folder.path), files=files, leftovers_removed=removed)
    served.arrived = around.journal.last_arrival(served.folder.path)
    return around.journal.entries(served.folder.path)


def _take_up(
    tracking: Tracking,
    index: int,
    found: dict[str, Signature],
    new: list[str],
    known: dict[str, Entry],
    ended_s: float,
    around: Surroundings,
) -> None:
    """Begin to track the files that are new here, in the order of the journal, then of their times."""
    served = tracking.served[index]
    if not new and not known:
        return
    known |= around.journal.find(path for path in new if path not in known)
    results = results_below((served.results or served.folder).path) if known or not served.available else set()
    tracking.note_presence({path: False for path, entry in known.items() if entry.present and path not in found})
    for path in sorted(new, key=lambda path: (found[path].mtime_ns, path)):
        if path in known:
            tracking.keep(index, path, _resumed(served, known[path], found[path], results, ended_s), durable=False)
            if not known[path].present:
                tracking.note_presence({path: True})
            continue
        if str(result_path(Path(path), served.results_dir(Path(path)))) in results:
            served.answered.add(path)
        tracking.begin(index, path, found[path], ended_s)


def _resumed(served: Served, entry: Entry, found: Signature, results: set[str], ended_s: float) -> Tracked:
    """Return how a file goes on that the journal knows: finished as it was, or it settles anew.

    An earlier version kept no ctime. To `look`, what it finished has then changed: it is doubted, and its result is
    compared by content, behind the images that lack theirs. What has no result to compare stands as it did.
    """
    result = str(result_path(Path(entry.path), served.results_dir(Path(entry.path))))
    stands = entry.state in FINISHED and result in results
    if entry.signature.ctime_ns is None and stands:
        served.answered.add(entry.path)
    elif entry.signature.ctime_ns is None and entry.state is not State.DONE:
        entry = replace(entry, signature=entry.signature._replace(ctime_ns=found.ctime_ns))
    if entry.state is State.DONE and not stands and (results or _can_list(served)):
        return first_seen(entry.order, entry.signature, ended_s, served.patience)  # somebody removed its result
    tracked = Tracked(
        entry.order, entry.signature, entry.state, ended_s, None, entry.failures, entry.crashes, again=entry.again
    )
    return happen(tracked, Happening.RESTARTED, ended_s, served.patience, entry.reason, entry.kind)


def _can_list(served: Served) -> bool:
    """Tell whether the results folder is there: of a share that is not mounted nothing follows."""
    try:
        (served.results or HeldFolder(served.folder.path)).check()
    except FolderUnavailable:
        return False
    return True


def _requeue(tracking: Tracking, requests: Iterable[Request], log: FilteringBoundLogger) -> None:
    for request in requests:
        if not _can_be_met(tracking, request):
            continue
        tracking.take_up(request)
        wanted = [(index, path) for index, served in enumerate(tracking.served) for path in _wanted(served, request)]
        for index, path in wanted:
            tracking.happen(index, path, Happening.REQUEUED)
        if wanted or request.path is None:
            log.info("processing again was asked for", files=len(wanted))
        else:
            log.warning("processing again was asked for of a file that is not there", files=0)


def _can_be_met(tracking: Tracking, request: Request) -> bool:
    """Tell whether the folders it is about were all looked at: of a share that is away nothing is known."""
    path = request.path and Path(request.path)
    own = [served for served in tracking.served if path and path.is_relative_to(served.folder.path)]
    return all(served.available for served in own or tracking.served)


def _wanted(served: Served, request: Request) -> list[str]:
    if request.path is not None:
        return [request.path] if request.path in served.files else []
    return [path for path, tracked in served.files.items() if is_refused_image(tracked)]
