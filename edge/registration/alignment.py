"""One image and its reference: which one it is, what it says of the gantry, and the registration of the two."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from edge.config import Config, ReferenceRule
from edge.contract import KindContract
from edge.errors import BadReference
from edge.geometry import with_gantry_evidence
from edge.records import Landmark, PortalImage
from edge.registration.reference import Reference, find_reference, key_by_rule, list_references
from edge.registration.register import Registration, Rules, register
from edge.registration.sighting import sighting


@dataclass(frozen=True)
class References:
    """Where a room keeps its references, and which images belong to which."""

    folder: Path
    rules: tuple[ReferenceRule, ...] = ()
    widest_interval_mm: float = Rules().widest_interval_mm

    def of(self, image: PortalImage) -> Reference | str | None:
        """Return the reference of an image, why it cannot be used, or None: by its plan, else by its file's name."""
        by_plan = find_reference(self.folder, image.beam)
        if by_plan is not None:
            return by_plan
        key = key_by_rule(image.identity.name, self.rules)
        found = find_reference(self.folder, key)
        if found is None and key is not None:
            return f"the reference {key[:12]} that a rule names for it is not in the store; add it"
        return found


@dataclass(frozen=True)
class Aligned:
    """A registration, and the reference that it used; None: that one is damaged."""

    registration: Registration
    reference: Reference | None


def with_plan(image: PortalImage, reference: Reference | str | None) -> PortalImage:
    """Return the image with its gantry angle trusted where its plan's beam confirms it.

    Only a stated 0 needs that, and only the beam that the file itself names is evidence. An angle other than planned
    stays as it is: then the registration is withheld for it.
    """
    if not isinstance(reference, Reference) or reference.key != image.beam or image.geometry is None:
        return image
    stated, planned = image.geometry.stated_gantry_deg, reference.gantry_deg
    if image.geometry.gantry_deg is not None or planned is None:
        return image
    return replace(image, geometry=with_gantry_evidence(image.geometry, stated, planned))


def align(
    image: PortalImage,
    landmarks: Sequence[Landmark],
    kinds: Sequence[KindContract],
    reference: Reference | str,
    release: str,
    rules: Rules = Rules(),
) -> Aligned:
    """Register an image's landmarks, as ``release`` found them, with its reference; a text is why there is none.

    Never raises for what image or reference say: that withholds the registration.
    """
    detected = sighting(image, landmarks, kinds)
    if isinstance(reference, str):
        return Aligned(register(reference, detected), None)
    made = register(reference.sighting(), detected, rules)
    if made.status == "ok" and reference.release not in {None, release}:
        told = f"the reference's landmarks come from another release ({reference.release}): make the reference anew"
        made = replace(made, warnings=(*made.warnings, told))
    return Aligned(made, reference)


def look_over_references(config: Config) -> Iterator[tuple[Literal["ok", "warning", "fault"], str, str | None]]:
    """Yield what is right or wrong with a room's references: level, what it is, and what mends it."""
    if config.references is None:
        return
    try:
        keys = list_references(config.references)
    except BadReference as exc:
        yield "fault", str(exc), "let the service's user read there"
        return
    for reason in (one for key in keys if isinstance(one := find_reference(config.references, key), str)):
        yield "fault", f"reference {reason}", "make it anew"
    for rule in (rule for rule in config.reference_rule if rule.reference not in keys):
        what = f"reference_rule {rule.image_name}: its reference {rule.reference[:12]} is not there"
        yield "fault", what, "add it: until then its images are not registered"
    mend = None if keys else "landmarknet-edge reference add"
    yield "ok" if keys else "warning", f"references in {config.references}: {len(keys)}", mend
