"""A Dask engine that is there already: run it with the number of workers and the threads of each.

It prints the scheduler's address, and ends when its standard input does. Workers find Python modules at $PYTHONPATH.
"""

import sys

from distributed import LocalCluster

if __name__ == "__main__":
    workers, threads = map(int, sys.argv[1:])
    with LocalCluster(
        n_workers=workers, threads_per_worker=threads, dashboard_address=None, memory_limit=0, host="127.0.0.1"
    ) as cluster:
        print(cluster.scheduler_address, flush=True)  # noqa: T201
        sys.stdin.read()
