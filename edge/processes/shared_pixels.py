"""Memory into which a reader puts an image's pixels, and out of which its parent copies them.

Through a socket, in the pieces that it holds, megabytes take three times as long.
"""

from __future__ import annotations

import fcntl
import mmap
import os

import numpy as np

from edge.pixel_checks import MAX_SIDE_PX

MOST_BYTES = 4 * MAX_SIDE_PX**2
KEPT_BYTES = 2**24  # that stay mapped, 2048 x 2048 px
WINDOW_BYTES = 2**22  # so much is mapped at a time of the rest: mapped memory counts towards the reader's limit


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
    """The child's side. Mapped, not written: a reader may write no file at all. Closed with the process.

    Most images fit into what stays mapped: to map it anew takes longer than to fill it.
    """

    def __init__(self, file: int) -> None:
        """Map the beginning, or raise OSError. Limits that are taken after it are the same for all images."""
        self._file = file
        self._kept = mmap.mmap(file, KEPT_BYTES)

    def put(self, pixels: np.ndarray) -> None:
        """Write (H, W) float32 from the start of what the parent shares; raise MemoryError where there is none."""
        data = np.ascontiguousarray(pixels).data.cast("B")
        try:
            os.posix_fallocate(self._file, 0, len(data))  # or what is not there is told by SIGBUS
            self._kept[: min(len(data), KEPT_BYTES)] = data[:KEPT_BYTES]
            for start in range(KEPT_BYTES, len(data), WINDOW_BYTES):
                piece = data[start : start + WINDOW_BYTES]
                with mmap.mmap(self._file, len(piece), offset=start) as window:
                    window.write(piece)
        except OSError as exc:
            raise MemoryError from exc
