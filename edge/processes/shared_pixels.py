"""Memory into which a reader puts an image's pixels, and out of which its parent copies them.

Through a socket, in the pieces that it holds, megabytes take three times as long.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from edge.pixel_checks import MAX_SIDE_PX

MOST_BYTES = 4 * MAX_SIDE_PX**2
WINDOW_BYTES = 2**22  # so much is mapped at a time: mapped memory counts towards the reader's limit
KEPT_BYTES = 2**24  # of windows that stay mapped; most images have fewer


class SharedPixels:
    """The parent's side. Its size is sealed; what was never written takes no memory, and what was, until `close`."""

    def __init__(self) -> None:
        """Reserve the memory; raise OSError where there is none."""
        self._file = os.memfd_create("pixels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self._file, MOST_BYTES)
            fcntl.fcntl(self._file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor, for the child to inherit."""
        return self._file

    def copy(self, rows: int, columns: int) -> np.ndarray:
        """Return (rows, columns) float32, read-only, of our own: a reader cannot change them any more.

        Raises ValueError for more than any image has.
        """
        if not (0 < rows <= MAX_SIDE_PX and 0 < columns <= MAX_SIDE_PX):
            raise ValueError(f"{rows} x {columns} pixels")
        pixels = np.empty((rows, columns), np.float32)
        if os.preadv(self._file, [pixels.data], 0) != pixels.nbytes:
            raise ValueError("fewer pixels than were told of")
        pixels.setflags(write=False)
        return pixels

    def close(self) -> None:
        """Give the memory back, once the child is gone too."""
        os.close(self._file)


class PixelWriter:
    """The child's side. Mapped, not written: a reader may write no file at all. Closed with the process."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._kept: dict[int, mmap.mmap] = {}  # by their place: to map a window anew takes longer than to fill it

    def put(self, pixels: np.ndarray) -> None:
        """Write (H, W) float32 from the start of what the parent shares; raise MemoryError where there is none."""
        data = np.ascontiguousarray(pixels).data.cast("B")
        try:
            os.posix_fallocate(self._file, 0, len(data))  # or what is not there is told by SIGBUS
            for start in range(0, len(data), WINDOW_BYTES):
                piece = data[start : start + WINDOW_BYTES]
                with self._window(start) as window:
                    window[: len(piece)] = piece
        except OSError as exc:
            raise MemoryError from exc

    def _window(self, start: int) -> AbstractContextManager[mmap.mmap]:
        if start >= KEPT_BYTES:
            return mmap.mmap(self._file, WINDOW_BYTES, offset=start)
        if start not in self._kept:
            self._kept[start] = mmap.mmap(self._file, WINDOW_BYTES, offset=start)
        return nullcontext(self._kept[start])
