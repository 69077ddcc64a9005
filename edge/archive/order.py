"""What every worker of a run is told, and has to be: of this version, with this release, in sight of these folders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from edge import __version__
from edge.archive.entries import Entry
from edge.config import Config
from edge.contract import read_contract
from edge.engines import SHIPPED_RELEASE
from edge.errors import BadRelease, EdgeError
from edge.processes.worker import Description
from edge.results.files import make_folder, not_writable, opened_folder, temporary
from edge.results.publish import image_name
from edge.source_file import signature
from edge.store import CHOOSE, Store


class Unfit(Exception):
    """A distributed engine, or one of its workers, that cannot do this work."""


@dataclass(frozen=True)
class Sample:
    """An image that every worker must see as it is."""

    image: Path
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class Promise:
    """The release that a configuration means on the machine of the command."""

    release: str
    contract_sha256: str
    manifest_sha256: str | None


@dataclass(frozen=True)
class Order:
    """A run: ``name`` tells it from others; ``mark`` is a file of it in the folder of the results, which says that."""

    name: str
    config: Config
    promise: Promise
    mark: Path
    sample: Sample | None
    embedded: bool
    software: str = __version__


def promise_of(config: Config) -> Promise:
    """Return the release that a configuration means, its hashes checked where it is signed; raise `BadRelease`."""
    if config.store is None:
        contract, sha256 = read_contract((config.release or SHIPPED_RELEASE) / "contract.json")
        return Promise(contract.release, sha256, None)
    store = Store(config.store, config.release_key)
    in_use = store.current()
    if in_use is None:
        raise BadRelease(f"{store.root}: no release is in use; {CHOOSE}")
    signed = store.verify(in_use)
    return Promise(signed.contract.release, signed.contract_sha256, signed.manifest_sha256)


def sample_of(entries: Sequence[Entry]) -> Sample | None:
    """Return the first image that can be looked at, as this machine sees it; None: there is none."""
    for entry in entries:
        with suppress(EdgeError):  # a link, say, which is left alone
            seen = signature(entry.image, image_name(entry.image))
            return Sample(entry.image, seen.size_bytes, seen.mtime_ns)
    return None


@contextmanager
def marked(results: Path, run: str, *, make: bool) -> Iterator[Path]:
    """Keep a file that says ``run`` in the folder of the results, made where asked; raise `ResultsNotWritable`."""
    if make:
        make_folder(results)
    with ExitStack() as held:
        try:
            name = held.enter_context(temporary(held.enter_context(opened_folder(results)), run.encode()))
        except OSError as exc:
            raise not_writable(results, exc) from exc
        yield results / name


def demand_in_sight(order: Order) -> None:
    """Raise `Unfit` where this process sees another archive than the command, or cannot store results there."""
    where = order.mark.parent
    try:
        same = order.mark.read_bytes() == order.name.encode()
    except OSError:
        same = False
    if not same:
        raise Unfit(f"does not see the folder {where} that the command sees; mount the same share there, by that path")
    if not os.access(where, os.W_OK | os.X_OK):
        raise Unfit(f"cannot store results in {where}; let its user write there")
    if order.sample:
        _demand_seen(order.sample)


def _demand_seen(sample: Sample) -> None:
    try:
        seen = signature(sample.image, image_name(sample.image))
    except EdgeError as exc:
        raise Unfit(f"cannot read {sample.image} ({exc}); mount the archive there, readable for its user") from exc
    if (seen.size_bytes, seen.mtime_ns) != (sample.size_bytes, sample.mtime_ns):
        raise Unfit(f"sees another {sample.image} than the command; mount the same share there, by that path")


def demand_promised(found: Description, promise: Promise) -> None:
    """Raise `Unfit` where a worker opened another release than the command's."""
    said = found.provenance
    if (said.contract_sha256, said.manifest_sha256) != (promise.contract_sha256, promise.manifest_sha256):
        warned = "".join(f" ({warning})" for warning in found.warnings)
        raise Unfit(
            f"opened the release {said.release}, contract {said.contract_sha256[:12]}, not {promise.release}, contract "
            f"{promise.contract_sha256[:12]}, as the command would{warned}; install the same release there"
        )
