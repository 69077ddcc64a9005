"""What a reader may say, above all one that was taken over or falls: its words are not believed."""

import importlib
import json
import subprocess
import sys
from dataclasses import asdict

import pytest

from edge.errors import DamagedImage, EdgeError, ImageUnreadable, ReaderDied, Refused, ResultNameTaken
from edge.pixel_checks import MAX_SIDE_PX
from edge.processes.reader_process import ANSWERS, ReaderLimits, ReaderProcess

LIMITS = ReaderLimits(memory_mb=1024, cpu_s=15, wall_s=15, file_bytes=2**28)


@pytest.fixture
def started():
    """Return a function that makes a reader with another child, closed at the end."""
    readers = []

    def make(**options):
        readers.append(ReaderProcess(LIMITS, **options))
        return readers[-1]

    yield make
    for reader in readers:
        reader.close()


def fails(reader, path, kind):
    """Return the message with which the reader refuses a file."""
    with pytest.raises(EdgeError) as caught:
        reader.read(path, "X.dcm")
    assert type(caught.value) is kind
    assert str(caught.value).startswith("X.dcm: ")
    return str(caught.value)


FAKE = """
import os, sys, time
from edge.processes.child import Parent
parent = Parent(sys.argv[1:])
parent.answer({"ready": True})
for request in parent.requests():
    """


@pytest.fixture
def faked(started):
    """Return a function: a reader whose child does this upon a request."""
    return lambda does: started(command=("-c", FAKE + does))


@pytest.mark.parametrize(
    ("does", "says"),
    [("os.kill(os.getpid(), 11)", "was killed by SIGSEGV"), ("os._exit(1)", "ended with status 1")],
)
def test_a_file_that_kills_its_reader_is_held_responsible(faked, tmp_path, does, says):
    message = fails(faked(does), tmp_path / "file", ReaderDied)
    assert message == f"X.dcm: the process that read it {says}; check what was exported"


def test_a_reader_cannot_stop_the_daemon(faked, tmp_path):
    does = "parent.answer({'error': 'BadRelease', 'message': 'X.dcm: stop'})"
    assert "makes no sense" in fails(faked(does), tmp_path / "file", ReaderDied)


def test_a_reader_cannot_fill_the_log(faked, tmp_path):
    does = "parent.answer({'error': 'DamagedImage', 'message': 'X.dcm: ' + 'x' * 10**6})"
    assert len(fails(faked(does), tmp_path / "file", DamagedImage)) == 1000


GEOMETRY = {
    "sid_mm": 1500.0,
    "sad_mm": 1000.0,
    "spacing_mm": [0.8, 0.8],
    "first_pixel_mm": [0.0, 0.0],
    "gantry_deg": None,
    "axes": "",
    "sources": {},
    "warnings": [],
}
IDENTITY = {"name": "X.dcm", "sha256": "0" * 64, "sop_instance_uid": None, "modality": None, "rows": 2, "columns": 3}
TOLD = {
    "identity": IDENTITY,
    "polarity_source": "",
    "geometry": GEOMETRY,
    "geometry_reason": None,
    "rescale": {"gain": 1.0, "offset": 0.0, "sign": 1},
    "beam": None,
}


def answering(header):
    return f"parent.answer(__import__('json').loads({json.dumps(header)!r}))"


def test_what_such_a_reader_tells_is_an_image(faked, tmp_path):
    image = faked(answering(TOLD)).read(tmp_path / "file", "X.dcm")
    assert image.pixels.shape == (2, 3)
    assert asdict(image.identity) == IDENTITY
    assert image.geometry.spacing_mm == (0.8, 0.8)


@pytest.mark.parametrize(
    "header",
    [
        {},
        TOLD | {"more": 1},
        TOLD | {"identity": IDENTITY | {"name": "Y.dcm"}},
        TOLD | {"identity": IDENTITY | {"rows": -2, "columns": -3}},
        TOLD | {"identity": IDENTITY | {"rows": "two"}},
        TOLD | {"geometry": GEOMETRY | {"sid_mm": float("inf")}},
        TOLD | {"geometry": GEOMETRY | {"spacing_mm": [0.8]}},
    ],
)
def test_what_is_no_image_of_that_file_is_not_believed(faked, tmp_path, header):
    assert "makes no sense" in fails(faked(answering(header)), tmp_path / "file", ReaderDied)


@pytest.mark.parametrize("sides", [(0, 3), (2, 0), (MAX_SIDE_PX + 1, 1), (1, 2**62)])
def test_pixels_that_no_image_has_are_not_believed(faked, tmp_path, sides):
    header = TOLD | {"identity": IDENTITY | dict(zip(("rows", "columns"), sides, strict=True))}
    assert "makes no sense" in fails(faked(answering(header)), tmp_path / "file", ReaderDied)


def test_bytes_that_nobody_asked_for_are_not_even_received(faked, tmp_path):
    does = """
    head = b'{"blob_bytes": [1]}'
    parent._socket.sendall(len(head).to_bytes(8, "big") + head)
    time.sleep(600)"""
    assert "makes no sense" in fails(faked(does), tmp_path / "file", ReaderDied)


def test_a_reader_that_never_becomes_ready_is_nobody_s_fault(started, tmp_path):
    reader = started(command=("-c", "raise SystemExit(7)"))
    with pytest.raises(ImageUnreadable, match="the reader ended with status 7 before it was ready"):
        reader.read(tmp_path / "file", "X.dcm")


def modules_of_the_reader():
    program = "import sys, edge.processes.reader_child; print(*sys.modules)"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()


def test_the_reader_s_process_knows_neither_network_nor_device_nor_configuration():
    modules = modules_of_the_reader()
    assert "edge.portal_image" in modules
    assert not {"onnxruntime", "tensorrt", "pycuda", "pydantic", "edge.engines", "edge.config"} & set(modules)


# --- which errors cross ---


def leaves(kind):
    below = kind.__subclasses__()
    return {leaf for child in below for leaf in leaves(child)} if below else {kind}


def test_every_error_that_the_reader_s_code_knows_can_cross():
    """But for those that stop the daemon: a file has no say in that."""
    known = {
        name
        for module in modules_of_the_reader()
        if module.startswith("edge.") and module != "edge.errors"
        for name, kind in vars(importlib.import_module(module)).items()
        if isinstance(kind, type) and issubclass(kind, EdgeError) and kind in leaves(EdgeError)
    }
    assert {"FileTooLarge", "DamagedImage"} <= known  # they are found
    assert known <= {*ANSWERS}


def test_every_error_is_either_one_of_a_file_s_or_may_not_cross():
    """A new one is decided upon here: a reader that was taken over may say all that crosses."""
    of_files = leaves(Refused) - {ResultNameTaken} | {ImageUnreadable, ReaderDied}
    assert {*ANSWERS.values()} == of_files
    assert all(ANSWERS[kind.__name__] is kind for kind in of_files)


@pytest.mark.parametrize("kind", sorted(leaves(EdgeError), key=lambda kind: kind.__name__))
def test_an_error_crosses_as_itself_or_not_at_all(faked, tmp_path, kind):
    does = f"parent.answer({{'error': {kind.__name__!r}, 'message': 'X.dcm: what, what to do'}})"
    crosses = kind.__name__ in ANSWERS
    message = fails(faked(does), tmp_path / "file", kind if crosses else ReaderDied)
    assert ("makes no sense" in message) == (not crosses)
