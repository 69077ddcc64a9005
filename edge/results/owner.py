"""A results folder holds the results of one drop folder, since results go by the names of images: a file says of which.

Two machines may each have a drop folder of one path, and one share of results. A machine is known by its machine-id(5):
hosts are renamed, and two may have one name. Only a machine that has none is known by its host name.
"""

from __future__ import annotations

import errno
import hmac
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self
from uuid import UUID, uuid5

from edge.durable import sync_names
from edge.errors import BadConfig
from edge.keys import NAMESPACE
from edge.results.files import not_writable, opened_folder, read_ours, temporary

OWNER_FILE = ".landmarks.owner.json"  # hidden and ours, but neither a temporary nor named like a result
BY_HOST, BY_ID = "landmarknet-edge/owner/1", "landmarknet-edge/owner/2"  # how a file knows its machine
SAID = {BY_HOST: {"drop_folder", "machine"}, BY_ID: {"drop_folder", "machine", "machine_id"}}
MACHINE_ID = Path("/etc/machine-id")
APPLICATION_ID = uuid5(NAMESPACE, "landmarknet-edge")
NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


@dataclass(frozen=True, eq=False)
class Owner:
    """The drop folder whose results a folder holds, and its machine."""

    drop_folder: str
    machine: str  # the host's name; for people where there is an id
    machine_id: str | None = None  # see `own_machine_id`; None: known by the host's name

    @classmethod
    def of(cls, drop_folder: Path, machine_id: Path = MACHINE_ID) -> Self:
        """Return a drop folder of this machine as an owner."""
        return cls(str(drop_folder), os.uname().nodename, own_machine_id(machine_id))

    @property
    def _known_by(self) -> tuple[str, ...]:
        return (self.drop_folder, self.machine) if self.machine_id is None else (self.drop_folder, "", self.machine_id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Owner) and self._known_by == other._known_by

    def __hash__(self) -> int:
        return hash(self._known_by)


def own_machine_id(file: Path = MACHINE_ID) -> str | None:
    """Return the id by which files of ours know this machine; None: it has none, or none yet.

    A keyed hash, as `systemd-id128 machine-id --app-specific` prints it: machine-id(5) itself is confidential.
    """
    try:
        key = bytes.fromhex(file.read_text().strip())
    except (OSError, ValueError):  # "uninitialized", while a machine first boots
        return None
    if len(key) != len(APPLICATION_ID.bytes) or not any(key):
        return None
    return UUID(bytes=hmac.digest(key, APPLICATION_ID.bytes, "sha256")[: len(key)], version=4).hex


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
    file = results_dir / OWNER_FILE
    if not os.path.lexists(file):
        demand_no_other_owner(results_dir, ours)
        tree = os.walk(os.path.realpath(results_dir))
        _demand_ours((Path(parent, OWNER_FILE) for parent, _, names in tree if OWNER_FILE in names), results_dir, ours)
        _write_owner(results_dir, ours, anew=False)
    demand_no_other_owner(results_dir, ours)  # another service may have been quicker
    if _said(file).machine_id != ours.machine_id:
        _write_owner(results_dir, ours, anew=True)  # known by its host's name so far, which may be another's, too


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
    """Return what an owner's file says; one that knows this machine by its host's name means this machine."""
    owner = _said(file)
    here = Owner.of(Path(owner.drop_folder))
    by_name = owner.machine_id is None and owner.machine == here.machine
    return replace(owner, machine_id=here.machine_id) if by_name else owner


def _said(file: Path) -> Owner:
    try:
        said = json.loads(read_ours(file) or b"")
        texts = all(isinstance(one, str) and "\0" not in one for one in said.values())
        if texts and SAID.get(said.pop("schema")) == said.keys():
            return Owner(**said)
    except OSError as exc:
        raise not_writable(file.parent, exc) from exc
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        pass
    raise BadConfig(f"{file}: does not say whose results lie there; remove it if one drop folder alone has them there")


def _as_said(owner: Owner) -> bytes:
    said = {"schema": BY_HOST if owner.machine_id is None else BY_ID}
    said |= {name: text for name, text in asdict(owner).items() if text is not None}
    return (json.dumps(said, indent=2) + "\n").encode()


def _write_owner(results_dir: Path, ours: Owner, *, anew: bool) -> None:
    """Write an owner's file whole; only ``anew`` replaces one that is there."""
    try:
        with opened_folder(results_dir) as folder, temporary(folder, _as_said(ours)) as name:
            if anew or not _link(folder, name):
                os.rename(name, OWNER_FILE, src_dir_fd=folder, dst_dir_fd=folder)
            sync_names(folder)
    except FileExistsError:
        return
    except OSError as exc:
        raise not_writable(results_dir, exc) from exc


def _link(folder: int, name: str) -> bool:
    """Give a temporary the owner's name, never over another's; tell whether this file system has hard links."""
    try:
        os.link(name, OWNER_FILE, src_dir_fd=folder, dst_dir_fd=folder)
    except FileExistsError:
        raise
    except OSError as exc:
        if exc.errno not in NO_HARD_LINKS:
            raise
        return False
    return True


def _owned(folder: Path, file: Path, owner: Owner, ours: Owner) -> BadConfig:
    return BadConfig(
        f"{folder}: holds the results of the drop folder {owner.drop_folder} of {owner.machine}, which those of "
        f"{ours.drop_folder} of {ours.machine} would overwrite where images have one name; name another results_dir, "
        f"or, if this drop folder takes the place of that one, remove {file}"
    )
