"""``landmarknet-edge watch`` as a process of its own, and what it says to systemd."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from benchmarks.aside import ROOT

READY_S = 60.0
QUICK = "settle_s = 0.5\nsweep_s = 1.0\n"  # of real time


@contextmanager
def daemon(
    base: Path, environment: dict[str, str], *flags: str, settings: str = QUICK
) -> Iterator[subprocess.Popen[bytes]]:
    """Serve ``drop`` below a folder for as long as the block; its state lies below the folder, too."""
    config = base / "room.toml"
    config.write_text(f'state_dir = "{base / "state"}"\n{settings}[[drop_folder]]\npath = "{base / "drop"}"\n')
    command = [sys.executable, "-m", "edge.cli", "watch", "--config", str(config), *flags]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, **quiet)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


@contextmanager
def listening(path: Path) -> Iterator[Callable[[], None]]:
    """Listen at a socket in systemd's place; gives what waits until READY was said."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as heard:
        heard.bind(str(path))
        heard.settimeout(READY_S)

        def ready() -> None:
            while b"READY=1" not in heard.recv(4096):
                pass

        yield ready
