"""The file whose turn most likely comes next, claimed before it: on a thread, for whatever hangs must hold up nobody.

A claim made ahead counts only for the very version of the file that had settled, and only for a while. What cannot be
claimed ahead, for whatever reason, is claimed at its turn, and that tells the reason.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from edge.service.spool import Claimed, claimed
from edge.settle import Signature

WAIT_S = 0.25  # an image that is ready waits no longer for a claim; usually it takes a few ms
REST_S = 60.0  # after one that took longer, none is made; and a claim is not taken when it is older


@dataclass
class Ahead:
    """At most one claim. Used by one thread; ``clock`` in monotonic seconds."""

    spool: Path
    most_bytes: int
    wait_s: float = WAIT_S
    clock: Callable[[], float] = time.monotonic
    _claiming: _Claiming | None = None
    _not_before_s: float = float("-inf")

    def begin(self, image: Path, signature: Signature) -> Claimed | None:
        """Claim a file in the version of this signature; None where that does not work at once."""
        self.let_go()
        if self.clock() < self._not_before_s or (self._claiming and not self._claiming.ended.is_set()):
            return None
        self._claiming = claiming = _Claiming(image, self.clock())
        threading.Thread(target=claiming.run, args=(self.spool, self.most_bytes), daemon=True).start()
        try:
            claim = claiming.claim.result(self.wait_s)
        except FutureTimeout:
            self._not_before_s = self.clock() + REST_S
            claim = None
        if claim is None or claim.signature != signature:
            self.let_go()
            return None
        return claim

    def take(self, image: Path, is_unchanged: Callable[[Signature], bool]) -> tuple[Claimed, ExitStack] | None:
        """Return the claim of a file with what holds it, where it still counts; otherwise let go of it."""
        claiming = self._claiming
        if claiming and claiming.image == image and claiming.claim.done():
            claim, is_young = claiming.claim.result(), self.clock() <= claiming.begun_s + REST_S
            if claim is not None and is_young and is_unchanged(claim.signature):
                self._claiming = None
                return claim, claiming.held
        self.let_go()
        return None

    def let_go(self) -> None:
        """Remove the working copy that was made ahead; one that is still being made is removed when it is made."""
        if self._claiming is not None and self._claiming.let_go():
            self._claiming = None


@dataclass
class _Claiming:
    """One claim on its way: ``claim`` is None where it failed, or was no longer wanted when it was there."""

    image: Path
    begun_s: float
    claim: Future[Claimed | None] = field(default_factory=Future)
    held: ExitStack = field(default_factory=ExitStack)
    ended: threading.Event = field(default_factory=threading.Event)
    _wanted: bool = True
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, spool: Path, most_bytes: int) -> None:
        try:
            with suppress(Exception):  # a hint tells nobody anything; the file's turn does
                self._run(spool, most_bytes)
        finally:
            with self._lock:
                if not self.claim.done():
                    self.claim.set_result(None)
            self.ended.set()

    def _run(self, spool: Path, most_bytes: int) -> None:
        with ExitStack() as held:
            claim = held.enter_context(claimed(self.image, spool, most_bytes))
            with self._lock:
                if self._wanted:
                    self.held = held.pop_all()
                    self.claim.set_result(claim)

    def let_go(self) -> bool:
        """Tell whether it has ended; one that has not removes its copy itself."""
        with self._lock:
            self._wanted = False
            self.held.close()
        return self.ended.is_set()
