"""A look at a drop folder on a thread of its own: a share that hangs must keep no other folder waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field

from edge.errors import FolderUnavailable
from edge.service.dropfolder import DropFolder
from edge.settle import Signature, Tracked

ANSWER_S = 20.0  # of several shares that hang at once, before the watchdog ends the daemon


@dataclass
class Looking:
    """Sweeps one folder. ``answer_s`` is how long it is waited for; one that was late is waited for longer."""

    folder: DropFolder
    answer_s: float = field(default_factory=lambda: ANSWER_S)
    _pending: _Look | None = None

    def sweep(self, files: Mapping[str, Tracked]) -> dict[str, Signature]:
        """Return what `DropFolder.sweep` does; raise `FolderUnavailable` also while the folder does not answer.

        An answer that came too late only tells that there is one: what it tells of files may be long past.
        """
        if self._pending is not None:
            if not self._pending.answer.done():
                raise self._silent()
            self.answer_s = max(self.answer_s, 2 * self._pending.took_s)
        self._pending = look = _Look()
        threading.Thread(target=look.at, args=(self.folder, files), daemon=True).start()
        try:
            found = look.answer.result(self.answer_s)
        except FutureTimeout:
            raise self._silent() from None
        except BaseException:
            self._pending = None
            raise
        self._pending = None
        return found

    def _silent(self) -> FolderUnavailable:
        waited = f"has not answered for {self.answer_s:.0f} s and more"
        return FolderUnavailable(f"{self.folder.path}: {waited}; see that the server of its share is up")


@dataclass
class _Look:
    answer: Future[dict[str, Signature]] = field(default_factory=Future)
    took_s: float = 0.0

    def at(self, folder: DropFolder, files: Mapping[str, Tracked]) -> None:
        began_s = time.monotonic()
        try:
            found = folder.sweep(files)
        except BaseException as exc:  # noqa: BLE001 - raised where somebody waits for it
            self.answer.set_exception(exc)
        else:
            self.took_s = time.monotonic() - began_s
            self.answer.set_result(found)
