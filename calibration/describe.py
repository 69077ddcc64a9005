"""From folders of portal images to what selection and audit compare: no pixels are kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from calibration.calibration_set import CalibrationError
from calibration.header import Header, patient_hash, read_header
from edge.contract import Reading
from edge.detect import scale_ratios
from edge.errors import EdgeError, NotAnImage
from edge.geometry import ImageGeometry
from edge.portal_image import read_portal_image
from edge.preprocess import normalise, resize, to_network_input
from edge.records import PortalImage
from edge.results.publish import image_name, is_own_output

Track = Callable[[Sequence[Path]], Iterable[Path]]  # shows a progress bar while the paths are gone through
View = Literal["ap", "lateral", "oblique", "unknown"]
VIEW_REACH_DEG = 30.0  # around 0, 90, 180, 270
TRUTH_FILE = "truth.json"  # beside the images of a simulated data set
# `grey_statistics`, each with the least change of its median that can matter to a network: a hundredth of the range of
# grey levels or of the area; of the detail, a tenth of what simulated images have at 1.6 mm per network px.
GREYS = {"mean": 0.02, "spread": 0.02, "darkest 5 %": 0.02, "brightest 5 %": 0.02, "detail": 0.003, "area": 0.01}
HASH_SIDE = 16
HASHED_FROM_PX = 64
# Of 256 bits. Copies with 2 % noise, other gain, depth and crop by 2 px differ by 2 (median) and 6 (90 %) bits;
# the nearest two of 584 simulated images of 19 patients by 11.
NEAR_DUPLICATE_BITS = 10


@dataclass(frozen=True, eq=False)
class Described:
    """One image without its pixels. ``patients`` are hashes, from the header and from the truth of a simulation."""

    path: Path
    sha256: str
    view: View
    header: Header
    level: float  # mean of the pixels as the room reads them
    patients: frozenset[str]
    fingerprint: np.ndarray  # (32,) uint8: `difference_hash`
    greys: np.ndarray  # (6,) `GREYS` of the network input; (0,) where nobody said how the network is fed


@dataclass(frozen=True)
class Walk:
    """What folders hold: images by path; of each unreadable one, why; and how many files are no images at all."""

    images: tuple[Described, ...]
    unreadable: tuple[str, ...]
    others: int


def walk(folders: Sequence[Path], track: Track, reading: Reading | None = None) -> Walk:
    """Read and describe all images in folders and below; raise `CalibrationError` where a folder is not there."""
    found: list[Described] = []
    unreadable, others = [], 0
    truth: dict[Path, dict[str, str]] = {}
    for path in track(_files(folders)):
        if not _is_text(path):
            unreadable.append(f"{image_name(path)}: its name is not UTF-8; rename it")
            continue
        if path.parent not in truth:
            truth[path.parent] = patients_of_truth(path.parent)
        try:
            found.append(describe(path, read_portal_image(path), truth[path.parent], reading))
        except NotAnImage:
            others += 1
        except (EdgeError, CalibrationError) as exc:
            unreadable.append(str(exc))
    return Walk(tuple(found), tuple(unreadable), others)


def describe(path: Path, image: PortalImage, truth: dict[str, str], reading: Reading | None) -> Described:
    """Describe one image; ``truth`` names patients by file name, as `patients_of_truth` reads them."""
    header = read_header(path)
    named = (header.patient, patient_hash(truth[path.name]) if path.name in truth else None)
    return Described(
        path=path,
        sha256=image.identity.sha256,
        view=view_of(image.geometry),
        header=header,
        level=float(image.pixels.mean(dtype=np.float64)),
        patients=frozenset(patient for patient in named if patient),
        fingerprint=difference_hash(image.pixels),
        greys=np.empty(0) if reading is None else grey_statistics(image, reading),
    )


def view_of(geometry: ImageGeometry | None) -> View:
    """Tell the view by the gantry angle; unknown where the room does not trust it, as with an angle of 0."""
    if geometry is None or geometry.gantry_deg is None:
        return "unknown"
    from_vertical = abs((geometry.gantry_deg + 90) % 180 - 90)  # 0 at gantry 0 and 180, 90 at 90 and 270
    if from_vertical <= VIEW_REACH_DEG:
        return "ap"
    return "lateral" if from_vertical >= 90 - VIEW_REACH_DEG else "oblique"


def difference_hash(pixels: np.ndarray) -> np.ndarray:
    """Return (32,) uint8: whether it gets brighter to the right, at 16 x 16 places of the room's normalised image.

    The same image at another gain, size or depth keeps nearly all bits.
    """
    small = resize(normalise(resize(pixels, (HASHED_FROM_PX, HASHED_FROM_PX))), (HASH_SIDE, HASH_SIDE + 1))
    return np.packbits(small[:, 1:] > small[:, :-1])


def bits_apart(fingerprint: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the (n,) Hamming distances of a fingerprint (32,) to others (n, 32), or to their negatives if nearer.

    Of an export as PNG the room has to guess whether bright means more dose, so a copy may come out as a negative.
    """
    apart = np.bitwise_count(fingerprint ^ others).sum(axis=-1, dtype=np.int64)
    return np.minimum(apart, HASH_SIDE**2 - apart)


def grey_statistics(image: PortalImage, reading: Reading) -> np.ndarray:
    """Return the (6,) `GREYS` of what the network sees of an image, at the first scale that the room tries.

    ``detail`` is the mean step between neighbours in a row, ``area`` the image's share of the network's square.
    """
    batch, placement = to_network_input(image.pixels, reading.input_size, scale_ratios(image, reading)[0])
    x, y = placement.offset
    height, width = (round(n * scale) for n, scale in zip(image.pixels.shape, placement.scale[::-1], strict=True))
    seen = batch[0, 0, y : y + height, x : x + width]
    dark, bright = np.percentile(seen, (5, 95))
    detail = np.abs(np.diff(seen, axis=1)).mean() if width > 1 else 0.0
    return np.array([seen.mean(), seen.std(), dark, bright, detail, seen.size / reading.input_size**2])


def patients_of_truth(folder: Path) -> dict[str, str]:
    """Return the patient per file name that a simulated data set's truth names; nothing where there is none."""
    try:
        listed = json.loads((folder / TRUTH_FILE).read_bytes())["images"]
        return {str(name): str(entry["patient"]) for name, entry in listed.items() if entry.get("patient")}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}  # a file of that name that is none of ours


def _files(folders: Sequence[Path]) -> list[Path]:
    """Return files named, and all in and below folders named, each once, by path; hidden ones and our results not."""
    found: set[Path] = set()
    for folder in folders:
        if not folder.exists():
            raise CalibrationError(f"{folder}: is not there; name a folder of portal images")
        found.update([folder] if folder.is_file() else _below(folder))
    return sorted(found)


def _is_text(path: Path) -> bool:
    """Tell whether a manifest can name the file."""
    return str(path).encode(errors="replace").decode() == str(path)


def _below(folder: Path) -> list[Path]:
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".") and not is_own_output(path.name)
    ]
