"""The GPU through pycuda: device 0, one stream, page-locked buffers. Nothing else imports pycuda.

A CUDA context belongs to a thread: a `CudaDevice` works on the thread that opened it and says so on any other. Its
context is current only inside ``with device.current(...)``: a context left current would make pycuda abort the process
at its end.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge.errors import BackendFailed, EdgeError, InferenceFailed

KERNEL_MODULE = Path("/proc/driver/nvidia/version")
OTHERWISE = "or use a release of flavour onnxruntime"
TO_DO: dict[type[EdgeError], str] = {
    BackendFailed: f"see with nvidia-smi that GPU 0 is healthy and has free memory, then start again, {OTHERWISE}",
    InferenceFailed: "the GPU is lost to this process: restart the service",
}


@dataclass(frozen=True)
class DeviceFacts:
    """What matters to a plan: GPU, compute capability such as "8.9", and driver such as "580.65.06, CUDA 13.0"."""

    gpu: str
    compute_capability: str
    driver: str


@dataclass(frozen=True, eq=False)
class Buffer:
    """One tensor twice: ``host``, float32 in page-locked memory, and ``memory`` of the same size on the device."""

    host: np.ndarray
    memory: Any

    @property
    def address(self) -> int:
        """Where the tensor is on the device."""
        return int(self.memory)


def device_facts(driver: Any = None, kernel_module: Path = KERNEL_MODULE) -> DeviceFacts:
    """Ask device 0 what it is; raise `BackendFailed` where pycuda, the driver or the device is missing."""
    driver = driver or _pycuda_driver()
    return _facts(driver, _first_device(driver), kernel_module)


class CudaDevice:
    """Device 0 with its primary context, one stream, and the buffers that were asked of it.

    ``driver`` is ``pycuda.driver``, or what a test puts in its place. Raises `BackendFailed` as `device_facts` does.
    """

    def __init__(self, driver: Any = None) -> None:
        self._driver = driver or _pycuda_driver()
        self._thread = threading.get_ident()
        self._fault: str | None = None
        self._reserved: list[Any] = []  # pycuda's allocations, each with free()
        device = _first_device(self._driver)
        self.facts = _facts(self._driver, device, KERNEL_MODULE)
        try:
            self._context = device.retain_primary_context()
        except self._driver.Error as exc:
            raise BackendFailed(f"the GPU failed while opening it ({exc}); {TO_DO[BackendFailed]}") from exc
        self._stream: Any = None
        try:
            with self.current(BackendFailed, "making a stream"):
                self._stream = self._driver.Stream()
        except BackendFailed:
            self.close()  # or pycuda releases the context with a call that is not for primary ones
            raise

    @contextmanager
    def current(self, failure: type[EdgeError], doing: str) -> Iterator[None]:
        """Make the context current; a fault of the device inside becomes ``failure``, and every later use fails.

        On another thread, or once closed or lost, raises `InferenceFailed`.
        """
        self._demand_use(doing)
        try:
            self._context.push()
            try:
                yield
            finally:
                self._context.pop()
        except self._driver.Error as exc:
            self._fault = f"the GPU failed while {doing} ({exc})"
            raise failure(f"{self._fault}; {TO_DO[failure]}") from exc

    @property
    def stream(self) -> int:
        """The handle of the stream."""
        return int(self._stream.handle)

    def buffer(self, shape: tuple[int, ...]) -> Buffer:
        """Reserve a float32 tensor on both sides; the device keeps it until `close`."""
        host: np.ndarray = self._driver.pagelocked_empty(shape, np.float32)
        self._reserved.append(host.base)
        memory = self._driver.mem_alloc(host.nbytes)
        self._reserved.append(memory)
        return Buffer(host, memory)

    def upload(self, buffer: Buffer) -> None:
        """Queue the copy from host to device; ``buffer.host`` must not change before `synchronize`."""
        self._driver.memcpy_htod_async(buffer.memory, buffer.host, self._stream)

    def download(self, buffer: Buffer) -> None:
        """Queue the copy from device to host; ``buffer.host`` holds it after `synchronize`."""
        self._driver.memcpy_dtoh_async(buffer.host, buffer.memory, self._stream)

    def synchronize(self) -> None:
        """Wait for all that is queued. Faults of the device come to light here."""
        self._stream.synchronize()

    def elapsed_ms(self, work: Callable[[], object]) -> float:
        """Run ``work`` between two events of the stream, and return the time between them, ms."""
        with self.current(InferenceFailed, "timing"):
            start, end = self._driver.Event(), self._driver.Event()
            start.record(self._stream)
            work()
            end.record(self._stream)
            end.synchronize()
            return float(end.time_since(start))

    def close(self, first: Callable[[], None] = lambda: None) -> None:
        """Run ``first`` in the context, then free the buffers, the stream and the context. Closing twice is once."""
        if self._context is None:
            return
        self._demand_thread("closing")
        with suppress(self._driver.Error):  # a lost device frees nothing any more; the end of the process does
            self._context.push()
            try:
                first()
                self._free()
            finally:
                self._context.pop()
        with suppress(self._driver.Error):
            self._context.detach()
        self._context = None

    def _free(self) -> None:
        while self._reserved:
            self._reserved.pop().free()
        self._stream = None

    def _demand_use(self, doing: str) -> None:
        if self._context is None:
            raise InferenceFailed(f"the GPU was closed before {doing}; restart the service")
        self._demand_thread(doing)
        if self._fault:
            raise InferenceFailed(f"{self._fault} some time ago; {TO_DO[InferenceFailed]}")

    def _demand_thread(self, doing: str) -> None:
        if threading.get_ident() != self._thread:
            raise InferenceFailed(
                f"{doing}: the GPU was opened by another thread, to which its context belongs; "
                "open a backend on the thread that uses it, and restart the service"
            )


def _pycuda_driver() -> Any:
    try:
        import pycuda.driver
    except ModuleNotFoundError as exc:
        raise BackendFailed(f"pycuda is not installed ({exc}): install the extra 'gpu', {OTHERWISE}") from exc
    except ImportError as exc:
        raise BackendFailed(f"pycuda finds no NVIDIA driver ({exc}): install the driver, {OTHERWISE}") from exc
    return pycuda.driver


def _first_device(driver: Any) -> Any:
    try:
        driver.init()
        devices = int(driver.Device.count())
    except driver.Error as exc:
        raise BackendFailed(
            f"the NVIDIA driver does not start ({exc}): see what nvidia-smi says, install or repair the driver, "
            f"reboot after an update of it, {OTHERWISE}"
        ) from exc
    if devices < 1:
        raise BackendFailed(
            f"the NVIDIA driver shows no GPU: see what nvidia-smi and CUDA_VISIBLE_DEVICES say, {OTHERWISE}"
        )
    return driver.Device(0)


def _facts(driver: Any, device: Any, kernel_module: Path) -> DeviceFacts:
    try:
        major, minor = device.compute_capability()
        version = int(driver.get_driver_version())  # 1000 * major + 10 * minor, cuDriverGetVersion
        cuda = f"CUDA {version // 1000}.{version % 1000 // 10}"
        return DeviceFacts(str(device.name()), f"{major}.{minor}", ", ".join((*_module_version(kernel_module), cuda)))
    except driver.Error as exc:
        raise BackendFailed(f"the GPU does not say what it is ({exc}); {TO_DO[BackendFailed]}") from exc


def _module_version(kernel_module: Path) -> tuple[str, ...]:
    """Return the version of the kernel module, such as 580.65.06, or nothing where the system does not show it."""
    try:
        found = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", kernel_module.read_text())
    except OSError:
        return ()
    return (found[1],) if found else ()
