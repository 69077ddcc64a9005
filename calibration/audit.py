"""What is wrong with a calibration set: images that betray a test, persons named, kinds of images that it lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calibration.calibration_set import CalibrationError, CalibrationSet, images
from calibration.describe import (
    GREYS,
    NEAR_DUPLICATE_BITS,
    Described,
    Track,
    Walk,
    bits_apart,
    describe,
    patients_of_truth,
    walk,
)
from edge.contract import Reading
from edge.portal_image import read_portal_image

DRIFT_DISTANCE = 0.4  # Kolmogorov-Smirnov; a half-half mix of patients stays below, another beam or detector does not
DRIFT_CHANCE = 0.001  # per comparison; images of one patient are not independent, so a small chance alone says little
NAMED_FILES = 3


@dataclass(frozen=True)
class Finding:
    """Something to act on; ``what`` is one sentence that names files, and never a value that identifies."""

    topic: str  # overlap, identity, coverage, drift
    what: str


@dataclass(frozen=True)
class Audit:
    """``coverage`` counts images per (view, machine, energy, exposure); ``notes`` are facts that need no action."""

    coverage: dict[tuple[str, str, str, str], int]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]


def audit(
    calibration_set: CalibrationSet, test: Sequence[Path], later: Sequence[Path], reading: Reading, track: Track
) -> Audit:
    """Compare a set with folders of test images, and with ``later`` images, as the network of ``reading`` sees them.

    Raises `CalibrationError` where an image of the set is missing or changed, or a folder holds no image.
    """
    ours = _described(calibration_set, reading, track)
    tests, afterwards = _walk(test, reading, track), _walk(later, reading, track)
    findings = [*identities(ours)]
    if tests:
        findings += overlaps(ours, tests.images)
    if afterwards:
        findings += [*uncovered(ours, afterwards.images), *drifts(ours, afterwards.images)]
    return Audit(_coverage(calibration_set), tuple(findings), tuple(_notes(ours, tests, afterwards)))


def shared_with(calibration_set: CalibrationSet, tests: Sequence[Path]) -> tuple[str, ...]:
    """Return what test images share with a set, a sentence each; nothing where they are apart.

    Raises `CalibrationError` where an image of the set is missing or changed, and what a test image is refused with.
    """
    ours = _described(calibration_set, None, iter)
    truth = {folder: patients_of_truth(folder) for folder in {path.parent for path in tests}}
    theirs = [describe(path, read_portal_image(path), truth[path.parent], None) for path in tests]
    return tuple(finding.what for finding in overlaps(ours, theirs))


def overlaps(ours: Sequence[Described], tests: Sequence[Described]) -> Iterator[Finding]:
    """Yield what test images share with the set: bytes, nearly all of the picture, or the patient."""
    hashes = {image.sha256 for image in ours}
    patients = frozenset[str]().union(*(image.patients for image in ours))
    fingerprints = np.stack([image.fingerprint for image in ours])
    same = [image for image in tests if image.sha256 in hashes]
    near = [
        image
        for image in tests
        if image.sha256 not in hashes and (bits_apart(image.fingerprint, fingerprints) <= NEAR_DUPLICATE_BITS).any()
    ]
    theirs = [image for image in tests if image.patients & patients]
    mend = "select again with --exclude-patients"
    for found, what in (
        (same, "are in the set"),
        (near, "are nearly one of the set"),
        (theirs, "show a patient of it"),
    ):
        if found:
            yield Finding("overlap", f"{len(found)} of {len(tests)} test images {what}: {_named(found)}; {mend}")


def identities(ours: Sequence[Described]) -> Iterator[Finding]:
    """Yield per attribute how many images still say something in it that tells who the patient is."""
    keywords = sorted({keyword for image in ours for keyword in image.header.identifying})
    for keyword in keywords:
        found = [image for image in ours if keyword in image.header.identifying]
        yield Finding("identity", f"{keyword} in {len(found)} of {len(ours)} images: {_named(found)}; de-identify them")
    if found := [image for image in ours if image.header.named_in_path]:
        yield Finding(
            "identity", f"the patient in the path of {len(found)} of {len(ours)} images: {_named(found)}; rename them"
        )


def uncovered(ours: Sequence[Described], later: Sequence[Described]) -> Iterator[Finding]:
    """Yield the views, machines and energies that occur later and not in the set."""
    known = {_kind(image) for image in ours}
    for kind, count in sorted(Counter(_kind(image) for image in later).items()):
        if kind not in known:
            view, machine, energy = kind
            yield Finding(
                "coverage",
                f"{count} of {len(later)} later images are of view {view}, machine {machine}, energy {energy}, and "
                "none of the set is; select again with such images",
            )


def drifts(ours: Sequence[Described], later: Sequence[Described]) -> Iterator[Finding]:
    """Yield the grey-level statistics of the network's input in which later images are others than the set's."""
    from scipy.stats import ks_2samp

    before, after = (np.stack([image.greys for image in group]) for group in (ours, later))
    for (name, least), old, new in zip(GREYS.items(), before.T, after.T, strict=True):
        distance, chance = ks_2samp(old, new)
        moved = abs(np.median(new) - np.median(old)) >= least
        if moved and distance >= DRIFT_DISTANCE and chance < DRIFT_CHANCE:
            yield Finding(
                "drift",
                f"{name} of the network input: median {np.median(old):.3f} in the set, {np.median(new):.3f} in "
                f"{len(new)} later images, Kolmogorov-Smirnov distance {distance:.2f}; select again with later images "
                "and rebuild",
            )


def _described(calibration_set: CalibrationSet, reading: Reading | None, track: Track) -> list[Described]:
    paths = [entry.path for entry in calibration_set.entries]
    truth = {folder: patients_of_truth(folder) for folder in {path.parent for path in paths}}
    read = zip(images(calibration_set), track(paths), strict=True)  # images first: an empty set says so
    return [describe(path, image, truth[path.parent], reading) for (path, image), _ in read]


def _walk(folders: Sequence[Path], reading: Reading, track: Track) -> Walk | None:
    if not folders:
        return None
    found = walk(folders, track, reading)
    if not found.images:
        raise CalibrationError(
            f"{', '.join(map(str, folders))}: no portal image that can be read ({len(found.unreadable)} unreadable); "
            "name folders of portal images"
        )
    return found


def _coverage(calibration_set: CalibrationSet) -> dict[tuple[str, str, str, str], int]:
    strata = (entry.stratum for entry in calibration_set.entries)
    return dict(sorted(Counter((s.view, s.machine, s.energy, s.exposure) for s in strata).items()))


def _kind(image: Described) -> tuple[str, str, str]:
    return image.view, image.header.machine, image.header.energy


def _notes(ours: Sequence[Described], tests: Walk | None, later: Walk | None) -> Iterator[str]:
    for found, what in ((tests, "test"), (later, "later")):
        if found is not None:
            nameless = sum(not image.patients for image in found.images)
            yield f"{len(found.images)} {what} images, {nameless} name no patient; {len(found.unreadable)} unreadable"
            yield from found.unreadable
    if nameless := sum(not image.patients for image in ours):
        yield f"{nameless} images of the set name no patient: whether a test patient is among them cannot be told"
    yield "names burnt into the pixels cannot be seen by this audit: look at the images"


def _named(found: Sequence[Described]) -> str:
    """Name a few files; by their hash where the name itself names the patient."""
    names = [i.sha256[:12] if i.header.named_in_path else i.path.name for i in found[:NAMED_FILES]]
    return ", ".join(names) + (f" and {len(found) - NAMED_FILES} more" if len(found) > NAMED_FILES else "")
