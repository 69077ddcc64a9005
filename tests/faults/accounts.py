"""What a fault cost: images without their result, results that were not whole, results that came twice."""

import hashlib
import json
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.room import ROOT, Room


@dataclass
class Account:
    """The sums of a run; `settle` fills them in."""

    room: Room
    lost: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    refused: int = 0
    looks: int = 0

    def settle(self, seen: dict) -> None:
        """Compare what was sent with what is there, and take in what the witness saw."""
        self.torn += seen["torn"]
        self.doubled += seen["changed"]
        self.looks += seen["looks"]
        for image, sha256 in self.room.sent.items():
            self._settle_one(image, sha256)
        self.doubled += twice_in_the_audit_log(self.room)
        leftovers = [p.name for p in self.room.drop.rglob(".landmarks-*")]
        self.torn += [f"{name} was left behind" for name in leftovers]

    def _settle_one(self, image: Path, sha256: str) -> None:
        assert hashlib.sha256(image.read_bytes()).hexdigest() == sha256, f"{image.name} was changed"
        path = self.room.result_of(image)
        if not path.exists():
            self.lost.append(image.name)
            return
        result = json.loads(path.read_bytes())
        self.refused += result["status"] == "refused"
        if result["image"]["sha256"] != sha256:
            self.lost.append(f"{image.name}: its result is of another file")

    def demand_nothing_wrong(self) -> None:
        """Fail unless every image has one whole result."""
        assert (self.lost, self.torn, self.doubled) == ([], [], []), self.room.log[-2000:]
        assert self.looks > 0


def twice_in_the_audit_log(room: Room) -> list[str]:
    """Return what was published twice by the audit log, whose chain must be whole."""
    log = room.state / "audit.jsonl"
    if not log.exists():
        return []
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    lines = [line for line in lines if line.get("event") in {"published", "refused"}]
    published = Counter((line.get("image"), line.get("sha256")) for line in lines)
    return [f"{name}: {number} times in the audit log" for (name, _), number in published.items() if number > 1]


@contextmanager
def witnessed(room: Room):
    """Have results looked at from outside while the block runs, and give the `Account`, which is settled at its end."""
    account = Account(room)
    folders = [str(room.drop), str(room.results_dir or room.drop)]
    witness = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("witness.py")), *folders],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield account
        account.settle(json.loads(witness.communicate(timeout=120)[0]))
    finally:
        witness.kill()
        witness.communicate()
