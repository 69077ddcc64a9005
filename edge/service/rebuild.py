"""Asking for a rebuild: a file in the state folder, which landmarknet-edge-rebuild.path watches.

The service itself may start nothing and sees no key of the site; what builds runs as another user (systemd/).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge.errors import StateUnusable

REBUILD_WANTED = "rebuild-wanted"


def ask_rebuild(folder: Path, reasons: Sequence[str]) -> bool:
    """Ask for a rebuild, saying why; False where just that was asked before.

    A restart must not begin hours of building anew. Raises `StateUnusable` where the state folder takes no file.
    """
    wanted, text = folder / REBUILD_WANTED, "".join(f"{reason}\n" for reason in reasons)
    try:
        if wanted.is_file() and wanted.read_text() == text:
            return False
        wanted.write_text(text)
    except OSError as exc:
        raise StateUnusable(
            f"{wanted}: a rebuild cannot be asked for ({exc.strerror}); let the service's user write there, or set "
            'stale to another policy than "rebuild"'
        ) from exc
    return True
