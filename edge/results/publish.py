"""Results get their names and reach the disk, whole or not at all. The JSON comes last, and is the commit.

Whatever is named ``*.landmarks.*`` or ``.landmarks-*`` counts as ours; the images are never touched. A results folder
holds the results of one drop folder, since results go by the names of images: a file in it says of which.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from edge.errors import BadConfig, ImageUnreadable, ResultNameTaken, ResultsNotWritable
from edge.source_file import OPEN_FLAGS, hash_file

RESULT_SUFFIX = ".landmarks.json"
OWN_SUFFIXES = (RESULT_SUFFIX, ".landmarks.png", ".landmarks.sr.dcm", ".landmarks.pr.dcm", ".landmarks.reg.dcm")
SCHEMA_FAMILY = "landmarknet-edge/result/"
TEMPORARY_PREFIX = ".landmarks-"
OWNER_FILE = ".landmarks.owner.json"  # hidden and ours, but neither a temporary nor named like a result
OWNER_SCHEMA = "landmarknet-edge/owner/1"
NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
RESULT_MOST_BYTES = 16 * 2**20  # ours have some kB; a crafted one of some MB takes a hundred times its size in memory
STEM_MOST_BYTES = 220  # a name has 255 bytes, and our longest suffix is .landmarks.reg.dcm

MENDS = {
    errno.EACCES: "let the service's user write there",
    errno.EPERM: "let the service's user write there",
    errno.EROFS: "it is mounted read-only: mount it read-write",
    errno.ENOSPC: "the disk is full: free some space or inodes",
    errno.EDQUOT: "the quota is used up: raise it or free some space",
    errno.ENOENT: "the folder is not there: create it or mount its share",
    errno.ENOTDIR: "a folder of that path is a file: name another results folder",
}


@dataclass(frozen=True)
class Owner:
    """The drop folder whose results a folder holds: two machines may each have one of that path."""

    drop_folder: str
    machine: str

    @classmethod
    def of(cls, drop_folder: Path) -> Self:
        """Return a drop folder of this machine as an owner."""
        return cls(str(drop_folder), os.uname().nodename)


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


def result_path(image: Path, results_dir: Path | None) -> Path:
    """Return the path of an image's JSON result: beside it, or in ``results_dir`` itself."""
    return (results_dir or image.parent) / (result_stem(image.name) + RESULT_SUFFIX)


def mirrored_folder(image: Path, root: Path, results_dir: Path | None) -> Path | None:
    """Return where below ``results_dir`` the results of an image go: ``a/X`` and ``b/X`` below ``root`` keep apart."""
    return results_dir and results_dir / image.parent.relative_to(root)


def make_folder(folder: Path) -> None:
    """Make a results folder and those above it; raise `ResultsNotWritable` when that fails.

    Only for folders below a results folder that is known to be mounted; never beside an image.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise _not_writable(folder, exc) from exc


def owner_of(folder: Path) -> tuple[Path, Owner] | None:
    """Return which file says whose results lie in a folder or one above, and what it says; None: nothing does.

    Raises `BadConfig` where it cannot be understood, `ResultsNotWritable` where it cannot be read.
    """
    return next(((file, _read_owner(file)) for file in _owner_files(folder)), None)


def demand_no_other_owner(results_dir: Path, ours: Owner) -> None:
    """Raise `BadConfig` where another drop folder's results lie in a results folder, or one above; see `owner_of`."""
    _demand_ours(_owner_files(results_dir), results_dir, ours)


def own_results(results_dir: Path, ours: Owner) -> None:
    """Have a results folder hold the results of one drop folder; raise `BadConfig` where it holds another's.

    Results go by the names of images: of two services with one results folder the one that comes later would overwrite
    what the other found. Raises `ResultsNotWritable`, too.
    """
    if not os.path.lexists(results_dir / OWNER_FILE):
        demand_no_other_owner(results_dir, ours)
        tree = os.walk(os.path.realpath(results_dir))
        _demand_ours((Path(parent, OWNER_FILE) for parent, _, names in tree if OWNER_FILE in names), results_dir, ours)
        _place_owner(results_dir, ours)
    demand_no_other_owner(results_dir, ours)  # another service may have been quicker


def _owner_files(folder: Path) -> Iterator[Path]:
    real = Path(os.path.realpath(folder))
    return (file for place in (real, *real.parents) if os.path.lexists(file := place / OWNER_FILE))


def _demand_ours(files: Iterable[Path], results_dir: Path, ours: Owner) -> None:
    """Raise `BadConfig` for the first file that names another owner.

    In the drop folder it proves nothing, unless the results lie there: whoever sends images can put any file there.
    """
    drop_folder, own = os.path.realpath(ours.drop_folder), os.path.realpath(results_dir / OWNER_FILE)
    for file in files:
        sent = file.is_relative_to(drop_folder) and str(file) != own
        if not sent and (owner := _read_owner(file)) != ours:
            raise _owned(results_dir, file, owner, ours)


def _read_owner(file: Path) -> Owner:
    try:
        said = json.loads(_bytes_of_a_result(file) or b"")
        texts = all(isinstance(one, str) and "\0" not in one for one in said.values())
        if said.pop("schema") == OWNER_SCHEMA and texts:
            return Owner(**said)
    except OSError as exc:
        raise _not_writable(file.parent, exc) from exc
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        pass
    raise BadConfig(f"{file}: does not say whose results lie there; remove it if one drop folder alone has them there")


def _place_owner(results_dir: Path, ours: Owner) -> None:
    data = json.dumps({"schema": OWNER_SCHEMA, **asdict(ours)}, indent=2) + "\n"
    try:
        with _opened(results_dir) as folder, _temporary(folder, data.encode()) as temporary:
            try:
                os.link(temporary, OWNER_FILE, src_dir_fd=folder, dst_dir_fd=folder)  # never over another's
            except FileExistsError:
                return
            except OSError as exc:
                if exc.errno not in NO_HARD_LINKS:
                    raise
                os.rename(temporary, OWNER_FILE, src_dir_fd=folder, dst_dir_fd=folder)
            _sync_folder(folder)
    except OSError as exc:
        raise _not_writable(results_dir, exc) from exc


def _owned(folder: Path, file: Path, owner: Owner, ours: Owner) -> BadConfig:
    return BadConfig(
        f"{folder}: holds the results of the drop folder {owner.drop_folder} of {owner.machine}, which those of "
        f"{ours.drop_folder} of {ours.machine} would overwrite where images have one name; name another results_dir, "
        f"or, if this drop folder takes the place of that one, remove {file}"
    )


def is_own_output(name: str) -> bool:
    """Tell whether a file of that name is ours: a result, something that belongs to one, or a temporary."""
    return ".landmarks." in name or name.startswith(TEMPORARY_PREFIX)


def read_result(path: Path) -> dict[str, Any] | None:
    """Read a JSON result; None when there is none or it is torn.

    What another program wrote is returned, too; as empty where it is no file of a result's size.
    """
    try:
        data = _bytes_of_a_result(path)
        document = {} if data is None else json.loads(data)
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        return None
    except OSError as exc:
        raise _not_writable(path.parent, exc) from exc
    return document if isinstance(document, dict) else {}


def _bytes_of_a_result(path: Path) -> bytes | None:
    """Return a regular file's bytes; None for a link, a pipe without a writer, and what is too large to be ours."""
    try:
        fd = os.open(path, OPEN_FLAGS)
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            return None
        raise
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > RESULT_MOST_BYTES:
            return None
        return file.read(RESULT_MOST_BYTES)


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
        with _opened(path.parent) as folder, ExitStack() as stack:
            temporaries = [stack.enter_context(_temporary(folder, content)) for _, content in (*outputs, commit)]
            _withdraw(folder, path.name, _listed(standing or {}), _listed(document))
            for temporary, (output, _) in zip(temporaries[:-1], outputs, strict=True):
                os.rename(temporary, output.name, src_dir_fd=folder, dst_dir_fd=folder)
            if outputs:
                _sync_folder(folder)
            os.rename(temporaries[-1], path.name, src_dir_fd=folder, dst_dir_fd=folder)
            _sync_folder(folder)
    except OSError as exc:
        raise _not_writable(path.parent, exc) from exc


def remove_leftovers(folder: Path) -> int:
    """Remove, in a folder and all below it, temporaries whose writer has died; return how many.

    A living writer holds a lock on its temporary, so another process at work in the same folder is not disturbed.
    """
    removed = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            if name.startswith(TEMPORARY_PREFIX):
                with suppress(OSError):
                    removed += _remove_if_abandoned(Path(parent, name))
    return removed


def _remove_if_abandoned(temporary: Path) -> bool:
    fd = os.open(temporary, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        temporary.unlink()
    finally:
        os.close(fd)
    return True


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """Hold the folder itself, so that a share mounted over its path meanwhile gets none of our files."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _temporary(folder: int, data: bytes) -> Iterator[str]:
    """Write ``data`` durably under a temporary name; remove that name at the end, unless it was renamed."""
    name = f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o666, dir_fd=folder)
    try:
        with os.fdopen(fd, "wb") as file:
            with suppress(OSError):  # a share without locks: then a start sweep leaves temporaries alone
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.write(data)
            file.flush()
            if os.fstat(fd).st_size != len(data):
                raise OSError(errno.EIO, "the file is not as long as what was written")
            os.fsync(fd)
            yield name
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)


def _withdraw(folder: int, name: str, standing: dict[str, str], coming: dict[str, str]) -> None:
    """Remove a standing result, and outputs that the coming one lacks, if it would contradict the coming outputs."""
    if standing.items() <= coming.items():
        return
    os.unlink(name, dir_fd=folder)
    _sync_folder(folder)
    for output in standing.keys() - coming.keys():
        if is_own_output(output) and "/" not in output:
            with suppress(FileNotFoundError):
                os.unlink(output, dir_fd=folder)


def _sync_folder(folder: int) -> None:
    try:
        os.fsync(folder)
    except OSError as exc:
        if exc.errno not in {errno.EINVAL, errno.ENOTSUP}:  # some network file systems cannot sync a folder
            raise


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


def _not_writable(folder: Path, exc: OSError) -> ResultsNotWritable:
    mend = MENDS.get(exc.errno or 0, "check the folder, its disk and its share")
    return ResultsNotWritable(f"{folder}: results cannot be stored there ({exc.strerror}); {mend}")
