"""Hostile files through the real reader process: at most 1 GB and 15 s each, and never anything but our own errors."""

import os
import time
from collections import Counter
from pathlib import Path

import pytest

from edge.config import Config
from edge.errors import DamagedImage, ImplausibleGeometry, NotAnImage, ReaderDied, Refused, UnsupportedImage
from edge.processes.reader_process import ReaderLimits, ReaderProcess
from tests.faults.accounts import witnessed
from tests.faults.hostile import CASES, fuzzed, seeds
from tests.faults.room import PATIENT, dicom_image

READ_S, MEMORY_MB = 15.0, 1024
SLACK_S = 5.0  # to write the file and to start another child, on a busy machine
FIRST = int(os.environ.get("LANDMARKNET_FAULT_FIRST", "0"))  # of a slice of fuzzed files
QUICK = [name for name in CASES if not any(word in name for word in ("3.9 GB", "30000", "16384", "million", "600,000"))]


@pytest.fixture
def reader():
    """Return a reader under the limits of the defaults."""
    reader = ReaderProcess(ReaderLimits.of(Config()))
    yield reader
    reader.close()


OUTCOMES = {"image"} | {
    kind.__name__ for kind in (DamagedImage, ImplausibleGeometry, NotAnImage, ReaderDied, UnsupportedImage)
}


def peak_mb(reader) -> float:
    """Return the most memory that the living child ever had, 0 where it has died."""
    child = reader._child
    if child is None:
        return 0.0
    lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def outcome(reader, path: Path) -> str:
    """Read a file; return what came of it. Anything but an image or an error about this file is a failure."""
    try:
        image = reader.read(path, "X.dcm")
    except (Refused, ReaderDied) as exc:
        return type(exc).__name__ if "X.dcm" in str(exc) else f"an error without the file's name: {exc}"
    assert image.pixels.shape == (image.identity.rows, image.identity.columns)
    return "image"


@pytest.mark.counts(len(QUICK), len(CASES))
def test_no_bomb_takes_more_than_its_limits(reader, tmp_path, record, count):
    assert Config().read_memory_mb == MEMORY_MB
    assert Config().read_s == READ_S
    outcomes, slowest_s, most_mb = Counter(), 0.0, 0.0
    path = tmp_path / "X.dcm"
    for name in (QUICK if count == len(QUICK) else list(CASES))[:count]:
        path.write_bytes(CASES[name]())
        reader.await_ready()
        began_s = time.monotonic()
        outcomes[outcome(reader, path)] += 1
        took_s = time.monotonic() - began_s
        slowest_s, most_mb = max(slowest_s, took_s), max(most_mb, peak_mb(reader))
        assert took_s < READ_S + SLACK_S, name
    assert most_mb <= MEMORY_MB
    assert outcomes["image"] < count
    assert outcomes.keys() <= OUTCOMES
    record("hostile DICOM and PNG: bombs, recursion, lies", count, None, None, said(outcomes, slowest_s, most_mb))


@pytest.mark.counts(400, 1_000_000)
def test_no_fuzzed_file_gets_past_our_errors(reader, tmp_path, record, count):
    """Slices of a full run: LANDMARKNET_FAULT_FIRST=200000 LANDMARKNET_FAULT_COUNT=100000."""
    images, outcomes, slowest_s, most_mb = seeds(), Counter(), 0.0, 0.0
    path = tmp_path / "X.dcm"
    for number in range(FIRST, FIRST + count):
        path.write_bytes(fuzzed(number, images))
        reader.await_ready()
        began_s = time.monotonic()
        outcomes[outcome(reader, path)] += 1
        slowest_s = max(slowest_s, time.monotonic() - began_s)
        if number % 100 == 99:
            most_mb = max(most_mb, peak_mb(reader))
    assert slowest_s < READ_S + SLACK_S
    assert outcomes["image"] > 0  # the small changes did no harm
    assert outcomes["image"] < count
    assert outcomes.keys() <= OUTCOMES
    record("fuzzed DICOM and PNG", count, None, None, f"{said(outcomes, slowest_s, most_mb)}; from number {FIRST}")


def said(outcomes, slowest_s, most_mb):
    counts = ", ".join(f"{number} {name}" for name, number in outcomes.most_common())
    return f"{counts}; slowest {slowest_s:.1f} s, at most {most_mb:.0f} MB resident"


@pytest.mark.counts(4, 200)
def test_images_between_hostile_files_get_their_results(room, record, count):
    """A file that kills its reader twice is refused, and holds up nobody for long."""
    images = seeds()
    room.start()
    with witnessed(room) as account:
        for number in range(count):
            (room.drop / f"bad {number}.dcm").write_bytes(fuzzed(number, images))
            (room.drop / f"deep {number}.dcm").write_bytes(CASES["sequences 1000 deep"]())
            room.feed(number)
            room.wait_for_results()
        assert room.end() == 0
    record("images between hostile files", count, account)


def test_nothing_of_a_patient_is_told(room):
    room.note(room.drop / "good.dcm", good := dicom_image(1))
    (room.drop / "good.dcm").write_bytes(good)
    bad = dicom_image(2, PatientID="4711-0815", Rows=65535, SOPInstanceUID="1.2.3")
    (room.drop / "bad.dcm").write_bytes(bad)
    done = room.run_once()
    assert room.result_of(room.drop / "good.dcm").exists(), done.stderr
    told = done.stderr + "".join(path.read_text(errors="replace") for path in room.drop.rglob("*.json"))
    told += "".join(path.read_bytes().decode("latin-1") for path in room.state.rglob("*") if path.is_file())
    for secret in (*PATIENT.split("^"), "4711-0815"):
        assert secret not in told
