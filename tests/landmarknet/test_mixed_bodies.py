import numpy as np
import pytest
import torch

from landmarknet.dataset import CACHE_MM_PER_PX, CACHE_SIZE, CachedView, Grid, TrainingSet, cut, draw_case
from landmarknet.mixed_bodies import mix_bodies, sample_warp
from landmarknet.network import KINDS

SHAPE = (CACHE_SIZE, CACHE_SIZE)
ROWS, COLUMNS = np.indices(SHAPE)


def disc(at, radius_px=6.0):
    return np.hypot(COLUMNS - at[0], ROWS - at[1]) < radius_px


def centroid(weight):
    return (COLUMNS * weight).sum() / weight.sum(), (ROWS * weight).sum() / weight.sum()


def body(patient, at, thickness_mm=200.0):
    paths = np.stack((np.full(SHAPE, thickness_mm), disc(at) * 400.0)).astype(np.float16)
    points = dict.fromkeys(KINDS, np.array(at)[None, None])
    points["spine_line"] = np.array(at) + np.array([[(0.0, -20.0), (0.0, 0.0), (0.0, 20.0)]])
    return CachedView(patient, "lateral", paths[None], points)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("at", [(120.0, 90.0), (200.0, 200.0), (300.0, 330.0)])
def test_a_label_goes_with_the_warped_image(seed, at):
    warp = sample_warp(CACHE_SIZE, CACHE_MM_PER_PX, np.random.default_rng(seed))
    paths, _ = cut(body("one", at).paths_mm[0], np.eye(3), SHAPE, warp)
    # a drawn disc of 6 px, whose parts are stretched differently: half a px, 0.6 mm
    assert centroid(paths[1].numpy()) == pytest.approx(tuple(warp.move(np.array([at]))[0]), abs=0.5)


def test_warps_move_points_by_millimetres_and_sometimes_not_at_all():
    rng = np.random.default_rng(0)
    points = rng.uniform(0, CACHE_SIZE - 1, (200, 2))
    shifts_mm = [
        np.hypot(*(sample_warp(CACHE_SIZE, CACHE_MM_PER_PX, rng).displacement(points).T * CACHE_MM_PER_PX)).mean()
        for _ in range(200)
    ]
    assert 0.08 < np.mean(np.array(shifts_mm) == 0) < 0.25
    assert 4 < np.median(shifts_mm) < 15


def test_no_warp_folds_the_image():
    # the smallest eigenvalue of the Jacobian of p + d(p) stays positive: neighbours keep their order
    rng, step = np.random.default_rng(1), 0.5
    grid = np.stack(np.meshgrid(*[np.linspace(5, CACHE_SIZE - 6, 30)] * 2), axis=-1).reshape(-1, 2)
    for _ in range(100):
        warp = sample_warp(CACHE_SIZE, CACHE_MM_PER_PX, rng)
        columns = [(warp.displacement(grid + e) - warp.displacement(grid - e)) / (2 * step) for e in (np.eye(2) * step)]
        jacobian = np.eye(2) + np.stack(columns, axis=-1)
        assert np.linalg.det(jacobian).min() > 0


def test_a_body_takes_the_broad_tissue_of_another_and_keeps_its_own_detail():
    rng = np.random.default_rng(2)
    fine = torch.from_numpy(20.0 * np.sin(COLUMNS))  # a wave of 6 px
    own = torch.stack((200.0 + fine, torch.from_numpy(disc((200, 200)) * 400.0))).float()
    other = torch.stack((torch.full(SHAPE, 300.0), torch.zeros(SHAPE)))
    for _ in range(20):
        mixed = mix_bodies(own, other, 1.1, rng)
        assert mixed.shape == own.shape
        assert (mixed[1] > 0).equal(own[1] > 0), "no bone comes or goes"
        own_wave = float(torch.corrcoef(torch.stack((mixed[0][200], fine[200].float())))[0, 1])
        assert own_wave > 0.2
    means = [float(mix_bodies(own, other, 1.1, rng)[0].mean()) for _ in range(60)]
    assert max(means) > 240, "halfway to the other body, and further"
    assert min(means) < 210, "three in ten keep their own"


def test_a_mixed_sample_is_the_same_each_time_and_differs_from_an_unmixed_one():
    views = [body("one", (215.0, 184.0)), body("two", (180.0, 220.0), 320.0)]
    grid = Grid(192, 1.6, 1.5)
    mixed, plain = TrainingSet(views, [], 3, grid), TrainingSet(views, [], 3, grid, mixed=False)
    differ = 0
    for index in range(8):
        assert torch.equal(mixed.sample(index).image, mixed.sample(index).image)
        differ += not torch.equal(mixed.sample(index).image, plain.sample(index).image)
    assert differ >= 6, "all but empty fields"


def test_a_mixed_case_shows_its_landmark_where_its_label_is():
    view, stands_out = body("one", (205.0, 190.0)), []
    for seed in range(40):
        case = draw_case(view, "kv", Grid(192, 1.6, 1.5), np.random.default_rng(seed), [view])
        if case.visible["tracheal_bifurcation"].all():
            x, y = case.points_net["tracheal_bifurcation"][0].round().astype(int)
            near = case.batch[0, 0, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].mean()
            ring = case.batch[0, 0, max(0, y - 12) : y + 13, max(0, x - 12) : x + 13]
            stands_out.append(abs(near - np.median(ring)) > np.abs(ring - np.median(ring)).mean())
    assert len(stands_out) > 20
    assert np.mean(stands_out) > 0.85, "but for edges of the field nearby; a ball of 4 px, warps of 4 px"
