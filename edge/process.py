"""``landmarknet-edge process``: which files are meant, each processed once, and what is said about it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge.errors import EdgeError, Refused, Stop
from edge.pipeline import Pipeline
from edge.results.document import Result
from edge.results.files import make_folder
from edge.results.owner import Owner, owner_of
from edge.results.publish import is_own_output, mirrored_folder, result_path


class Misuse(Exception):
    """What was named cannot be meant: it does not exist, or two results would share one name or folder."""


@dataclass(frozen=True)
class Job:
    """One file to process, and where its results go; None: beside it."""

    image: Path
    results_dir: Path | None


@dataclass(frozen=True)
class Outcome:
    """What became of one file: a published result, or the error that prevented one."""

    image: Path
    result: Result | None
    error: EdgeError | None

    @property
    def done(self) -> bool:
        """Return whether the image was looked at for landmarks."""
        return self.result is not None and self.result.status != "refused"

    @property
    def summary(self) -> str:
        """Return one line for a person."""
        if self.result is None:
            return f"{'refused' if isinstance(self.error, Refused) else 'not processed'}: {self.error}"
        if self.result.status == "refused":
            return f"refused: {self.result.reason}"
        found = len(self.result.landmarks)
        return f"{self.result.status}: {found} landmark{'s' * (found > 1)}" if found else self.result.status


def plan(named: Sequence[Path], results_dir: Path | None) -> list[Job]:
    """Return the files that are meant: those named, and all below named folders but dot files.

    A symbolic link that is named means what it leads to, whose result then lies beside it; one that was only found in
    a named folder is left alone, as by the daemon. Our own outputs never are meant: a shell's ``*`` names them after a
    first run. Below ``results_dir`` the tree of a named folder is kept, so equal names do not meet. Raises `Misuse`.
    """
    jobs = []
    for path in named:
        if not path.exists():
            raise Misuse(f"{path}: no such file or folder; nothing was processed")
        if path.is_dir():
            jobs += [Job(file, mirrored_folder(file, path, results_dir)) for file in sorted(_files_below(path))]
        elif not is_own_output((image := path.resolve() if path.is_symlink() else path).name):
            jobs.append(Job(image, results_dir))
    _demand_different_results(jobs := list(dict.fromkeys(jobs)))
    _demand_no_service_s_folder(jobs, results_dir)
    return jobs


def _demand_different_results(jobs: Sequence[Job]) -> None:
    """Two files from different folders may share a name; one results folder cannot hold both."""
    owner: dict[Path, Path] = {}
    for job in jobs:
        first = owner.setdefault(result_path(job.image, job.results_dir), job.image)
        if job.results_dir is not None and first != job.image:
            raise Misuse(
                f"{first} and {job.image}: their results would share one name in {job.results_dir}; "
                "name their common folder instead, whose tree is kept, or process them apart; nothing was processed"
            )


def _demand_no_service_s_folder(jobs: Sequence[Job], results_dir: Path | None) -> None:
    """Let a drop folder's results only be made again, each in its place: others of one name would overwrite them."""
    try:
        found = owner_of(results_dir) if results_dir else None
    except EdgeError as exc:
        raise Misuse(f"{exc}; nothing was processed") from exc
    if found is None:
        return
    file, owner = found
    for job in jobs:
        place = _place_for(job.image, file.parent, owner)
        if place is None or Path(os.path.realpath(job.results_dir or "")) != place:
            raise Misuse(
                f"{results_dir}: holds the results of the drop folder {owner.drop_folder} of {owner.machine}, and that "
                f"of {job.image} has no place there; name another results folder, or the drop folder itself; nothing "
                "was processed"
            )


def _place_for(image: Path, results_dir: Path, owner: Owner) -> Path | None:
    drop_folder, real = Path(os.path.realpath(owner.drop_folder)), Path(os.path.realpath(image.parent), image.name)
    if owner != Owner.of(Path(owner.drop_folder)) or not real.is_relative_to(drop_folder):
        return None
    return mirrored_folder(real, drop_folder, results_dir)


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder, onerror=_misnamed):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and not is_own_output(name):
                yield Path(parent, name)


def _misnamed(exc: OSError) -> None:
    """Stop ``os.walk``, which would pass over a folder that it cannot list."""
    raise Misuse(f"{exc.filename}: cannot be listed ({exc.strerror}); nothing was processed") from exc


def process_all(jobs: Sequence[Job], pipeline: Pipeline, tell: Callable[[Outcome], None]) -> list[Outcome]:
    """Process each job in turn; ``tell`` hears of each as it ends. Only `Stop` ends the work early."""
    outcomes = []
    for job in jobs:
        outcomes.append(_process(job, pipeline))
        tell(outcomes[-1])
    return outcomes


def _process(job: Job, pipeline: Pipeline) -> Outcome:
    try:
        if job.results_dir is not None:
            make_folder(job.results_dir)
        return Outcome(job.image, pipeline(job.image, job.results_dir), None)
    except Stop:
        raise
    except EdgeError as exc:
        return Outcome(job.image, None, exc)
