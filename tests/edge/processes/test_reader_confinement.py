"""A reader that was taken over, in a process of its own: what it tries, and what the kernel says."""

import errno
import json
import os
import re
import socket
from pathlib import Path

import numpy as np
import pytest

from edge.errors import DamagedImage
from edge.processes import landlock
from edge.processes.reader_process import ReaderLimits, ReaderProcess
from tests.edge.test_bad_images import encoded

LIMITS = ReaderLimits(memory_mb=1024, cpu_s=15, wall_s=15, file_bytes=2**28)
NOBODY = 65534
OFFERED = landlock.supported_abi()

# The reader itself, but that a file whose name is a JSON object is taken for orders: what to call it, and a statement.
# The answer is a refusal whose message holds the error number of each, 0 where nothing stopped it.
TAKEN_OVER = """
import ctypes, errno, json, os, socket, sys
from pathlib import Path
from edge.errors import DamagedImage
from edge.processes import reader_child
from edge.processes.child import Parent

def tried(statement):
    try:
        exec(statement)
    except OSError as exc:
        return exc.errno
    return 0

def read(path, file_bytes, *, name):
    if not name.startswith("{"):
        return honest(path, file_bytes, name=name)
    raise DamagedImage(json.dumps({key: tried(order) for key, order in json.loads(name).items()}))

honest, reader_child.read_portal_image = reader_child.read_portal_image, read
{before}
memory_mb, cpu_s, file_bytes, pixels = sys.argv[3:7]
reader_child.main(Parent(sys.argv[1:]), int(memory_mb), float(cpu_s), int(file_bytes), int(pixels), {abi})
"""
BECOME_NOBODY = f"if os.geteuid() == 0: os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})"

needs_landlock = pytest.mark.skipif(OFFERED < 3, reason=f"needs Landlock ABI 3, this kernel offers {OFFERED}")


@pytest.fixture
def taken_over():
    """Return a function: a reader under an ABI that does as it is told by a file; closed at the end."""
    readers = []

    def start(abi=landlock.NEWEST_ABI, before=""):
        program = TAKEN_OVER.replace("{abi}", str(abi)).replace("{before}", before)
        readers.append(ReaderProcess(LIMITS, command=("-c", program)))
        return readers[-1]

    yield start
    for reader in readers:
        reader.close()


@pytest.fixture
def original(tmp_path):
    """Return an image of a drop folder, in which everybody may do everything."""
    folder = tmp_path / "drop"
    folder.mkdir()
    folder.chmod(0o777)
    path = folder / "RI.1.dcm"
    path.write_bytes(b"an original")
    path.chmod(0o666)
    return path


def attack(reader, **orders):
    """Have a reader that was taken over do each of these; return name -> error number, 0: done."""
    with pytest.raises(DamagedImage) as caught:
        reader.read("no file", json.dumps(orders))
    return json.loads(str(caught.value))


def harm(original):
    """Return what a hostile reader would do to an original and its folder."""
    return {
        "create": f"open({str(original.parent / 'new')!r}, 'x')",
        "make a folder": f"os.mkdir({str(original.parent / 'folder')!r})",
        "link": f"os.link({str(original)!r}, {str(original.parent / 'linked')!r})",
        "symlink": f"os.symlink('/', {str(original.parent / 'symlinked')!r})",
        "write": f"os.open({str(original)!r}, os.O_WRONLY)",
        "truncate": f"os.truncate({str(original)!r}, 0)",
        "rename": f"os.rename({str(original)!r}, {str(original.parent / 'elsewhere')!r})",
        "unlink": f"[os.unlink(path) for path in Path({str(original.parent)!r}).iterdir() if path.is_file()]",
    }


@needs_landlock
def test_a_reader_that_was_taken_over_cannot_harm_an_original(taken_over, original):
    answers = attack(taken_over(), **harm(original))
    assert answers == dict.fromkeys(answers, errno.EACCES)
    assert [path.name for path in original.parent.iterdir()] == ["RI.1.dcm"]
    assert original.read_bytes() == b"an original"


def test_without_landlock_it_could(taken_over, original):
    """The test above can fail; and a kernel without Landlock still has its reader."""
    answers = attack(taken_over(abi=0), **harm(original))
    assert answers == dict.fromkeys(answers, 0)
    assert not original.exists()


@pytest.mark.skipif(OFFERED < 1, reason="needs Landlock")
def test_the_oldest_landlock_lets_only_truncating_pass(taken_over, original):
    answers = attack(taken_over(abi=1), **harm(original))
    assert answers == dict.fromkeys(answers, errno.EACCES) | {"truncate": 0}


@pytest.mark.parametrize("abi", range(landlock.NEWEST_ABI + 1))
def test_images_are_read_under_every_landlock(taken_over, write, dicom, collimated, abi):
    image = taken_over(abi).read(write(dicom(collimated())), "X.dcm")
    assert np.array_equal(image.pixels, collimated())


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"])
def test_its_decoders_are_found_and_work(taken_over, write, dicom, collimated, syntax):
    """RLE, JPEG-LS, JPEG 2000; they are imported when the first image needs them."""
    path = write(dicom(collimated(), syntax=syntax, frames=[encoded(collimated(), syntax)]))
    assert np.array_equal(taken_over().read(path, "X.dcm").pixels, collimated())


@pytest.mark.skipif(OFFERED < 4, reason="needs Landlock ABI 4")
def test_it_reaches_nobody_by_tcp(taken_over):
    with socket.create_server(("127.0.0.1", 0)) as server:
        connect = f"socket.create_connection({server.getsockname()!r})"
        answers = attack(taken_over(), connect=connect, bind="socket.create_server(('127.0.0.1', 0))")
        unconfined = attack(taken_over(abi=3), connect=connect)
    assert answers == {"connect": errno.EACCES, "bind": errno.EACCES}
    assert unconfined == {"connect": 0}


@pytest.mark.skipif(OFFERED < 6, reason="needs Landlock ABI 6")
def test_it_sends_no_signal_and_reaches_no_abstract_socket(taken_over):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind("")  # the kernel chooses an abstract name
        server.listen()
        does = {
            "signal": f"os.kill({os.getpid()}, 0)",
            "abstract": f"socket.socket(socket.AF_UNIX).connect({server.getsockname()!r})",
        }
        answers = attack(taken_over(), **does)
    assert answers == {"signal": errno.EPERM, "abstract": errno.EPERM}


@needs_landlock
def test_it_runs_no_program(taken_over):
    assert attack(taken_over(), run="os.execv('/bin/sh', ['sh'])") == {"run": errno.EACCES}


def test_it_cannot_take_away_or_enlarge_the_memory_that_its_parent_reads(taken_over):
    shared = "int(sys.argv[6])"
    enlarge = f"os.ftruncate({shared}, os.fstat({shared}).st_size * 2)"
    answers = attack(taken_over(abi=0), cut=f"os.ftruncate({shared}, 0)", grow=enlarge)
    assert answers == {"cut": errno.EPERM, "grow": errno.EFBIG}


# --- processes ---

FORK = "os.fork() or os._exit(0)"
WAY_BACK = "ctypes.CDLL(None).setns(os.open('/proc/self/ns/pid', os.O_RDONLY), 0)"
IS_ROOT = os.geteuid() == 0


def may_make_namespaces():
    """Tell whether root has CAP_SYS_ADMIN here, which it has not in every container."""
    status = Path("/proc/self/status").read_text()
    return IS_ROOT and bool(int(re.search(r"CapEff:\s*(\w+)", status)[1], 16) >> 21 & 1)


def test_an_ordinary_user_s_reader_cannot_fork(taken_over):
    assert attack(taken_over(before=BECOME_NOBODY), fork=FORK) == {"fork": errno.EAGAIN}


ROOT_OF_A_CONTAINER = f"""{BECOME_NOBODY}
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, so that what lies in /proc/self is its own again
if ctypes.CDLL(None).unshare(0x10000000) == 0:  # CLONE_NEWUSER
    Path("/proc/self/uid_map").write_text(f"0 {{os.geteuid()}} 1")
"""


def test_nor_can_that_of_the_root_of_a_rootless_container(taken_over):
    """There the kernel counts, too, and root may make namespaces. Without user namespaces it is an ordinary user."""
    assert attack(taken_over(before=ROOT_OF_A_CONTAINER), fork=FORK)["fork"] in {errno.EAGAIN, errno.ENOMEM}


@pytest.mark.skipif(not may_make_namespaces(), reason="needs root with CAP_SYS_ADMIN")
def test_nor_can_root_s_and_there_is_no_way_back(taken_over):
    answers = attack(taken_over(), fork=FORK, again=f"{WAY_BACK}; {FORK}")
    assert answers == {"fork": errno.ENOMEM, "again": errno.ENOMEM}


@pytest.mark.skipif(not IS_ROOT, reason="needs root")
def test_root_s_reader_keeps_of_its_powers_only_that_of_reading(taken_over):
    reader = taken_over()
    reader.await_ready()
    status = Path(f"/proc/{reader._child.pid}/status").read_text()
    held = [int(found, 16) for found in re.findall(r"Cap(?:Prm|Eff):\s*(\w+)", status)]
    assert held[0] == held[1] in {0, 1 << 1, 1 << 2}  # CAP_DAC_OVERRIDE where there is no CAP_DAC_READ_SEARCH
    assert re.search(r"NoNewPrivs:\s*1", status)


def test_the_reader_has_one_thread_whatever_the_environment_says(taken_over, monkeypatch):
    """Landlock confines only the thread that asks for it. Root's has one anyway: OpenBLAS ends its own at a fork."""
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "4")
    reader = taken_over(before=BECOME_NOBODY)
    reader.await_ready()
    assert len([*Path(f"/proc/{reader._child.pid}/task").iterdir()]) == 1
