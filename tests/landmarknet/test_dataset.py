import numpy as np
import pytest
import torch

from edge.preprocess import fit_into_square, to_network_input
from landmarknet.dataset import (
    CACHE_MM_PER_PX,
    CACHE_SIZE,
    LARGEST_MM,
    SCALE_JITTER,
    SMALLEST_MM,
    CachedView,
    Grid,
    TrainingSet,
    collate,
    cut,
    draw_case,
    draw_detector,
    draw_empty_field,
    draw_frame,
    label,
    line_through,
    unlabelled_kinds,
)
from landmarknet.network import KINDS

BALL_PX = np.array((215.0, 184.0))
WHOLE, FIXED = Grid(192, None, 1.5), Grid(192, 1.6, 1.5)


def view_with_a_ball(view="lateral", at=BALL_PX):
    """200 mm of water with a dense ball, which is labelled as every kind."""
    rows, columns = np.indices((CACHE_SIZE, CACHE_SIZE))
    ball = np.hypot(columns - at[0], rows - at[1]) < 6
    paths = np.stack((np.full(ball.shape, 200.0), ball * 400.0)).astype(np.float16)
    points = dict.fromkeys(KINDS, at[None, None])
    points["spine_line"] = at + np.array([[(0.0, -20.0), (0.0, 0.0), (0.0, 20.0)]])
    return CachedView("ball", view, paths[None], points, unlabelled_kinds("ball", view))


@pytest.mark.parametrize("grid", [WHOLE, FIXED])
@pytest.mark.parametrize("seed", range(8))
def test_a_label_moves_with_its_image(seed, grid):
    rng = np.random.default_rng(seed)
    shape, mm_per_px = draw_detector(grid, rng)
    frame = draw_frame(shape, mm_per_px, rng)
    paths, _ = cut(view_with_a_ball().paths_mm[0], frame, shape)
    x, y, _ = np.linalg.inv(frame) @ (*BALL_PX, 1.0)
    if not (8 < x < shape[1] - 8 and 8 < y < shape[0] - 8):
        pytest.skip("this seed turns the ball out of the detector")
    weight = paths[1].numpy()
    rows, columns = np.indices(weight.shape)
    centroid = (columns * weight).sum() / weight.sum(), (rows * weight).sum() / weight.sum()
    assert centroid == pytest.approx((x, y), abs=0.2)  # a drawn disc of 6 px


def test_grid_is_in_mm_about_the_beam_axis():
    _, grid_mm = cut(view_with_a_ball().paths_mm[0], np.eye(3), (CACHE_SIZE, CACHE_SIZE))
    assert grid_mm[0, 0].tolist() == pytest.approx((-CACHE_MM_PER_PX * 199.5, CACHE_MM_PER_PX * 199.5))
    assert grid_mm[199:201, 199:201].mean(dim=(0, 1)).abs().max() < 1e-4


def test_sample_is_a_function_of_seed_and_index_alone():
    data = TrainingSet([view_with_a_ball()], [], 3, FIXED)
    first = data.sample(5)
    data.sample(6)
    again = TrainingSet([view_with_a_ball()], [], 3, FIXED).sample(5)
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.target, again.target)
    assert not torch.equal(first.image, TrainingSet([view_with_a_ball()], [], 4, FIXED).sample(5).image)


def test_shuffled_an_image_keeps_its_pixels_and_takes_the_next_ones_labels():
    view = view_with_a_ball()
    plain, shuffled = TrainingSet([view], [], 3, FIXED), TrainingSet([view], [], 3, FIXED, shuffled=True)
    at = next(i for i in range(20) if not torch.equal(plain.sample(i).target, plain.sample(i + 1).target))
    assert torch.equal(shuffled.sample(at).image, plain.sample(at).image)
    assert torch.equal(shuffled.sample(at).target, plain.sample(at + 1).target)
    assert torch.equal(shuffled.sample(at).present, plain.sample(at + 1).present)


def test_jaws_close_from_the_sample_that_is_named_and_hide_what_they_cover():
    view = view_with_a_ball()
    plain, closing = TrainingSet([view], [], 3, FIXED), TrainingSet([view], [], 3, FIXED, jaws_from=40)
    assert all(torch.equal(plain.sample(i).image, closing.sample(i).image) for i in range(30, 40))
    carina = KINDS.index("tracheal_bifurcation")
    later = range(40, 100)
    shown = [sum(float(data.sample(i).present[carina]) for i in later) for data in (plain, closing)]
    assert shown[1] < 0.9 * shown[0]
    assert shown[1] > 0.5 * shown[0]


def test_a_case_whose_jaw_is_closed_does_not_show_its_landmark():
    shown = [
        len(draw_case(view_with_a_ball(), "mv", FIXED, np.random.default_rng(i), closing=True).shown("louis_angle"))
        for i in range(20)
    ]
    assert sum(shown) == 0


def test_louis_angle_of_an_ap_view_is_ignored_not_denied():
    case = next(c for c in cases("ap") if len(c.shown("louis_angle")))
    sample = label(case, WHOLE)
    index = KINDS.index("louis_angle")
    assert sample.present[index] == -1
    assert sample.mask[index].abs().max() == 0
    assert sample.target[index].abs().max() == 0


def test_louis_angle_of_a_lateral_view_is_a_target():
    case = next(c for c in cases("lateral") if len(c.shown("louis_angle")))
    sample = label(case, WHOLE)
    index = KINDS.index("louis_angle")
    assert sample.present[index] == 1
    assert sample.target[index].max() > 0.8


def cases(view, at=BALL_PX):
    for seed in range(50):
        rng = np.random.default_rng(seed)
        yield draw_case(view_with_a_ball(view, at), "kv", WHOLE, rng)


def test_spinous_processes_are_ignored_beyond_the_labelled_ones():
    case = next(c for c in cases("lateral") if len(c.shown("spinous_process")))
    mask = label(case, WHOLE).mask[KINDS.index("spinous_process"), :, 0]
    y = case.points_net["spinous_process"][0, 1] * 3 / 4
    margin = 12 / case.mm_per_net_px * 3 / 4
    rows = torch.arange(144)
    assert (mask[(rows - y).abs() < margin - 1.5] == 1).all()
    assert (mask[(rows - y).abs() > margin + 1.5] == 0).all()


def test_what_lies_outside_the_detector_or_under_the_jaws_is_not_shown():
    far_out = view_with_a_ball(at=np.array((294.0, 199.5)))  # 104 mm beside the beam axis
    shown = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        case = draw_case(far_out, "mv", WHOLE, rng)
        (point,), (visible,) = case.points_net["tracheal_bifurcation"], case.visible["tracheal_bifurcation"]
        shown.append(visible)
        if visible:
            assert (point >= -0.5).all()
            assert (point <= 191.5).all()
        assert len(case.shown("tracheal_bifurcation")) == visible
    assert 10 < sum(shown) < 50


def test_an_empty_field_shows_nothing_and_denies_every_kind():
    sample = label(draw_empty_field("mv", FIXED, np.random.default_rng(0)), FIXED)
    assert sample.present.tolist() == [0, 0, 0, 0]
    assert sample.target.abs().max() == 0
    assert sample.mask.min() == 1
    assert sample.image.std() > 0


def test_a_batch_stacks_its_samples():
    data = TrainingSet([view_with_a_ball()], [], 0, FIXED)
    batch = collate([data.sample(6), data.sample(7)])
    assert torch.equal(batch.image[1], data.sample(7).image)
    assert batch.image.shape == (2, 1, 192, 192)
    assert [level.shape[0] for level in batch.by_level] == [2, 2, 2, 2]


@pytest.mark.parametrize("grid", [WHOLE, FIXED])
def test_drawn_detectors_need_no_resizing(grid):
    for seed in range(20):
        shape, _ = draw_detector(grid, np.random.default_rng(seed))
        ratio = 1.0 if grid.mm_per_px else None
        assert fit_into_square(shape, grid.size, ratio)[1] == shape
        batch, placement = to_network_input(np.ones(shape), grid.size, 1.0)
        assert batch.shape == (1, 1, grid.size, grid.size)
        assert placement.scale == (1.0, 1.0)


def test_a_fixed_scale_is_kept_within_its_jitter_until_the_square_is_full():
    drawn = [draw_detector(FIXED, np.random.default_rng(seed)) for seed in range(200)]
    small = [mm for shape, mm in drawn if max(shape) < FIXED.size]
    full = [mm for shape, mm in drawn if max(shape) == FIXED.size]
    assert len(small) > 50
    assert len(full) > 20
    assert min(small) > FIXED.mm_per_px * np.exp(-3.2 * SCALE_JITTER)
    assert max(small) < FIXED.mm_per_px * np.exp(3.2 * SCALE_JITTER)
    assert max(full) <= LARGEST_MM / FIXED.size
    sides = [max(shape) * mm for shape, mm in drawn]
    assert min(sides) >= SMALLEST_MM
    assert max(sides) <= LARGEST_MM


def test_the_spine_of_a_volume_without_labels_is_neither_right_nor_wrong():
    assert unlabelled_kinds("panc_cb001", "lateral") == {"spinous_process", "spine_line"}
    assert unlabelled_kinds("sts_001", "lateral") == set()
    assert unlabelled_kinds("lidc0001", "ap") == {"louis_angle"}
    paths = np.full((1, 2, CACHE_SIZE, CACHE_SIZE), 50.0, np.float16)
    abdomen = CachedView("panc_cb001", "ap", paths, {}, unlabelled_kinds("panc_cb001", "ap"))
    sample = label(draw_case(abdomen, "kv", FIXED, np.random.default_rng(0)), FIXED)
    present = dict(zip(KINDS, sample.present.tolist(), strict=True))
    assert present == {"spinous_process": -1, "spine_line": -1, "louis_angle": -1, "tracheal_bifurcation": 0}
    assert sample.mask[KINDS.index("spine_line")].max() == 0
    assert sample.mask[KINDS.index("tracheal_bifurcation")].min() == 1


def test_a_patient_whose_labelled_tips_are_all_hidden_may_still_show_a_spine():
    beside = np.array((320.0, 199.5))
    hidden = next(c for c in cases("lateral", beside) if not len(c.shown("spinous_process")))
    sample = label(hidden, WHOLE)
    assert sample.present[KINDS.index("spinous_process")] == -1
    assert sample.present[KINDS.index("louis_angle")] == 0, "that one is known to be hidden"


def test_a_line_passes_through_its_points_and_between_them():
    line = line_through(np.array(((0.0, 0.0), (8.0, 16.0), (8.0, 32.0))))
    assert line[[0, 8, 16]].tolist() == [[0.0, 0.0], [8.0, 16.0], [8.0, 32.0]]
    assert line[4].tolist() == [4.0, 8.0]


def test_a_line_is_a_ridge_and_is_denied_nowhere_beyond_its_ends():
    case = next(c for c in cases("lateral") if len(c.shown("spine_line")) == 3)
    sample = label(case, WHOLE)
    index = KINDS.index("spine_line")
    y = case.points_net["spine_line"][:, 1]
    middle = sample.target[index, round(float(y.mean()) * 3 / 4)]
    assert middle.max() > 0.8
    assert sample.mask[index, : max(0, int(y.min() * 3 / 4) - 2)].sum() == 0
    assert sample.mask[index, int(y.max() * 3 / 4) + 3 :].sum() == 0
