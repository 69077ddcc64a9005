import gzip
import io
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from edge.config import Config
from edge.contract import read_contract
from edge.detect import detect
from edge.engines import SHIPPED_RELEASE, open_engine
from edge.page.pixels import Made, Pixels, Wanted
from edge.page.pixels_child import NICE, Maker, first_window, packed
from edge.portal_image import read_portal_image
from edge.processes.reader_process import ReaderLimits, ReaderProcess
from edge.results.overlay import SHADE, over_image
from tests.page.image_room import SAMPLES

SAMPLE = SAMPLES / "lidc0002_lateral_mv_00.dcm"
CONTRACT, CONTRACT_SHA256 = read_contract(SHIPPED_RELEASE / "contract.json")


@pytest.fixture(scope="module")
def reader():
    """Return a reader that serves several tests, as it serves several images."""
    reader = ReaderProcess(ReaderLimits.of(Config()))
    yield reader
    reader.close()


@pytest.fixture
def image(tmp_path):
    """Return a copy of a sample."""
    return shutil.copyfile(SAMPLE, tmp_path / "X.dcm")


def asked(do, path, **changes):
    """Return a request for a file as it now is, with the shipped release."""
    sha256 = read_portal_image(SAMPLE).identity.sha256
    made_with = {"model_sha256": CONTRACT.model_sha256, "contract_sha256": CONTRACT_SHA256}
    return {"do": do, "path": str(path), "name": path.name, "sha256": sha256} | made_with | changes


def reason(maker, request):
    """Return why nothing is shown."""
    header, blobs = maker.answer(request)
    assert (list(header), list(blobs)) == (["reason"], [])
    return header["reason"]


# --- pixels ---


def test_pixels_come_within_half_a_step_of_what_was_read(reader, image):
    header, (data,) = Maker(Config(), reader).answer(asked("pixels", image))
    pixels = read_portal_image(SAMPLE).pixels
    assert (header["height"], header["width"]) == pixels.shape
    assert (header["low"], header["high"]) == (pixels.min(), pixels.max())
    step = (header["high"] - header["low"]) / 65535
    values = np.frombuffer(gzip.decompress(data), "<u2").reshape(pixels.shape)
    assert np.abs(header["low"] + values * step - pixels).max() <= step * 0.51  # 0.01: of float32
    assert (values.min(), values.max()) == (0, 65535)


def test_the_same_image_gives_the_same_bytes():
    image = read_portal_image(SAMPLE)
    assert packed(image)[1] == packed(image)[1]


def test_the_first_window_is_that_of_the_middle():
    """A field of 10 to 20 in a frame of 1000 whose quarter is as wide as the frame."""
    pixels = np.full((100, 100), 1000.0)
    pixels[25:75, 25:75] = np.linspace(10, 20, 2500).reshape(50, 50)
    low, high = first_window(pixels)
    assert (low, high) == pytest.approx((10.05, 19.95), abs=0.01)  # percentiles 0.5 and 99.5


def test_a_flat_middle_is_shown_over_the_full_range():
    pixels = np.full((100, 100), 5.0)
    pixels[0, 0], pixels[0, 1] = 1.0, 9.0
    assert first_window(pixels) == (1.0, 9.0)


def test_a_file_that_changed_is_not_shown(reader, image):
    data = bytearray(image.read_bytes())
    data[-1] ^= 1
    image.write_bytes(data)
    told = reason(Maker(Config(), reader), asked("pixels", image))
    assert told == "X.dcm: the file is no longer the image of this result"


def test_a_file_that_is_gone_is_not_shown(reader, image):
    image.unlink()
    told = reason(Maker(Config(), reader), asked("pixels", image))
    assert told == "X.dcm: the file is not there any more, or cannot be read just now"


def test_a_link_is_not_followed(reader, image, tmp_path):
    link = tmp_path / "link.dcm"
    link.symlink_to(image)
    assert reason(Maker(Config(), reader), asked("pixels", link)).startswith("link.dcm: is a symbolic link")


def test_a_pipe_is_not_waited_for(reader, tmp_path):
    os.mkfifo(tmp_path / "pipe.dcm")
    assert "not a regular file" in reason(Maker(Config(), reader), asked("pixels", tmp_path / "pipe.dcm"))


def test_a_file_above_the_limit_is_not_read(reader, image):
    with image.open("r+b") as file:
        file.truncate(2 * 2**20)
    told = reason(Maker(Config(largest_file_mb=1), reader), asked("pixels", image))
    assert told.startswith("X.dcm: has 2097152 bytes, the limit is 1048576")


def test_an_image_of_more_pixels_than_a_browser_should_hold_is_not_shown(reader, image):
    maker = Maker(Config(), reader, most_pixels=384 * 512 - 1)
    assert reason(maker, asked("pixels", image)) == "X.dcm: has 196608 pixels; the page shows up to 196607"


def test_a_file_that_is_no_image_any_more_is_a_reason(reader, image):
    image.write_bytes(b"hello")
    assert reason(Maker(Config(), reader), asked("pixels", image)).startswith("X.dcm: is neither DICOM nor")


# --- heatmaps ---


def test_heatmaps_are_those_of_the_release_kind_below_kind(reader, image):
    header, (data,) = Maker(Config(), reader).answer(asked("heatmaps", image))
    assert header == {"kinds": [promise.kind for promise in CONTRACT.kinds]}
    engine, portal = open_engine(None, 1), read_portal_image(SAMPLE)
    found = detect(portal, engine.backend, engine.contract)
    expected = np.concatenate([over_image(one, found.placement, (384, 512)) for one in found.inference.heatmaps])
    picture = np.asarray(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(picture, expected, strict=True)
    at = [kind.kind for kind in CONTRACT.kinds].index("tracheal_bifurcation")
    (landmark,) = (one for one in found.landmarks if one.kind == "tracheal_bifurcation")
    assert picture[at * len(picture) // 4 : (at + 1) * len(picture) // 4].max() / 255 == pytest.approx(
        landmark.score * SHADE,
        abs=0.05,  # of the overlay; a height, not only whether there is one
    )


@pytest.mark.parametrize("other", ["model_sha256", "contract_sha256"])
def test_heatmaps_of_another_release_are_not_computed(reader, image, other):
    told = reason(Maker(Config(), reader), asked("heatmaps", image, **{other: "0" * 64}))
    assert told == f"another release made this result than {CONTRACT.release}, which is in use now"


def copy_of_release(folder, **changes):
    """Copy the shipped release with another contract; return its folder and the contract's hash."""
    shutil.copytree(SHIPPED_RELEASE, folder)
    document = json.loads((folder / "contract.json").read_text()) | changes
    (folder / "contract.json").write_text(json.dumps(document))
    return folder, read_contract(folder / "contract.json")[1]


def test_a_release_that_needs_a_device_is_left_to_the_service(reader, image, tmp_path):
    release, sha256 = copy_of_release(tmp_path / "release", flavour="tensorrt", release="gpu-1")
    told = reason(Maker(Config(release=release), reader), asked("heatmaps", image, contract_sha256=sha256))
    assert told == "release gpu-1 runs on tensorrt, which the page leaves to the service"


def test_the_shipped_release_is_opened_for_its_own_results_whatever_is_in_use(reader, image, tmp_path):
    release, _ = copy_of_release(tmp_path / "release", flavour="tensorrt", release="gpu-1")
    header, blobs = Maker(Config(release=release), reader).answer(asked("heatmaps", image))
    assert (list(header), len(blobs)) == (["kinds"], 1)


def test_a_release_that_is_damaged_is_a_reason(reader, image, tmp_path):
    release, sha256 = copy_of_release(tmp_path / "release", release="site-1")
    (release / "model.onnx").write_bytes(b"none")
    told = reason(Maker(Config(release=release), reader), asked("heatmaps", image, contract_sha256=sha256))
    assert "SHA-256 differs" in told


# --- the process ---


REFUSED_NICE = """
import os, runpy, sys

def refused(by):
    raise PermissionError(1, "Operation not permitted")

os.nice = refused
runpy.run_module("edge.page.pixels_child", run_name="__main__", alter_sys=True)
"""


def test_the_process_answers_where_it_may_not_change_how_urgent_it_is(image):
    """The units refuse setpriority with EPERM (SystemCallFilter=~@resources): no image was ever shown there."""
    pixels = Pixels(Config(), ("-c", REFUSED_NICE))
    try:
        made = pixels.ask(Wanted(**asked("pixels", image))).result(timeout=60)
        assert isinstance(made, Made), made
    finally:
        pixels.close()


def test_the_process_answers_and_is_less_urgent_than_the_service(image):
    pixels = Pixels(Config())
    try:
        made = [pixels.ask(Wanted(**asked(do, image))).result(timeout=60) for do in ("pixels", "heatmaps")]
        assert all(isinstance(one, Made) for one in made), made
        assert NICE > 0
        assert os.getpriority(os.PRIO_PROCESS, pixels.pid) == NICE
    finally:
        pixels.close()
