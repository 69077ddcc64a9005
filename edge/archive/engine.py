"""The distributed engine that a run uses: one of this machine's cores, which ends with the run, or an existing one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import dask
from distributed import Client, LocalCluster, Security
from distributed.comm.addressing import get_address_host_port

from edge import __version__
from edge.archive.held_engine import HeldEngine, open_engine, software
from edge.archive.order import Order, Unfit

CONNECT_S = 15.0
POLL_S = 0.1
LOST_MOST = 3  # workers that a batch may outlive; then its images are tried one by one
OURS_ALONE = {  # whatever a user's Dask configuration says: nobody else is served, nothing is shown
    "distributed.scheduler.allowed-failures": LOST_MOST,
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.diagnostics.nvml": False,
    "distributed.worker.profile.enabled": False,  # it looks at every thread each 10 ms
}


@contextmanager
def embedded(workers: int) -> Iterator[Client]:
    """Start workers on this machine, reachable on loopback and with the keys of this run only; end them with the block.

    Without keys, any user of the machine could have the scheduler run code as this one.
    """
    with dask.config.set(OURS_ALONE), _quiet():
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            security=Security.temporary(),
            dashboard_address=None,
            scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},  # or port 8787 is asked for
            memory_limit=0,  # what an image may take is the reader's to say
            silence_logs=logging.CRITICAL,
        )
        with cluster, Client(cluster, set_as_default=False) as client:
            yield client


@contextmanager
def connected(address: str) -> Iterator[Client]:
    """Connect to a scheduler, by TLS where Dask's configuration has it; raise `Unfit` where it cannot do this work."""
    with _quiet():
        demand_address(address, Security())
        try:
            client = Client(address, timeout=CONNECT_S, set_as_default=False)
        except OSError as exc:
            raise Unfit(
                f"no scheduler answers at {address} ({exc}); check the address, and Dask's TLS settings"
            ) from exc
        with client:
            demand_same_versions(client)
            demand_workers(client)
            yield client


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave it to this command to say what a lost worker or scheduler means."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # Dask gives its loggers levels of their own
    try:
        yield
    finally:
        logging.disable(before)


def demand_address(address: str, security: Security) -> None:
    """Raise `Unfit` for what no client can connect to; asked before, since a `Client` that fails over it lingers."""
    try:
        get_address_host_port(address, strict=True)
    except ValueError as exc:
        raise Unfit(f"{address} is no address; give one such as tls://HOST:8786") from exc
    try:
        keys = security.get_connection_args("client")["ssl_context"]
    except OSError as exc:  # ssl's errors are
        raise Unfit(f"the keys of Dask's TLS settings cannot be used ({exc}); see docs/archive.md") from exc
    encrypted = address.startswith("tls://")
    if encrypted and keys is None:
        raise Unfit(f"{address} needs keys, and Dask's configuration names none; see docs/archive.md")
    if security.require_encryption and not encrypted:
        raise Unfit(f"Dask's configuration requires encryption, and {address} has none; give a tls:// address")


def demand_same_versions(client: Client) -> None:
    """Raise `Unfit` where scheduler or workers have another Python or Dask: what they send would be misread."""
    found: Any = client.get_versions()
    here = _versions(found["client"])
    others = {"the scheduler": found["scheduler"]} | {f"the worker {a}": v for a, v in found["workers"].items()}
    for who, versions in others.items():
        if versions is None or _versions(versions) != here:
            has = "an unknown version" if versions is None else _in_words(_versions(versions))
            raise Unfit(f"{who} has {has}, the command {_in_words(here)}; install the same there")


def demand_workers(client: Client) -> None:
    """Raise `Unfit` where there are no workers, or not each has this version of the package and one thread."""
    threads = client.nthreads()
    if not threads:
        raise Unfit("the scheduler has no workers; start some: dask worker ADDRESS --nthreads 1 --nworkers N")
    for address, said in client.run(software, on_error="return").items():
        if said != __version__:
            has = f"landmarknet-edge {said}" if isinstance(said, str) else "no landmarknet-edge that can do this"
            raise Unfit(f"the worker {address} has {has}, the command {__version__}; install the same there")
    for address, count in threads.items():
        if count != 1:
            raise Unfit(
                f"the worker {address} has {count} threads; start a process per core instead: --nthreads 1 --nworkers N"
            )


def opened_everywhere(client: Client, order: Order, stopped: Callable[[], bool]) -> tuple[str, ...]:
    """Have every worker open its engine, and return their warnings; those of workers that are lost are not waited for.

    Ends early when ``stopped()``. Raises `Unfit` for a worker that cannot do this work, `TryAgain` for one that cannot
    just now.
    """
    client.register_plugin(HeldEngine(order))
    asked = {
        worker: client.submit(open_engine, order.name, workers=[worker], allow_other_workers=False, pure=False)
        for worker in client.nthreads()
    }
    warnings: set[str] = set()
    while asked and not stopped():
        for worker in [worker for worker, future in asked.items() if future.done()]:
            warnings.update(asked.pop(worker).result())
        there = client.nthreads()
        asked = {worker: future for worker, future in asked.items() if worker in there}
        time.sleep(POLL_S)
    return tuple(sorted(warnings))


def close_everywhere(client: Client, order: Order) -> None:
    """Have every worker close its engine, after the image in hand; not where they cannot be reached any more."""
    with suppress(OSError, TimeoutError):
        client.unregister_worker_plugin(order.name)


def workers_left(client: Client) -> int | None:
    """Return how many workers there are just now; None: the scheduler cannot be reached."""
    try:
        return len(client.nthreads())
    except (OSError, TimeoutError):
        return None


def _versions(said: dict[str, dict[str, str]]) -> tuple[str, str]:
    python = ".".join(said["packages"]["python"].split(".")[:2])
    return python, said["packages"]["distributed"]


def _in_words(versions: tuple[str, str]) -> str:
    return f"Python {versions[0]} with distributed {versions[1]}"
