"""One file of the journal as a person reads it: a word, how serious that is, and the shift in large figures."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from edge.page.sources import Seen, Sources
from edge.results.publish import OVERLAY_SUFFIX, output_stem
from edge.results.wording import signed
from edge.service.status import in_words
from edge.settle import State
from edge.terminal import printable

WAITING_WORDS = {
    State.SEEN: "arriving",
    State.STABLE: "waiting",
    State.CLAIMED: "being looked at",
    State.INFERRED: "being looked at",
    State.PUBLISHED: "being looked at",
    State.INCOMPLETE: "incomplete, the rest may still come",
    State.RETRY_WAIT: "is tried again",
}
DIRECTIONS = {"x": ("right", "left"), "y": ("up", "down")}  # in the image: +x right, +y up
TURNS = ("counter-clockwise", "clockwise")


@dataclass(frozen=True)
class Axis:
    """A shift along one axis of the image, as it is shown."""

    name: str  # x or y
    figure: str  # in mm, with its sign: detected minus planned
    direction: str  # in words; "no shift" where the figure is zero
    interval: str | None  # half of the 95 % interval, in mm


@dataclass(frozen=True)
class Shown:
    """A file, and what is shown of it. ``level``: plain, warn, bad or idle, each with a shape of its own.

    Never good: a shift that is known may be a large one, and green would say that all is well.
    """

    seen: Seen
    word: str
    level: str
    why: str | None  # a sentence, where the word needs one
    axes: tuple[Axis, ...]  # x and y; (): no shift
    rotation: str | None
    landmarks: int
    overlay: bool

    @property
    def name(self) -> str:
        return printable(self.seen.name)


def shown(seen: Seen, sources: Sources) -> Shown:
    """Return how a file is shown, with what its result says."""
    result = sources.result(seen)
    if seen.state is State.REFUSED:
        return _plain(seen, "refused", "bad", seen.reason, overlay=False)
    if seen.state is not State.DONE:
        failing = seen.state in (State.RETRY_WAIT, State.INCOMPLETE)
        why = seen.reason if failing else None
        return _plain(seen, WAITING_WORDS[seen.state], "warn" if failing else "idle", why, overlay=False)
    if result is None:
        return _plain(seen, "result not readable", "warn", "Its result is gone, or is not ours.", overlay=False)
    return _of_result(seen, result)


def _of_result(seen: Seen, result: dict[str, Any]) -> Shown:
    overlay = overlay_of(seen, result) is not None
    if result["status"] == "refused":
        return _plain(seen, "refused", "bad", result["reason"], overlay=overlay)
    if result["status"] == "no_landmarks":
        return _plain(seen, "no landmarks", "warn", "Nothing was found in this image.", overlay=overlay)
    number, entry = len(result["landmarks"]), result["registration"]
    if entry is None:
        return Shown(
            seen, "landmarks found", "plain", "No reference for this image: no shift.", (), None, number, overlay
        )
    if entry["status"] != "ok" or entry["shift_mm"] is None:
        return Shown(seen, "shift withheld", "warn", entry["reason"], (), None, number, overlay)
    return Shown(seen, "shift known", "plain", None, axes_of(entry), rotation_of(entry), number, overlay)


def _plain(seen: Seen, word: str, level: str, why: str | None, *, overlay: bool) -> Shown:
    return Shown(seen, word, level, why, (), None, 0, overlay)


def axes_of(entry: dict[str, Any]) -> tuple[Axis, ...]:
    """Return the shift of a registration that has one, axis by axis."""
    return tuple(_axis(name, entry["shift_mm"][name], (entry["interval95_mm"] or {}).get(name)) for name in ("x", "y"))


def _axis(name: str, value_mm: float, half_mm: float | None) -> Axis:
    positive, negative = DIRECTIONS[name]
    figure = signed(value_mm)
    at_zero = float(figure) == 0
    direction = "no shift" if at_zero else positive if value_mm > 0 else negative
    return Axis(name, figure.replace("-", "−"), direction, None if half_mm is None else f"{half_mm:.1f}")


def rotation_of(entry: dict[str, Any]) -> str | None:
    """Return the rotation with its sign and its word; None where the landmarks do not fix it."""
    turn_deg = entry["rotation_deg"]
    if turn_deg is None:
        return None
    figure = signed(turn_deg)
    way = "" if float(figure) == 0 else f", {TURNS[turn_deg < 0]}"
    return f"{figure.replace('-', '−')}°{way}"


def overlay_of(seen: Seen, result: dict[str, Any]) -> dict[str, str] | None:
    """Return the result's entry of its overlay: the one of just that name; None where it has none."""
    wanted = output_stem(seen.path) + OVERLAY_SUFFIX
    return next((entry for entry in result["outputs"] if entry["name"] == wanted), None)


def age(moment: datetime, now: datetime) -> str:
    """Return how long ago a moment was, as a person says it; a clock that was set back makes no negative age."""
    return f"{in_words(max(0.0, (now - moment).total_seconds()))} ago"
