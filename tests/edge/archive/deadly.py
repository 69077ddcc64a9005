"""A run in which one image ends every Dask worker that has it in hand: arguments are the folder and the release.

Prints what became of the images. A worker is given no second chance, or this would take minutes.
"""

import json
import os
import signal
import sys
from pathlib import Path

from edge.archive import engine
from edge.archive.entries import batches, entries_of
from edge.archive.held_engine import HeldEngine
from edge.archive.order import Order, marked, promise_of, sample_of
from edge.archive.run import run
from edge.config import Config
from edge.process import plan

RUN = "landmarknet-edge-deadly"


class DeadlyEngine(HeldEngine):
    def process(self, entry):
        if entry.image.name == "deadly.dcm":
            self.open()  # Dask starts no worker anew that died before it had quite begun
            os.kill(os.getpid(), signal.SIGKILL)
        return super().process(entry)


def main(folder, release):
    engine.OURS_ALONE["distributed.scheduler.allowed-failures"] = 0
    config, entries = Config(release=release), entries_of(plan([folder], None))
    with marked(folder, RUN, make=False) as mark, engine.embedded(1) as client:
        order = Order(RUN, config, promise_of(config), mark, sample_of(entries), embedded=True)
        client.register_plugin(DeadlyEngine(order))
        told = [one for some in run(client, RUN, batches(entries), lambda: False) for one in some]
        engine.close_everywhere(client, order)
    json.dump({one.image.name: [one.became, one.kind] for one in told}, sys.stdout)
    assert len(told) == len(entries)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
