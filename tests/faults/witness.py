"""A reader of results as a viewer is one, in a process of its own: looks at every result, all the time.

Run it with the folder of the images and that of the results; it tells what it saw when its standard input ends.
"""

import hashlib
import json
import os
import select
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

PAUSE_S = 0.02
MOUNTS = Path("/proc/self/mountinfo")


@dataclass
class Seen:
    """What was wrong, and how often was looked."""

    looks: int = 0
    torn: list[str] = field(default_factory=list)  # not whole, or of no image that is there, or without its outputs
    changed: list[str] = field(default_factory=list)  # published twice
    first: dict[str, str] = field(default_factory=dict)  # path of a result: SHA-256 of what first stood there


class Witness:
    """Looks again and again; a result that did not change is not read again."""

    def __init__(self, images: Path, results: Path) -> None:
        self.seen = Seen()
        self._images, self._results = images, results
        self._known: dict[Path, tuple[int, int, int]] = {}

    def look(self) -> None:
        """Look at every result once."""
        self.seen.looks += 1
        for path in results_below(self._results):
            try:
                status = path.stat()
                stamp = status.st_ino, status.st_mtime_ns, status.st_size
                if self._known.get(path) != stamp:
                    self._read(path)
                    self._known[path] = stamp
            except OSError:  # its share is away, and nothing of it can be seen
                continue

    def _read(self, path: Path) -> None:
        mounts = MOUNTS.read_text()
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        if fault := self._fault(path, data):
            if MOUNTS.read_text() != mounts:
                raise OSError("its share went or came while it was looked at; it is looked at again")
            self.seen.torn.append(f"{path.name}: {fault}")
        if self.seen.first.setdefault(str(path), digest) != digest:
            self.seen.changed.append(path.name)

    def _fault(self, path: Path, data: bytes) -> str | None:
        try:
            result = json.loads(data)
            name, sha256, outputs = result["image"]["name"], result["image"]["sha256"], result["outputs"]
        except (ValueError, KeyError, TypeError):
            return f"torn: {data[:40]!r}"
        folder = self._images / path.parent.relative_to(self._results)
        if not any(sha256_of(image) == sha256 for image in named(folder, name)):
            return f"no image {name} of that hash"
        for output in outputs:
            if sha256_of(path.with_name(output["name"])) != output["sha256"]:
                return f"{output['name']} is not there, or not whole"
        return None


def results_below(folder: Path) -> Iterator[Path]:
    """Yield the JSON results below a folder."""
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names if name.endswith(".landmarks.json") and name[0] != ".")


def named(folder: Path, name: str) -> Iterator[Path]:
    r"""Yield the image of that name; one that is not UTF-8 stands as ``\xNN`` in a result."""
    if (folder / name).exists():
        yield folder / name
    elif "\\x" in name:
        yield from (path for path in folder.iterdir() if path.is_file())


def sha256_of(path: Path) -> str | None:
    """Return the hash of a file, None where there is none."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None


if __name__ == "__main__":
    witness = Witness(Path(sys.argv[1]), Path(sys.argv[2]))
    while not select.select([sys.stdin], [], [], PAUSE_S)[0]:
        witness.look()
    witness.look()
    sys.stdout.write(json.dumps(asdict(witness.seen)))
