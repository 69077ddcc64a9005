"""Selections and audits in lines for a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from calibration.audit import Audit
from calibration.select import Selection


def selection_report(selection: Selection) -> Iterator[str]:
    """Yield what was chosen of what, and why the rest was not."""
    chosen, found = selection.calibration_set, selection.walk
    yield from (f"unreadable: {reason}" for reason in found.unreadable)
    yield f"{len(found.images)} images read, {len(found.unreadable)} unreadable, {found.others} files are no images"
    yield (
        f"left out: {selection.excluded} of excluded patients, {selection.copies} copies, "
        f"{selection.near_duplicates} near-duplicates"
    )
    if selection.nameless:
        yield f"{selection.nameless} chosen images name no patient: excluding patients cannot reach them"
    taken = Counter(entry.stratum for entry in chosen.entries)
    yield "chosen / available  view     machine  energy   exposure"
    for stratum in sorted(selection.available, key=lambda s: (s.view, s.machine, s.energy, s.exposure)):
        yield (
            f"{taken[stratum]:6d} / {selection.available[stratum]:<9d}  {stratum.view:<8s} {stratum.machine:<8s} "
            f"{stratum.energy:<8s} {stratum.exposure}"
        )
    yield f"{len(chosen.entries)} images, calibration set {chosen.sha256}"


def audit_report(audit: Audit) -> Iterator[str]:
    """Yield coverage, notes and what to act on."""
    yield f"coverage, {sum(audit.coverage.values())} images:"
    for (view, machine, energy, exposure), count in audit.coverage.items():
        yield f"{count:6d}  {view:<8s} {machine:<8s} {energy:<8s} {exposure}"
    yield from (f"note: {note}" for note in audit.notes)
    yield from (f"ACT: {finding.topic}: {finding.what}" for finding in audit.findings)
    yield f"{len(audit.findings)} findings to act on" if audit.findings else "nothing to act on"
