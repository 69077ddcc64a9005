"""Asking for a rebuild: a file in the state folder, which landmarknet-edge-rebuild.path watches.

The service itself may start nothing and sees no key of the site; what builds runs as another user (systemd/).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge.errors import StateUnusable

REBUILD_WANTED = "rebuild-wanted"


def ask_rebuild(folder: Path, rebuild_for: Sequence[str]) -> bool:
    """Ask for a rebuild, saying for which parts; False where nothing is new since it was asked for last.

    Neither a restart nor another release with the same parts amiss may begin hours of building anew. Raises
    `StateUnusable` where the state folder takes no file.
    """
    wanted = folder / REBUILD_WANTED
    try:
        asked = wanted.read_text().splitlines() if wanted.is_file() else []
        if set(rebuild_for) <= set(asked):
            return False
        wanted.write_text("".join(f"{part}\n" for part in rebuild_for))
    except OSError as exc:
        raise StateUnusable(
            f"{wanted}: a rebuild cannot be asked for ({exc.strerror}); let the service's user write there, or set "
            'stale to another policy than "rebuild"'
        ) from exc
    return True
