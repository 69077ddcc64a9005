"""A child process that answers one request at a time over a socket pair: a JSON header, then raw bytes.

No pickle: the reader handles hostile files, so what it says must stay data. Not `multiprocessing.connection` either:
its ``poll`` ends with the first byte of an answer, and a child that stops in the middle of one would hold us for ever.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

Blob = bytes | bytearray | memoryview

HEADER_MOST_BYTES = 2**24
CLOSING_S = 10.0  # a child that was told to end gets so long to give its device back
SLICES = 16  # see `Deadline`
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # docs/adr/0003
NOTHING_ELSE: Mapping[str, str] = MappingProxyType({})
_LENGTH = struct.Struct(">Q")


@dataclass(frozen=True, eq=False)
class Message:
    """What goes one way: ``header`` is whatever JSON holds, ``blobs`` are bytes that stay as they are."""

    header: dict[str, Any]
    blobs: Sequence[Blob] = ()


class ChildDied(Exception):
    """The child is gone, or was ended for what it did; the text says how, as in "was killed by SIGSEGV"."""

    def __init__(self, how: str, signal_number: int | None = None) -> None:
        super().__init__(how)
        self.signal_number = signal_number


class Child:
    """The parent's side: a process of this Python that runs ``command``, such as ("-m", "edge.processes.worker_child").

    Start it from a thread that lives as long as it shall: Linux ends a child with the thread that started it. With
    ``quiet`` it has no standard error: what a decoder prints of a hostile file may be of a patient. ``environment`` is
    added to ours, and counts for more. ``inherits`` are descriptors that it has under the same numbers.
    """

    def __init__(
        self,
        command: Sequence[str],
        arguments: Sequence[str] = (),
        *,
        quiet: bool = False,
        environment: Mapping[str, str] = NOTHING_ELSE,
        inherits: Sequence[int] = (),
        closing_s: float = CLOSING_S,
    ) -> None:
        self._closing_s = closing_s
        ours, theirs = socket.socketpair()
        out = subprocess.DEVNULL if quiet else 2
        line = [sys.executable, "-P", *command, str(theirs.fileno()), str(os.getpid()), *arguments]
        with theirs:
            try:
                self._process = subprocess.Popen(  # noqa: S603 - our own module
                    line,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    pass_fds=[theirs.fileno(), *inherits],
                    env={**ONE_THREAD, **os.environ, **environment},
                )
            except OSError as exc:
                ours.close()
                raise ChildDied(f"cannot be started ({exc.strerror})") from exc
            except BaseException:
                ours.close()
                raise
        self._socket = ours

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def lives(self) -> bool:
        """Tell whether the process has not ended."""
        return self._process.poll() is None

    def ask(self, request: Message, *, within_s: float, most_bytes: int = HEADER_MOST_BYTES) -> Message:
        """Send a request and return its answer, whose blobs have at most ``most_bytes``; see `hear`."""
        self.tell(request, within_s=within_s)
        return self.hear(within_s=within_s, most_bytes=most_bytes)

    def tell(self, request: Message, *, within_s: float) -> None:
        """Send a request whose answer is heard later."""
        with suppress(OSError):  # it reads no more; `hear` says what it died of
            self._socket.settimeout(within_s)
            send(self._socket, request)

    def hear(self, *, within_s: float, most_bytes: int = HEADER_MOST_BYTES) -> Message:
        """Return what the child says next; raise `ChildDied` if it dies, keeps silent or talks nonsense.

        Then it is gone for sure: killed where need be.
        """
        try:
            return receive(self._socket, most_bytes, Deadline(within_s))
        except TimeoutError as exc:
            self._end(0.0)
            raise ChildDied(f"gave no answer within {within_s:g} s and was ended") from exc
        except (ValueError, RecursionError) as exc:  # JSON may be nested without end
            self._end(0.0)
            raise ChildDied(f"gave an answer that makes no sense ({exc}) and was ended") from exc
        except (EOFError, OSError) as exc:
            self._end(self._closing_s)
            raise self._death() from exc

    def close(self) -> None:
        """Have the child end by itself; kill it if it does not. Closing twice is once."""
        self._end(self._closing_s)

    def _end(self, patience_s: float) -> None:
        self._socket.close()
        with suppress(subprocess.TimeoutExpired):
            if patience_s and self._process.wait(patience_s) is not None:
                return
        self._process.kill()
        self._process.wait()

    def _death(self) -> ChildDied:
        status = self._process.returncode
        if status >= 0:
            return ChildDied(f"ended with status {status}")
        with suppress(ValueError):
            return ChildDied(f"was killed by {signal.Signals(-status).name}", -status)
        return ChildDied(f"was killed by signal {-status}", -status)


class Parent:
    """The child's side: adopt what `Child` handed over, then answer each of `requests`."""

    def __init__(self, arguments: Sequence[str]) -> None:
        """Take the socket and the parent's number from the first two of the command's arguments."""
        die_with(int(arguments[1]))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # Ctrl-C and a stopping service signal every process; the file in hand must not look like one that kills
            signal.signal(number, signal.SIG_IGN)
        self._socket = socket.socket(fileno=int(arguments[0]))
        self._socket.set_inheritable(False)

    def requests(self) -> Iterator[Message]:
        """Yield requests until the parent closes, or is gone."""
        while True:
            try:
                yield receive(self._socket, HEADER_MOST_BYTES)
            except (EOFError, ConnectionError):
                return

    def answer(self, header: dict[str, Any], blobs: Sequence[Blob] = ()) -> None:
        """Send an answer."""
        send(self._socket, Message(header, blobs))


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, however that ends."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it was gone before we asked
        raise SystemExit(0)


def send(channel: socket.socket, message: Message) -> None:
    """Write a message: the header's length, the header with the blobs' lengths, the blobs."""
    header = message.header | {"blob_bytes": [len(blob) for blob in message.blobs]}
    text = json.dumps(header).encode()  # pure ASCII: a path that is no UTF-8 crosses as escaped surrogates
    channel.sendall(_LENGTH.pack(len(text)) + text)
    for blob in message.blobs:
        channel.sendall(blob)


def receive(channel: socket.socket, most_bytes: int, deadline: Deadline | None = None) -> Message:
    """Read a message; raise ValueError for nonsense before any memory is reserved for it, EOFError at the end."""
    length = _LENGTH.unpack(_exactly(channel, _LENGTH.size, deadline))[0]
    if length > HEADER_MOST_BYTES:
        raise ValueError(f"a header of {length} bytes")
    header = json.loads(_exactly(channel, length, deadline))
    sizes = header.pop("blob_bytes", None) if isinstance(header, dict) else None
    if not isinstance(sizes, list) or not all(isinstance(size, int) and size >= 0 for size in sizes):
        raise ValueError("no header of ours")
    if sum(sizes) > most_bytes:
        raise ValueError(f"{sum(sizes)} bytes where {most_bytes} are the most")
    return Message(header, [_exactly(channel, size, deadline) for size in sizes])


def _exactly(channel: socket.socket, size: int, deadline: Deadline | None) -> bytearray:
    data = bytearray(size)
    rest = memoryview(data)
    while rest:
        count = deadline.receive_into(channel, rest) if deadline else channel.recv_into(rest)
        if not count:
            raise EOFError
        rest = rest[count:]
    return data


class Deadline:
    """How long to wait for the other side, all its silences together.

    Waited in slices, none of which counts for more than its length: while this process or the machine stood still
    (SIGSTOP, suspend), the child most likely did too, and the file in its hand must not be blamed.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._left_s = seconds
        self._clock = clock
        self._slice_s = seconds / SLICES

    def receive_into(self, channel: socket.socket, rest: memoryview) -> int:
        while self._left_s > 0:
            channel.settimeout(self._slice_s)
            began_s = self._clock()
            try:
                return channel.recv_into(rest)
            except TimeoutError:
                pass
            finally:
                self._left_s -= min(self._clock() - began_s, self._slice_s)
        raise TimeoutError
