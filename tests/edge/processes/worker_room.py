"""What the tests of the worker share: images to ask for, and a process that does as a test says."""

import hashlib
import os
from datetime import time
from pathlib import Path

import pytest

from edge.config import ClinicHours
from edge.errors import EdgeError
from edge.processes.worker import Task

HOURS = ClinicHours(begin=time(7), end=time(18))


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def make(worker, path, final=True):
    return worker.make(task(path, final))


def task(path, final=True):
    return Task(path, "X.dcm", sha256(path.read_bytes()), final)


def untimed(made):
    return made.result.model_copy(update={"timing_ms": {}}).to_json(), made.outputs


READY = """
import os, sys, time
from edge.processes.child import Parent
parent = Parent(sys.argv[1:])
requests = parent.requests()
config = next(requests).header["config"]
starts = open(config["state_dir"] + "/starts", "a+")
starts.write("+"); starts.flush(); starts.seek(0)
start = len(starts.read())
def of(request):
    return {"of": request.header.get("copy")}
"""
PROVENANCE = {
    "software": "fake",
    "release": "fake-1",
    "model_sha256": "0" * 64,
    "checkpoint_sha256": "0" * 64,
    "contract_sha256": "0" * 64,
    "engine_warnings": ["not what was meant"],
    "calibration_set_sha256": None,
    "config_sha256": "0" * 64,
    "backend": {},
}


OPEN = "parent.answer(opened)\n"
TASK, NEXT, OTHER = (Task(Path(f"/{name}"), f"{name}.dcm", "0" * 64, final=True) for name in "XYZ")


def pid(worker):
    return worker._child.pid


def children(of):
    return [int(one) for one in Path(f"/proc/{of}/task/{of}/children").read_text().split()]


def await_end(number):
    os.waitid(os.P_PID, number, os.WEXITED | os.WNOWAIT)


def fails(worker, kind):
    with pytest.raises(EdgeError) as caught:
        worker.make(TASK)
    assert type(caught.value) is kind
    return str(caught.value)
