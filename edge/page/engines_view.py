"""The view Engines: which release serves, what the store holds, what the gate found, and which command changes that."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from edge.contract import Contract, delivered_in_words, read_contract
from edge.engines import SHIPPED_RELEASE
from edge.errors import EdgeError, Stop
from edge.manifest import Manifest
from edge.page.sources import Sources
from edge.results.files import read_ours
from edge.staleness import MachineFacts, differences
from edge.store import RELEASES, Listed, Store
from edge.terminal import printable

GATE_PICTURE = "gate.png"
LOOK_BACK = 20  # finished images that are asked what their engine warned of


@dataclass(frozen=True)
class Kind:
    """What the gate found of one kind of landmark."""

    name: str
    landmarks: str
    worst_px: str
    p99_mm: str
    lost: str
    extra: str


@dataclass(frozen=True)
class Release:
    """One release as it is shown; ``facts`` are labels with what stands there."""

    name: str
    place: str  # in use, used before, or ""
    word: str
    level: str
    facts: tuple[tuple[str, str], ...]
    gate: str
    gate_faults: tuple[str, ...]
    kinds: tuple[Kind, ...]
    picture: bool
    stale: tuple[tuple[str, str], ...]  # what differs, and what mends it


@dataclass(frozen=True)
class Engines:
    """What the view shows."""

    as_of: datetime
    serves: str | None
    warnings: tuple[str, ...] | None  # of the engine that made the newest result; None: there is none to be read
    releases: tuple[Release, ...]
    fault: str | None  # why the store cannot be read
    store: bool
    commands: tuple[tuple[str, str], ...]  # what for, and the line to type


def engines_of(sources: Sources) -> Engines:
    """Ask the store and the last results."""
    status = sources.status()
    releases, fault = _releases(sources)
    return Engines(
        as_of=status.when,
        serves=printable(status.release) if status.release and status.process else None,
        warnings=_warnings(sources),
        releases=releases,
        fault=fault,
        store=sources.config.store is not None,
        commands=tuple(_commands(sources)),
    )


def gate_picture(sources: Sources, name: str) -> bytes | None:
    """Return the picture of a release's gate, as its signed manifest has it; None where there is none."""
    from hashlib import sha256

    config = sources.config
    listed = next((one for one in _listed(sources) if one.release == name), None)
    if config.store is None or listed is None or listed.manifest is None:
        return None
    wanted = listed.manifest.files.get(GATE_PICTURE)
    try:
        data = read_ours(config.store / RELEASES / name / GATE_PICTURE) if wanted else None
    except OSError:
        return None
    return data if data is not None and sha256(data).hexdigest() == wanted else None


def _listed(sources: Sources) -> tuple[Listed, ...]:
    try:
        return sources.releases()
    except Stop:
        return ()


def _releases(sources: Sources) -> tuple[tuple[Release, ...], str | None]:
    try:
        if sources.config.store is None:
            return (_plain(sources.config.release or SHIPPED_RELEASE),), None
        expected = _expected(sources)
        order = sorted(sources.releases(), key=_newest_first, reverse=True)
        return tuple(_of_store(one, expected) for one in order), None
    except EdgeError as exc:
        return (), str(exc)


def _newest_first(one: Listed) -> tuple[bool, bool, float]:
    created = one.manifest.created_utc.timestamp() if one.manifest else -math.inf
    return one.is_current, one.is_previous, created


def _plain(folder: Path) -> Release:
    contract, _ = read_contract(folder / "contract.json")
    facts = (
        ("computed by", contract.flavour),
        ("precision", contract.precision_delivered),
        ("vouched for by", "this version, which it came with" if folder == SHIPPED_RELEASE else str(folder)),
        *_of_contract(contract),
    )
    gate = "none; others are held against this one" if folder == SHIPPED_RELEASE else "none"
    return Release(
        printable(contract.release), "in use", "in use", "good", facts, gate, (), (), picture=False, stale=()
    )


def _of_contract(contract: Contract) -> Iterator[tuple[str, str]]:
    yield (
        "network",
        f"{contract.input_size} px, {len(contract.kinds)} kinds: {', '.join(one.kind for one in contract.kinds)}",
    )
    yield "checkpoint", contract.checkpoint_sha256[:12]


def _expected(sources: Sources) -> MachineFacts:
    """Return what a release is held against, without asking a GPU: ONNX Runtime, model, calibration set."""
    shipped, _ = read_contract(SHIPPED_RELEASE / "contract.json")
    store = Store(sources.config.store, sources.config.release_key) if sources.config.store else None
    current = store.current() if store else None
    calibration = store.newest_calibration_set(current) if store and current else None
    try:
        library = installed_version("onnxruntime")
    except PackageNotFoundError:
        library = ""
    return MachineFacts(library, checkpoint_sha256=shipped.checkpoint_sha256, calibration_set_sha256=calibration)


def _of_store(one: Listed, expected: MachineFacts) -> Release:
    place = "in use" if one.is_current else "used before" if one.is_previous else ""
    name, manifest = printable(one.release), one.manifest
    if manifest is None:
        fault = printable(one.fault or "")
        return Release(name, place, "cannot be used", "bad", (), fault, (), (), picture=False, stale=())
    stale = tuple((found.text, found.mend) for found in differences(manifest, _asked_for(manifest, expected)))
    passed = manifest.gate.get("passed")
    gate = "passed" if passed is True else "not passed" if passed is False else "not run"
    level = "bad" if passed is False else "warn" if stale else "good" if one.is_current else "idle"
    word = place or "not in use"
    return Release(
        name, place, f"{word}, stale" if stale else word, level, tuple(_facts(manifest)), gate,
        tuple(_texts(manifest.gate.get("faults"))), tuple(_kinds(manifest.gate.get("kinds"))),
        GATE_PICTURE in manifest.files, stale,
    )  # fmt: skip


def _asked_for(manifest: Manifest, expected: MachineFacts) -> MachineFacts:
    """Return the facts with what is not asked here as the release has it: no difference is claimed there."""
    same = replace(expected, gpu=manifest.gpu, compute_capability=manifest.compute_capability, driver=manifest.driver)
    asked = manifest.flavour == "onnxruntime" and expected.flavour_version
    return same if asked else replace(same, flavour_version=manifest.flavour_version)


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    yield "computed by", f"{manifest.flavour} {manifest.flavour_version}"
    delivered = delivered_in_words(manifest.precision, manifest.delivered)
    asked = "" if delivered == manifest.precision else f" (asked: {manifest.precision})"
    yield "precision", f"{delivered}{asked}"
    if manifest.gpu:
        yield "built on", f"{manifest.gpu}, driver {manifest.driver or 'unknown'}"
    yield "made", f"{manifest.created_utc:%Y-%m-%d %H:%M} UTC"
    yield "calibration set", (manifest.calibration_set_sha256 or "none")[:12]
    yield "checkpoint", manifest.checkpoint_sha256[:12]
    if isinstance(ran_on := manifest.gate.get("ran_on"), str):
        yield "gate ran on", ran_on
    if isinstance(images := manifest.gate.get("images"), int):
        yield "gate images", str(images)


def _kinds(found: Any) -> Iterator[Kind]:
    """Yield what a gate says of kinds, as far as it has that form: other versions wrote other gates."""
    for name, one in (found if isinstance(found, dict) else {}).items():
        if isinstance(one, dict):
            yield Kind(
                str(name),
                _figure(one.get("landmarks"), 0),
                _figure(_part(one.get("shift_net_px"), "worst"), 2),
                _figure(_part(one.get("shift_mm"), "p99"), 2),
                _figure(_part(one.get("lost"), "all"), 0),
                _figure(_part(one.get("extra"), "all"), 0),
            )


def _part(found: Any, name: str) -> Any:
    return found.get(name) if isinstance(found, dict) else None


def _figure(found: Any, digits: int) -> str:
    return f"{found:.{digits}f}" if isinstance(found, int | float) and math.isfinite(found) else "–"


def _texts(found: Any) -> Iterator[str]:
    yield from (one for one in (found if isinstance(found, list) else []) if isinstance(one, str))


def _warnings(sources: Sources) -> tuple[str, ...] | None:
    """Return what the engine of the newest result warned of: it alone has compared itself with the machine."""
    for seen in sources.finished(LOOK_BACK):
        if (result := sources.result(seen)) is not None:
            return tuple(result["provenance"]["engine_warnings"])
    return None


def _commands(sources: Sources) -> Iterator[tuple[str, str]]:
    named = f" --config {sources.service.config_file}" if sources.service.config_file else ""
    yield "Does what serves fit this machine, and does it give its golden answers?", f"landmarknet-edge check{named}"
    if sources.config.store is None:
        return
    yield "What the store holds", f"landmarknet-edge engine list{named}"
    yield "Are signature and files of every release whole?", f"landmarknet-edge engine verify{named}"
    yield "Use another release", f"landmarknet-edge engine use RELEASE{named}"
    yield "Go back to the one used before", f"landmarknet-edge engine rollback{named}"
    yield "Have the service take it up", f"systemctl restart {sources.service.unit}"
    yield "Build one for this machine, where the bench is installed", "landmarknet-build-engine RECIPE"
