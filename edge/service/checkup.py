"""Everything that the service needs, asked before it is needed: ``landmarknet-edge check``. Each line says how to mend.

Nothing is changed but for temporary files, which are removed at once.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edge.config import Config, DropFolderConfig, read_config
from edge.errors import EdgeError, StateUnusable, Stop
from edge.processes import landlock
from edge.results.files import MENDS, opened_folder, temporary
from edge.results.owner import Owner, demand_no_other_owner
from edge.service.metrics import LOOPBACK
from edge.service.spool import HIGH_WATER_BYTES, free_bytes
from edge.service.state import APPLICATION, state_folder

if TYPE_CHECKING:
    from edge.engines import Engine
    from edge.staleness import MachineFacts

SERVICE_CONFIG = Path("/etc/landmarknet-edge/landmarknet-edge.toml")
SERVICE_STATE = Path("/var/lib")
SHARES = {"9p", "afs", "ceph", "cifs", "gfs2", "glusterfs", "lustre", "nfs", "nfs4", "ocfs2", "smb3", "smbfs"}
ANSWER_S = 5.0  # the longest that a folder may keep us waiting: a share whose server is gone does so for ever
EXPOSURE_MOST = 1.1  # of systemd-analyze security, 0 (none) to 10: what our unit has with a GPU and metrics
SPACE_LITTLE_BYTES = 2_000_000_000  # somebody should look, long before nothing is claimed
LISTING_MENDS = {
    errno.EACCES: "let the service's user read it",
    errno.EPERM: "let the service's user read it",
    errno.ENOENT: "create it or mount its share",
    errno.ENOTDIR: "it is a file: name a folder",
    errno.ESTALE: "mount its share again",
}
TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
GB = 1e9

Level = Literal["ok", "warning", "fault"]


@dataclass(frozen=True)
class Finding:
    """One line of the check. ``mend`` is None only where all is well."""

    level: Level
    what: str
    mend: str | None = None


def run_program(command: Sequence[str]) -> str | None:
    """Return what a program prints; None where it is not there, or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)  # noqa: S603 - ours
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def clock_synchronised() -> bool | None:
    """Ask the kernel whether something keeps the clock right; None where it does not say."""
    nothing_to_change = ctypes.create_string_buffer(1024)  # larger than struct timex, whose first field asks changes
    state = ctypes.CDLL(None).adjtimex(nothing_to_change)
    return None if state < 0 else state != TIME_ERROR


def open_engine(config: Config) -> Engine:
    """Open the release of a configuration; raise `Stop`."""
    from edge.engines import open_configured

    return open_configured(config)


def machine_facts(flavour: str) -> MachineFacts:
    """Ask for driver and library of a flavour; raise `BackendFailed`."""
    from edge.staleness import machine_facts

    return machine_facts(flavour)


@dataclass(frozen=True)
class Machine:
    """What is asked of the machine; a test puts other answers in place."""

    run: Callable[[Sequence[str]], str | None] = run_program
    mounts: Callable[[], str] = Path("/proc/self/mountinfo").read_text
    clock: Callable[[], bool | None] = clock_synchronised
    free_bytes: Callable[[Path], int] = free_bytes
    open_engine: Callable[[Config], Engine] = open_engine
    facts: Callable[[str], MachineFacts] = machine_facts
    user_id: int = os.geteuid()
    landlock_abi: Callable[[], int] = landlock.supported_abi
    answer_s: float = ANSWER_S


@dataclass(frozen=True)
class Service:
    """The configuration as its service sees it, and the service's unit."""

    config_file: Path | None
    config: Config
    unit: str


def service_of(
    config_file: Path | None, environment: Mapping[str, str] = os.environ, installed: Path = SERVICE_CONFIG
) -> Service:
    """Return the service of a configuration file, None: of the installed one, or the defaults; raise `BadConfig`.

    A person who asks has not the state folder that systemd gives to the service, so its place is worked out here.
    """
    file = installed if config_file is None and installed.is_file() else config_file
    config = Config() if file is None else read_config(file)
    if file is None or file.absolute().parent != installed.parent:
        return Service(file, config, f"{APPLICATION}.service")
    of_one_room = file.stem == installed.stem
    if config.state_dir is None and not environment.get("STATE_DIRECTORY"):
        place = SERVICE_STATE / (APPLICATION if of_one_room else f"{APPLICATION}-{file.stem}")
        config = config.model_copy(update={"state_dir": place})
    return Service(file, config, f"{APPLICATION}.service" if of_one_room else f"{APPLICATION}@{file.stem}.service")


def check_all(service: Callable[[], Service], here: Machine | None = None) -> tuple[Finding, ...]:
    """Check everything that a service needs; nothing is raised, nor by ``service``, which reads its configuration."""
    here = here or Machine()
    try:
        asked = service()
    except Stop as exc:
        return (Finding("fault", f"configuration {exc}", "correct the file there, and check again"),)
    parts = (
        _configuration(asked.config_file, asked.config),
        *(_drop_folder(entry, here) for entry in asked.config.drop_folder),
        _state(asked.config, here),
        _clock(here),
        _reader(here),
        _engine(asked.config, here),
        _metrics_port(asked.config.metrics_port),
        _systemd(asked.unit, asked.config, here),
    )
    return tuple(finding for part in parts for finding in part)


def _reader(here: Machine) -> Iterator[Finding]:
    """Say how far the process that reads hostile files is confined; an older kernel offers less, which is no fault."""
    yield Finding("ok", f"reader: {landlock.in_words(here.landlock_abi())}")


def within(limit_s: float, ask: Callable[[], Iterable[Finding]], nothing: Finding) -> tuple[Finding, ...]:
    """Return what ``ask`` finds, or ``nothing`` where no answer comes in time: a share can take for ever."""
    answer: Future[tuple[Finding, ...]] = Future()

    def asking() -> None:
        try:
            answer.set_result(tuple(ask()))
        except BaseException as exc:  # noqa: BLE001 - raised below, where somebody hears it
            answer.set_exception(exc)

    threading.Thread(target=asking, daemon=True).start()  # not a pool: its threads are waited for at the end
    try:
        return answer.result(limit_s)
    except FutureTimeout:
        return (nothing,)


def file_system(path: Path, mounts: str) -> str:
    """Return the kind of file system that a path lies on, such as ext4 or cifs; ``mounts`` is proc(5)'s mountinfo."""
    best, kind = "", "unknown"
    for line in mounts.splitlines():
        fields, _, after = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields.split(" ")[4])
        if path.is_relative_to(point) and len(point) >= len(best):  # the last one of a place lies on top
            best, kind = point, after.split(" ")[0]
    return kind


def is_share(kind: str) -> bool:
    """Tell whether other machines may write to a file system of that kind, unheard by inotify."""
    return kind in SHARES or kind.startswith("fuse")


def folder_findings(folder: Path) -> Iterator[Finding]:
    """Yield why a folder cannot be listed; nothing where it can."""
    try:
        with os.scandir(folder) as entries:
            next(entries, None)
    except OSError as exc:
        mend = LISTING_MENDS.get(exc.errno or 0, "check its disk and its share")
        yield Finding("fault", f"drop folder {folder}: cannot be listed ({exc.strerror})", mend)


def no_answer(folder: Path) -> Finding:
    """Return what to say of a folder that keeps one waiting."""
    return Finding("fault", f"drop folder {folder}: does not answer", "see that the server of its share is up")


def _configuration(config_file: Path | None, config: Config) -> Iterator[Finding]:
    if config_file is None:
        yield Finding("warning", "configuration: none is named, so the defaults are checked", "give --config FILE")
    else:
        yield Finding("ok", f"configuration {config_file}; drop folders: {len(config.drop_folder)}")
    if not config.drop_folder:
        yield Finding("fault", "configuration: no drop folder is set", "add a [[drop_folder]] with its path")


def _drop_folder(entry: DropFolderConfig, here: Machine) -> tuple[Finding, ...]:
    return within(here.answer_s, lambda: tuple(_look_at(entry, here)), no_answer(entry.path))


def _look_at(entry: DropFolderConfig, here: Machine) -> Iterator[Finding]:
    unlisted = tuple(folder_findings(entry.path))
    yield from unlisted
    if unlisted:
        return
    kind = file_system(entry.path.resolve(), here.mounts())
    yield Finding("ok", f"drop folder {entry.path}: can be listed, lies on {kind}")
    if entry.events and is_share(kind):
        what = f"drop folder {entry.path}: is a share, and other machines' files there raise no events"
        yield Finding("warning", what, "set events = false for it: it is swept all the same")
    yield from _lockable(entry.path)
    yield from _writable("results", entry.results_dir or entry.path)
    if entry.results_dir is not None:
        yield from _owned_by_another(entry.results_dir, Owner.of(entry.path))


def _owned_by_another(results_dir: Path, ours: Owner) -> Iterator[Finding]:
    try:
        demand_no_other_owner(results_dir, ours)
    except EdgeError as exc:
        yield _fault_of(exc, "name another results_dir")


def _lockable(folder: Path) -> Iterator[Finding]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two checks do not disturb one another
    except BlockingIOError:
        yield Finding("ok", f"drop folder {folder}: a daemon serves it just now")
    except OSError as exc:
        what = f"drop folder {folder}: cannot be locked ({exc.strerror}), so a second daemon would not be noticed"
        yield Finding("warning", what, "see that only one service has it in its configuration")
    finally:
        os.close(descriptor)


def _writable(what: str, folder: Path) -> Iterator[Finding]:
    try:
        with opened_folder(folder) as at, temporary(at, b"landmarknet-edge check\n"):
            pass
    except OSError as exc:
        mend = MENDS.get(exc.errno or 0, "check the folder, its disk and its share")
        yield Finding("fault", f"{what} in {folder}: cannot be written ({exc.strerror})", mend)
    else:
        yield Finding("ok", f"{what} in {folder}: can be written")


def _state(config: Config, here: Machine) -> Iterator[Finding]:
    try:
        folder = state_folder(config)
    except StateUnusable as exc:
        yield _fault_of(exc, "set state_dir")
        return
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    if there == folder:
        yield from _writable("journal and spool", folder)
    else:
        yield Finding("ok", f"journal and spool in {folder}: is made at the first start")
    if is_share(kind := file_system(there.resolve(), here.mounts())):
        what = f"journal and spool in {folder}: lie on a share ({kind}), which can lose the journal"
        yield Finding("fault", what, "set state_dir to a folder on a disk of this machine")
    left_bytes = here.free_bytes(there)
    level: Level = "fault" if left_bytes < HIGH_WATER_BYTES else "warning" if left_bytes < SPACE_LITTLE_BYTES else "ok"
    mend = None if level == "ok" else "free some space on its disk: without any, no image is taken up"
    yield Finding(level, f"journal and spool in {folder}: {left_bytes / GB:.1f} GB are free", mend)


def _clock(here: Machine) -> Iterator[Finding]:
    synchronised = here.clock()
    if synchronised:
        yield Finding("ok", "clock: is synchronised")
    elif synchronised is None:
        yield Finding("warning", "clock: this system does not say whether it is synchronised", "compare it yourself")
    else:
        yield Finding("warning", "clock: is not synchronised; results carry its time", "timedatectl set-ntp true")


def _engine(config: Config, here: Machine) -> Iterator[Finding]:
    from edge.backends import close_backend

    try:
        engine = here.open_engine(config)
        try:
            facts = here.facts(engine.contract.flavour)
        finally:
            close_backend(engine.backend)
    except EdgeError as exc:
        yield _fault_of(exc, "choose another release: landmarknet-edge engine list")
        return
    contract, release = engine.contract, f"engine {engine.contract.release}"
    yield Finding("ok", f"{release} ({contract.flavour}, {contract.precision_delivered}): golden answers given")
    for warning in engine.warnings:
        yield Finding("warning", f"{release}: {warning}", engine.mend)
    parts = (f"{contract.flavour} {facts.flavour_version}", facts.gpu, facts.driver and f"driver {facts.driver}")
    yield Finding("ok", f"library: {', '.join(part for part in parts if part)}")


def _metrics_port(port: int | None) -> Iterator[Finding]:
    if port is None:
        return
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
        except OSError as exc:
            in_use = exc.errno == errno.EADDRINUSE
            if in_use and _serves_metrics(port):
                yield Finding("ok", f"metrics on port {port}: a daemon serves them just now")
            else:
                what = f"metrics on port {port}: cannot be served ({exc.strerror})"
                yield Finding("fault", what, "set another metrics_port")
        else:
            yield Finding("ok", f"metrics on port {port}: can be served")


def _serves_metrics(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/metrics", timeout=ANSWER_S) as answer:
            return b"landmarknet_edge_" in answer.read()
    except (OSError, ValueError):
        return False


def _systemd(unit: str, config: Config, here: Machine) -> Iterator[Finding]:
    wanted = ("LoadState", "UnitFileState", "ActiveState", "User", "ProtectSystem", "ReadWritePaths")
    answer = here.run(["systemctl", "show", unit, f"--property={','.join(wanted)}"])
    if answer is None:
        what = "systemd: does not answer here, so nothing starts the service by itself"
        yield Finding("warning", what, "check on the machine itself, not in a container")
        return
    shown = dict(line.split("=", 1) for line in answer.splitlines() if "=" in line)
    if shown.get("LoadState") != "loaded":
        yield Finding("warning", f"{unit}: is not installed", "landmarknet-edge install-service --apply")
        return
    yield from _unit(unit, shown)
    if shown.get("ProtectSystem") == "strict":
        yield from _let_in(unit, config, shown.get("ReadWritePaths", ""))
    yield from _hardening(unit, here.run(["systemd-analyze", "security", "--no-pager", unit]))
    user = shown.get("User") or "root"
    if here.user_id == 0 and user != "root":
        what = f"{unit}: runs as {user}, and these checks ran as root, who may do more"
        yield Finding("warning", what, f"runuser -u {user} -- landmarknet-edge check")


def _unit(unit: str, shown: dict[str, str]) -> Iterator[Finding]:
    if shown.get("ActiveState") == "failed":
        yield Finding("fault", f"{unit}: has failed", f"journalctl -u {unit} says why; then systemctl restart {unit}")
    else:
        yield Finding("ok", f"{unit}: is installed, and {shown.get('ActiveState', 'unknown')}")
    if shown.get("UnitFileState") != "enabled":
        yield Finding("warning", f"{unit}: does not start with the machine", f"systemctl enable --now {unit}")


def _let_in(unit: str, config: Config, shown: str) -> Iterator[Finding]:
    places = [word.lstrip("-+") for word in shown.split()]
    for folder in (entry.results_dir or entry.path for entry in config.drop_folder):
        if str(folder) in shown or any(folder.is_relative_to(place) for place in places):  # a name may hold blanks
            continue
        mend = f"landmarknet-edge install-service --apply, then systemctl restart {unit}"
        yield Finding("fault", f"{unit}: may not write to {folder}, which its configuration names", mend)


def _hardening(unit: str, report: str | None) -> Iterator[Finding]:
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", report or "")
    if found is None:
        yield Finding("warning", f"{unit}: its hardening cannot be judged here", f"systemd-analyze security {unit}")
    elif float(found[1]) > EXPOSURE_MOST:
        what = f"{unit}: exposure is {found[1]}, at most {EXPOSURE_MOST} is meant"
        yield Finding("warning", what, f"see with systemctl cat {unit} which drop-in loosens it")
    else:
        yield Finding("ok", f"{unit}: is hardened, exposure {found[1]}")


def _fault_of(exc: EdgeError, otherwise: str) -> Finding:
    what, _, mend = str(exc).rpartition("; ")  # our messages say what happened, and then what to do
    return Finding("fault", what or mend, mend if what else otherwise)
