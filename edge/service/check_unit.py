"""How systemd has the service: installed, let into its folders, hardened, started with the machine."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edge.config import Config
from edge.service.finding import Finding
from edge.service.machine import Machine

EXPOSURE_MOST = 1.1  # of systemd-analyze security, 0 (none) to 10: what our unit has with a GPU and metrics


def check_unit(unit: str, config: Config, here: Machine) -> Iterator[Finding]:
    """Say how systemd has a unit; a warning where it does not answer."""
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
