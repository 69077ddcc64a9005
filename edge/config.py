"""The room's configuration: one frozen value from one TOML file. Thresholds travel with the release instead."""

from __future__ import annotations

import difflib
import hashlib
import ipaddress
import json
import os
import re
import tomllib
from datetime import time
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    model_validator,
)

from edge.config_mends import mend_toml, mend_value
from edge.errors import BadConfig

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("give an absolute path, since a service has no folder of its own")
    return Path(os.path.normpath(path))


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Seconds = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Port = Annotated[int, Field(strict=True, ge=1, le=65535)]
IntervalMm = Annotated[float, Field(strict=True, gt=0, le=30)]
Count = Annotated[int, Field(strict=True, ge=1)]


StalePolicy = Literal[
    "refuse",  # stop with status 78 and say which part differs
    "fallback",  # serve with the release that came with this version, and say so in every result
    "serve",  # serve with it all the same, if it loads and gives its golden answers, and say so in every result
    "rebuild",  # serve with it all the same, else fall back, say so in every result, and ask for a rebuild
]


def _no_number(value: object) -> object:
    if isinstance(value, int | float):  # pydantic would take 8 for eight seconds past midnight
        raise ValueError(f"{value} is no time of day; write hour and minute with two digits, such as 08:00:00")  # noqa: TRY004
    return value


Time = Annotated[time, BeforeValidator(_no_number)]
TimeOrNever = Annotated[
    Time | None, BeforeValidator(lambda value: None if value == "never" else value)
]  # TOML: no null
Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClinicHours(_Frozen):
    """Hours of local time in which an image should come at least every ``silence_min`` minutes."""

    days: Annotated[tuple[Weekday, ...], Field(min_length=1)] = ("mon", "tue", "wed", "thu", "fri")
    begin: Time
    end: Time
    silence_min: Count = 120

    @model_validator(mode="after")
    def _ends_after_it_begins(self) -> Self:
        if self.end <= self.begin:
            raise ValueError("end must be after begin, on the same day; write hours over midnight twice")
        return self


class DropFolderConfig(_Frozen):
    """One folder in which an imaging system leaves portal images."""

    path: AbsolutePath
    results_dir: AbsolutePath | None = None  # None: beside each image; otherwise a tree that mirrors the drop folder
    events: StrictBool = True  # listen to inotify, too; False for a network share, where it hears nothing
    settle_s: Seconds | None = None  # this and the next two: None, as for all drop folders
    sweep_s: Seconds | None = None
    incomplete_after_s: Seconds | None = None
    clinic_hours: tuple[ClinicHours, ...] = ()  # when silence is alarming

    def trees(self) -> tuple[Path, ...]:
        """Return the folders below which results of this drop folder can appear."""
        return (self.path,) if self.results_dir is None else (self.path, self.results_dir)


def _regular_expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as exc:
        raise ValueError(f"no regular expression ({exc})") from exc
    return text


class ReferenceRule(_Frozen):
    """Which reference images belong to that name no plan, by their file name."""

    image_name: Annotated[str, AfterValidator(_regular_expression)]  # matches the whole name
    reference: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]  # its key


class CouchConfig(_Frozen):
    """Which way the display of this room's couch counts, as a physicist tried it: docs/references.md."""

    name: str
    lateral: Literal[1, -1]  # 1: grows to the right, for somebody who faces the gantry
    longitudinal: Literal[1, -1]  # 1: grows towards the gantry
    vertical: Literal[1, -1]  # 1: grows upwards


def _address(text: str) -> str:
    try:
        ipaddress.ip_address(text)
    except ValueError as exc:
        raise ValueError(f"{text} is no address of a network card; write one such as 127.0.0.1 or ::1") from exc
    return text


class PageConfig(_Frozen):
    """The page that people look at: docs/page.md. Who can reach it sees names of files and where anatomy lies."""

    enabled: StrictBool = False  # have `watch` serve it, in a process of its own
    port: Port = 8765
    bind: Annotated[str, AfterValidator(_address)] = "127.0.0.1"
    names: tuple[str, ...] = ()  # of this machine, as browsers ask for it; besides localhost and the address
    certificate: AbsolutePath | None = None  # PEM, with the chain; and its key
    key: AbsolutePath | None = None
    token_file: AbsolutePath | None = None  # who knows what stands in it may look
    dicom_links: StrictBool = False  # to DICOM outputs, which name the patient

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches the page."""
        return ipaddress.ip_address(self.bind).is_loopback

    @model_validator(mode="after")
    def _who_can_reach_it_is_known(self) -> Self:
        lacks = [name for name in ("certificate", "key", "token_file") if getattr(self, name) is None]
        if not self.loopback and lacks:
            raise ValueError(
                f"bind {self.bind} can be reached from other machines, so the page needs {', '.join(lacks)}, too: "
                'name the files, or write bind = "127.0.0.1"'
            )
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together; name both files, or neither")
        if ipaddress.ip_address(self.bind).is_unspecified and not self.names:
            raise ValueError(
                f"bind {self.bind} is every address of this machine; say under which names browsers ask for it, such "
                'as names = ["linac2.clinic.example"]'
            )
        return self


class Config(_Frozen):
    """Everything that can be set in the room; the defaults are a working configuration without drop folders."""

    drop_folder: tuple[DropFolderConfig, ...] = ()
    settle_s: Seconds = 2.0  # how long a file must stand still before it is read
    sweep_s: Seconds = 5.0  # at the latest, list the drop folders again
    incomplete_after_s: Seconds = 300.0  # how long the rest of a damaged image may still arrive
    release: AbsolutePath | None = None  # a release folder; None: the release that came with this version
    store: AbsolutePath | None = None  # a store of signed releases, whose `current` is opened
    release_key: AbsolutePath | None = None  # the public key that signed them
    stale: StalePolicy = "refuse"  # what a release of the store does on a machine that it was not built for
    threads: Count = 1  # of the backend; more help only where the machine is not shared (docs/adr/0003)
    overlay: StrictBool = True  # draw the landmarks into a PNG beside the result; part of a result's key (edge.keys)
    # DICOM objects beside the result: they name the patient, so nobody gets them unasked (docs/adr/0014)
    structured_report: StrictBool = False
    presentation_state: StrictBool = False
    spatial_registration: StrictBool = False  # where an image could be registered
    references: AbsolutePath | None = None  # a folder: what plans say that images should show; None: no registration
    reference_rule: tuple[ReferenceRule, ...] = ()  # for images that name no plan; the first that matches counts
    widest_interval_mm: IntervalMm = 5.0  # a shift whose 95 % interval is wider, to either side, is withheld
    couch: CouchConfig | None = None  # None: IEC 61217
    state_dir: AbsolutePath | None = None  # journal, spool, audit log; None: see `edge.service.state.state_folder`
    largest_file_mb: Count = 256  # MiB; larger files are refused unread: in journal and log, not beside the image
    read_memory_mb: Count = 1024  # MiB; of the process that reads an image, and its seconds
    read_s: Seconds = 15.0
    infer_s: Seconds = 120.0  # after so long without an answer the worker is ended and started anew
    keep_days: Count = 400  # of the journal's finished files and of the audit log
    metrics_port: Port | None = None  # Prometheus, on loopback only
    constancy_at: TimeOrNever = time(5, 0)  # local time of the daily run of the golden images; "never" is None
    page: PageConfig = PageConfig()

    @model_validator(mode="after")
    def _no_two_drop_folders_meet(self) -> Self:
        for one, other in combinations(self.drop_folder, 2):
            for a in one.trees():
                for b in other.trees():
                    if a.is_relative_to(b) or b.is_relative_to(a):
                        raise ValueError(
                            f"the drop folders {one.path} and {other.path} would both write below {max(a, b)}; "
                            "give each a folder that does not lie in the other's"
                        )
        return self

    @model_validator(mode="after")
    def _our_own_folders_lie_elsewhere(self) -> Self:
        own = {"state_dir": self.state_dir, "store": self.store, "release": self.release, "references": self.references}
        for name, folder in own.items():
            for tree in (tree for entry in self.drop_folder for tree in entry.trees()):
                if folder is not None and folder.is_relative_to(tree):
                    raise ValueError(
                        f"{name} {folder} lies in {tree}, where images or results are; name another folder"
                    )
        return self

    @model_validator(mode="after")
    def _one_release_is_meant(self) -> Self:
        if self.release is not None and self.store is not None:
            raise ValueError("release and store name two releases; keep the one that is meant")
        if self.store is not None and self.release_key is None:
            raise ValueError("a store needs release_key, the public key that signed its releases")
        if self.store is None and self.release_key is not None:
            raise ValueError("release_key is for a store; name the store, or take the key out")
        return self

    @model_validator(mode="after")
    def _what_needs_references_has_them(self) -> Self:
        if self.references is None and (self.spatial_registration or self.reference_rule):
            named = "reference_rule" if self.reference_rule else "spatial_registration"
            raise ValueError(f"{named} needs references, the folder of references; name it, or take {named} out")
        return self

    def sha256(self) -> str:
        """Return the hash of all settings, defaults included, however the file spells or orders them.

        For the record only: a result's key has the settings that change what is made of an image, and no others.
        """
        settings = json.dumps(self.model_dump(), default=str, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(settings.encode()).hexdigest()


def read_config(path: Path) -> Config:
    """Read a TOML file; raise `BadConfig` naming every key that is wrong."""
    try:
        settings = tomllib.loads(path.read_bytes().decode())
    except OSError as exc:
        raise BadConfig(f"{path}: cannot be read ({exc.strerror}); name a configuration file that can") from exc
    except ValueError as exc:
        raise BadConfig(f"{path}: not TOML ({exc}); correct it there: {mend_toml(str(exc))}") from exc
    try:
        return Config.model_validate(settings)
    except ValidationError as exc:
        wrong = "; ".join(map(_explain, exc.errors()))
        raise BadConfig(f"{path}: {wrong}") from exc


def _explain(error: ErrorDetails) -> str:
    """Return what is wrong with one entry, as pydantic says it, and what to write instead."""
    kind, message = error["type"], error["msg"].removeprefix("Value error, ")
    key = ".".join(map(str, error["loc"]))
    names = [part for part in error["loc"] if isinstance(part, str)]
    if not names:
        return message
    if kind == "extra_forbidden":
        return f"unknown key {key}: {_known(names)}"
    mend = mend_value(kind, names[-1], _default(names))
    return f"{key}: {message}" + (f"; {mend}" if mend else "")


def _default(names: list[str]) -> Any:
    """Return the default of a key; of one that a drop folder leaves to all of them, theirs."""
    fields = _model_of(names).model_fields
    own = fields[names[-1]].default if names[-1] in fields else None
    return Config.model_fields[names[-1]].default if own is None and names[-1] in Config.model_fields else own


def _known(names: list[str]) -> str:
    model, name = _model_of(names), names[-1]
    if model is not Config and name in Config.model_fields:
        return f"{name} is for all drop folders; write it above the first [[drop_folder]]"
    closest = difflib.get_close_matches(name, model.model_fields, 1)
    return f"did you mean {closest[0]}?" if closest else f"known are {', '.join(model.model_fields)}"


def _model_of(names: list[str]) -> type[_Frozen]:
    """Return what holds the last of these keys, which lead to it."""
    match names[:-1]:
        case ["drop_folder"]:
            return DropFolderConfig
        case ["drop_folder", "clinic_hours"]:
            return ClinicHours
        case ["reference_rule"]:
            return ReferenceRule
        case ["couch"]:
            return CouchConfig
        case ["page"]:
            return PageConfig
    return Config
