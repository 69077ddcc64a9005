"""From where the anatomy lies in the room to how the couch would have to move, and what its display would then do.

THE PATIENT IS MOVED BY THE OPPOSITE OF THE SHIFT. The patient lies on the couch, so the couch moves with the patient:
a shift of (+5, 0, 0) mm (the anatomy lies 5 mm too far to the right in the room) is undone by a couch move of
(-5, 0, 0) mm, to the left. Nothing here moves a couch; a person reads, checks and moves.

Only differences of a display are given, never absolute readings: where vendors put zero, 100 or 1000 differs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from edge.registration.two_views import RoomShift, Vector3

LEVEL_DEG = 1.0  # a couch turned by less is taken as not turned: 0.35 mm of 20 mm


@dataclass(frozen=True)
class CouchScale:
    """Which way a couch's display counts: +1 where it grows along IEC 61217's axis of the table top, else -1."""

    name: str
    lateral: int  # IEC 61217 x: to the right of somebody who faces the gantry
    longitudinal: int  # y: towards the gantry
    vertical: int  # z: up
    source: str
    is_standard: bool  # whether the source is the standard itself; else try it on the couch before use


IEC61217 = CouchScale("IEC 61217", 1, 1, 1, "IEC 61217; PS3.3 C.8.8.14, Table Top Positions", is_standard=True)
# Second-hand: conversions in open software that reads Varian's trajectory logs (docs/geometry.md). No vendor's text.
VARIAN_IEC = CouchScale("Varian IEC", 1, 1, -1, "anmcgrath/TrajectoryLogReader", is_standard=False)
VARIAN_STANDARD = CouchScale("Varian standard", 1, 1, 1, "anmcgrath/TrajectoryLogReader", is_standard=False)
# Elekta: no source was found for the signs of its linear scales; a site measures them (docs/geometry.md).


@dataclass(frozen=True)
class CouchMove:
    """By how much the couch, with the patient on it, would have to move to undo a shift, mm."""

    lateral_mm: float
    longitudinal_mm: float
    vertical_mm: float
    scale: str


def couch_move(room: RoomShift, scale: CouchScale = IEC61217) -> CouchMove | str:
    """Return the change of the couch's display that undoes a shift of the room, or why it is not given.

    A turned couch moves along its own axes (IEC 61217 2.7: a turn is positive counter-clockwise seen from above).
    """
    if room.shift_mm is None:
        return room.reason or "there is no shift"
    if room.support_deg is None:
        return "PatientSupportAngle is not known, so nor is how the couch's axes lie in the room"
    lateral, longitudinal, vertical = table_axes(room.shift_mm, room.support_deg)
    return CouchMove(
        lateral_mm=-scale.lateral * lateral,
        longitudinal_mm=-scale.longitudinal * longitudinal,
        vertical_mm=-scale.vertical * vertical,
        scale=scale.name,
    )


def table_axes(room_mm: Vector3, support_deg: float) -> Vector3:
    """Return a vector of the room (IEC 61217 fixed) along the axes of a couch turned by ``support_deg``."""
    turn = math.remainder(support_deg, 360.0)
    if abs(turn) <= LEVEL_DEG:
        return room_mm
    cosine, sine = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    x, y, z = room_mm
    return x * cosine + y * sine, -x * sine + y * cosine, z
