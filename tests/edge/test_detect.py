"""The network must see anatomy at the size that it was trained for, whatever the detector's pixels are."""

from contextlib import contextmanager

import numpy as np
import pytest

from edge.backends import Inference
from edge.detect import detect, evidence, scale_ratios
from edge.geometry import GeometryTags, ImageGeometry, image_geometry
from edge.portal_image import read_portal_image
from edge.records import ImageIdentity, PortalImage

SIZE = 48  # network px
SCALED = {"mm_per_net_px": 1.25, "assumed_longer_side_mm": (30.0, 40.0, 50.0)}
CARINA = [(30.0, 20.0, 0.9)]
SPINOUS_ONLY = [([(20.0, 20.0, score)], []) for score in (0.4, 0.6)]


def portal_image(shape=(40, 100), spacing_mm=("0.75", "0.75")):
    """Return a noisy image; ``spacing_mm`` is at the receptor, (row, column), and None for one without geometry."""
    pixels = np.random.default_rng(0).random(shape, np.float32)
    geometry = None
    if spacing_mm is not None:
        tags = GeometryTags(sid_mm=("1500",), sad_mm=("1000",), spacing_mm=spacing_mm)
        geometry = image_geometry(tags, shape)
        assert isinstance(geometry, ImageGeometry)
    reason = None if geometry else "test"
    return PortalImage(pixels, "test", geometry, reason, ImageIdentity("X", "0" * 64, None, None, *shape))


def seen(batch):
    """Return the (width, height) of what is not grey in the network's input."""
    return tuple(int(np.ptp(where)) + 1 for where in np.nonzero(batch[0, 0])[::-1])


@pytest.fixture
def answering(painted, rows):
    """Return a function: a backend that answers by the width of what it sees; with ``carina`` where none is named."""

    def backend(by_width=None, carina=CARINA):
        def answer(batch):
            spinous, other = (by_width or {}).get(seen(batch)[0], ([], carina))
            return rows(spinous, other), np.zeros((2, 36, 36), np.float32)

        return painted(answer)

    return backend


# --- the scale ---


def test_geometry_decides_the_scale(contract, answering):
    # 0.75 mm at the receptor are 0.5 mm at the isocentre: 0.4 network px of 1.25 mm
    image, backend = portal_image(), answering()
    assert scale_ratios(image, contract(**SCALED)) == pytest.approx([0.4])
    found = detect(image, backend, contract(**SCALED))
    (batch,) = backend.asked
    assert (batch.shape, batch.dtype) == ((1, 1, SIZE, SIZE), np.float32)
    assert seen(batch) == (40, 16)
    assert found.placement.scale == pytest.approx((0.4, 0.4))
    assert found.placement.offset == (4, 16)


def test_a_landmark_comes_back_to_its_place_from_the_scaled_image(contract, answering):
    (landmark,) = detect(portal_image(), answering(), contract(**SCALED)).landmarks
    # 2.5 px of the detector a network px, after 4 columns and 16 rows of padding
    assert landmark.xy_px == pytest.approx(((30 - 4 + 0.5) / 0.4 - 0.5, (20 - 16 + 0.5) / 0.4 - 0.5), abs=1e-9)
    # the middle of the square is the middle of the panel, and a network px 1.25 mm
    assert landmark.xy_mm == pytest.approx(((30 - 23.5) * 1.25, -(20 - 23.5) * 1.25), abs=1e-9)


@pytest.mark.parametrize("pixels", [40, 80, 160])
def test_the_network_sees_the_same_thorax_whatever_the_detector_s_pixels_are(
    contract, answering, dicom, thorax, write, pixels
):
    def network_input(width):
        spacing = f"{120 / width}\\{120 / width}"  # mm; 120 mm at the receptor are 80 mm at the isocentre
        dose = np.rint(40000 * thorax(width * 3 // 4, width)).astype("<u2")
        backend = answering()
        detect(
            read_portal_image(write(dicom(dose, ImagePlanePixelSpacing=spacing, RTImagePosition=None))),
            backend,
            contract(mm_per_net_px=2.5),
        )
        return backend.asked[0]

    reference, other = network_input(320), network_input(pixels)
    assert seen(reference) == seen(other) == (32, 24)  # 80 and 60 mm of 2.5 mm
    # of a range of 2: what is averaged over fewer pixels differs a little, and equalised grey levels with it
    assert np.abs(other - reference).mean() < 0.03


def test_an_image_larger_than_the_square_is_fitted_into_it(contract, answering):
    # 200 px of 0.5 mm are 80 network px, 50 and 20 mm more than there is room for
    image, backend = portal_image((80, 200)), answering()
    assert scale_ratios(image, contract(**SCALED)) == pytest.approx([0.4])
    found = detect(image, backend, contract(**SCALED))
    assert seen(backend.asked[0]) == (48, 19)
    assert found.placement.scale == pytest.approx((48 / 200, 19 / 80))
    (landmark,) = found.landmarks
    assert landmark.xy_px[0] == pytest.approx((30 + 0.5) * 200 / 48 - 0.5, abs=1e-9)


def test_pixels_that_are_not_square_are_scaled_by_their_mean(contract, answering):
    # 0.6 and 0.9 mm at the receptor, 0.4 and 0.6 at the isocentre: their mean is 0.5 mm
    image, backend = portal_image(spacing_mm=("0.6", "0.9")), answering()
    (landmark,) = detect(image, backend, contract(**SCALED)).landmarks
    assert seen(backend.asked[0]) == (40, 16)
    x_px, y_px = landmark.xy_px
    assert (x_px, y_px) == pytest.approx(((30 - 4 + 0.5) / 0.4 - 0.5, (20 - 16 + 0.5) / 0.4 - 0.5), abs=1e-9)
    # but millimetres are each axis' own
    assert landmark.xy_mm == pytest.approx(((x_px - 49.5) * 0.6, -(y_px - 19.5) * 0.4), abs=1e-9)


def test_without_a_fixed_scale_the_whole_image_fills_the_square(contract, answering):
    for image in (portal_image(), portal_image(spacing_mm=None)):
        reading = contract(mm_per_net_px=None, assumed_longer_side_mm=(30.0, 40.0))
        assert scale_ratios(image, reading) == [None]
        backend = answering()
        detect(image, backend, reading)
        assert [seen(batch) for batch in backend.asked] == [(48, 19)]


# --- unknown geometry ---


def test_where_the_geometry_is_not_known_each_assumed_size_is_tried(contract, answering):
    image, backend = portal_image((100, 40), spacing_mm=None), answering()
    detect(image, backend, contract(**SCALED))
    # the longer side, here the height, is 30, 40 or 50 mm of 1.25 mm
    assert [seen(batch)[1] for batch in backend.asked] == [24, 32, 40]


def test_a_size_that_has_no_room_is_fitted(contract, answering):
    backend = answering()
    reading = contract(mm_per_net_px=1.25, assumed_longer_side_mm=(50.0, 75.0))
    detect(portal_image(spacing_mm=None), backend, reading)
    assert [seen(batch)[0] for batch in backend.asked] == [40, 48]


@pytest.mark.parametrize("clearest", [24, 32, 40])
def test_of_several_sizes_the_one_with_the_clearest_peaks_counts(contract, answering, clearest):
    dim, clear = SPINOUS_ONLY
    backend = answering({24: dim, 32: dim, 40: dim} | {clearest: clear})
    found = detect(portal_image(spacing_mm=None), backend, contract(**SCALED))
    assert found.placement.scale[0] == clearest / 100
    (landmark,) = found.landmarks
    assert landmark.score == pytest.approx(0.6, abs=1e-7)
    # read with the placement that belongs to it
    left = (SIZE - clearest) // 2
    assert landmark.xy_px[0] == pytest.approx((20 - left + 0.5) * 100 / clearest - 0.5, abs=1e-9)
    assert landmark.xy_mm is None


def test_what_is_kept_is_one_answer_with_its_own_placement(contract, answering):
    dim, clear = SPINOUS_ONLY
    found = detect(portal_image(spacing_mm=None), answering({24: dim, 32: clear, 40: dim}), contract(**SCALED))
    assert found.inference.peaks[0, 0, 2] == np.float32(0.6)
    assert found.placement.offset[0] == (SIZE - 32) // 2


def test_two_kinds_are_more_than_one_and_several_of_one_kind_are_not(contract, answering):
    by_width = {
        24: ([(20, 20, 0.9)], []),
        32: ([(20, 20, 0.9), (20, 30, 0.9), (20, 40, 0.9)], []),
        40: ([(20, 20, 0.6)], [(20, 20, 0.6)]),
    }
    found = detect(portal_image(spacing_mm=None), answering(by_width), contract(**SCALED))
    assert found.placement.scale[0] == 0.4
    del by_width[40]
    found = detect(portal_image(spacing_mm=None), answering(by_width, carina=[]), contract(**SCALED))
    assert found.placement.scale[0] == 0.24  # the first of equals


def test_without_any_evidence_there_are_no_landmarks(contract, answering):
    found = detect(portal_image(spacing_mm=None), answering(carina=[]), contract(**SCALED))
    assert found.landmarks == ()


def test_a_release_that_assumes_no_size_gets_the_whole_image(contract, answering):
    backend = answering()
    detect(portal_image(spacing_mm=None), backend, contract(mm_per_net_px=1.25, assumed_longer_side_mm=()))
    assert [seen(batch) for batch in backend.asked] == [(48, 19)]


def test_known_geometry_is_not_guessed_at(contract, answering):
    backend = answering()
    detect(portal_image(), backend, contract(**SCALED))
    assert len(backend.asked) == 1


def test_a_peak_in_the_padding_is_no_evidence(contract, answering):
    dim, clear = SPINOUS_ONLY
    in_padding = ([(20.0, 2.0, 0.9)], [])
    found = detect(portal_image(spacing_mm=None), answering({24: in_padding, 32: clear, 40: dim}), contract(**SCALED))
    assert [one.score for one in found.landmarks] == pytest.approx([0.6], abs=1e-7)


# --- evidence ---


def test_evidence_is_the_best_score_of_each_kind_of_point(contract, rows):
    reading = contract()
    assert evidence(rows([], []), reading) == 0  # unused rows are -1, and count nothing
    assert evidence(rows([(1, 1, 0.5), (2, 2, 0.25)], [(3, 3, 0.75)]), reading) == 1.25
    assert evidence(rows([], [(3, 3, 0.75)]), reading) == 0.75
    with_line = contract(kinds=(reading.kinds[0], reading.kinds[1].model_copy(update={"shape": "line"})))
    assert evidence(rows([(1, 1, 0.5)], [(3, 3, 0.75)]), with_line) == 0.5


def test_peaks_that_are_no_numbers_are_no_evidence(contract, rows):
    assert evidence(rows([(1, 1, np.nan)], [(3, 3, 0.75)]), contract()) == 0.75


# --- stages ---


def test_stages_are_entered_in_their_order_and_once_for_each_size(contract, answering):
    entered = []

    @contextmanager
    def stage(name):
        entered.append(name)
        yield
        entered.append(f"/{name}")

    detect(portal_image(spacing_mm=None), answering(), contract(**SCALED), stage)
    once = ["preprocess", "/preprocess", "infer", "/infer"]
    assert entered == [*once * 3, "landmarks", "/landmarks"]


def test_a_detection_holds_what_it_was_read_from(contract, answering):
    found = detect(portal_image(), answering(), contract(**SCALED))
    assert isinstance(found.inference, Inference)
    assert found.inference.peaks.shape == (2, 4, 3)
    assert found.inference.heatmaps.shape == (2, 36, 36)
