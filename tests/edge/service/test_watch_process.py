"""A real daemon in a process of its own, four senders, a reader that looks all the time, and two ways to be ended."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytestmark = pytest.mark.faults

IMAGES = 200
SETTLE_S = 0.2
HEADER_BYTES = 8  # the length of what follows

# The pipeline's stand-in reads an image, tells whether it is complete, and publishes a drawing and a result. Each
# publication is noted before and after, with the hash of the result's bytes.
DAEMON = """
import hashlib, json, os, sys
from pathlib import Path
from edge.config import Config, DropFolderConfig
from edge.service.watch import stop_on_signals, watch
from edge.errors import DamagedImage
from edge.log import open_log
from edge.results.document import Image, Output, Provenance, Result
from edge.results.publish import claim_name, image_name, publish, result_path

drop, notes = Path(sys.argv[1]), os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
config = Config(drop_folder=(DropFolderConfig(path=drop),), settle_s=float(sys.argv[3]), sweep_s=1.0)
zeros = "0" * 64
provenance = Provenance(
    software="0", release="0", model_sha256=zeros, checkpoint_sha256=zeros, contract_sha256=zeros,
    calibration_set_sha256=None, config_sha256=config.sha256(), backend={},
)

def note(what, image, data):
    line = {"what": what, "image": str(image.relative_to(drop)), "sha256": hashlib.sha256(data).hexdigest()}
    os.write(notes, (json.dumps(line) + "\\n").encode())

def process(image, results_dir, *, final, tell, upcoming):
    path = result_path(image, results_dir)
    claim_name(image, path)
    data = image.read_bytes()
    if len(data) < 8 or len(data) != 8 + int.from_bytes(data[:8], "big"):
        assert not final
        raise DamagedImage(f"{image}: incomplete")
    drawing = path.with_name(path.name.removesuffix("json") + "png")
    drawn = b"drawing of " + data[8:]
    result = Result(
        status="ok", reason=None, landmarks=(), geometry=None, provenance=provenance, timing_ms={},
        image=Image(
            name=image_name(image), sha256=hashlib.sha256(data).hexdigest(),
            sop_instance_uid=None, modality=None, rows=None, columns=None,
        ),
        outputs=(Output(name=drawing.name, sha256=hashlib.sha256(drawn).hexdigest()),),
    )
    note("publishing", image, result.to_json())
    publish([(drawing, drawn)], (path, result.to_json()))
    note("published", image, result.to_json())
    return result

process.rest = lambda: None

with stop_on_signals() as stop:
    watch(config, process, stop=stop, log=open_log())
"""


@dataclass
class Watching:
    drop: Path
    notes: Path
    log: Path
    process: subprocess.Popen | None = None
    starts: int = 0

    def start(self) -> None:
        command = [sys.executable, "-c", DAEMON, str(self.drop), str(self.notes), str(SETTLE_S)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log)
        self.starts += 1
        self.wait_until(lambda: self.log.read_text().count("event=watching") == self.starts)

    def end(self, number: int) -> int:
        """Send a signal; return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout=60)

    def noted(self, what: str) -> list[tuple[str, str]]:
        """Return the (image, SHA-256 of the result) of each note of that kind, in order."""
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        notes = [json.loads(line) for line in lines]
        return [(note["image"], note["sha256"]) for note in notes if note["what"] == what]

    def unfinished(self) -> Counter[tuple[str, str]]:
        """Return what was begun and not finished, and how often."""
        return Counter(self.noted("publishing")) - Counter(self.noted("published"))

    def wait_until(self, condition: Callable[[], bool]) -> None:
        end_s = time.monotonic() + 60
        while not condition():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end_s, f"{len(results(self.drop))} results\n{self.log.read_text()[-3000:]}"
            time.sleep(0.02)

    def wait_for(self, published: int) -> None:
        self.wait_until(lambda: len(results(self.drop)) >= published)


@pytest.fixture
def watching(tmp_path):
    (tmp_path / "drop").mkdir()
    watching = Watching(tmp_path / "drop", tmp_path / "notes", tmp_path / "log")
    yield watching
    if watching.process and watching.process.poll() is None:
        watching.process.kill()
        watching.process.wait()


def results(drop: Path) -> list[Path]:
    return sorted(path for path in drop.rglob("*.landmarks.json") if not path.name.startswith("."))


def image_bytes(number: int) -> bytes:
    body = random.Random(number).randbytes(2_000 + 37 * number)
    return len(body).to_bytes(HEADER_BYTES, "big") + body


@dataclass
class Sent:
    """The images as their senders left them: path to (bytes, mtime)."""

    files: dict[Path, tuple[bytes, int]] = field(default_factory=dict)

    def note(self, path: Path, data: bytes) -> None:
        self.files[path] = data, path.stat().st_mtime_ns


def noted_as_incomplete(log: Path) -> str:
    return "\n".join(line for line in log.read_text().splitlines() if "incomplete, waiting for the rest" in line)


def in_slow_chunks(path: Path, data: bytes, _spare: Path) -> None:
    """Pause for longer than settle_s in between: settled, yet incomplete."""
    with path.open("wb") as file:
        for start in range(0, len(data), len(data) // 2):
            file.write(data[start : start + len(data) // 2])
            file.flush()
            time.sleep(1.5 * SETTLE_S)


def as_a_closed_half(path: Path, data: bytes, spare: Path) -> None:
    """Let the daemon take up the half, on a busy machine too, unless it is being killed just now."""
    path.write_bytes(data[: len(data) // 2])
    end_s = time.monotonic() + 20
    while path.name not in noted_as_incomplete(spare.with_name("log")) and time.monotonic() < end_s:
        time.sleep(0.1)
    with path.open("ab") as file:
        file.write(data[len(data) // 2 :])


def by_renaming_in(path: Path, data: bytes, spare: Path) -> None:
    spare.write_bytes(data)
    spare.rename(path)


def by_a_copy_that_keeps_the_time(path: Path, data: bytes, spare: Path) -> None:
    spare.write_bytes(data)
    os.utime(spare, (1e9, 1e9))
    shutil.copy2(spare, path)


WAYS: list[tuple[Callable[[Path, bytes, Path], None], float]] = [
    (in_slow_chunks, 0.0),
    (as_a_closed_half, 0.0),
    (by_renaming_in, 0.1),
    (by_a_copy_that_keeps_the_time, 0.1),
]


def send(drop: Path, sender: int, sent: Sent) -> None:
    way, pause_s = WAYS[sender]
    slow = way in (in_slow_chunks, as_a_closed_half)
    numbers = range(sender, IMAGES, len(WAYS))
    for number in numbers:
        folder = drop / ("." if number % 3 == 0 else f"linac {sender}/field of {number % 7}")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"RI {number}{('.dcm', '.png', '', ' [1].DCM')[number % 5 % 4]}"
        # one slow image in five: a slow one takes 0.6 s
        chosen = way if not slow or number % 5 == 0 else by_renaming_in
        data = image_bytes(number)
        chosen(path, data, drop.parent / f"spare {sender}")
        sent.note(path, data)
        time.sleep(pause_s or 0.05)


@dataclass
class Reader:
    """Looks at every result there is, again and again, as a viewer would."""

    drop: Path
    looks: int = 0
    wrong: list[str] = field(default_factory=list)
    first_seen: dict[Path, tuple[int, int, str]] = field(default_factory=dict)  # inode, mtime_ns, SHA-256

    def look(self) -> None:
        self.looks += 1
        for path in results(self.drop):
            data = path.read_bytes()
            try:
                listed = json.loads(data)["outputs"]
            except (ValueError, KeyError):
                self.wrong.append(f"{path.name}: torn: {data[:40]!r}")
                continue
            for output in listed:
                drawn = path.with_name(output["name"])
                if not drawn.exists() or hashlib.sha256(drawn.read_bytes()).hexdigest() != output["sha256"]:
                    self.wrong.append(f"{path.name}: {output['name']} is not there or not whole")
            status = path.stat()
            seen = status.st_ino, status.st_mtime_ns, hashlib.sha256(data).hexdigest()
            if self.first_seen.setdefault(path, seen) != seen:
                self.wrong.append(f"{path.name}: published twice")

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(0.05):
            self.look()


def test_every_image_gets_one_result_whatever_the_senders_do_and_however_the_daemon_ends(watching):
    sent, reader, stop = Sent(), Reader(watching.drop), threading.Event()
    senders = [
        threading.Thread(target=send, args=(watching.drop, sender, sent), daemon=True) for sender in range(len(WAYS))
    ]
    looking = threading.Thread(target=reader.run, args=(stop,), daemon=True)
    watching.start()
    for thread in (*senders, looking):
        thread.start()

    in_hand: Counter[tuple[str, str]] = Counter()  # begun at a SIGKILL: whether they were published, no note says
    for published, number in ((40, signal.SIGTERM), (80, signal.SIGKILL), (110, signal.SIGKILL), (140, signal.SIGTERM)):
        watching.wait_for(published)
        status = watching.end(number)
        if number == signal.SIGTERM:
            assert status == 0, watching.log.read_text()
            assert watching.unfinished() == in_hand  # the image in hand was finished
        else:
            assert (watching.unfinished() - in_hand).total() <= 1
            in_hand = watching.unfinished()
        watching.start()

    for thread in senders:
        thread.join()
    watching.wait_for(published=IMAGES)
    assert watching.end(signal.SIGTERM) == 0
    watching.start()  # with nothing to do
    time.sleep(5 * SETTLE_S)
    assert watching.end(signal.SIGTERM) == 0
    stop.set()
    looking.join()
    reader.look()

    # one whole result for each image, about that image as it was sent
    assert reader.wrong == []
    assert reader.looks > 20
    assert len(results(watching.drop)) == len(sent.files) == IMAGES
    by_image = {path.parent / json.loads(path.read_bytes())["image"]["name"]: path for path in results(watching.drop)}
    for image, (data, _) in sent.files.items():
        assert json.loads(by_image[image].read_bytes())["image"]["sha256"] == hashlib.sha256(data).hexdigest()

    # none published twice: no result that the reader saw was ever replaced, and no publication was noted again. Only
    # an image in hand at a SIGKILL may have been begun again, and then with the same bytes
    assert max(Counter(watching.noted("published")).values()) == 1
    began = Counter(watching.noted("publishing"))
    assert began - Counter(set(began)) <= in_hand
    assert len({image for image, _ in began}) == len(began) == IMAGES  # never with other bytes

    # the senders' files are as they were, and nothing of ours is left besides results and drawings
    for image, (data, mtime_ns) in sent.files.items():
        assert image.read_bytes() == data
        assert image.stat().st_mtime_ns == mtime_ns
    ours = {path for result in results(watching.drop) for path in (result, result.with_suffix(".png"))}
    assert {path for path in watching.drop.rglob("*") if path.is_file()} == ours | sent.files.keys()
    assert "level=error" not in watching.log.read_text()
    assert noted_as_incomplete(watching.log)  # the slow senders did what they are for


def test_a_signal_ends_an_idle_daemon_at_once(watching):
    watching.start()
    (watching.drop / "X").write_bytes(image_bytes(0))
    watching.wait_for(published=1)
    status = watching.end(signal.SIGINT)
    assert status == 0, watching.log.read_text()
