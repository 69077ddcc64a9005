"""Where figures are from: the machine without its name, and the versions of what was measured."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

MEASURED = ("numpy", "onnxruntime", "openvino", "scikit-image", "scipy", "torch")


def machine() -> dict[str, str | int]:
    """Return cores, memory, kernel and processor of this machine."""
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory_gb),
        "kernel": f"{platform.system()} {platform.release().split('-')[0]}",
        "cpu": _cpu(),
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Return the versions of what is measured, of those that are installed."""
    found = {}
    for name in MEASURED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
