"""A data set of simulated DICOM files, by patient: resumable, seeded, with a manifest of hashes and a contact sheet."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

MANIFEST = "manifest.json"
CONTACT_SHEET = "contact_sheet.png"
SIMULATION_VERSION = (
    3  # raise it whenever the same plan gives other files; 1 drew the same exposures for every patient,
)
# 2 had one curve from CT numbers to attenuation


@dataclass(frozen=True)
class DataSetPlan:
    """What to simulate. ``poses`` per view of a labelled patient, ``negative_poses`` of one without landmarks.

    Of each pose there are two images, kV and MV; ``empty_fields`` are images without a patient, per modality.
    """

    poses: int
    negative_poses: int
    empty_fields: int
    seed: int


def make_data_set(ct: Sequence[Path], output: Path, plan: DataSetPlan, processes: int, console: Console) -> list[Path]:
    """Write ``<patient>/*.dcm`` and ``<patient>/truth.json`` per volume; return the patients' folders.

    A patient whose files are all there, unchanged and of the same plan, is not made again.
    """
    from landmarknet.contact_sheet import contact_sheet
    from landmarknet.simulate_files import EMPTY_FIELDS

    output.mkdir(parents=True, exist_ok=True)
    manifest = _read_manifest(output, plan)
    sources: dict[str, Path | None] = {path.name.removesuffix(".nii.gz"): path for path in ct}
    if plan.empty_fields:
        sources[EMPTY_FIELDS] = None
    todo = {name: path for name, path in sources.items() if not _complete(output / name, manifest)}
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"  # the processes are the parallelism
    with (
        Progress(console=console) as progress,
        ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_one_thread) as pool,
    ):
        task = progress.add_task("simulate", total=len(sources), completed=len(sources) - len(todo))
        jobs = {pool.submit(_simulate, path, output / name, plan): name for name, path in todo.items()}
        failed: list[BaseException] = []
        for job in as_completed(jobs):
            if error := job.exception():
                failed.append(error)
                continue
            manifest["files"] |= {f"{jobs[job]}/{file}": digest for file, digest in job.result().items()}
            _write_manifest(output, manifest)
            progress.advance(task)
    if failed:  # what the others made is kept
        raise failed[0]
    folders = [output / name for name in sources]
    contact_sheet(folders, output / CONTACT_SHEET, plan.seed)
    return folders


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _simulate(ct: Path | None, folder: Path, plan: DataSetPlan) -> dict[str, str]:
    """Write one patient's files and return their hashes."""
    from landmarknet.simulate_files import empty_field_files, simulate_files

    if ct is None:
        paths = empty_field_files(folder, plan.empty_fields, plan.seed)
    else:
        labelled = ct.with_name(ct.name.removesuffix(".nii.gz") + ".landmarks.json").exists()
        paths = simulate_files(ct, folder, plan.poses if labelled else plan.negative_poses, plan.seed)
    return {path.name: _sha256(path) for path in paths}


def _read_manifest(output: Path, plan: DataSetPlan) -> dict[str, Any]:
    fresh: dict[str, Any] = {
        "notice": "SIMULATED images of CT of real patients; see each truth.json for attribution and labels",
        "plan": {**asdict(plan), "version": SIMULATION_VERSION},
        "files": {},
    }
    path = output / MANIFEST
    if not path.exists():
        return fresh
    found: dict[str, Any] = json.loads(path.read_text())
    if found["plan"] != fresh["plan"]:
        raise ValueError(f"{output} holds a data set of another plan {found['plan']}; choose another folder")
    return found


def _complete(folder: Path, manifest: dict[str, Any]) -> bool:
    files = {name: digest for name, digest in manifest["files"].items() if name.startswith(f"{folder.name}/")}
    return bool(files) and all(
        (folder.parent / name).is_file() and _sha256(folder.parent / name) == digest for name, digest in files.items()
    )


def _write_manifest(output: Path, manifest: dict[str, Any]) -> None:
    partial = output / f"{MANIFEST}.partial"
    partial.write_text(json.dumps({**manifest, "files": dict(sorted(manifest["files"].items()))}, indent=1) + "\n")
    partial.replace(output / MANIFEST)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
