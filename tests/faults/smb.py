"""A real SMB server in a network of its own, where nobody but its own client reaches it."""

import os
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from tests.faults.room import wait_until

PORT = 14450
SILENT = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
FOLDERS = {
    "state directory": "state",
    "cache directory": "cache",
    "lock directory": "lock",
    "pid directory": "pid",
    "ncalrpc dir": "ncalrpc",
    "private dir": "private",
}
GLOBAL = f"""[global]
map to guest = bad user
server role = standalone
log level = 0
smb ports = {PORT}
interfaces = lo
bind interfaces only = yes
disable spoolss = yes
"""


class SmbServer:
    """Serves a folder as the share ``drop``; `serve` and `kill` it as often as you like, and `close` it."""

    def __init__(self, folder: Path, shared: Path) -> None:
        self._conf = folder / "smb.conf"
        for name in FOLDERS.values():
            (folder / name).mkdir(parents=True)
        places = "".join(f"{key} = {folder / name}\n" for key, name in FOLDERS.items())
        share = f"[drop]\npath = {shared}\nguest ok = yes\nread only = no\nforce user = root\n"
        self._conf.write_text(f"{GLOBAL}{places}log file = {folder}/log\n{share}")
        self._network = subprocess.Popen(["unshare", "-n", "sleep", "infinity"])
        self._inside = ["nsenter", "-t", str(self._network.pid), "-n"]
        self._server: subprocess.Popen | None = None
        wait_until(lambda: _network_of(self._network.pid) != _network_of("self"))
        subprocess.run([*self._inside, "ip", "link", "set", "lo", "up"], check=True)

    def serve(self) -> bool:
        """Start the server; return whether it answers."""
        smbd = shutil.which("smbd", path=os.environ["PATH"] + ":/usr/sbin")
        assert smbd
        # its children stay in its session, so that one signal ends them all
        command = [*self._inside, smbd, "-F", "--no-process-group", "-s", str(self._conf)]
        server = self._server = subprocess.Popen(command, start_new_session=True, **SILENT)
        wait_until(lambda: self.client("ls").wait() == 0 or server.poll() is not None)
        return server.poll() is None

    def client(self, command: str) -> subprocess.Popen:
        """Run a command of ``smbclient`` on the share."""
        share = ["-s", str(self._conf), "-p", str(PORT), "-N", "//127.0.0.1/drop", "-c", command]
        return subprocess.Popen([*self._inside, "smbclient", *share], **SILENT)

    def kill(self) -> None:
        """Kill the server and what it forked for its clients."""
        if self._server:
            with suppress(ProcessLookupError):
                os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()
        self._server = None

    def close(self) -> None:
        """End the server and its network."""
        self.kill()
        self._network.kill()
        self._network.wait()


def _network_of(process: object) -> Path:
    return Path(f"/proc/{process}/ns/net").readlink()
