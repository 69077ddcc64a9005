"""A room for faults: drop folder, state folder, small portal images, and the real daemon in processes of its own."""

import hashlib
import io
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset

ROOT = Path(__file__).parents[2]
PATIENCE_S = 90.0  # far longer than anything here takes: reached by a failure only
HEIGHT, WIDTH = 48, 64
PATIENT = "Mustermann^Erika"  # stands in every image, and nowhere else


def pixels(number: int) -> np.ndarray:
    """Return (48, 64) uint16: a bright field with a dark band; its noise tells one image from the next."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    dose = 30_000 - 12_000 * np.exp(-(((x - WIDTH / 2) / 8) ** 2)) + 100 * y
    return (dose + np.random.default_rng(number).integers(0, 2_000, dose.shape)).astype("<u2")


def dicom_image(number: int, **changes: object) -> bytes:
    """Return an RT Image as bytes; ``changes`` replace attributes."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.1"
    meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
    dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    attributes = {
        "SOPClassUID": meta.MediaStorageSOPClassUID,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "Modality": "RTIMAGE",
        "PatientName": PATIENT,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": HEIGHT,
        "Columns": WIDTH,
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "PixelIntensityRelationshipSign": 1,
        "PixelData": pixels(number).tobytes(),
    } | changes
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def png_image(number: int) -> bytes:
    """Return the same picture as a PNG of 16 bits."""
    stream = io.BytesIO()
    Image.fromarray(pixels(number)).save(stream, "PNG")
    return stream.getvalue()


def put(path: Path, data: bytes) -> Path:
    """Write a file under a dot name and rename it, as a careful sender does."""
    part = path.with_name(f".part-{os.getpid()}")
    part.write_bytes(data)
    part.rename(path)
    return path


def wait_until(condition: Callable[[], object], within_s: float = PATIENCE_S, why: Callable[[], str] = str) -> float:
    """Return after how many seconds ``condition`` became true; fail with ``why`` if it does not."""
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() < began_s + within_s, f"not within {within_s:g} s\n{why()}"
        time.sleep(0.01)
    return time.monotonic() - began_s


def children(pid: int) -> list[int]:
    """Return the processes that any thread of a process started."""
    try:
        threads = [*Path(f"/proc/{pid}/task").iterdir()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [child for thread in threads for child in _children_of_thread(thread)]


def _children_of_thread(thread: Path) -> list[int]:
    try:
        return [int(child) for child in (thread / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


@dataclass
class Room:
    """Where the daemon works; `start` and `kill` it as often as you like."""

    folder: Path
    release: Path
    settings: dict[str, object] = field(default_factory=dict)
    results_dir: Path | None = None
    sent: dict[Path, str] = field(default_factory=dict)  # what the senders left, path to SHA-256
    process: subprocess.Popen | None = None
    starts: int = 0

    def __post_init__(self) -> None:
        for folder in (self.drop, self.state):
            folder.mkdir(parents=True, exist_ok=True)
        self.configure()

    @property
    def drop(self) -> Path:
        return self.folder / "drop"

    @property
    def state(self) -> Path:
        return Path(str(self.settings.get("state_dir", self.folder / "state")))

    @property
    def config(self) -> Path:
        return self.folder / "edge.toml"

    @property
    def log_file(self) -> Path:
        return self.folder / "log"

    @property
    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""

    def configure(self, **changes: object) -> None:
        """Write the configuration, with little patience."""
        settings = {"settle_s": 0.1, "sweep_s": 0.5, "release": str(self.release), "state_dir": str(self.state)}
        lines = [f"{key} = {json.dumps(value)}" for key, value in (settings | self.settings | changes).items()]
        lines += ["[[drop_folder]]", f"path = {json.dumps(str(self.drop))}"]
        lines += [f"results_dir = {json.dumps(str(self.results_dir))}"] if self.results_dir else []
        put(self.config, "\n".join(lines).encode())

    def feed(self, *numbers: int, suffix: str = ".dcm") -> None:
        """Drop the small images of these numbers."""
        for number in numbers:
            data = png_image(number) if suffix == ".png" else dicom_image(number)
            self.note(put(self.drop / f"RI {number}{suffix}", data), data)

    def note(self, path: Path, data: bytes) -> None:
        """Remember what a sender left; every one of these has to get its result."""
        self.sent[path] = hashlib.sha256(data).hexdigest()

    def command(self, *options: str) -> list[str]:
        """Return the command line of the daemon."""
        return [sys.executable, "-m", "edge.cli", "watch", "--config", str(self.config), *options]

    def start(self, *, ready: bool = True, prefix: Sequence[str] = (), **environment: str) -> subprocess.Popen:
        """Start the daemon; return when it looks at its folders, or with ``ready=False`` at once."""
        begun = self.log.count("event=watching")
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [*prefix, *self.command()],
                cwd=self.folder,
                env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
                stderr=log,
                start_new_session=True,  # a child may start another one while its parent dies: `of_session` knows it
            )
        self.starts += 1
        if ready:
            self.wait_until(lambda: self.log.count("event=watching") > begun)
        return self.process

    def run_once(self, prefix: Sequence[str] = (), timeout_s: float = PATIENCE_S) -> subprocess.CompletedProcess:
        """Run the daemon until every file that is there has been tried."""
        return subprocess.run(
            [*prefix, *self.command("--once")],
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def kill(self) -> None:
        """End the daemon as the kernel does when memory runs out; return when its children are gone, too."""
        assert self.process
        self.process.kill()
        self.process.wait()
        wait_until(lambda: not any(map(is_alive, of_session(self.process.pid))))

    @contextmanager
    def still(self) -> Iterator[None]:
        """Stop the daemon's clock while the block runs, as a suspended machine does."""
        assert self.process
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def end(self) -> int:
        """Ask the daemon to stop; return its exit status."""
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=PATIENCE_S)

    def close(self) -> None:
        """End whatever is still running."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def wait_until(self, condition: Callable[[], object], within_s: float = PATIENCE_S) -> float:
        """Wait as `wait_until` does, while the daemon lives."""

        def met() -> bool:
            assert self.process is None or self.process.poll() is None or condition(), self.log[-3000:]
            return bool(condition())

        return wait_until(met, within_s, lambda: self.log[-3000:])

    def wait_for_results(self, within_s: float = PATIENCE_S) -> float:
        """Wait until every file that was sent has a result; return for how long."""
        return self.wait_until(lambda: not self.without_result(), within_s)

    def result_of(self, image: Path) -> Path:
        """Return where the result of an image that was sent belongs."""
        from edge.results.publish import mirrored_folder, result_path

        return result_path(image, mirrored_folder(image, self.drop, self.results_dir))

    def results(self) -> list[Path]:
        """Return the results that are there."""
        return [path for path in (self.results_dir or self.drop).rglob("*.landmarks.json") if path.name[0] != "."]

    def without_result(self) -> list[Path]:
        """Return the files that were sent and have no result."""
        return [image for image in self.sent if not self.result_of(image).exists()]

    def journal(self, query: str) -> list[tuple]:
        """Ask the journal, whatever the daemon is doing."""
        with closing(sqlite3.connect(self.state / "journal.sqlite", timeout=30)) as connection:
            return connection.execute(query).fetchall()


def of_session(leader: int) -> list[int]:
    """Return the processes of a session, which outlives the process that began it."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # one that ended meanwhile
            if os.getsid(int(folder.name)) == leader:
                found.append(int(folder.name))
    return found


def is_alive(pid: int) -> bool:
    """Tell whether a process runs, which one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def moments(seed: int, most_s: float) -> Callable[[], float]:
    """Return a function that gives random pauses in s, the same ones in every run."""
    numbers = random.Random(seed)
    return lambda: numbers.uniform(0.0, most_s)
