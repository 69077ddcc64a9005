"""Portal images by way of a process under limits: whatever a hostile file does, it does there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from edge.config import Config
from edge.errors import (
    BadConfig,
    DamagedImage,
    EdgeError,
    FileTooLarge,
    ImageUnreadable,
    ImplausibleGeometry,
    NotAnImage,
    ReaderDied,
    UnsupportedImage,
)
from edge.geometry import ImageGeometry
from edge.processes.child import ONE_THREAD, Child, ChildDied, Message
from edge.processes.shared_pixels import SharedPixels
from edge.records import ImageIdentity, PortalImage, Rescale

START_S = 60.0
MOST_IMAGES = 500  # by one process: whatever a decoder leaks or a file left behind goes with it
ENVIRONMENT = {
    **ONE_THREAD,  # also where this process has more: Landlock confines only the thread that asks for it
    # glibc: what one image took serves the next; given back, each of its pages is made anew, half of what reading costs
    "MALLOC_MMAP_THRESHOLD_": str(2**26),
    "MALLOC_TRIM_THRESHOLD_": str(2**27),
}
KEPT_BYTES = 2**25  # of pixels; after a larger image the reader is replaced, which gives their memory back
MESSAGE_MOST = 1000  # characters
# what a file can be; a reader that was taken over must not be able to say anything that stops the daemon
ANSWERS: Final[dict[str, type[EdgeError]]] = {
    kind.__name__: kind
    for kind in (
        *(NotAnImage, UnsupportedImage, FileTooLarge, DamagedImage, ImplausibleGeometry),
        *(ImageUnreadable, ReaderDied),
    )
}


@dataclass(frozen=True)
class ReaderLimits:
    """What one image may take. ``wall_s`` is the parent's, all else the kernel enforces in the child."""

    memory_mb: int  # of address space, the reader's own 170 MB included
    cpu_s: float
    wall_s: float
    file_bytes: int

    @classmethod
    def of(cls, config: Config) -> Self:
        """Return the limits that a configuration sets."""
        return cls(config.read_memory_mb, config.read_s, config.read_s, config.largest_file_mb * 2**20)


@dataclass(frozen=True)
class _Described:
    """A portal image without its pixels, as `edge.processes.reader_child.described` tells it."""

    __pydantic_config__ = ConfigDict(allow_inf_nan=False, extra="forbid")

    identity: ImageIdentity
    polarity_source: str
    geometry: ImageGeometry | None
    geometry_reason: str | None
    rescale: Rescale
    beam: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None


_ANSWER = TypeAdapter(_Described)


class ReaderProcess:
    """Read images in a child, which is started anew when it died, or has read ``most_images``."""

    def __init__(
        self,
        limits: ReaderLimits,
        most_images: int = MOST_IMAGES,
        command: Sequence[str] = ("-m", "edge.processes.reader_child"),
    ) -> None:
        self._limits = limits
        self._most_images = most_images
        self._command = command
        self._child: Child | None = None
        self._pixels: SharedPixels | None = None
        self._ready = False
        self._images = 0

    def start(self) -> None:
        """Begin to start the child, without waiting for it."""
        limits = self._limits
        try:
            self._pixels = SharedPixels()
            pixels = self._pixels.fileno()
            arguments = [str(limits.memory_mb), str(limits.cpu_s), str(limits.file_bytes), str(pixels)]
            self._child = Child(self._command, arguments, quiet=True, environment=ENVIRONMENT, inherits=[pixels])
        except OSError as exc:
            self.close()
            raise ImageUnreadable(f"the reader cannot be started ({exc.strerror}); it is tried again") from exc
        except ChildDied as exc:
            self.close()
            raise ImageUnreadable(f"the reader {exc}; it is tried again; free some memory if it stays so") from exc
        self._ready, self._images = False, 0

    def await_ready(self) -> None:
        """Wait until the child can read, starting it where there is none.

        Raises `BadConfig` where its memory is set too low, `ImageUnreadable` where it does not start just now.
        """
        if self._child is None or not self._child.lives() or self._images >= self._most_images:
            self.close()
            self.start()
        assert self._child
        if self._ready:
            return
        try:
            said = self._child.hear(within_s=START_S).header
        except ChildDied as exc:
            self.close()
            raise ImageUnreadable(f"the reader {exc} before it was ready; it is tried again") from exc
        if said.get("error") == "BadConfig":
            self.close()
            raise BadConfig(str(said.get("message")))
        self._ready = True

    def read(self, path: Path, name: str) -> PortalImage:
        """Return the portal image in ``path``, which messages call ``name``.

        Raises what `read_portal_image` raises, and `ReaderDied` where the file killed the child or took too much.
        """
        self.await_ready()
        assert self._child
        assert self._pixels
        self._images += 1
        try:
            request = Message({"path": str(path), "name": name})
            answer = self._child.ask(request, within_s=self._limits.wall_s, most_bytes=0)
            image = _portal_image(answer, name, self._pixels)
        except ChildDied as exc:
            self.close()
            raise ReaderDied(f"{name}: the process that read it {exc}; check what was exported") from exc
        except (MemoryError, OSError) as exc:
            self.close()
            raise ImageUnreadable(f"{name}: no memory for its pixels just now; it is tried again") from exc
        except (ValidationError, ValueError, LookupError) as exc:
            self.close()
            raise ReaderDied(f"{name}: the process that read it gave an answer that makes no sense") from exc
        except ReaderDied:  # it ran out of memory, and what that left behind is nobody's to know
            self.close()
            raise
        if image.pixels.nbytes > KEPT_BYTES:
            self._images = self._most_images
        return image

    def close(self) -> None:
        """End the child. Closing twice is once."""
        if self._child is not None:
            self._child.close()
        if self._pixels is not None:
            self._pixels.close()
        self._child = self._pixels = None


def _portal_image(answer: Message, name: str, shared: SharedPixels) -> PortalImage:
    if "error" in answer.header:
        kind = ANSWERS[str(answer.header["error"])]
        raise kind(str(answer.header["message"])[:MESSAGE_MOST])
    told = _ANSWER.validate_python(answer.header)
    if told.identity.name != name:
        raise ValueError(told.identity.name)
    pixels = shared.copy(told.identity.rows, told.identity.columns)
    return PortalImage(
        pixels, told.polarity_source, told.geometry, told.geometry_reason, told.identity, told.rescale, told.beam
    )
