"""What the service works with: a release that gives its golden answers here, and references that are whole."""

from __future__ import annotations

from collections.abc import Iterator

from edge.config import Config
from edge.errors import EdgeError
from edge.registration.alignment import look_over_references
from edge.service.finding import Finding, fault_of
from edge.service.machine import Machine


def check_release(config: Config, here: Machine) -> Iterator[Finding]:
    """Say what is in use, whether it fits this machine, and on which library it runs."""
    from edge.backends import close_backend

    try:
        engine = here.open_engine(config)
        try:
            facts = here.facts(engine.contract.flavour)
        finally:
            close_backend(engine.backend)
    except EdgeError as exc:
        yield fault_of(exc, "choose another release: landmarknet-edge engine list")
        return
    contract, release = engine.contract, f"engine {engine.contract.release}"
    yield Finding("ok", f"{release} ({contract.flavour}, {contract.precision_delivered}): golden answers given")
    for warning in engine.warnings:
        yield Finding("warning", f"{release}: {warning}", engine.mend)
    parts = (f"{contract.flavour} {facts.flavour_version}", facts.gpu, facts.driver and f"driver {facts.driver}")
    yield Finding("ok", f"library: {', '.join(part for part in parts if part)}")


def check_references(config: Config) -> Iterator[Finding]:
    """Say what is right or wrong with the references of a room; nothing where it has none."""
    return (Finding(*said) for said in look_over_references(config))
