"""What the release that is shipped must do with images it never saw: the samples are of the held-out patient."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from edge.detect import scale_ratios
from edge.pipeline import Pipeline
from edge.portal_image import read_portal_image
from edge.preprocess import fit_into_square, resize, to_network_input

SAMPLES = sorted(path.name for path in (Path(__file__).parents[2] / "samples").glob("*.dcm"))
PAPER_SIZE, FOUND_WITHIN_PAPER_PX = 384, 8  # the paper's headline tolerance, of the whole image fitted into its square
CARINA = "tracheal_bifurcation"


def published(engine, folder):
    """Return a function: the landmarks that the pipeline publishes for these bytes of a file."""
    pipeline = Pipeline(engine, "d" * 64, overlay=False)

    def landmarks(data):
        (folder / "X.dcm").write_bytes(data)
        result = pipeline(folder / "X.dcm", None)
        assert result.status != "refused", result.reason
        return result.landmarks

    return landmarks


@pytest.fixture(scope="module")
def landmarks(shipped, tmp_path_factory):
    """Return `published` for the release as it is."""
    return published(shipped, tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def candidates(shipped, tmp_path_factory):
    """Return `published` for the release with thresholds so low that each image shows several of each kind."""
    at_most = {"point": 8, "line": 64}
    low = tuple(
        kind.model_copy(update={"threshold": 0.1, "at_most": at_most[kind.shape]}) for kind in shipped.contract.kinds
    )
    lenient = replace(shipped, contract=shipped.contract.model_copy(update={"kinds": low}))
    return published(lenient, tmp_path_factory.mktemp("images"))


def places(landmarks):
    return [(one.kind, one.x_px, one.y_px) for one in landmarks]


def test_there_are_samples_of_both_views_and_both_modalities():
    assert [tuple(name.split("_")[1:3]) for name in SAMPLES] == [
        ("ap", "drr"), ("ap", "mv"), ("lateral", "drr"), ("lateral", "mv"),
    ]  # fmt: skip


@pytest.mark.parametrize("name", SAMPLES)
def test_the_carina_of_a_patient_it_never_saw_is_found(landmarks, samples, name):
    data = (samples / name).read_bytes()
    truth = json.loads((samples / "truth.json").read_text())["images"][name]["landmarks"]
    (true,) = (one for one in truth if one["kind"] == CARINA)
    found = [one for one in landmarks(data) if one.kind == CARINA]
    assert len(found) == 1
    placement, _ = fit_into_square(read_portal_image(samples / name).pixels.shape, PAPER_SIZE)
    off = placement.to_net((found[0].x_px, found[0].y_px)) - placement.to_net((true["x_px"], true["y_px"]))
    assert np.hypot(*off) <= FOUND_WITHIN_PAPER_PX


# --- the same image, written otherwise ---


def rewritten(sample, *, invert=False, **changes):
    """Return a sample's file with some attributes replaced or (None) removed, and its stored values inverted."""
    dataset = pydicom.dcmread(sample)
    if invert:
        dataset.PixelData = (65535 - dataset.pixel_array).astype("<u2").tobytes()
    for keyword, value in changes.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    stream = pydicom.filebase.DicomBytesIO()
    dataset.save_as(stream)
    return stream.getvalue()


WAYS = {
    "inverted, with the opposite sign": lambda sign: {"invert": True, "PixelIntensityRelationshipSign": -sign},
    "the other MONOCHROME": lambda sign: {"PhotometricInterpretation": "MONOCHROME1"},
    "inverted, with the opposite slope": lambda sign: {
        "invert": True, "RescaleSlope": "-1", "RescaleIntercept": "65535",
    },
    "another gain and offset": lambda sign: {"RescaleSlope": "0.25", "RescaleIntercept": "-1000"},
    "without a sign": lambda sign: {"PixelIntensityRelationshipSign": None},
    "inverted, without a sign": lambda sign: {"invert": True, "PixelIntensityRelationshipSign": None},
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SAMPLES)
def test_the_same_image_written_otherwise_has_the_same_landmarks(candidates, samples, name, way):
    sign = pydicom.dcmread(samples / name).PixelIntensityRelationshipSign
    expected = places(candidates((samples / name).read_bytes()))
    assert CARINA in {kind for kind, *_ in expected}
    actual = places(candidates(rewritten(samples / name, **WAYS[way](sign))))
    assert [kind for kind, *_ in actual] == [kind for kind, *_ in expected]
    # detector px: what is left is rounding to single precision, and to three decimals in the document
    np.testing.assert_allclose([xy for _, *xy in actual], [xy for _, *xy in expected], rtol=0, atol=0.01)


# --- the image moved ---


FRAME_NET_PX, SHIFT_NET_PX = 44, 32


@pytest.fixture(scope="module")
def framed(dicom, samples, shipped):
    """Return a function: the middle of a DRR as a file whose detector px are the network's, its frame moved along.

    The frame is of one grey and 44 px wide, so that rolling the image by up to 32 px moves nothing over its edge, and
    keeps its histogram: the network gets exactly the moved input.
    """
    size, mm_per_net_px = shipped.contract.input_size, shipped.contract.mm_per_net_px
    y = np.arange(size)
    opened = 1 / (1 + np.exp(-(np.minimum(y, size - 1 - y) - FRAME_NET_PX) / 2))
    spacing = f"{1.5 * mm_per_net_px}\\{1.5 * mm_per_net_px}"  # at the receptor: SID 1500, SAD 1000

    def moved(name, dx, dy):
        image = read_portal_image(samples / name)
        side = round(image.pixels.shape[0] * image.geometry.mm_per_px_at_isocentre[1] / mm_per_net_px)
        middle = slice((side - size) // 2, (side - size) // 2 + size)
        dose = resize(image.pixels, (side, side))[middle, middle]
        dark, bright = np.percentile(dose, (1, 99))
        field = (np.clip(dose, dark, bright) - dark) * opened[:, None] * opened / (bright - dark)
        stored = np.roll(np.rint(1000 + 60000 * field).astype("<u2"), (dy, dx), (0, 1))
        return dicom(stored, ImagePlanePixelSpacing=spacing, RTImagePosition=None)

    return moved


def test_moving_the_framed_image_is_all_that_moves_in_the_network_s_input(framed, shipped, tmp_path):
    """What the tests below take for granted."""
    inputs = []
    for shift in ((0, 0), (SHIFT_NET_PX, -SHIFT_NET_PX)):
        (tmp_path / "X.dcm").write_bytes(framed(SAMPLES[0], *shift))
        image = read_portal_image(tmp_path / "X.dcm")
        (ratio,) = scale_ratios(image, shipped.contract)
        assert ratio == pytest.approx(1, abs=1e-9)
        inputs.append(to_network_input(image.pixels, shipped.contract.input_size, ratio)[0][0, 0])
    np.testing.assert_array_equal(np.roll(inputs[0], (-SHIFT_NET_PX, SHIFT_NET_PX), (0, 1)), inputs[1])


def movements(candidates, framed, shipped, name, dx, dy):
    """Return (k, 2): by how much the carina moved, and the best of each other kind of point that is clear and inside.

    A line's points are read at rows of the network's grid, so they move to its sides only.
    """
    points = {kind.kind for kind in shipped.contract.kinds if kind.shape == "point"}
    before, after = candidates(framed(name, 0, 0)), candidates(framed(name, dx, dy))
    best = {one.kind: one for one in sorted(before, key=lambda one: one.score) if one.kind in points}
    assert CARINA in best
    low, high = shipped.contract.input_size / 4, shipped.contract.input_size * 3 / 4
    moved = []
    for one in best.values():
        if one.kind == CARINA or (one.score >= 0.5 and low <= one.x_px <= high and low <= one.y_px <= high):
            here = np.array([(other.x_px, other.y_px) for other in after if other.kind == one.kind]).reshape(-1, 2)
            steps = here - (one.x_px, one.y_px)
            moved.append(steps[np.hypot(*(steps - (dx, dy)).T).argmin()])
    return np.array(moved)


@pytest.mark.parametrize("name", [name for name in SAMPLES if "drr" in name])
@pytest.mark.parametrize(("dx", "dy"), [(32, 0), (-32, 0), (0, 32), (0, -32), (32, 32)])
def test_moving_the_image_by_the_network_s_stride_moves_the_landmarks_as_far(candidates, framed, shipped, name, dx, dy):
    moved = movements(candidates, framed, shipped, name, dx, dy)
    # network px. Every layer, of a stride of 32 or less, answers a move by 32 px with the same move; only the padding
    # at the square's edge, which the widest receptive fields reach, does not move along.
    np.testing.assert_allclose(moved, np.broadcast_to((dx, dy), moved.shape), rtol=0, atol=0.5)


@pytest.mark.parametrize("name", [name for name in SAMPLES if "drr" in name])
@pytest.mark.parametrize(("dx", "dy"), [(32, 0), (-32, 0), (0, 32), (0, -32), (32, 32)])
def test_moving_the_image_by_the_network_s_stride_moves_the_spine_line_as_far(
    candidates, framed, shipped, name, dx, dy
):
    size = shipped.contract.input_size

    def line(*shift):
        """Return x by y, of the rows that are off the frame wherever it is moved to."""
        return {
            round(one.y_px - shift[1], 1): one.x_px - shift[0]
            for one in candidates(framed(name, *shift))
            if one.kind == "spine_line" and size / 4 <= one.y_px - shift[1] <= size * 3 / 4
        }

    before, after = line(0, 0), line(dx, dy)
    rows = sorted(before.keys() & after.keys())
    assert len(rows) >= size / 2 / 8 - 2  # a point every 8 px; one may be cut off at each end
    # network px. As above; but a ridge is wide, and flat along the line, so the padding's small change moves its middle
    # more, most where it fades out: there by up to a cell of the finest features, 4 px.
    np.testing.assert_allclose([after[y] for y in rows], [before[y] for y in rows], rtol=0, atol=4.0)
    assert np.median(np.abs([after[y] - before[y] for y in rows])) < 1.0


@pytest.mark.parametrize("name", [name for name in SAMPLES if "drr" in name])
@pytest.mark.parametrize(("dx", "dy"), [(1, 0), (0, 2), (-3, 3), (4, 0), (0, -5), (8, 8)])
def test_moving_the_image_by_less_moves_the_landmarks_as_far_within_a_sample(candidates, framed, shipped, name, dx, dy):
    moved = movements(candidates, framed, shipped, name, dx, dy)
    # network px. A network of stride 32 answers no move by less with exactly the same move. The finest features have
    # one sample in 4 px: that much.
    np.testing.assert_allclose(moved, np.broadcast_to((dx, dy), moved.shape), rtol=0, atol=4.0)


# --- no thorax ---


def noise(seed=0):
    return np.random.default_rng(seed).integers(0, 60000, (300, 400)).astype("<u2")


def open_field():
    y, x = np.mgrid[:300, :400]
    inside = 1 / (1 + np.exp(-(100 - np.abs(x - 199.5)) / 2)) / (1 + np.exp(-(90 - np.abs(y - 149.5)) / 2))
    return np.rint(500 + 50000 * inside + noise() / 100).astype("<u2")


def gradient():
    return np.tile(np.linspace(100, 60000, 400), (300, 1)).astype("<u2")


@pytest.mark.parametrize("image", [noise, open_field, gradient])
def test_where_there_is_no_anatomy_there_are_no_landmarks(landmarks, dicom, image):
    assert landmarks(dicom(image())) == ()
