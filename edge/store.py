"""The room's store of signed releases: ``releases/<id>/``, and the links ``current`` and ``previous`` to two of them.

A release is added whole or not at all and never changes again. Whatever is killed, and whenever, ``current`` leads to
a whole release: everything is made in ``.staging/``, which is emptied before each change, and moved by one rename.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge.durable import sync_folder
from edge.errors import BadConfig, BadRelease, StoreNotWritable
from edge.manifest import AGAIN, PLAIN_NAME, Manifest, SignedRelease, read_signed_manifest, read_signed_release
from edge.signature import MAKE_KEYS, public_key_of, read_public_key

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

CURRENT, PREVIOUS, RELEASES, STAGING, LOCK = "current", "previous", "releases", ".staging", ".lock"
CHOOSE = "choose one with landmarknet-edge engine use ID"


@dataclass(frozen=True)
class Listed:
    """A folder of the store: its manifest, or the fault for which it cannot be used."""

    release: str
    manifest: Manifest | None
    fault: str | None
    is_current: bool
    is_previous: bool


@dataclass(frozen=True)
class Store:
    """A folder of releases and the public key (or its file) that must have signed each; without, nothing is trusted.

    All methods raise `BadRelease` for a release that fails a check and `BadConfig` for a key that is none. Those that
    change the store wait for one another, and raise `StoreNotWritable` where the disk does not let them.
    """

    root: Path
    key: Path | Ed25519PublicKey | None

    @classmethod
    def for_publishing(cls, root: Path, private_key: Path) -> Store:
        """Return the store for whoever signs, which trusts the releases of that key; raise `BadConfig`."""
        return cls(root, public_key_of(private_key))

    def add(self, staged: Path) -> Path:
        """Check a release folder, copy it into the store, and return its place there; it is not yet in use."""
        release = read_signed_release(staged, self._public_key())
        target = self.root / RELEASES / release.manifest.release
        with self._changing() as staging:
            self.demand_new(target.name)
            target.parent.mkdir(exist_ok=True)
            sync_folder(self.root)
            _demand_own_folder(target.parent)
            folder = staging / target.name
            _write_release(folder, release)
            folder.rename(target)
            sync_folder(target.parent)
        return target

    def demand_new(self, release_id: str) -> None:
        """Raise `BadRelease` where the store has a release of that name."""
        target = self.root / RELEASES / release_id
        if os.path.lexists(target):
            raise BadRelease(
                f"{target}: exists, and a release never changes; publish the release again under another name"
            )

    def demand_writable(self) -> None:
        """Raise `StoreNotWritable` where no release could be added just now; the store is left as it is."""
        try:
            for folder in (self.root, self.root / RELEASES):
                try_to_write(folder)
            if (lock := self.root / LOCK).exists():
                lock.open("a").close()
        except OSError as exc:
            raise self._not_writable(exc) from exc

    def use(self, release_id: str) -> None:
        """Check a release and make it ``current``; the one that was becomes ``previous``.

        Between the two steps both links lead to the old one, so the same command completes what was cut short.
        """
        self.verify(release_id)
        with self._changing() as staging:
            old = self._linked_if_sound(CURRENT)
            if old == release_id:
                return
            if old is not None:
                self._link(staging, PREVIOUS, old)
            self._link(staging, CURRENT, release_id)

    def rollback(self) -> str:
        """Check the previous release, exchange it with the current one, and return its name.

        ``current`` changes first: what is cut short then has left the release that someone wants to be rid of.
        """
        target, old = self.previous(), self._linked_if_sound(CURRENT)
        if target is None or target == old:
            raise BadRelease(f"{self.root}: there is no previous release to go back to; {CHOOSE}")
        self.verify(target)
        with self._changing() as staging:
            self._link(staging, CURRENT, target)
            if old is not None:
                self._link(staging, PREVIOUS, old)
        return target

    def verify(self, release_id: str) -> SignedRelease:
        """Check signature, hashes and contract of one release, and return what was checked; nothing is loaded."""
        folder = self._folder(release_id)
        release = read_signed_release(folder, self._public_key())
        _demand_own_name(folder, release.manifest)
        return release

    def current(self) -> str | None:
        """Return the name of the release in use, None where none is; raise `BadRelease` where the link is no such."""
        return self._linked(CURRENT)

    def previous(self) -> str | None:
        """Return the name of the release that was in use before, None where none was."""
        return self._linked(PREVIOUS)

    def newest_calibration_set(self, release_id: str) -> str | None:
        """Return the set that INT8 was built from last, of all releases of the same model; None where none was.

        It is what the site means by its calibration set now: another release may have been left in use, or taken back.
        """
        manifests = {one.release: one.manifest for one in self.list() if one.manifest is not None}
        this = manifests.get(release_id)
        same = [one for one in manifests.values() if this and one.checkpoint_sha256 == this.checkpoint_sha256]
        calibrated = sorted((one for one in same if one.calibration_set_sha256), key=lambda one: one.created_utc)
        return calibrated[-1].calibration_set_sha256 if calibrated else None

    def remove(self, release_id: str) -> int:
        """Delete a release, be it damaged, and return how many bytes that freed; never one that is in use, or was last.

        It leaves ``releases/`` by one rename, so that what is cut short leaves no half of it there.
        """
        folder = self._folder(release_id)
        with self._changing() as staging:
            if release_id in (self.current(), self.previous()):
                raise BadRelease(
                    f"{folder}: is in use, or what a rollback goes back to, and stays; use others first, then remove it"
                )
            freed = sum(path.lstat().st_size for path in folder.rglob("*"))
            folder.rename(staging / release_id)
            sync_folder(folder.parent)
        return freed

    def list(self) -> tuple[Listed, ...]:
        """Return what the store holds, by name. Signatures are checked, files are not: that is `verify`."""
        key, current, previous = self._public_key(), self._linked_if_sound(CURRENT), self._linked_if_sound(PREVIOUS)
        try:
            names = sorted(path.name for path in (self.root / RELEASES).iterdir())
        except OSError as exc:
            raise BadRelease(f"{self.root}: holds no releases ({exc.strerror}); name a store that does") from exc
        listed = []
        for name in names:
            manifest, fault = self._manifest(name, key)
            listed.append(Listed(name, manifest, fault, name == current, name == previous))
        return tuple(listed)

    def _manifest(self, name: str, key: Ed25519PublicKey) -> tuple[Manifest | None, str | None]:
        try:
            folder = self._folder(name)
            manifest = read_signed_manifest(folder, key)
            _demand_own_name(folder, manifest)
        except BadRelease as exc:
            return None, str(exc)
        return manifest, None

    def _public_key(self) -> Ed25519PublicKey:
        if self.key is None:
            raise BadConfig(f"{self.root}: a store is opened with its public key only: name one, or {MAKE_KEYS}")
        return read_public_key(self.key) if isinstance(self.key, Path) else self.key

    def _folder(self, release_id: str) -> Path:
        """Return the folder of a release, which lies in the store itself: no path, no link."""
        if not re.fullmatch(PLAIN_NAME, release_id):
            raise BadRelease(f"{release_id!r}: not the name of a release; {CHOOSE}")
        folder = self.root / RELEASES / release_id
        for path in (folder.parent, folder):
            _demand_own_folder(path)
        return folder

    def _linked(self, name: str) -> str | None:
        link = self.root / name
        if _is_folder(link):
            raise BadRelease(f"{link}: is a folder, not a link to a release; move it out of the store, and {CHOOSE}")
        try:
            target = link.readlink()
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise BadRelease(f"{link}: is no link to a release ({exc.strerror}); remove it and {CHOOSE}") from exc
        if target.parent != Path(RELEASES) or not re.fullmatch(PLAIN_NAME, target.name):
            raise BadRelease(f"{link}: leads to {target}, not to a release of this store; {CHOOSE}")
        return target.name

    def _linked_if_sound(self, name: str) -> str | None:
        """Return None for a broken link, too: it must not keep anyone from choosing another release."""
        try:
            return self._linked(name)
        except BadRelease:
            return None

    def _link(self, staging: Path, name: str, release_id: str) -> None:
        if _is_folder(self.root / name):  # a file or link gives way to the rename, a folder does not
            self._linked(name)
        temporary = staging / name
        temporary.symlink_to(Path(RELEASES, release_id))
        temporary.rename(self.root / name)
        sync_folder(self.root)

    @contextmanager
    def _changing(self) -> Iterator[Path]:
        """Hold the store alone and give an empty staging folder; what lay there is of a process that was killed."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with (self.root / LOCK).open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                staging = self.root / STAGING
                shutil.rmtree(staging, ignore_errors=True)
                staging.mkdir()
                try:
                    yield staging
                finally:
                    shutil.rmtree(staging, ignore_errors=True)
        except OSError as exc:
            raise self._not_writable(exc) from exc

    def _not_writable(self, exc: OSError) -> StoreNotWritable:
        return StoreNotWritable(
            f"{self.root}: the store cannot be changed ({exc.strerror}); what was in use still is; free some space or "
            "let this user write there, then do the same again"
        )


def try_to_write(folder: Path) -> None:
    """Write a file without a name into a folder, or into the one that it is to be made in; raise `OSError`."""
    place = folder.absolute()
    while not _exists(place):
        place = place.parent
    with tempfile.TemporaryFile(dir=place) as file:
        file.write(bytes(4096))  # a disk may be full for data, but not for a name
        file.flush()


def _exists(path: Path) -> bool:
    try:
        path.lstat()
    except FileNotFoundError:  # one that may not be looked at is no reason to look further up
        return False
    return True


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _demand_own_folder(path: Path) -> None:
    try:
        own = stat.S_ISDIR(path.lstat().st_mode)
    except OSError as exc:
        raise BadRelease(f"{path}: no such release ({exc.strerror}); {CHOOSE}") from exc
    if not own:
        raise BadRelease(f"{path}: is a link or a file, not a folder of this store; {AGAIN}")


def _demand_own_name(folder: Path, manifest: Manifest) -> None:
    """Refuse a signed release under another name: it would stand in for one that was never signed as that."""
    if manifest.release != folder.name:
        raise BadRelease(f"{folder}: holds release {manifest.release} under another name; {AGAIN}")


def _write_release(folder: Path, release: SignedRelease) -> None:
    """Write the bytes that were checked, durably."""
    folder.mkdir()
    for name, data in release.files.items():
        with (folder / name).open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    sync_folder(folder)
