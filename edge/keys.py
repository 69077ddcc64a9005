"""What names a result: the same file through the same release and configuration has the same key and UIDs.

So whatever is done again after a crash writes the same objects, and nobody finds two of one kind.
"""

from __future__ import annotations

import hashlib
from uuid import UUID, uuid5

NAMESPACE = UUID("6d1c6f5e-3a57-5d0b-9c53-1f0a3f6f7a11")  # drawn once for this project; never to be changed


def result_key(
    file_sha256: str, model_sha256: str, contract_sha256: str, manifest_sha256: str | None, config_sha256: str
) -> str:
    """Return the SHA-256 over the hashes of all that a result depends on, one a line; no manifest is an empty line."""
    parts = file_sha256, model_sha256, contract_sha256, manifest_sha256 or "", config_sha256
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def derived_uid(key: str, purpose: str) -> str:
    """Return a DICOM UID that follows from a result's key and what it is for, such as "structured report".

    It has the form of PS3.5 B.2: 2.25, then a UUID as one decimal number, here of version 5.
    """
    return f"2.25.{uuid5(NAMESPACE, f'{key}/{purpose}').int}"
