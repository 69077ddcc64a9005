"""Ed25519 signatures of releases, by the site's own key. Keys are PEM files; a signature is the raw 64 bytes.

The private key stays where releases are made, the bench or the machine that rebuilds; the room needs the public one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from edge.errors import BadConfig, BadRelease

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

MAKE_KEYS = "landmarknet-edge engine keygen PRIVATE PUBLIC"


def generate_key(private_path: Path, public_path: Path) -> None:
    """Write a new key pair, the private one with mode 0600; raise `BadConfig` where a file of that name exists."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    _write_new(private_path, private, 0o600)
    try:
        _write_new(public_path, public, 0o644)
    except BadConfig:
        private_path.unlink()  # half a pair is no use, and would stand in the way of the next attempt
        raise


def sign(data: bytes, private_path: Path) -> bytes:
    """Return the signature of ``data``, 64 bytes; raise `BadConfig` where the key file is none."""
    return _private_key(private_path).sign(data)


def verify(data: bytes, signature: bytes, public_key: Ed25519PublicKey, what: Path | str = "these bytes") -> None:
    """Raise `BadRelease`, naming ``what``, unless the key's owner signed exactly ``data``."""
    from cryptography.exceptions import InvalidSignature

    try:
        public_key.verify(signature, data)
    except InvalidSignature as exc:
        raise BadRelease(
            f"{what}: not what the owner of this key signed: it was altered, or signed with another key; do not use "
            "it, publish the release again with the key of this site"
        ) from exc


def public_key_of(private_path: Path) -> Ed25519PublicKey:
    """Return the public half of a private key; raise `BadConfig` where the file holds none."""
    return _private_key(private_path).public_key()


def read_public_key(path: Path) -> Ed25519PublicKey:
    """Read the PEM file of a public key; raise `BadConfig` where it holds anything else."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    data = _read(path)
    if b"PRIVATE KEY" in data:
        raise BadConfig(f"{path}: is a private key, which has no place here; name the public one made with it")
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise BadConfig(f"{path}: not a public key in PEM ({exc}); make a pair with {MAKE_KEYS}") from exc
    if not isinstance(key, Ed25519PublicKey):
        raise BadConfig(f"{path}: a public key, but not of Ed25519; make a pair with {MAKE_KEYS}")
    return key


def _private_key(path: Path) -> Ed25519PrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:  # TypeError: encrypted
        raise BadConfig(f"{path}: not a private key in PEM without a password; make a pair with {MAKE_KEYS}") from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise BadConfig(f"{path}: a private key, but not of Ed25519; make a pair with {MAKE_KEYS}")
    return key


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise BadConfig(f"{path}: key cannot be read ({exc.strerror}); name one, or make a pair: {MAKE_KEYS}") from exc


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Write a file that must not exist, readable to nobody else from its first byte on where ``mode`` says so."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
    except OSError as exc:
        raise BadConfig(
            f"{path}: this key cannot be written ({exc.strerror}); keys are never replaced: name another file"
        ) from exc
