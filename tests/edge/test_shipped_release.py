"""What the release that is shipped must do with images it never saw: the samples are of the held-out patient."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from edge.pipeline import Pipeline
from edge.portal_image import read_portal_image
from edge.preprocess import fit_into_square, resize

SAMPLES = sorted(path.name for path in (Path(__file__).parents[2] / "samples").glob("*.dcm"))
SIZE = 384
FOUND_WITHIN_NET_PX = 8  # the paper's headline tolerance
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
    low = tuple(kind.model_copy(update={"threshold": 0.1, "at_most": 8}) for kind in shipped.contract.kinds)
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
    placement, _ = fit_into_square(read_portal_image(samples / name).pixels.shape, SIZE)
    off = placement.to_net((found[0].x_px, found[0].y_px)) - placement.to_net((true["x_px"], true["y_px"]))
    assert np.hypot(*off) <= FOUND_WITHIN_NET_PX


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


@pytest.fixture(scope="module")
def framed(dicom, samples):
    """Return a function: a DRR as a file of 384 x 384 px (detector px = network px), its dark frame moved along.

    The frame is of one grey and 44 px wide, so that rolling the image by up to 32 px moves nothing over its edge, and
    keeps its histogram: the network gets exactly the moved input.
    """
    y = np.arange(SIZE)
    opened = 1 / (1 + np.exp(-(np.minimum(y, SIZE - 1 - y) - 44) / 2))

    def moved(name, dx, dy):
        dose = resize(read_portal_image(samples / name).pixels, (SIZE, SIZE))
        dark, bright = np.percentile(dose, (1, 99))
        field = (np.clip(dose, dark, bright) - dark) * opened[:, None] * opened / (bright - dark)
        return dicom(np.roll(np.rint(1000 + 60000 * field).astype("<u2"), (dy, dx), (0, 1)))

    return moved


def movements(candidates, framed, name, dx, dy):
    """Return (k, 2): by how much the carina moved, and the best of each other kind that is clear and off the frame."""
    before, after = candidates(framed(name, 0, 0)), candidates(framed(name, dx, dy))
    best = {one.kind: one for one in sorted(before, key=lambda one: one.score)}
    assert CARINA in best
    moved = []
    for one in best.values():
        if one.kind == CARINA or (one.score >= 0.5 and 96 <= one.x_px <= 288 and 96 <= one.y_px <= 288):
            here = np.array([(other.x_px, other.y_px) for other in after if other.kind == one.kind]).reshape(-1, 2)
            steps = here - (one.x_px, one.y_px)
            moved.append(steps[np.hypot(*(steps - (dx, dy)).T).argmin()])
    return np.array(moved)


@pytest.mark.parametrize("name", [name for name in SAMPLES if "drr" in name])
@pytest.mark.parametrize(("dx", "dy"), [(32, 0), (-32, 0), (0, 32), (0, -32), (32, 32)])
def test_moving_the_image_by_the_network_s_stride_moves_the_landmarks_as_far(candidates, framed, name, dx, dy):
    moved = movements(candidates, framed, name, dx, dy)
    # network px. Every layer, of a stride of 32 or less, answers a move by 32 px with the same move; only the padding
    # at the square's edge, which the widest receptive fields reach, does not move along.
    np.testing.assert_allclose(moved, np.broadcast_to((dx, dy), moved.shape), rtol=0, atol=0.25)


@pytest.mark.parametrize("name", [name for name in SAMPLES if "drr" in name])
@pytest.mark.parametrize(("dx", "dy"), [(1, 0), (0, 2), (-3, 3), (4, 0), (0, -5), (8, 8)])
def test_moving_the_image_by_less_moves_the_landmarks_as_far_within_a_sample(candidates, framed, name, dx, dy):
    moved = movements(candidates, framed, name, dx, dy)
    # network px. A network of stride 32 answers no move by less with exactly the same move. The finest features have
    # one sample in 4 px: that much. On this picture the carina is off by up to 3.3, most moves by less than 2.
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
