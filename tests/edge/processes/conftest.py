import json
import os
from pathlib import Path

import pytest

from edge.config import Config, DropFolderConfig
from edge.processes.worker import Worker
from tests.edge.processes.worker_room import HOURS, PROVENANCE, READY


@pytest.fixture(scope="module")
def config(quick_release):
    """Return a configuration with a release of the small contract, whose model always answers the same."""
    odd = DropFolderConfig(path=Path(os.fsdecode(b"/nowhere/\xe4")), clinic_hours=(HOURS,))
    return Config(release=quick_release, drop_folder=(odd,))


@pytest.fixture(scope="module")
def worker(config):
    """Return a worker that serves several tests, as it serves several images."""
    with Worker(config) as worker:
        yield worker


@pytest.fixture
def faked(tmp_path, contract):
    """Return a function: a worker whose process does this; ``start`` counts its processes from 1."""
    workers = []
    opened = {"provenance": json.dumps(PROVENANCE), "contract": contract().model_dump_json(by_alias=True)}

    def make(does, **settings):
        config = Config(state_dir=tmp_path, **settings)
        workers.append(Worker(config, command=("-c", f"{READY}\nopened = {opened!r}\n{does}")))
        return workers[-1]

    yield make
    for one in workers:
        one.close()
