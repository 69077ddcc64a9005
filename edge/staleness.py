"""Does a release fit this machine? Compare what it was built for with what is here, and say which part differs.

A plan that TensorRT compiled loads on its own GPU, compute capability and library version only. For an ONNX model
another version of ONNX Runtime is worth saying; whether it still computes the same, the golden answers decide.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Literal

from edge.errors import BackendFailed
from edge.manifest import Manifest

REBUILD = "rebuild the release on this machine: landmarknet-build-engine RECIPE"
BRING_BACK = "bring back what is missing, or use a release of another flavour: landmarknet-edge engine list"
USE_OTHER = {
    "model": "leave it where the site means a model of its own; else use, or build, a release of the expected one",
    "calibration set": "use the release of the newer set: landmarknet-edge engine list, then engine use ID",
}
Part = Literal["library", "GPU", "compute capability", "driver", "model", "calibration set"]


@dataclass(frozen=True)
class MachineFacts:
    """What is here, for one flavour. ``None`` for the GPU: there is none; for a hash: nothing is expected."""

    flavour_version: str
    gpu: str | None = None
    compute_capability: str | None = None
    driver: str | None = None
    checkpoint_sha256: str | None = None
    calibration_set_sha256: str | None = None


@dataclass(frozen=True)
class Difference:
    """One part that differs, in words; ``stops`` where a release cannot be expected to load.

    ``rebuild_for`` is what a rebuild would be for, part and value; None where none mends it. ``mend`` is what does.
    """

    part: Part
    text: str
    stops: bool
    mend: str
    rebuild_for: str | None = None


def machine_facts(flavour: str) -> MachineFacts:
    """Ask this machine what matters to releases of a flavour; raise `BackendFailed` where it cannot run them."""
    version = _library_version(flavour)
    if flavour == "onnxruntime":
        return MachineFacts(version)
    from edge.backends.cuda import device_facts

    device = device_facts()
    return MachineFacts(version, device.gpu, device.compute_capability, device.driver)


def differences(manifest: Manifest, facts: MachineFacts) -> tuple[Difference, ...]:
    """Return every part in which the machine, or what is expected there, differs from what the release was built for.

    A plan of TensorRT-RTX is made for a compute capability and may move between GPUs that share it.
    """
    compiled = manifest.flavour != "onnxruntime"
    found = (
        _of_machine("library", facts.flavour_version, manifest.flavour_version, stops=compiled),
        _of_machine("GPU", facts.gpu, manifest.gpu, stops=manifest.flavour == "tensorrt"),
        _of_machine("compute capability", facts.compute_capability, manifest.compute_capability, stops=compiled),
        _of_machine("driver", facts.driver, manifest.driver, stops=False),
        _of_origin("model", facts.checkpoint_sha256, manifest.checkpoint_sha256),
        _of_origin("calibration set", facts.calibration_set_sha256, manifest.calibration_set_sha256),
    )
    return tuple(one for one in found if one is not None)


def rebuild_for(found: tuple[Difference, ...]) -> tuple[str, ...]:
    """Return what a rebuild on this machine would be for: each part that it mends, with what is here."""
    return tuple(one.rebuild_for for one in found if one.rebuild_for is not None)


def mends(found: tuple[Difference, ...]) -> str:
    """Return what mends some differences, each way once."""
    return "; ".join(dict.fromkeys(one.mend for one in found))


def failed_on(flavour: str, facts: MachineFacts) -> str:
    """Return what a rebuild would be for where a release fails: the machine, so that it is for each machine once."""
    parts = {
        "library": facts.flavour_version,
        "GPU": facts.gpu,
        "compute capability": facts.compute_capability,
        "driver": facts.driver,
    }
    return f"a release for {flavour} failed on " + ", ".join(f"{part} {here}" for part, here in parts.items() if here)


def _of_machine(part: Part, here: str | None, built: str | None, *, stops: bool) -> Difference | None:
    if built is None or here == built:
        return None
    text = f"{part} {here or 'missing'}, built for {built}"
    if not here:  # nothing can be built for what is not there
        return Difference(part, text, stops, BRING_BACK)
    return Difference(part, text, stops, REBUILD, f"{part} {here}")


def _of_origin(part: Literal["model", "calibration set"], expected: str | None, built: str | None) -> Difference | None:
    if expected is None or built is None or expected == built:
        return None
    text = f"{part} {expected[:12]} expected, built from {built[:12]}"
    return Difference(part, text, stops=False, mend=USE_OTHER[part])


def in_words(manifest: Manifest, found: tuple[Difference, ...]) -> str:
    """Return what differs as one line for the log, for results and for the person on call."""
    parts = "; ".join(one.text for one in found)
    return f"release {manifest.release} ({manifest.flavour}) does not fit this machine: {parts}"


def _library_version(flavour: str) -> str:
    from edge.backends.tensorrt import MODULES

    try:
        return str(importlib.import_module(MODULES.get(flavour, flavour)).__version__)
    except (ImportError, OSError) as exc:
        raise BackendFailed(
            f"a release for {flavour} cannot run here ({exc}); install {flavour}, or use a release of another flavour"
        ) from exc
