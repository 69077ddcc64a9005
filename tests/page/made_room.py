"""A room with as many results as wanted, as a daemon would have left them; the clock is the caller's."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from PIL import Image

from edge.config import Config, DropFolderConfig, PageConfig
from edge.constancy import ConstancyRun
from edge.results.publish import OVERLAY_SUFFIX, image_name, output_stem, result_path
from edge.service.installed import Service
from edge.service.journal import Entry, Journal
from edge.service.state import JOURNAL
from edge.settle import Signature, State

EXAMPLE = Path(__file__).parents[2] / "docs/examples/registered.landmarks.json"
NOW = datetime(2026, 3, 4, 10, 30, tzinfo=UTC)
REFUSALS = (
    ("DamagedImage", "half of its pixels are missing; send it again"),
    ("UnsupportedImage", "several frames in one file; send each by itself"),
)
COURSES = 12
DRAWN = 120  # of the last images only there is a picture: thousands take their time


@dataclass
class MadeRoom:
    """A drop folder with results beside the images, and the journal that knows them."""

    root: Path
    page: PageConfig = field(default_factory=PageConfig)

    def __post_init__(self) -> None:
        self.drop, self.state = self.root / "drop", self.root / "state"
        self.drop.mkdir(parents=True, exist_ok=True)
        self.state.mkdir(parents=True, exist_ok=True)

    @property
    def config(self) -> Config:
        return Config(drop_folder=(DropFolderConfig(path=self.drop),), state_dir=self.state, page=self.page)

    @property
    def service(self) -> Service:
        return Service(None, self.config, "landmarknet-edge.service")

    @property
    def journal(self) -> Path:
        return self.state / JOURNAL

    def config_file(self) -> Path:
        """Write the configuration, for a process of its own."""
        file = self.root / "room.toml"
        file.write_text(
            f"state_dir = {json.dumps(str(self.state))}\n[page]\nport = {self.page.port}\n"
            f"[[drop_folder]]\npath = {json.dumps(str(self.drop))}\n"
        )
        return file

    def fill(self, number: int, now: datetime = NOW, *, runs: int = 30) -> None:
        """Make finished images, the last one a minute ago, one every 20 minutes; golden images ran once a day."""
        picture = overlay_bytes()
        chance = random.Random(7)
        entries = [self.made(order, number, now, chance, picture) for order in range(1, number + 1)]
        with Journal.open(self.journal) as journal:
            journal.record(entries)
            for day in range(runs, 0, -1):
                when = now - timedelta(days=day - 1, hours=5)
                journal.add_constancy_run(
                    ConstancyRun(when, "room-cpu-2026", True, 0.01 + 0.002 * (day % 5), 0.001, None)
                )

    def made(self, order: int, number: int, now: datetime, chance: random.Random, picture: bytes) -> Entry:
        when = now - timedelta(minutes=1 + 20 * (number - order))
        image = self.drop / f"portal_{order:05}.dcm"
        sort = order % 10
        sha256 = hashlib.sha256(image.name.encode()).hexdigest()
        state, kind, reason = State.DONE, None, None
        if sort == 7:
            kind, why = REFUSALS[order % len(REFUSALS)]
            state, reason = State.REFUSED, f"{image.name}: {why}"
        else:
            self.publish(image, sha256, document(order, sort, chance), picture if order > number - DRAWN else None)
        return self.entry(order, image, state, when, sha256, kind, reason)

    def entry(self, order, image, state, when, sha256=None, kind=None, reason=None):
        signature = Signature(1, 1, order, 1)
        return Entry(
            order, str(self.drop), str(image), signature, state, 0, 0, reason, sha256, None, when, when, kind=kind
        )

    def publish(self, image: Path, sha256: str, result: dict, picture: bytes | None) -> Path:
        """Write a result and its overlay without the durability of the real ones: there are thousands."""
        path = result_path(image, None)
        overlay = path.with_name(output_stem(image) + OVERLAY_SUFFIX)
        result["image"] |= {"name": image_name(image), "sha256": sha256}
        result["outputs"] = []
        if picture is not None:
            result["outputs"] = [{"name": overlay.name, "sha256": hashlib.sha256(picture).hexdigest()}]
            overlay.write_bytes(picture)
        path.write_text(json.dumps(result))
        return path

    def record(self, *entries: Entry) -> None:
        with Journal.open(self.journal) as journal:
            journal.record(entries)


def document(order: int, sort: int, chance: random.Random) -> dict:
    """Return a result of one of ten sorts: mostly a shift, else withheld, without landmarks, or without reference."""
    result = copy.deepcopy(_example())
    entry = result["registration"]
    course = order % COURSES
    entry["reference"]["plan"] = hashlib.sha256(b"plan %d" % course).hexdigest()
    entry["reference"]["key"] = hashlib.sha256(b"beam %d" % (course * 2 + order % 2)).hexdigest()
    entry["shift_mm"] = {"x": round(chance.gauss(course / 4 - 1.5, 1.2), 3), "y": round(chance.gauss(0.8, 1.5), 3)}
    entry["interval95_mm"] = {"x": round(1 + chance.random(), 3), "y": round(1 + chance.random(), 3)}
    entry["residual_mm"] = round(0.8 + abs(chance.gauss(0, 0.6)), 3)
    entry["rotation_deg"] = round(chance.gauss(0, 0.8), 2)
    result["timing_ms"] = {"read": 2.0, "infer": 120 + 30 * chance.random(), "overlay": 90 + 60 * chance.random()}
    if sort == 3:
        entry |= {"status": "withheld", "reason": "its 95 % interval is 6.3 mm wide to either side, 5.0 are allowed"}
        entry |= dict.fromkeys(("shift_mm", "rotation_deg", "interval95_mm", "covariance_mm2", "residual_mm"))
    elif sort == 5:
        result |= {"status": "no_landmarks", "landmarks": [], "registration": None}
    elif sort == 9:
        result["registration"] = None
    return result


@cache
def _example() -> dict:
    return json.loads(EXAMPLE.read_text())


@cache
def overlay_bytes(width: int = 64, height: int = 48) -> bytes:
    """Return a small picture."""
    import io

    out = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(out, "PNG")
    return out.getvalue()


def put_image(folder: Path, name: str, data: bytes) -> Path:
    """Drop an image under another name first, as a sender does."""
    hidden = folder / f".{name}"
    hidden.write_bytes(data)
    return hidden.rename(folder / name)
