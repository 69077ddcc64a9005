import numpy as np
import pytest
import torch

from edge.preprocess import fit_into_square
from landmarknet.dataset import (
    CACHE_MM_PER_PX,
    CACHE_SIZE,
    CachedView,
    TrainingSet,
    collate,
    cut,
    draw_case,
    draw_empty_field,
    draw_frame,
    draw_shape,
    label,
)
from landmarknet.network import KINDS

BALL_PX = np.array((276.0, 236.0))


def view_with_a_ball(view="lateral", at=BALL_PX):
    """200 mm of water with a dense ball, which is labelled as every kind."""
    rows, columns = np.indices((CACHE_SIZE, CACHE_SIZE))
    ball = np.hypot(columns - at[0], rows - at[1]) < 6
    paths = np.stack((np.full(ball.shape, 200.0), ball * 400.0)).astype(np.float16)
    return CachedView("ball", view, paths[None], dict.fromkeys(KINDS, at[None, None]))


@pytest.mark.parametrize("seed", range(8))
def test_a_label_moves_with_its_image(seed):
    rng = np.random.default_rng(seed)
    shape = draw_shape(rng)
    frame = draw_frame(shape, rng)
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
    assert grid_mm[0, 0].tolist() == pytest.approx((-CACHE_MM_PER_PX * 255.5, CACHE_MM_PER_PX * 255.5))
    assert grid_mm[255:257, 255:257].mean(dim=(0, 1)).abs().max() < 1e-4


def test_sample_is_a_function_of_seed_and_index_alone():
    data = TrainingSet([view_with_a_ball()], [], seed=3)
    first = data.sample(5)
    data.sample(6)
    again = TrainingSet([view_with_a_ball()], [], seed=3).sample(5)
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.target, again.target)
    assert not torch.equal(first.image, TrainingSet([view_with_a_ball()], [], seed=4).sample(5).image)


def test_louis_angle_of_an_ap_view_is_ignored_not_denied():
    case = next(c for c in cases("ap") if len(c.shown("louis_angle")))
    sample = label(case)
    index = KINDS.index("louis_angle")
    assert sample.present[index] == -1
    assert sample.mask[index].abs().max() == 0
    assert sample.target[index].abs().max() == 0


def test_louis_angle_of_a_lateral_view_is_a_target():
    case = next(c for c in cases("lateral") if len(c.shown("louis_angle")))
    sample = label(case)
    index = KINDS.index("louis_angle")
    assert sample.present[index] == 1
    assert sample.target[index].max() > 0.8


def cases(view):
    for seed in range(50):
        rng = np.random.default_rng(seed)
        yield draw_case(view_with_a_ball(view), "kv", rng)


def test_spinous_processes_are_ignored_beyond_the_labelled_ones():
    case = next(c for c in cases("lateral") if len(c.shown("spinous_process")))
    mask = label(case).mask[KINDS.index("spinous_process"), :, 0]
    y = case.points_net["spinous_process"][0, 1] * 3 / 4
    margin = 12 / case.mm_per_net_px * 3 / 4
    rows = torch.arange(288)
    assert (mask[(rows - y).abs() < margin - 1.5] == 1).all()
    assert (mask[(rows - y).abs() > margin + 1.5] == 0).all()


def test_what_lies_outside_the_detector_or_under_the_jaws_is_not_shown():
    far_out = view_with_a_ball(at=np.array((386.0, 256.0)))  # 104 mm beside the beam axis
    shown = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        case = draw_case(far_out, "mv", rng)
        (point,), (visible,) = case.points_net["tracheal_bifurcation"], case.visible["tracheal_bifurcation"]
        shown.append(visible)
        if visible:
            assert (point >= -0.5).all()
            assert (point <= 383.5).all()
        assert len(case.shown("tracheal_bifurcation")) == visible
    assert 10 < sum(shown) < 50


def test_an_empty_field_shows_nothing_and_denies_every_kind():
    sample = label(draw_empty_field("mv", np.random.default_rng(0)))
    assert sample.present.tolist() == [0, 0, 0]
    assert sample.target.abs().max() == 0
    assert sample.mask.min() == 1
    assert sample.image.std() > 0


def test_a_batch_stacks_its_samples():
    data = TrainingSet([view_with_a_ball()], [], seed=0)
    batch = collate([data.sample(6), data.sample(7)])
    assert torch.equal(batch.image[1], data.sample(7).image)
    assert batch.image.shape == (2, 1, 384, 384)
    assert [level.shape[0] for level in batch.by_level] == [2, 2, 2, 2]


def test_drawn_detectors_need_no_resizing():
    for seed in range(20):
        shape = draw_shape(np.random.default_rng(seed))
        assert fit_into_square(shape, 384)[1] == shape
