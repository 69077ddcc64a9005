import io

import numpy as np
import pytest
from PIL import Image, ImageFont

from edge.contract import KindContract
from edge.preprocess import fit_into_square, normalise
from edge.records import ImageIdentity, Landmark, PortalImage
from edge.results.overlay import COLOURS, FOOTER, LONG_SIDE, draw_overlay, film_of

KINDS = ("spinous_process", "tracheal_bifurcation", "louis_angle")
RED, CYAN, YELLOW = COLOURS[:3]
LEGEND_PX = 26 * 4  # one line for each kind, and the footer


def promises(*names, line=()):
    """Return the kinds of a contract: points, but for those that are named as a ``line``."""
    shape = {name: "line" if name in line else "point" for name in names}
    return [KindContract(kind=name, threshold=0.5, at_most=64, shape=shape[name]) for name in names]


def portal_image(pixels):
    rows, columns = pixels.shape
    identity = ImageIdentity("X.dcm", "0" * 64, None, None, rows, columns)
    return PortalImage(pixels.astype(np.float32), "test", None, "test", identity)


def bumpy(height=192, width=256):
    """Return a smooth image of the full grey range, without an extreme border."""
    y, x = np.mgrid[:height, :width]
    return 2000 + 1500 * np.sin(x / 19) * np.cos(y / 13)


def drawn(pixels, landmarks=(), heatmaps=None, kinds=KINDS, line=(), size=384):
    """Return the picture as (H, W, 3) int."""
    kinds = promises(*kinds, line=line)
    heatmaps = np.zeros((len(kinds), size * 3 // 4, size * 3 // 4), np.float32) if heatmaps is None else heatmaps
    placement, _ = fit_into_square(pixels.shape, size)
    picture = Image.open(io.BytesIO(draw_overlay(portal_image(pixels), landmarks, heatmaps, placement, kinds)))
    assert (picture.format, picture.mode) == ("PNG", "RGB")
    return np.asarray(picture).astype(int)


def at(kind, x, y, score=0.9):
    return Landmark(kind, (x, y), None, score)


def has_colour(patch, colour):
    return bool((np.abs(patch - colour).max(axis=-1) <= 2).any())


def changed(with_marks, without):
    """Return (top, bottom, left, right) of what differs between two pictures, both ends included."""
    rows, columns = np.nonzero(np.abs(with_marks - without).max(axis=-1) > 40)
    return rows.min(), rows.max(), columns.min(), columns.max()


# --- the page ---


@pytest.mark.parametrize("shape", [(192, 256), (512, 512), (1024, 768), (300, 1), (1, 300), (1, 1), (7, 2000), (2, 3)])
def test_every_shape_gives_an_image_with_its_longer_side_at_full_length_and_a_legend(shape):
    picture = drawn(np.random.default_rng(0).random(shape))
    zoom = LONG_SIDE / max(shape)
    assert picture.shape[0] == pytest.approx(max(1, shape[0] * zoom) + LEGEND_PX, abs=12)  # rounding, and a margin
    assert picture.shape[1] >= round(shape[1] * zoom)


@pytest.mark.parametrize("shape", [(192, 256), (1024, 100), (1, 1), (300, 1)])
def test_the_warning_line_is_there_to_its_last_letter(shape):
    picture = drawn(bumpy(*shape))
    footer = picture[-LEGEND_PX // 4 :]
    white = np.nonzero((footer > 200).all(axis=-1).any(axis=0))[0]
    length_px = ImageFont.load_default(18).getlength(FOOTER)
    assert np.ptp(white) == pytest.approx(length_px, abs=8)  # px; side bearings of the first and last letter
    assert white.max() < picture.shape[1] - 1


def test_the_warning_says_what_it_must():
    assert "Research use only" in FOOTER
    assert "simulated" in FOOTER


def test_the_legend_shows_each_kind_in_its_colour():
    legend = drawn(bumpy())[-LEGEND_PX:]
    for line, colour in enumerate((RED, CYAN, YELLOW)):
        band = legend[26 * line : 26 * (line + 1)]
        assert has_colour(band, colour)
        assert not any(has_colour(band, other) for other in COLOURS if other != colour)


def test_the_legend_counts():
    none, one, two = (drawn(bumpy(), [at("louis_angle", 9, 9 + 40 * n) for n in range(n)])[-52:-26] for n in range(3))
    assert (none != one).any()
    assert (one != two).any()


def test_the_same_image_gives_the_same_bytes():
    placement, _ = fit_into_square((192, 256), 384)
    heatmaps = np.random.default_rng(0).random((3, 288, 288), np.float32)
    one, other = (
        draw_overlay(portal_image(bumpy()), [at("louis_angle", 70, 80)], heatmaps, placement, promises(*KINDS))
        for _ in range(2)
    )
    assert one == other


def test_the_png_says_nothing_besides_its_pixels():
    placement, _ = fit_into_square((192, 256), 384)
    png = draw_overlay(portal_image(bumpy()), [], np.zeros((3, 288, 288), np.float32), placement, promises(*KINDS))
    assert Image.open(io.BytesIO(png)).info == {}


# --- the image ---


def test_less_dose_is_brighter_as_on_film():
    ramp = np.tile(np.linspace(0, 4000, 256), (192, 1))
    grey = drawn(ramp)[300, :LONG_SIDE, 0]
    assert grey[:50].min() > 200
    assert grey[-50:].max() < 55
    assert np.diff(grey).max() <= 0


def test_anatomy_is_seen_beside_the_shadow_of_a_collimator():
    """A linear window gives the shadow most of the greys, and a lung and its mediastinum almost none."""
    dose = np.full((192, 256), 400.0)
    dose[30:160, 40:128], dose[30:160, 128:216] = 30000, 33000
    dose[29:31, 39:217] = 15000  # a penumbra
    picture = drawn(dose)
    left, right = picture[400, 400, 0], picture[400, 700, 0]
    assert left - right > 60


# in words: a body of smooth greys with noise, at any scale and offset; a strip; rows that every third row does not show
BODY = 500 + 300 * np.sin(np.mgrid[:300, :400][0] / 40) + np.random.default_rng(0).normal(0, 20, (300, 400))
ROWS = np.tile((np.arange(300) % 3 == 1)[:, None], (1, 400))


@pytest.mark.parametrize(
    "pixels",
    [BODY, BODY * 1e-40, BODY * 3e35, BODY + 1e6, BODY[:1], BODY[:, :1], ROWS],
    ids=["body", "smallest", "largest", "offset", "row", "column", "every third row"],
)
def test_the_film_shows_the_greys_that_the_network_sees(pixels):
    pixels = pixels.astype(np.float32)
    expected = ((1 - normalise(pixels)) * 127.5).astype(int)
    drawn = film_of(pixels, max(pixels.shape))
    assert np.abs(np.asarray(drawn, int) - expected[..., None]).max() <= 2  # of 255


@pytest.mark.parametrize("pixels", [np.zeros((20, 30)), np.full((1, 1), 7.0)], ids=["zeros", "one pixel"])
def test_an_image_of_one_grey_is_drawn(pixels):
    assert np.ptp(drawn(pixels)[:10, :10]) == 0


# --- marks ---


@pytest.mark.parametrize(("kind", "colour"), list(zip(KINDS, COLOURS, strict=False)))
@pytest.mark.parametrize("place", [(60, 50), (200.4, 130.7), (128, 96)])
def test_a_mark_is_centred_on_its_landmark_in_its_kind_s_colour(kind, colour, place):
    plain, marked = drawn(bumpy()), drawn(bumpy(), [at(kind, *place)])
    x, y = ((value + 0.5) * 4 - 0.5 for value in place)  # 4 picture px a detector px, pixel centres on whole numbers
    ours = (np.abs(marked - colour).max(axis=-1) <= 2)[:768]
    rows, columns = np.nonzero(ours[:, : round(x) + 11])  # the score stands to the right of the mark
    assert (rows.min() + rows.max()) / 2 == pytest.approx(y, abs=1.0)  # px; marks are drawn on whole pixels
    assert (columns.min() + columns.max()) / 2 == pytest.approx(x, abs=1.0)
    top, bottom, left, _ = changed(marked[:768], plain[:768])
    assert (top, bottom, left) == pytest.approx((y - 11, y + 11, x - 11), abs=4)  # nothing else is drawn elsewhere


def test_kinds_differ_in_shape_and_not_only_in_colour():
    def mask(kind):
        (r, g, b) = COLOURS[KINDS.index(kind)]
        return (np.abs(drawn(bumpy(), [at(kind, 128, 96)])[370:405, 497:524] - (r, g, b)).max(axis=-1) <= 2).tobytes()

    assert len({mask(kind) for kind in KINDS}) == 3


@pytest.mark.parametrize("grey", [0, 255])
def test_a_mark_and_its_score_stand_out_on_black_and_on_white(grey):
    """Yellow on white cannot be read; a dark rim makes it readable."""
    pixels = bumpy()
    pixels[60:130, 60:200] = 1e4 if grey == 0 else -1e4
    for kind, colour in zip(KINDS, COLOURS, strict=False):
        patch = drawn(pixels, [at(kind, 128, 96)])[360:410, 490:580]
        assert has_colour(patch, colour)
        assert (patch.max(axis=-1) <= 2).any()  # the rim


@pytest.mark.parametrize(
    ("place", "corner"),
    [((0, 96), "left"), ((255, 96), "right"), ((128, 0), "top"), ((128, 191), "bottom"), ((255, 0), "right top")],
)
def test_a_score_stays_in_the_picture_at_any_border(place, corner):
    def letters(x, y):
        """Return how many pixels of the picture are of the landmark's colour, mark left out."""
        picture = drawn(bumpy(), [at("spinous_process", x, y, score=0.88)])[:768]
        far = np.hypot(*(np.mgrid[:768, :1024] - np.reshape(((y + 0.5) * 4, (x + 0.5) * 4), (2, 1, 1)))) > 11
        return int((far & (np.abs(picture - RED).max(axis=-1) <= 2)).sum())

    assert letters(*place) >= 0.9 * letters(128, 96), corner


def test_a_score_is_written_beside_its_mark():
    low, high = (drawn(bumpy(), [at("spinous_process", 128, 96, score)]) for score in (0.41, 0.87))
    _, _, left, _ = changed(high, low)
    assert 514 + 8 < left < 514 + 60  # px; right of the mark, before its end


def test_more_kinds_than_colours_are_drawn():
    kinds = tuple(f"kind {number}" for number in range(len(COLOURS) + 2))
    plain, marked = drawn(bumpy(), kinds=kinds), drawn(bumpy(), [at(kinds[-1], 128, 96)], kinds=kinds)
    assert (plain[:768] != marked[:768]).any()


# --- lines ---

SPINE = [(100, 40), (110, 80), (112, 120), (104, 160)]  # detector px, a picture px is a quarter of one
LINE = [*KINDS, "spine_line"]


def line_drawn(places, others=(), pixels=None):
    landmarks = [*others, *(at("spine_line", *place) for place in places)]
    return drawn(bumpy() if pixels is None else pixels, landmarks, kinds=LINE, line=["spine_line"])


def of_colour(picture, colour):
    """Return (m, 2): x, y of the picture's pixels, legend left out, that have a colour."""
    return np.argwhere(np.abs(picture[:768] - colour).max(axis=-1) <= 2)[:, ::-1]


def test_a_line_runs_through_its_points_and_nowhere_else():
    plain, marked = line_drawn([]), line_drawn(SPINE)
    corners = (np.array(SPINE) + 0.5) * 4 - 0.5
    ours = of_colour(marked, COLOURS[3])
    # a pixel in every row from the first point to the last, and each within its width of 2 px and rounding of the path
    assert set(range(round(corners[0, 1]), round(corners[-1, 1]))) <= set(ours[:, 1].tolist())
    assert np.abs(ours[:, 0] - np.interp(ours[:, 1], corners[:, 1], corners[:, 0])).max() <= 2.5
    top, bottom, left, right = changed(marked[:768], plain[:768])
    expected = corners[0, 1], corners[-1, 1], corners[:, 0].min(), corners[:, 0].max()
    assert (top, bottom, left, right) == pytest.approx(expected, abs=5)  # no marks, and no scores beside them


def test_a_line_joins_its_points_in_their_order_with_other_kinds_between_them():
    alone = line_drawn(SPINE)
    with_others = drawn(
        bumpy(),
        [at("spine_line", *SPINE[0]), at("louis_angle", 220, 20), *(at("spine_line", *place) for place in SPINE[1:])],
        kinds=LINE,
        line=["spine_line"],
    )
    assert np.array_equal(of_colour(with_others, COLOURS[3]), of_colour(alone, COLOURS[3]))


def test_one_point_makes_no_line():
    assert np.array_equal(line_drawn(SPINE[:1])[:768], line_drawn([])[:768])


@pytest.mark.parametrize("grey", [0, 255])
def test_a_line_stands_out_on_black_and_on_white(grey):
    pixels = bumpy()
    pixels[30:170, 60:200] = 1e4 if grey == 0 else -1e4
    patch = line_drawn(SPINE, pixels=pixels)[200:600, 360:500]
    assert has_colour(patch, COLOURS[3])
    assert (patch.max(axis=-1) <= 2).any()  # the rim


def test_a_mark_on_a_line_lies_above_it():
    marked = line_drawn(SPINE, [at("spinous_process", *SPINE[1])])
    without_line = line_drawn([], [at("spinous_process", *SPINE[1])])
    assert len(of_colour(without_line, RED)) > 50
    assert np.array_equal(of_colour(marked, RED), of_colour(without_line, RED))


def test_the_legend_shows_a_line_as_a_line_and_a_point_as_a_mark():
    as_line, as_point = (drawn(bumpy(), kinds=LINE, line=line)[-52:-26, :30] for line in (["spine_line"], []))
    rows = np.nonzero((np.abs(as_line - COLOURS[3]).max(axis=-1) <= 2).any(axis=1))[0]
    assert 1 <= np.ptp(rows) + 1 <= 3  # px; a stroke of 2, not a square of 17
    rows = np.nonzero((np.abs(as_point - COLOURS[3]).max(axis=-1) <= 2).any(axis=1))[0]
    assert np.ptp(rows) > 10


# --- heatmaps ---


def test_a_heatmap_s_shade_lies_over_what_it_was_computed_from():
    """A peak of the sample site grid at 4b + (0, 1.5, 3) network px is shaded at the same place of the image."""
    heatmaps = np.zeros((3, 288, 288), np.float32)
    net = 200.0  # network px: block 50, its first site
    site = 50 * 3
    heatmaps[1, site - 2 : site + 3, site + 30 - 2 : site + 30 + 3] = 1.0  # 10 blocks further right: 240
    plain, shaded = drawn(bumpy()), drawn(bumpy(), heatmaps=heatmaps)
    placement, _ = fit_into_square((192, 256), 384)
    x, y = (placement.to_image((net + 40, net)) + 0.5) * 4 - 0.5
    weight = np.abs(shaded - plain).sum(axis=-1)
    rows, columns = np.mgrid[: weight.shape[0], : weight.shape[1]]
    # picture px; a network px is 2.7 of them, and five sites lie unevenly around the peak's, by half a network px
    assert (weight * columns).sum() / weight.sum() == pytest.approx(x, abs=2.5)
    assert (weight * rows).sum() / weight.sum() == pytest.approx(y, abs=2.5)


def test_a_shade_has_its_kind_s_hue_and_lets_the_image_through():
    heatmaps = np.zeros((3, 288, 288), np.float32)
    heatmaps[0] = 1.0
    shaded = drawn(bumpy(), heatmaps=heatmaps)[:768, :1024]
    assert (shaded[..., 0] - shaded[..., 2]).min() > 50  # red
    assert np.ptp(shaded[..., 2]) > 80


def test_heights_beyond_0_and_1_are_shaded_as_these():
    low, high = np.full((3, 288, 288), -5, np.float32), np.zeros((3, 288, 288), np.float32)
    assert np.array_equal(drawn(bumpy(), heatmaps=low), drawn(bumpy(), heatmaps=high))
    high[0], low[0] = 1.0, 7.0
    low[1:] = 0.0
    assert np.array_equal(drawn(bumpy(), heatmaps=low), drawn(bumpy(), heatmaps=high))


def test_half_the_height_is_half_as_opaque():
    """What a pixel is moved towards its kind's red by: 0.55 of the way at the height 1, 0.275 at the height 0.5."""
    heatmaps = np.zeros((3, 288, 288), np.float32)
    plain = drawn(bumpy())[:768, :1024, 2].astype(float)  # blue
    moved = {}
    for height in (0.5, 1.0):
        heatmaps[0] = height
        shaded = drawn(bumpy(), heatmaps=heatmaps)[:768, :1024, 2].astype(float)
        moved[height] = np.median((shaded - plain)[plain > 150] / (96 - plain)[plain > 150])
    assert moved[1.0] == pytest.approx(0.55, abs=0.02)  # of eight bits
    assert moved[0.5] == pytest.approx(0.275, abs=0.02)
