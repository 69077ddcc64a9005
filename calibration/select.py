"""Choose a calibration set: seeded, the same for the same images wherever they lie, each stratum in its turn."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calibration.calibration_set import CalibrationError, CalibrationSet, Entry, Stratum
from calibration.describe import NEAR_DUPLICATE_BITS, Described, Track, Walk, bits_apart, walk
from calibration.header import patient_hash

THIRDS = ("low", "middle", "high")


@dataclass(frozen=True)
class Selection:
    """A calibration set, and what became of the images that are not in it."""

    calibration_set: CalibrationSet
    walk: Walk
    excluded: int  # of patients that were to be left out
    nameless: int  # chosen although no patient is named: exclusion cannot tell
    copies: int  # the same bytes again
    near_duplicates: int
    available: Mapping[Stratum, int]


def select(folders: Sequence[Path], count: int, seed: int, exclude: Iterable[str], track: Track) -> Selection:
    """Choose up to ``count`` images of the folders; raise `CalibrationError` where none is left.

    ``exclude`` holds patient IDs, as in the header or in the truth of a simulated data set.
    """
    found = walk(folders, track)
    left_out = {patient_hash(identifier) for identifier in exclude}
    allowed = [image for image in found.images if not image.patients & left_out]
    single = {image.sha256: image for image in reversed(allowed)}  # of copies, the first by path
    shuffled = _shuffled(sorted(single), seed)
    distinct = without_near_duplicates([single[sha256] for sha256 in shuffled])
    strata = strata_of(distinct)
    chosen = _in_turns(distinct, strata, count, seed)
    if not chosen:
        raise CalibrationError(_why_empty(folders, found, len(allowed)))
    entries = (Entry(path=i.path, sha256=i.sha256, stratum=strata[i.sha256]) for i in chosen)
    return Selection(
        calibration_set=CalibrationSet(seed=seed, entries=tuple(sorted(entries, key=lambda entry: entry.sha256))),
        walk=found,
        excluded=len(found.images) - len(allowed),
        nameless=sum(not image.patients for image in chosen),
        copies=len(allowed) - len(single),
        near_duplicates=len(single) - len(distinct),
        available={stratum: list(strata.values()).count(stratum) for stratum in set(strata.values())},
    )


def without_near_duplicates(images: Sequence[Described]) -> list[Described]:
    """Return the images, in their order, that are not nearly one of those before them."""
    kept: list[Described] = []
    fingerprints = np.empty((len(images), 32), np.uint8)
    for image in images:
        if not (bits_apart(image.fingerprint, fingerprints[: len(kept)]) <= NEAR_DUPLICATE_BITS).any():
            fingerprints[len(kept)] = image.fingerprint
            kept.append(image)
    return kept


def strata_of(images: Iterable[Described]) -> dict[str, Stratum]:
    """Return the stratum of each image by its SHA-256.

    Exposures are compared within one machine and energy, by monitor units or mAs where the header tells, else by the
    mean level of the pixels, and cut into thirds.
    """
    compared: dict[tuple[str, str], list[tuple[float, Described]]] = defaultdict(list)
    for image in images:
        source, value = image.header.exposure or ("level", image.level)
        compared[f"{image.header.machine} {image.header.energy}", source].append((value, image))
    strata = {}
    for (_, source), exposed in compared.items():
        limits = np.quantile([value for value, _ in exposed], (1 / 3, 2 / 3))
        for value, image in exposed:
            strata[image.sha256] = Stratum(
                view=image.view,
                machine=image.header.machine,
                energy=image.header.energy,
                exposure=f"{source}-{THIRDS[int(np.searchsorted(limits, value))]}",
            )
    return strata


def excluded_patients(named: Iterable[str]) -> list[str]:
    """Return patient IDs; what names a file stands for its lines. Raise `CalibrationError` for an unreadable file."""
    identifiers: list[str] = []
    for text in named:
        try:
            lines = Path(text).read_text().splitlines() if Path(text).is_file() else [text]
        except (OSError, UnicodeDecodeError) as exc:
            raise CalibrationError(f"{text}: cannot be read as a list of patient IDs, one a line ({exc})") from exc
        identifiers += [line.strip() for line in lines if line.strip()]
    return identifiers


def _shuffled(items: Sequence[str], seed: int) -> list[str]:
    return [items[i] for i in np.random.default_rng(seed).permutation(len(items))]


def _in_turns(images: Sequence[Described], strata: Mapping[str, Stratum], count: int, seed: int) -> list[Described]:
    """Take one image of each stratum in its turn, so that a rare one is taken whole before a common one fills up."""
    waiting: dict[str, list[Described]] = defaultdict(list)
    for image in images:
        waiting[strata[image.sha256].model_dump_json()].append(image)
    queues = [waiting[key] for key in _shuffled(sorted(waiting), seed)]
    rounds = max(map(len, queues), default=0)
    taken = [queue[turn] for turn in range(rounds) for queue in queues if turn < len(queue)]
    return taken[:count]


def _why_empty(folders: Sequence[Path], found: Walk, allowed: int) -> str:
    where = ", ".join(map(str, folders))
    if found.images and not allowed:
        return f"{where}: all {len(found.images)} images are of excluded patients; name other folders"
    said = f"; the first: {found.unreadable[0]}" if found.unreadable else ""
    return (
        f"{where}: no portal image that can be read ({len(found.unreadable)} unreadable, {found.others} files of "
        f"another sort{said}); name folders of portal images"
    )
