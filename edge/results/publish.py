"""Results get their names and reach the disk, whole or not at all. The JSON comes last, and is the commit.

Whatever is named ``*.landmarks.*`` or ``.landmarks-*`` counts as ours; the images are never touched.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from edge.durable import sync_names
from edge.errors import ImageUnreadable, ResultNameTaken
from edge.results.files import (
    TEMPORARY_PREFIX,
    not_writable,
    opened_folder,
    read_ours,
    temporary,
)
from edge.source_file import OPEN_FLAGS, hash_file

RESULT_SUFFIX, OVERLAY_SUFFIX = ".landmarks.json", ".landmarks.png"
OWN_SUFFIXES = (RESULT_SUFFIX, OVERLAY_SUFFIX, ".landmarks.sr.dcm", ".landmarks.pr.dcm", ".landmarks.reg.dcm")
SCHEMA_FAMILY = "landmarknet-edge/result/"
STEM_MOST_BYTES = 220  # a name has 255 bytes, and our longest suffix is .landmarks.reg.dcm


def image_name(image: Path) -> str:
    r"""Return the file's name as a result and a log carry it: text, with ``\xNN`` for bytes that are not UTF-8."""
    return os.fsencode(image.name).decode("utf-8", "backslashreplace")


def result_stem(name: str) -> str:
    """Return what the names of an image's results begin with: the image's name without a final ``.dcm``.

    Other suffixes stay, so ``X.png`` and ``X.tif`` keep apart. An overlong name is cut and told apart by its hash.
    """
    stem = name[:-4] if len(name) > 4 and name.lower().endswith(".dcm") else name
    if len(os.fsencode(stem)) <= STEM_MOST_BYTES:
        return stem
    start = os.fsencode(stem)[: STEM_MOST_BYTES - 20].decode("utf-8", "ignore")
    return f"{start}~{hashlib.sha256(os.fsencode(name)).hexdigest()[:12]}"


def output_stem(image: Path) -> str:
    r"""Return what the names of an image's outputs begin with.

    A byte that is not UTF-8 reads like the four letters ``\xff``, so such a name is told apart by its hash.
    """
    name = image_name(image)
    stem = result_stem(name)
    return stem if name == image.name else f"{stem}~{hashlib.sha256(os.fsencode(image.name)).hexdigest()[:12]}"


def result_path(image: Path, results_dir: Path | None) -> Path:
    """Return the path of an image's JSON result: beside it, or in ``results_dir`` itself."""
    return (results_dir or image.parent) / (result_stem(image.name) + RESULT_SUFFIX)


def mirrored_folder(image: Path, root: Path, results_dir: Path | None) -> Path | None:
    """Return where below ``results_dir`` the results of an image go: ``a/X`` and ``b/X`` below ``root`` keep apart."""
    return results_dir and results_dir / image.parent.relative_to(root)


def is_own_output(name: str) -> bool:
    """Tell whether a file of that name is ours: a result, something that belongs to one, or a temporary."""
    return ".landmarks." in name or name.startswith(TEMPORARY_PREFIX)


def read_result(path: Path) -> dict[str, Any] | None:
    """Read a JSON result; None when there is none or it is torn.

    What another program wrote is returned, too; as empty where it is no file of a result's size.
    """
    try:
        data = read_ours(path)
        document = {} if data is None else json.loads(data)
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        return None
    except OSError as exc:
        raise not_writable(path.parent, exc) from exc
    return document if isinstance(document, dict) else {}


def is_done(image: Path, result: Path, *, trust_times: bool = True) -> bool:
    """Tell whether ``result`` answers this very file; raise `ImageUnreadable` when the file cannot be asked.

    Cheap when the result is younger than the image, by the image's ctime too: a file that is moved or copied in keeps
    its mtime. Otherwise, or without ``trust_times``, the image's SHA-256 decides, and that of each output it lists.
    """
    document = read_result(result)
    if document is None or _belongs_to(document) != image_name(image):
        return False
    try:
        status = image.lstat()
        if trust_times and result.stat().st_mtime_ns >= max(status.st_mtime_ns, status.st_ctime_ns):
            return True
    except OSError as exc:
        raise ImageUnreadable(f"{image}: cannot be read ({exc.strerror}); check the folder and its share") from exc
    same = hash_file(image, image_name(image)) == str(document["image"].get("sha256"))
    return same and _outputs_stand(result.parent, _listed(document))


def _outputs_stand(folder: Path, listed: dict[str, str]) -> bool:
    """Tell whether all outputs that a result lists are there, whole; one that cannot be read is made anew."""
    return all("/" not in name and _is_output(folder / name, sha256) for name, sha256 in listed.items())


def _is_output(path: Path, sha256: str) -> bool:
    if not is_own_output(path.name):
        return False
    with suppress(OSError, ValueError):
        fd = os.open(path, OPEN_FLAGS)
        with os.fdopen(fd, "rb") as file:
            regular = stat.S_ISREG(os.fstat(fd).st_mode)
            return regular and hashlib.file_digest(file, "sha256").hexdigest() == sha256
    return False


def claim_name(image: Path, result: Path) -> None:
    """Raise `ResultNameTaken` when ``result`` exists and belongs to another image, as with ``X`` and ``X.dcm``."""
    _claim(image_name(image), result, read_result(result))


def publish(outputs: Sequence[tuple[Path, bytes]], commit: tuple[Path, bytes]) -> None:
    """Publish ``outputs``, then the JSON result ``commit``, all into one folder that exists.

    Everything is on disk under temporary names before the first name is taken, so a full disk changes nothing. A
    result that stood for other bytes is withdrawn before its outputs change. Raises `ResultNameTaken` and
    `ResultsNotWritable`; then nothing of ours stays half written.
    """
    path, data = commit
    document = json.loads(data)
    standing = read_result(path)
    _claim(document["image"]["name"], path, standing)
    try:
        with opened_folder(path.parent) as folder, ExitStack() as stack:
            temporaries = [stack.enter_context(temporary(folder, content)) for _, content in (*outputs, commit)]
            _withdraw(folder, path.name, _listed(standing or {}), _listed(document))
            for name, (output, _) in zip(temporaries[:-1], outputs, strict=True):
                os.rename(name, output.name, src_dir_fd=folder, dst_dir_fd=folder)
            if outputs:
                sync_names(folder)
            os.rename(temporaries[-1], path.name, src_dir_fd=folder, dst_dir_fd=folder)
            sync_names(folder)
    except OSError as exc:
        raise not_writable(path.parent, exc) from exc


def _withdraw(folder: int, name: str, standing: dict[str, str], coming: dict[str, str]) -> None:
    """Remove a standing result, and outputs that the coming one lacks, if it would contradict the coming outputs."""
    if standing.items() <= coming.items():
        return
    os.unlink(name, dir_fd=folder)
    sync_names(folder)
    for output in standing.keys() - coming.keys():
        if is_own_output(output) and "/" not in output:
            with suppress(FileNotFoundError):
                os.unlink(output, dir_fd=folder)


def _claim(name: str, result: Path, standing: dict[str, Any] | None) -> None:
    if standing is None or _belongs_to(standing) == name:
        return
    owner = _belongs_to(standing) or "another program"
    raise ResultNameTaken(f"{name}: {result} already belongs to {owner}; rename one of the two images")


def _belongs_to(document: dict[str, Any]) -> str | None:
    """Return the name of the image that a document of ours is about, and None for anything else."""
    image = document.get("image")
    ours = str(document.get("schema")).startswith(SCHEMA_FAMILY) and isinstance(image, dict)
    name = image.get("name") if ours and image else None
    return name if isinstance(name, str) else None


def _listed(document: dict[str, Any]) -> dict[str, str]:
    """Return the outputs that a result lists, name to SHA-256."""
    if _belongs_to(document) is None:
        return {}
    outputs = document.get("outputs")
    entries = outputs if isinstance(outputs, list) else []
    return {
        str(entry["name"]): str(entry.get("sha256")) for entry in entries if isinstance(entry, dict) and "name" in entry
    }
