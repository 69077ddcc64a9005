"""What names a result: the same file, release, settings and reference give the same key and UIDs.

So whatever is done again after a crash writes the same objects, and nobody finds two of one kind. Of a configuration
only those settings count that change what is made of an image: another port of the metrics, or another room's folder,
must not give every image new objects. Which configuration it was as a whole stands in a result's provenance.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from uuid import UUID, uuid5

NAMESPACE = UUID("6d1c6f5e-3a57-5d0b-9c53-1f0a3f6f7a11")  # drawn once for this project; never to be changed


def result_key(
    file_sha256: str,
    model_sha256: str,
    contract_sha256: str,
    manifest_sha256: str | None,
    settings_sha256: str | None,
    reference_sha256: str | None = None,
) -> str:
    """Return the SHA-256 over the hashes of all that a result depends on, one a line; one that is None: an empty line.

    ``settings_sha256`` is `settings_sha256` of the settings that change what is made of an image, ``reference_sha256``
    that of the reference with which it was registered: empty where that cannot be used, None where there is none; then
    it has no line.
    """
    parts = [file_sha256, model_sha256, contract_sha256, manifest_sha256 or "", settings_sha256 or ""]
    parts += [] if reference_sha256 is None else [reference_sha256]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def settings_sha256(settings: Mapping[str, bool | int | float | str | None]) -> str:
    """Return the SHA-256 of settings by name, as JSON without blanks, its names in order."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def derived_uid(key: str, purpose: str) -> str:
    """Return a DICOM UID that follows from a result's key and what it is for, such as "structured report".

    It has the form of PS3.5 B.2: 2.25, then a UUID as one decimal number, here of version 5.
    """
    return f"2.25.{uuid5(NAMESPACE, f'{key}/{purpose}').int}"
