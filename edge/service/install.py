"""The service on a machine: which files go where, and which commands make systemd take notice.

Everything is planned first, as steps that can be printed; `carry_out` does what was planned. Units, users and folders
are ours and are replaced. A configuration belongs to whoever edited it: one that exists is never written to.
"""

from __future__ import annotations

import os
import re
import string
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge.config import Config, read_config
from edge.errors import BadConfig
from edge.service.rebuild import REBUILD_WANTED

CONFIGS = Path("/etc/landmarknet-edge")
UNITS = Path("/etc/systemd/system")
SHIPPED = {  # file of systemd/: its place on the machine
    "landmarknet-edge.service": UNITS / "landmarknet-edge.service",
    "landmarknet-edge@.service": UNITS / "landmarknet-edge@.service",
    "landmarknet-edge-gpu.service": UNITS / "landmarknet-edge-gpu.service",
    "landmarknet-edge-rebuild.path": UNITS / "landmarknet-edge-rebuild.path",
    "landmarknet-edge-rebuild.service": UNITS / "landmarknet-edge-rebuild.service",
    "landmarknet-edge.sysusers.conf": Path("/etc/sysusers.d/landmarknet-edge.conf"),
    "landmarknet-edge.tmpfiles.conf": Path("/etc/tmpfiles.d/landmarknet-edge.conf"),
}
OWN, REBUILD = "landmarknet-edge", "landmarknet-edge-rebuild.path"
CONFIG = "landmarknet-edge.toml"  # of the only room; any other ROOM.toml beside it is that of landmarknet-edge@ROOM
NOT_A_ROOM = {CONFIG, "rebuild.toml"}
DROP_IN = "10-folders.conf"
CURRENT = Path("/opt/landmarknet-edge/current")  # the version in use, where install.sh of the bundle puts several
PROGRAM = f"{CURRENT}/bin/landmarknet-edge"  # as it stands in the units
HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp", "/dev", "/proc", "/sys")  # noqa: S108 - by the units
ROOM_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"

# What the unit allows for the defaults of a configuration, and what one that asks for more needs besides.
MEMORY_MIB, BESIDES_THE_READER_MIB = 4096, 3072
KEPT = ("etc/landmarknet-edge", "var/lib/landmarknet-*", "var/cache/landmarknet-*")


class ServiceError(Exception):
    """The service could not be installed or removed; the message says why and what to do."""


@dataclass(frozen=True)
class Put:
    """Write a file of ours whole, unless it has this text already."""

    path: Path
    text: str
    there: bool  # it has this text already


@dataclass(frozen=True)
class Keep:
    """Leave a file alone; for the person who reads the plan."""

    path: Path
    why: str


@dataclass(frozen=True)
class Remove:
    """Remove a file of ours, and its folder if nothing else is in it."""

    path: Path


@dataclass(frozen=True)
class Run:
    """Run a command."""

    command: tuple[str, ...]


Step = Put | Keep | Remove | Run

# Harmless when there is nothing to do, so an installation that was cut short is completed by the next one.
TAKE_NOTICE = (
    Run(("systemd-sysusers", "/etc/sysusers.d/landmarknet-edge.conf")),
    Run(("systemd-tmpfiles", "--create", "/etc/tmpfiles.d/landmarknet-edge.conf")),
    Run(("systemctl", "daemon-reload")),
)
RESTART = Run(("systemctl", "try-restart", "landmarknet-edge.service", "landmarknet-edge@*.service"))


def plan_install(root: Path, program: Path, first_config: Path | None = None) -> tuple[Step, ...]:
    """Return what installs the service below ``root`` ("/": here), started as ``program``.

    ``first_config`` becomes the configuration where there is none; without it, the commented one. Raises `BadConfig`
    for a configuration that is wrong or names a folder that the service cannot see, `ServiceError` for the rest.
    """
    _demand_startable(program)
    own = _below(root, CONFIGS / CONFIG)
    source = own if own.exists() else first_config or shipped_file(CONFIG)
    rooms = _rooms(root)
    puts = [_put(_below(root, place), _unit_text(name, program)) for name, place in SHIPPED.items()]
    configs = {f"{OWN}.service": read_config(source)}
    configs |= {f"{OWN}@{path.stem}.service": read_config(path) for path in rooms}
    puts += [_put(_drop_in(root, unit), drop_in_text(config)) for unit, config in configs.items()]
    if asking := rebuild_drop_in_text(configs):
        puts.append(_put(_drop_in(root, REBUILD), asking))
    kept = [Keep(path, "a configuration stays as it is") for path in (own, *rooms) if path.exists()]
    first = [] if own.exists() else [_put(own, _read(source))]
    restart = () if all(put.there for put in puts) else (RESTART,)
    return (*puts, *first, *kept, *((*TAKE_NOTICE, *restart) if root == Path("/") else ()))


def plan_uninstall(root: Path) -> tuple[Step, ...]:
    """Return what removes the service below ``root``. Configuration, state, store, results and users stay."""
    ours = [_below(root, place) for place in SHIPPED.values()]
    ours += [_drop_in(root, f"{OWN}.service"), *sorted(_below(root, UNITS).glob(f"{OWN}@*.d/{DROP_IN}"))]
    ours += [_drop_in(root, REBUILD)]
    removed = [Remove(path) for path in ours if path.exists()]
    kept = [Keep(path, "not the program's; remove it by hand") for glob in KEPT for path in sorted(root.glob(glob))]
    here, units = root == Path("/"), _installed_units(root)
    return (
        *([Run(("systemctl", "disable", "--now", *units))] if here and units else []),
        *removed,
        *([Run(("systemctl", "daemon-reload"))] if here and removed else []),
        *kept,
    )


def carry_out(steps: Sequence[Step], run: Callable[[Sequence[str]], None]) -> None:
    """Do what was planned, in order; ``run`` runs one command and raises `ServiceError` where it fails."""
    for step in steps:
        if isinstance(step, Put) and not step.there:
            _write(step.path, step.text)
        elif isinstance(step, Remove):
            _remove(step.path)
        elif isinstance(step, Run):
            run(step.command)


def in_words(step: Step) -> str:
    """Return a step as one line of the plan."""
    match step:
        case Put(path, _, there):
            return f"{'unchanged' if there else 'write':10}{path}"
        case Keep(path, why):
            return f"{'keep':10}{path} ({why})"
        case Remove(path):
            return f"{'remove':10}{path}"
        case Run(command):
            return f"{'run':10}{' '.join(command)}"


def run_command(command: Sequence[str]) -> None:
    """Run a command of the plan; raise `ServiceError` with what it said."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - all from here
    except OSError as exc:
        raise ServiceError(f"{command[0]}: cannot be run ({exc.strerror}); the service needs systemd") from exc
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip()
        raise ServiceError(f"{' '.join(command)}: failed ({words}); mend that, then run install-service again")


def drop_in_text(config: Config) -> str:
    """Return a drop-in for a configuration: the folders to write to, and room for what it asks for."""
    # the dash: a share that is not there must not keep the service from starting, it waits for it
    lines = [f"ReadWritePaths={_word('-' + str(folder))}" for folder in writable_folders(config)]
    if config.store is None:  # compiled plans are taken from a store only, so this room needs no GPU
        lines += ["PrivateDevices=yes", "DeviceAllow="]
    lines += _network(config)
    readers = 2 if config.page.enabled else 1  # the page reads originals by one of its own
    if (memory_mib := readers * config.read_memory_mb + BESIDES_THE_READER_MIB) > MEMORY_MIB:
        lines.append(f"MemoryMax={memory_mib}M")  # systemd's M is 1024 * 1024 bytes
    head = "# Written by install-service from the configuration of the room: run it again after a change there."
    return "\n".join([head, *_after_mounts(config), "[Service]", *lines]) + "\n"


def _network(config: Config) -> list[str]:
    """Return what lets metrics and the page be reached, from this machine unless the page is meant for others."""
    if config.metrics_port is None and not config.page.enabled:
        return []
    families = "AF_INET AF_INET6" if config.page.enabled and ":" in config.page.bind else "AF_INET"
    allowed = "localhost" if config.page.loopback or not config.page.enabled else "any"
    return ["PrivateNetwork=no", f"RestrictAddressFamilies={families}", f"IPAddressAllow={allowed}"]


def rebuild_drop_in_text(configs: Mapping[str, Config]) -> str:
    """Return a drop-in for what waits for rooms that ask for a rebuild: where they do; "" if the unit says it all."""
    usual = {unit: Path("/var/lib") / unit.removesuffix(".service").replace("@", "-") for unit in configs}
    folders = {config.state_dir or usual[unit] for unit, config in configs.items()} - {Path("/var/lib") / OWN}
    lines = [f"PathChanged={str(folder / REBUILD_WANTED).replace('%', '%%')}" for folder in sorted(folders)]
    head = "# Written by install-service: the state folders of rooms, as in their configurations."
    return "\n".join([head, "[Path]", *lines]) + "\n" if lines else ""


def _after_mounts(config: Config) -> list[str]:
    """Return the lines that have the service start after shares that the machine mounts; with nofail nothing else does.

    One that fails is waited for until then only, and a name without a mount is passed over by systemd.
    """
    folders = [folder for entry in config.drop_folder for folder in entry.trees()]
    places = sorted({place for folder in folders for place in (folder, *folder.parents)} - {Path("/")})
    return ["[Unit]", "After=" + " ".join(f"{_escaped(place)}.mount" for place in places)] if places else []


def _escaped(path: Path) -> str:
    """Return a path as it stands in the name of its mount unit: systemd-escape --path."""
    kept = string.ascii_letters + string.digits + ":_."
    name = "-".join(
        "".join(chr(byte) if chr(byte) in kept else f"\\x{byte:02x}" for byte in part.encode())
        for part in path.parts[1:]
    )
    return f"\\x2e{name[1:]}" if name.startswith(".") else name


def writable_folders(config: Config) -> tuple[Path, ...]:
    """Return the folders that the service must be able to write to; raise `BadConfig` for one that it cannot see.

    A drop folder whose results go elsewhere is only read.
    """
    written = [entry.results_dir or entry.path for entry in config.drop_folder]
    read = [entry.path for entry in config.drop_folder]
    named = (config.release, config.store, config.release_key, config.references)
    read += [path for path in (*named, config.page.certificate, config.page.key, config.page.token_file) if path]
    for path in (*written, *read, config.state_dir):
        if path is not None and (hidden := _hidden_by(path)):
            raise BadConfig(f"{path}: lies below {hidden}, which the service does not see; use a folder below /srv")
    return (*written, *([config.state_dir] if config.state_dir else []))


def default_program(prefix: Path = Path(sys.prefix), current: Path = CURRENT) -> Path:
    """Return the command that the units start: by way of ``current`` if that is what runs here, so it can move on."""
    in_use = current if os.path.realpath(current) == os.path.realpath(prefix) else prefix
    return in_use / "bin" / "landmarknet-edge"


def shipped_file(name: str) -> Path:
    """Return the path of a file of ``systemd/``: of the installed package, or of the checkout that is at work."""
    folders = Path(sysconfig.get_path("data"), "share/landmarknet-edge"), Path(__file__).parents[2] / "systemd"
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise ServiceError(f"{folders[0]}: {name} is not there; install landmarknet-edge again")


def _unit_text(name: str, program: Path) -> str:
    return _read(shipped_file(name)).replace(PROGRAM, str(program))


def _demand_startable(program: Path) -> None:
    for path in (program, program.with_name("python")):  # an environment below /opt can lead to a Python in a home
        if hidden := _hidden_by(path):
            real = os.path.realpath(path)
            raise ServiceError(f"{real}: lies below {hidden}, which the service does not see; install it below /opt")
    if re.fullmatch(r"/[\w./@+-]+", str(program)) is None:
        raise ServiceError(f"{program}: a unit needs an absolute path of plain characters; install it below /opt")


def _rooms(root: Path) -> list[Path]:
    """Return the configurations of `landmarknet-edge@ROOM.service`."""
    rooms = sorted(path for path in _below(root, CONFIGS).glob("*.toml") if path.name not in NOT_A_ROOM)
    for path in rooms:
        if re.fullmatch(ROOM_NAME, path.stem) is None:
            raise ServiceError(f"{path}: a room is named with letters, digits, - and _; rename the file")
    return rooms


def _installed_units(root: Path) -> list[str]:
    """Return the units that can run: what systemctl does not know it fails on."""
    rooms = [f"landmarknet-edge@{path.stem}.service" for path in _rooms(root)]
    known = ((f"{OWN}.service", [f"{OWN}.service"]), (f"{OWN}@.service", rooms), (REBUILD, [REBUILD]))
    return [unit for name, units in known if _below(root, SHIPPED[name]).exists() for unit in units]


def _hidden_by(path: Path) -> str | None:
    """Return the folder that the units hide, if ``path`` lies below one, also by way of a link."""
    places = path, Path(os.path.realpath(path))
    return next((hidden for hidden in HIDDEN if any(place.is_relative_to(hidden) for place in places)), None)


def _word(text: str) -> str:
    """Return ``text`` as one word of a unit file (systemd.syntax(7)); % begins a specifier there."""
    if not text.isprintable():  # paths in units have no escapes for line breaks and their like
        raise BadConfig(f"{text!r}: a folder of the service needs a name of printable characters; rename it")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def _below(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def _drop_in(root: Path, unit: str) -> Path:
    return _below(root, UNITS / f"{unit}.d" / DROP_IN)


def _put(path: Path, text: str) -> Put:
    return Put(path, text, path.is_file() and _read(path) == text)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as exc:
        raise ServiceError(f"{path}: cannot be read ({exc.strerror}); run this as root") from exc


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all: systemd may look at any time."""
    new = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(text)
        new.chmod(0o644)
        new.replace(path)
    except OSError as exc:
        raise ServiceError(f"{path}: cannot be written ({exc.strerror}); run this as root") from exc


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
        if path.name == DROP_IN and not any(path.parent.iterdir()):
            path.parent.rmdir()
    except OSError as exc:
        raise ServiceError(f"{path}: cannot be removed ({exc.strerror}); run this as root") from exc
