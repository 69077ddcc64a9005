"""A portal image as the DICOM outputs get it, a registration to show, and the judges of what was written."""

import io
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from uuid import UUID, uuid5

import numpy as np
import pydicom
import pytest

from edge.contract import KindContract
from edge.portal_image import read_portal_image
from edge.records import Landmark, PortalImage
from edge.registration.register import Registration, RunnerUp
from edge.results.dicom_common import Making
from edge.results.dicom_source import DicomSource, read_source

PATIENT = {
    "PatientName": "Muster^Erika",
    "PatientID": "PID-4711",
    "PatientBirthDate": "19500102",
    "PatientSex": "F",
    "StudyInstanceUID": "1.2.3.1",
    "SeriesInstanceUID": "1.2.3.2",
    "StudyDate": "20260105",
    "StudyTime": "101112",
    "StudyID": "S7",
    "AccessionNumber": "A8",
    "ReferringPhysicianName": "Arzt^A",
}


SHOWN = Registration(
    status="ok",
    reason=None,
    shift_mm=(8.25, -5.5),
    rotation_deg=1.5,
    interval95_mm=(0.75, 0.875),
    covariance=((0.14, 0.0), (0.0, 0.2)),
    axes="isocentre plane, +x right and +y up in the image",
    n_used=5,
    residual_mm=0.625,
    runner_up=RunnerUp((8.0, 21.5), 12.5),
)
WITHHELD = Registration(
    status="withheld",
    reason="the row may be one vertebra off",
    shift_mm=None,
    rotation_deg=None,
    interval95_mm=None,
    covariance=None,
    axes="",
    n_used=0,
    residual_mm=None,
    runner_up=None,
)


@dataclass(frozen=True, eq=False)
class Portal:
    """An image file's bytes with what was read of them."""

    data: bytes
    image: PortalImage
    source: DicomSource

    def landmark(self, kind, x, y, score=0.9, sigma_px=2.0):
        """Return a landmark at detector px, with its millimetres where the image has any."""
        geometry = self.image.geometry
        xy_mm = None if geometry is None else tuple(geometry.to_isoplane(np.array((x, y))).tolist())
        return Landmark(kind, (x, y), xy_mm, score, sigma_px)


@pytest.fixture(scope="session")
def registered():
    """Return a function: a registration that is shown; ``changes`` replace entries."""
    return lambda **changes: replace(SHOWN, **changes)


@pytest.fixture(scope="session")
def withheld():
    """Return a registration that is withheld."""
    return WITHHELD


@pytest.fixture(scope="session")
def kinds():
    """Return the kinds of a contract: two sorts of points and a line."""
    shapes = {"spinous_process": "point", "tracheal_bifurcation": "point", "spine_line": "line"}
    return [KindContract(kind=kind, threshold=0.5, at_most=64, shape=shape) for kind, shape in shapes.items()]


@pytest.fixture(scope="session")
def maker() -> Callable[..., Making]:
    """Return a function: who makes an object and when; UIDs follow from a purpose, as from a result's key."""

    def make(**changes):
        def uid(purpose):
            return f"2.25.{uuid5(UUID(int=1), purpose).int}"

        return replace(Making(uid, datetime(2026, 1, 6, 7, 8, 9, 10), "landmarknet-edge 0.1.0", "small-1"), **changes)

    return make


@pytest.fixture
def making(maker):
    """Return one `Making`."""
    return maker()


@pytest.fixture(scope="session")
def opened():
    """Return a function: a `Portal` of a file."""

    def of(path):
        data, image = Path(path).read_bytes(), read_portal_image(Path(path))
        source = read_source(data, image.identity.name, image.pixels.shape)
        assert isinstance(source, DicomSource), source
        return Portal(data, image, source)

    return of


@pytest.fixture
def portal(dicom, write, collimated, opened):
    """Return a function: a `Portal` of a small image of a patient; ``changes`` replace or (None) remove attributes."""

    def of(pixels=None, **changes):
        return opened(write(dicom(collimated() if pixels is None else pixels, **(PATIENT | changes))))

    return of


@pytest.fixture
def tool(tmp_path):
    """Return a function that runs an independent program, DICOM files given as bytes; skips where there is none."""

    def run(program, package, *arguments):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (package {package})")
        words = []
        for number, argument in enumerate(arguments):
            words.append(tmp_path / f"{program}{number}.dcm" if isinstance(argument, bytes) else argument)
            if isinstance(argument, bytes):
                words[-1].write_bytes(argument)
        return subprocess.run([program, *words], capture_output=True, check=False, timeout=60)

    return run


@pytest.fixture
def errors(tool):
    """Return a function: the errors that dciodvfy finds in an object."""

    def of(data):
        done = tool("dciodvfy", "dicom3tools", data)
        said = (done.stderr + done.stdout).decode("latin-1")
        assert said.splitlines(), "it names at least the kind of object"
        return [line for line in said.splitlines() if line.startswith("Error")]

    return of


@pytest.fixture(scope="session")
def lacking():
    """Return a function: the attributes of type 1 and 2 in mandatory modules that an object lacks, and unknown ones.

    By the tables of PS3.3, which highdicom carries; so nothing has to be fetched, as for dicom-validator. Left out is
    the content of a report, whose attributes depend on the type of each item: of that dciodvfy tells.
    """
    tables = files("highdicom") / "_standard"
    iods, modules, names = (
        json.loads((tables / f"{name}_map.json").read_bytes())
        for name in ("iod_module", "module_attribute", "sop_class_iod")
    )

    def of(data):
        made = pydicom.dcmread(io.BytesIO(data))
        used = iods[names[made.SOPClassUID]]
        demanded = {module["key"] for module in used if module["usage"] == "M"} - {"sr-document-content"}
        mandatory = [one for key in sorted(demanded) for one in modules[key]]
        missing = [one["keyword"] for one in mandatory for item in within(made, one["path"]) if is_missing(item, one)]
        known = {one["keyword"] for module in used for one in modules[module["key"]] if not one["path"]}
        return list(dict.fromkeys(missing + [element.keyword for element in made if element.keyword not in known]))

    return of


def within(made, path) -> Iterator[pydicom.Dataset]:
    """Yield the items at a path of sequences; none where a sequence is not there."""
    if not path:
        yield made
        return
    for item in made.get(path[0]) or ():
        yield from within(item, path[1:])


def is_missing(item, attribute):
    """Return whether an attribute of type 1 is absent or empty, one of type 2 absent (PS3.5 7.4)."""
    if attribute["type"] not in {"1", "2"}:
        return False
    return attribute["keyword"] not in item or (attribute["type"] == "1" and item[attribute["keyword"]].is_empty)
