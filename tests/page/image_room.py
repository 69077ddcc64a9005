"""A room whose journal and results were really made: samples through the shipped release, some with a reference."""

import hashlib
import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from PIL import Image

from edge.by_hand import reference_of_image
from edge.config import Config, DropFolderConfig, ReferenceRule
from edge.engines import Engine
from edge.pipeline import Pipeline
from edge.registration.alignment import References
from edge.registration.reference import ReferenceLandmark, add_reference
from edge.results.publish import result_path
from edge.service.installed import Service
from edge.service.journal import Entry, Journal
from edge.service.state import JOURNAL
from edge.settle import State, signature_of

SAMPLES = Path(__file__).parents[2] / "samples"
MORNING = datetime(2026, 1, 5, 8, tzinfo=UTC)
HOSTILE = "\"'><img src=x onerror=window.hacked=1><script>window.hacked=1.dcm"
SCRIPT = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>"


class ImageRoom:
    """A drop folder with results, and the journal that knows of them; files are known by the order they came in."""

    def __init__(self, root: Path, engine: Engine) -> None:
        self.drop, self.references, state = root / "drop", root / "references", root / "state"
        for folder in (self.drop, state):
            folder.mkdir(parents=True)
        self.config = Config(
            drop_folder=(DropFolderConfig(path=self.drop),), references=self.references, state_dir=state
        )
        self.service = Service(None, self.config, "landmarknet-edge.service")
        self.orders: dict[str, int] = {}
        self._engine = engine
        self._pipeline = Pipeline(engine, self.config.sha256())
        self._journal = state / JOURNAL

    def known(self, name: str, state: State = State.DONE, sha256: str | None = None, **facts: object) -> int:
        """Have the journal know a file; return its order."""
        path, order = self.drop / name, len(self.orders) + 1
        came = MORNING + timedelta(minutes=order)
        entry = Entry(
            order, str(self.drop), str(path), signature_of(path.stat()), state, 0, 0, None,
            sha256 or hashlib.sha256(path.read_bytes()).hexdigest(), None, came, came + timedelta(seconds=3),
        )  # fmt: skip
        with Journal.open(self._journal) as journal:
            journal.record([replace(entry, **facts)])
        self.orders[name] = order
        return order

    def sample(self, name: str, sample: str = "lateral_mv") -> Path:
        """Put a sample into the drop folder."""
        return Path(shutil.copyfile(SAMPLES / f"lidc0002_{sample}_00.dcm", self.drop / name))

    def process(self, path: Path, **registering: object) -> int:
        """Publish a file's result; return its order."""
        replace(self._pipeline, **registering)(path, None)
        return self.known(path.name)

    def found(self, name: str, sample: str = "lateral_mv") -> int:
        """Have the landmarks of a sample found."""
        return self.process(self.sample(name, sample))

    def registered(self, name: str, *, signed: bool, view: str = "lateral", widest_mm: float = 10.0) -> int:
        """Have a sample registered with its planned image."""
        drr = f"lidc0002_{view}_drr_00.dcm"
        reference = reference_of_image(SAMPLES / drr, self._engine, may_lack_beam=True)
        if signed:
            reference = reference.model_copy(update=_signed(drr))
        if not (self.references / f"{reference.key}.reference.json").exists():
            add_reference(self.references, reference)
        rules = (ReferenceRule(image_name=".*", reference=reference.key),)
        return self.process(self.sample(name, f"{view}_mv"), references=References(self.references, rules, widest_mm))

    def blank(self, name: str = "no_landmarks.png") -> int:
        """Have a picture without any anatomy looked at."""
        ramp = np.linspace(0, 255, 384).astype(np.uint8)
        Image.fromarray(np.broadcast_to(ramp, (300, 384))).save(self.drop / name)
        return self.process(self.drop / name)

    def refused(self, name: str = "refused.dcm") -> int:
        """Have an image refused that was cut short."""
        path = self.sample(name)
        path.write_bytes(path.read_bytes()[:100_000])
        return self.process(path)

    def result_file(self, name: str) -> Path:
        """Return where a file's result lies."""
        return result_path(self.drop / name, None)

    def document(self, name: str) -> dict:
        """Return a file's result."""
        return json.loads(self.result_file(name).read_bytes())

    def rewrite(self, name: str, document: dict) -> None:
        """Put another document in the place of a result."""
        self.result_file(name).write_text(json.dumps(document))

    def config_file(self) -> Path:
        """Write the configuration, for a process of its own."""
        file = self.config.state_dir.parent / "room.toml"
        file.write_text(
            f"state_dir = {json.dumps(str(self.config.state_dir))}\nreferences = {json.dumps(str(self.references))}\n"
            f"[[drop_folder]]\npath = {json.dumps(str(self.drop))}\n"
        )
        return file

    def of_every_sort(self) -> "ImageRoom":
        """Have an image of every sort that the view must show."""
        self.registered("registered.dcm", signed=True)
        self.registered("withheld.dcm", signed=False, view="ap")
        self.found("found.dcm")
        self.blank()
        self.refused()
        self.found(HOSTILE)
        self.found("next_version.dcm")
        self.rewrite("next_version.dcm", self.document("next_version.dcm") | {"schema": "landmarknet-edge/result/2"})
        self.found("gone.dcm")
        (self.drop / "gone.dcm").unlink()
        self.found("changed.dcm")
        data = bytearray((self.drop / "changed.dcm").read_bytes())
        data[-1] ^= 1
        (self.drop / "changed.dcm").write_bytes(data)
        self.sample("waiting.dcm")
        self.known("waiting.dcm", State.STABLE)
        self.found("hostile_words.dcm")
        self.rewrite("hostile_words.dcm", hostile(self.document("hostile_words.dcm")))
        return self


def hostile(document: dict) -> dict:
    """Return a result all of whose words are a script; this version understands it."""
    for one in document["landmarks"]:
        one["kind"] = SCRIPT
    document["geometry"] |= {"polarity": SCRIPT, "axes": SCRIPT, "warnings": [SCRIPT], "reason": SCRIPT}
    document["geometry"]["sources"] = dict.fromkeys([*document["geometry"]["sources"], SCRIPT], SCRIPT)
    document["provenance"] |= {"release": SCRIPT, "software": SCRIPT, "engine_warnings": [SCRIPT]}
    document["provenance"]["backend"] = {"flavour": SCRIPT, SCRIPT: SCRIPT}
    document["output_notes"] = [SCRIPT]
    document["timing_ms"] = {SCRIPT: 1.0}
    document["image"] |= {"modality": SCRIPT, "sop_instance_uid": SCRIPT}
    return document


def _signed(name: str) -> dict:
    """Return what the sample's truth is as a reference that a person signs."""
    truth = json.loads((SAMPLES / "truth.json").read_text())["images"][name]["landmarks"]
    marked = tuple(
        ReferenceLandmark(kind=one["kind"], shape="point", x_mm=one["x_mm"], y_mm=one["y_mm"], sigma_mm=1.0)
        for one in truth
        if one["kind"] in {"tracheal_bifurcation", "louis_angle"}
    )
    by_whom = {"landmarks_from": "person", "release": None, "signed_off_by": "truth", "signed_off_utc": "2026-01-05"}
    return {"landmarks": marked, **by_whom}
