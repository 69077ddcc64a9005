"""Landmarks of the portal images that land in a folder: the script that one writes oneself.

    python benchmarks/peers/usual_script.py FOLDER WEIGHTS.pt

watchdog says that a file came, pydicom reads it, torch runs the network as published (the plain head), scipy finds the
peaks, and a JSON file is written beside the image. No waiting for the whole file, no check of it, no restart, no audit:
what a careful person writes in an afternoon for one workstation. Equalisation and scale belong to the network, so both
call the same function for them.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import torch
from scipy import ndimage
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from edge.preprocess import to_network_input
from landmarknet.checkpoint import load_checkpoint
from landmarknet.network import LandmarkNet

THRESHOLD = 0.3
RADIUS_PX = 4


@dataclass(frozen=True)
class Options:
    """``mirrored``: the mean with what the network says of the mirror image, as the release has it."""

    mirrored: bool = True


def load_network(weights: Path) -> LandmarkNet:
    """Return the trained network, ready to infer."""
    checkpoint = load_checkpoint(weights)
    network = LandmarkNet(checkpoint.network, head="plain")
    network.load_state_dict(checkpoint.averaged)
    return network.eval().to(memory_format=torch.channels_last)


def process(path: Path, network: LandmarkNet, options: Options) -> list[dict[str, Any]]:
    """Write and return the landmarks of one image."""
    batch, placement = read(path, network)
    found = peaks(heatmaps_of(batch, network, options), network.config.kinds)
    for one in found:
        x, y = placement.to_image(np.array([one["x_net"], one["y_net"]]))
        one |= {"x_px": float(x), "y_px": float(y)}
    path.with_suffix(".json").write_text(json.dumps({"image": path.name, "landmarks": found}, indent=2))
    return found


def read(path: Path, network: LandmarkNet) -> tuple[np.ndarray, Any]:
    """Return the network's input, and where the image lies in it."""
    ds = pydicom.dcmread(path)
    pixels = ds.pixel_array.astype(np.float32)
    if ds.get("PixelIntensityRelationshipSign", 1) < 0:
        pixels = -pixels
    mm_per_px = float(ds.ImagePlanePixelSpacing[0]) * float(ds.RadiationMachineSAD) / float(ds.RTImageSID)
    config = network.config
    ratio = None if config.mm_per_net_px is None else mm_per_px / config.mm_per_net_px
    return to_network_input(pixels, config.input_size, ratio)


def heatmaps_of(batch: np.ndarray, network: LandmarkNet, options: Options) -> np.ndarray:
    """Return (n, S, S)."""
    image = torch.from_numpy(batch).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        if not options.mirrored:
            return network(image).heatmaps[0].numpy()
        as_seen, mirrored = network(torch.cat((image, image.flip(-1)))).heatmaps
        return ((as_seen + mirrored.flip(-1)) / 2).numpy()


def peaks(heatmaps: np.ndarray, kinds: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return each local maximum above the threshold; equal neighbours are one, at their middle."""
    found = []
    for kind, heatmap in zip(kinds, heatmaps, strict=True):
        highest = ndimage.maximum_filter(heatmap, size=2 * RADIUS_PX + 1)
        groups, count = ndimage.label((heatmap == highest) & (heatmap > THRESHOLD))
        for y, x in ndimage.center_of_mass(groups > 0, groups, range(1, count + 1)):
            score = float(heatmap[round(y), round(x)])
            found.append({"kind": kind, "x_net": float(x), "y_net": float(y), "score": score})
    return found


class Arrivals(FileSystemEventHandler):
    """Processes each DICOM file that was written."""

    def __init__(self, network: LandmarkNet) -> None:
        self.network = network

    def on_closed(self, event: FileSystemEvent) -> None:
        path = Path(str(event.src_path))
        if path.suffix == ".dcm":
            process(path, self.network, Options())


def main(folder: Path, weights: Path) -> None:
    """Serve a folder until interrupted."""
    observer = Observer()
    observer.schedule(Arrivals(load_network(weights)), str(folder))
    observer.start()
    print("ready", flush=True)
    try:
        while observer.is_alive():
            time.sleep(1)
    except KeyboardInterrupt:
        observer.stop()
    observer.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
