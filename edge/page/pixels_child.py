"""The process that reads an image's pixels and computes its heatmaps for the page. `edge.page.pixels` starts it.

A child of its own reads the file, under the limits of the service's reader. Whatever becomes of either, neither page
nor daemon is held up.
"""

from __future__ import annotations

import gzip
import io
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edge.config import Config
from edge.contract import Contract, read_contract
from edge.detect import detect
from edge.engines import SHIPPED_RELEASE, Engine, open_configured, open_engine
from edge.errors import EdgeError, ImageUnreadable
from edge.preprocess import WINDOW_PERCENTILES
from edge.processes.child import Blob, Parent
from edge.processes.reader_process import ReaderLimits, ReaderProcess
from edge.records import PortalImage
from edge.results.overlay import over_image
from edge.source_file import demand_not_too_large, signature
from edge.store import Store

NICE = 5  # where the page is run by hand; the shipped unit allows no change of it
READ_WALL_S = 45.0  # beside a service that is at work; what it may compute is the configuration's
MOST_PIXELS = 4096**2  # 32 MiB to the browser; portal images have 0.2 to 4 megapixels
FULL = 65535  # what the brightest pixel becomes
GONE = "the file is not there any more, or cannot be read just now"
CHANGED = "the file is no longer the image of this result"

Answer = tuple[dict[str, Any], Sequence[Blob]]


class _NotShown(Exception):
    """The text says why."""


def main(parent: Parent) -> None:
    """Take the configuration, then answer each request with pixels, heatmaps, or the reason why there are none."""
    with suppress(OSError):  # the unit does not allow it
        os.nice(NICE)
    requests = parent.requests()
    config = Config.model_validate(next(requests).header["config"])
    with ExitStack() as held:
        reader = ReaderProcess(replace(ReaderLimits.of(config), wall_s=READ_WALL_S))
        held.callback(reader.close)
        reader.start()
        maker = Maker(config, reader)
        parent.answer({"ready": True})
        for request in requests:
            parent.answer(*maker.answer(request.header))


class Maker:
    """Makes what is asked for with a reader, and with an engine that is opened when it is first needed."""

    def __init__(self, config: Config, reader: ReaderProcess, most_pixels: int = MOST_PIXELS) -> None:
        self._config = config
        self._most_pixels = most_pixels
        self._reader = reader
        self._engine: Engine | None = None

    def answer(self, asked: dict[str, Any]) -> Answer:
        """Return header and blob of what is asked for; a header with a ``reason`` where there is none."""
        try:
            image = self._read(Path(asked["path"]), asked["name"], asked["sha256"])
            if asked["do"] == "pixels":
                return packed(image)
            return shaded(image, self._opened(asked["model_sha256"], asked["contract_sha256"]))
        except (_NotShown, EdgeError) as exc:
            return {"reason": str(exc)}, ()
        except MemoryError:
            return {"reason": f"{asked['name']}: no memory to show it just now"}, ()

    def _read(self, path: Path, name: str, sha256: str) -> PortalImage:
        """Return the image of a result; the file must still be that very one."""
        try:
            demand_not_too_large(name, signature(path, name), self._config.largest_file_mb * 2**20)
            image = self._reader.read(path, name)
        except ImageUnreadable as exc:
            raise _NotShown(f"{name}: {GONE}") from exc
        if image.identity.sha256 != sha256:
            raise _NotShown(f"{name}: {CHANGED}")
        if image.pixels.size > self._most_pixels:
            raise _NotShown(f"{name}: has {image.pixels.size} pixels; the page shows up to {self._most_pixels}")
        return image

    def _opened(self, model_sha256: str, contract_sha256: str) -> Engine:
        """Return the engine of a result."""
        wanted = model_sha256, contract_sha256
        if self._engine is None or _identity(self._engine.contract, self._engine.contract_sha256) != wanted:
            self._engine = open_that_made(self._config, wanted)
        return self._engine


def open_that_made(config: Config, wanted: tuple[str, str]) -> Engine:
    """Open the release of these hashes (model, contract), where it is in use here and runs on ONNX Runtime.

    No other is opened: its heatmaps would not be those of the result. A device is the daemon's alone.
    """
    contract, contract_sha256 = _in_use(config)
    if contract.flavour == "onnxruntime" and _identity(contract, contract_sha256) == wanted:
        return open_configured(config)
    if _identity(*read_contract(SHIPPED_RELEASE / "contract.json")) == wanted:  # what gives way falls back to it
        return open_engine(None, config.threads)
    if _identity(contract, contract_sha256) == wanted:
        raise _NotShown(f"release {contract.release} runs on {contract.flavour}, which the page leaves to the service")
    raise _NotShown(f"another release made this result than {contract.release}, which is in use now")


def _in_use(config: Config) -> tuple[Contract, str]:
    if config.store is None:
        return read_contract((config.release or SHIPPED_RELEASE) / "contract.json")
    store = Store(config.store, config.release_key)
    if (name := store.current()) is None:
        raise _NotShown("the store has no release in use")
    release = store.verify(name)
    return release.contract, release.contract_sha256


def _identity(contract: Contract, contract_sha256: str) -> tuple[str, str]:
    return contract.model_sha256, contract_sha256


def packed(image: PortalImage) -> Answer:
    """Return pixels (H, W) as little-endian uint16, compressed: ``low + value * (high - low) / 65535`` is a pixel.

    ``window`` is what to show of it at first (`first_window`). ``sign`` times a pixel is the file's own value
    after its rescale, which other viewers show.
    """
    pixels = image.pixels
    low, high = float(pixels.min()), float(pixels.max())
    scaled = (pixels - low) * np.float32(FULL / (high - low or 1.0))
    data = np.rint(scaled).astype("<u2").tobytes()
    header = {"height": pixels.shape[0], "width": pixels.shape[1], "low": low, "high": high}
    header["sign"] = image.rescale.sign
    return header | {"window": list(first_window(pixels))}, [gzip.compress(data, 1, mtime=0)]


def first_window(pixels: np.ndarray) -> tuple[float, float]:
    """Return the darkest and the brightest pixel to tell apart at first: those of the middle, as a field has them."""
    height, width = pixels.shape
    middle = pixels[height // 4 : height - height // 4, width // 4 : width - width // 4]
    low, high = (float(one) for one in np.percentile(middle, WINDOW_PERCENTILES))
    return (low, high) if low < high else (float(pixels.min()), float(pixels.max()))


def shaded(image: PortalImage, engine: Engine) -> Answer:
    """Return how opaque each heatmap is as one grey PNG, kind below kind: each covers the image, as in the overlay."""
    found = detect(image, engine.backend, engine.contract)
    height, width = image.pixels.shape
    maps = [over_image(one, found.placement, (height, width)) for one in found.inference.heatmaps]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(maps)).save(buffer, "PNG", compress_level=4)
    return {"kinds": [promise.kind for promise in engine.contract.kinds]}, [buffer.getvalue()]


if __name__ == "__main__":
    main(Parent(sys.argv[1:]))
