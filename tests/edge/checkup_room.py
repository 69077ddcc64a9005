"""A room in order on a machine in order, whatever the machine is that runs the tests, and what its check says."""

from dataclasses import dataclass, replace
from pathlib import Path

from edge.config import Config, DropFolderConfig
from edge.engines import Engine
from edge.service.checkup import check_all
from edge.service.installed import Service
from edge.service.machine import Machine
from edge.staleness import MachineFacts

LOCAL = "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
PLENTY_BYTES = 50_000_000_000
UNIT_SHOWN = "LoadState=loaded\nUnitFileState=enabled\nActiveState=active\nUser=landmarknet-edge\n"
EXPOSED = "  PrivateTmp=  ...\n→ Overall exposure level for landmarknet-edge.service: {} OK 🙂\n"


def systemd(shown=UNIT_SHOWN, exposure="0.6"):
    """Return what `Machine.run` gives on a machine with the service installed."""
    return lambda command: EXPOSED.format(exposure) if command[0] == "systemd-analyze" else shown


@dataclass
class Room:
    """A configuration in order on a machine in order; `check` tells what a change of either brings."""

    config: Config
    machine: Machine
    base: Path

    def check(self, config=None, **answers):
        here = replace(self.machine, **answers)
        service = Service(Path("/etc/room.toml"), config or self.config, "landmarknet-edge.service")
        return check_all(lambda: service, here)

    def findings(self, about, config=None, **answers):
        """Return what is said ``about`` something; a test's own folder carries its name, which does not count."""
        return [one for one in self.check(config, **answers) if about in one.what.replace(str(self.base), "")]

    def changed(self, **changes):
        return self.config.model_copy(update=changes)

    def with_folder(self, **changes):
        folder = self.config.drop_folder[0].model_copy(update=changes)
        return self.changed(drop_folder=(folder,))


def room_in_order(base: Path, engine: Engine) -> Room:
    """Return a room with one drop folder and its state below ``base``, where ``engine`` opens."""
    drop, state = base / "drop", base / "state"
    drop.mkdir()
    state.mkdir()
    machine = Machine(
        run=systemd(),
        mounts=lambda: LOCAL,
        clock=lambda: True,
        free_bytes=lambda folder: PLENTY_BYTES,
        open_engine=lambda config: engine,
        facts=lambda flavour: MachineFacts("1.32"),
        user_id=999,
        cores=lambda: 1,
    )
    return Room(Config(drop_folder=(DropFolderConfig(path=drop),), state_dir=state), machine, base)


def levels(findings):
    return [finding.level for finding in findings]
