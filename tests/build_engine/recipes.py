"""A small network, and the recipe of a signed INT8 release of it."""

import hashlib
import shutil

import numpy as np
import pydicom
from rich.console import Console
from rich.progress import Progress

from build_engine.recipe import Recipe
from calibration.calibration_set import CalibrationSet, Entry, Stratum, write_calibration_set
from calibration.collect import collect
from calibration.ranges import write_ranges
from edge.contract import KindContract
from edge.signature import generate_key
from landmarknet.network import KINDS, LINE_KINDS, NetworkConfig
from landmarknet.operating_point import reading_of

SIZE, SITES = 192, 144
TINY = NetworkConfig(bottom_up="resnet18", width=0.125, head_width=0.0625, input_size=SIZE, mm_per_net_px=1.6)
PATIENTS = ["lidc0001", "lidc0003"]
NEGATIVES = ["a_limb"]
STRATUM = Stratum(view="ap", machine="unknown", energy="mv", exposure="level-low")
# random weights find no landmarks, and the samples are few
NO_LIMITS = {
    "shift_net_px": 1e3,
    "pck_drop_points": 100.0,
    "score_margin": 1e3,
    "unclear_share": 1.0,
    "least_images": 1,
}


def tiny_kinds():
    """Return what the small network finds, every peak of it."""
    shapes = {kind: "line" if kind in LINE_KINDS else "point" for kind in KINDS}
    return tuple(
        KindContract(kind=kind, threshold=0.0, at_most=3, shape=shape, sigma=(0.5, 1.0))
        for kind, shape in shapes.items()
    )


def calibration_set(*images):
    entries = tuple(
        Entry(path=path, sha256=hashlib.sha256(path.read_bytes()).hexdigest(), stratum=STRATUM) for path in images
    )
    return CalibrationSet(seed=0, entries=entries)


def calibration(model, *images):
    """Return the calibration set of some images, and the model's ranges over it, which take seconds to collect."""
    chosen = calibration_set(*images)
    return chosen, collect(model, reading_of(TINY, tiny_kinds()), chosen, Progress(console=Console(quiet=True)))


def as_of(ranges, *images):
    """Return the calibration set of other images, and ranges that say they are of it: enough for who may judge."""
    chosen = calibration_set(*images)
    return chosen, ranges.model_copy(update={"calibration_set_sha256": chosen.sha256})


def calibrated(recipe, folder, samples, chosen, ranges):
    """Return the recipe of a signed INT8 release with a `calibration`, judged on the samples."""
    write_calibration_set(folder / "set.json", chosen)
    write_ranges(folder / "ranges.json", ranges)
    generate_key(folder / "site.key", folder / "site.pub")
    data_set = folder / "images" / "lidc0002"  # as `landmarknet-train simulate` lays it out
    data_set.mkdir(parents=True)
    for path in (*samples.glob("*.dcm"), samples / "truth.json"):
        shutil.copy(path, data_set)
    store = {"folder": folder / "store", "signing_key": folder / "site.key"}
    changes = {
        "output": None,
        "store": store,
        "precision": "int8",
        "report": folder / "reports",
        "calibration": {"set": folder / "set.json", "ranges": folder / "ranges.json", "method": "max"},
        "gate": {"images": folder / "images", "patients": ["lidc0002"], "limits": NO_LIMITS},
    }
    return Recipe.model_validate(recipe.model_dump() | changes)


def mirrored(samples, path, **tags):
    """Write a sample as another picture: neither its bytes nor its difference hash are the gate's."""
    ds = pydicom.dcmread(samples / "lidc0002_ap_drr_00.dcm")
    ds.SOPInstanceUID = "1.2.3.4.5"
    ds.PixelData = np.ascontiguousarray(ds.pixel_array[:, ::-1]).tobytes()
    for keyword, value in tags.items():
        setattr(ds, keyword, value)
    ds.save_as(path)
    return path


def stored(recipe):
    """Return every file of a recipe's store and reports, by path."""
    roots = (recipe.store.folder, recipe.report)
    return {path: path.read_bytes() for root in roots for path in root.rglob("*") if path.is_file()}
