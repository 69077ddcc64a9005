"""What a signed release is made of and made from: its manifest, which the signature covers.

Bytes are checked before they mean anything: the signature over the manifest, the hash of every file, and only then is
the contract parsed, the golden answers are read and the model is loaded, all from the bytes that were checked.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from edge.contract import Contract, Flavour, Precision, Sha256
from edge.errors import BadRelease
from edge.signature import verify

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

MANIFEST_SCHEMA: Final = "landmarknet-edge/manifest/1"
MANIFEST_FILE, SIGNATURE_FILE = "manifest.json", "manifest.sig"
CONTRACT_FILE, GOLDEN_FILE = "contract.json", "golden.npz"
PLAIN_NAME: Final = "[A-Za-z0-9][A-Za-z0-9._-]{0,99}"  # of a release or a file: never a path, never hidden
PlainName = Annotated[str, Field(pattern=f"^{PLAIN_NAME}$")]
AGAIN = "publish the release again, or use another (landmarknet-edge engine list)"
Model = TypeVar("Model", bound=BaseModel)


def _to_the_second_in_utc(time: datetime) -> datetime:
    return time.astimezone(UTC).replace(microsecond=0)


class Manifest(BaseModel):
    """What went into a release, for what machine, and what the gate found."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    manifest_schema: Literal["landmarknet-edge/manifest/1"] = Field(default=MANIFEST_SCHEMA, alias="schema")
    release: PlainName
    software: str
    created_utc: Annotated[AwareDatetime, AfterValidator(_to_the_second_in_utc)]
    files: Annotated[dict[PlainName, Sha256], Field(description="every file but the manifest and its signature")]
    checkpoint_sha256: Sha256
    onnx_sha256: Sha256
    calibration_set_sha256: Sha256 | None
    ranges_sha256: Sha256 | None
    recipe_sha256: Sha256
    flavour: Flavour
    flavour_version: str
    gpu: Annotated[str | None, Field(description="compiled on this one; null: compiled without, or for the CPU")]
    compute_capability: Annotated[str | None, Field(description='compiled for, such as "8.9"; null: not for one')]
    driver: str | None
    precision: Precision
    delivered: Annotated[dict[str, int], Field(description="layers by precision, read back from what was compiled")]
    gate: Annotated[dict[str, Any], Field(description='what the gate found; "passed" is its verdict')]


@dataclass(frozen=True, eq=False)
class SignedRelease:
    """A release that passed every check; ``files`` are the very bytes that were checked, all of them, by name."""

    folder: Path
    manifest: Manifest
    contract: Contract
    files: Mapping[str, bytes]

    @property
    def manifest_sha256(self) -> str:
        return hashlib.sha256(self.files[MANIFEST_FILE]).hexdigest()

    @property
    def contract_sha256(self) -> str:
        return self.manifest.files[CONTRACT_FILE]

    @property
    def model(self) -> bytes:
        return self.files[self.contract.model_file]

    @property
    def golden(self) -> bytes:
        return self.files[GOLDEN_FILE]


def read_signed_release(folder: Path, public_key: Ed25519PublicKey) -> SignedRelease:
    """Read a release folder and check all of it; raise `BadRelease` naming the file that is wrong."""
    manifest, seal = _sealed(folder, public_key)
    _demand_just_these(folder, manifest.files.keys() | seal.keys())
    files = seal | {name: _checked(folder / name, sha256) for name, sha256 in manifest.files.items()}
    missing = {CONTRACT_FILE, GOLDEN_FILE} - files.keys()
    if missing:
        raise BadRelease(f"{folder}: its manifest names no {' and no '.join(sorted(missing))}; {AGAIN}")
    contract = _parsed(Contract, files[CONTRACT_FILE], folder / CONTRACT_FILE)
    _demand_agreement(contract, manifest, folder)
    return SignedRelease(folder, manifest, contract, files)


def read_signed_manifest(folder: Path, public_key: Ed25519PublicKey) -> Manifest:
    """Return a release's manifest, parsed only where its signature holds; raise `BadRelease`. No file is checked."""
    return _sealed(folder, public_key)[0]


def _sealed(folder: Path, public_key: Ed25519PublicKey) -> tuple[Manifest, dict[str, bytes]]:
    seal = {name: _read(folder / name) for name in (MANIFEST_FILE, SIGNATURE_FILE)}
    data = seal[MANIFEST_FILE]
    verify(data, seal[SIGNATURE_FILE], public_key, folder / MANIFEST_FILE)
    return _parsed(Manifest, data, folder / MANIFEST_FILE), seal


def _demand_just_these(folder: Path, named: set[str]) -> None:
    try:
        there = {path.name for path in folder.iterdir()}
    except OSError as exc:
        raise BadRelease(f"{folder}: cannot be listed ({exc.strerror}); {AGAIN}") from exc
    for names, fault in ((named - there, "lacks"), (there - named, "holds, though its manifest does not name it,")):
        if names:
            raise BadRelease(f"{folder}: {fault} {', '.join(sorted(names))}; {AGAIN}")


def _demand_agreement(contract: Contract, manifest: Manifest, folder: Path) -> None:
    """Contract and manifest say some things twice; where they differ, one of them belongs to another release."""
    same = ("release", "flavour", "precision", "checkpoint_sha256", "calibration_set_sha256")
    differing = [name for name in same if getattr(contract, name) != getattr(manifest, name)]
    if contract.delivered is not None and contract.delivered != manifest.delivered:
        differing.append("delivered")
    if manifest.files.get(contract.model_file) != contract.model_sha256:
        differing.append("model_sha256")
    if manifest.files[GOLDEN_FILE] != contract.golden_sha256:
        differing.append("golden_sha256")
    if differing:
        raise BadRelease(f"{folder}: its contract and its manifest differ in {', '.join(differing)}; {AGAIN}")


def _checked(path: Path, sha256: str) -> bytes:
    data = _read(path)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise BadRelease(f"{path}: is not the file that its manifest names (SHA-256 differs); {AGAIN}")
    return data


def _read(path: Path) -> bytes:
    """Read a plain file: a link would lead out of what was signed, and a pipe would never end."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise BadRelease(f"{path}: is not a plain file; {AGAIN}")
            return file.read()
    except FileNotFoundError as exc:
        so = ", so this release is not signed" if path.name in {MANIFEST_FILE, SIGNATURE_FILE} else ""
        raise BadRelease(f"{path}: is missing{so}; {AGAIN}") from exc
    except OSError as exc:
        reason = "it is a link" if exc.errno == errno.ELOOP else exc.strerror
        raise BadRelease(f"{path}: cannot be read as a plain file ({reason}); {AGAIN}") from exc


def _parsed(kind: type[Model], data: bytes, path: Path) -> Model:
    try:
        return kind.model_validate_json(data)
    except ValidationError as exc:
        where = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in exc.errors())
        raise BadRelease(f"{path}: not a {kind.__name__.lower()} of this version ({where}); {AGAIN}") from exc
