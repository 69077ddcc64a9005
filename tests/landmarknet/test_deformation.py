from dataclasses import replace

import numpy as np
import pytest

from landmarknet.deformation import SPACING_MM, Deformation, deform, sample_deformation

NONE = Deformation(np.ones(3), np.zeros((3, 4, 4, 4)))


def centre_of_the_ball_mm(ct):
    weight = np.clip(ct.hu.astype(float) + 1000.0, 0, None)
    axes = [ct.origin_mm[i] + np.arange(ct.hu.shape[i]) * ct.spacing_mm[i] for i in range(3)]
    return [float((weight.sum(axis=tuple({0, 1, 2} - {i})) * axes[i]).sum() / weight.sum()) for i in range(3)]


def test_no_deformation_only_resamples(ball_ct):
    same = deform(ball_ct, NONE)
    assert same.spacing_mm.tolist() == [SPACING_MM] * 3
    assert same.points_mm["tracheal_bifurcation"] == pytest.approx(ball_ct.points_mm["tracheal_bifurcation"])
    assert centre_of_the_ball_mm(same) == pytest.approx(centre_of_the_ball_mm(ball_ct), abs=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_a_landmark_moves_with_what_it_marks(ball_ct, seed):
    moved = deform(ball_ct, sample_deformation(np.random.default_rng(seed)))
    (mark,) = moved.points_mm["tracheal_bifurcation"]
    assert np.linalg.norm(mark - ball_ct.points_mm["tracheal_bifurcation"][0]) > 0.5, "this seed moves nothing"
    assert centre_of_the_ball_mm(moved) == pytest.approx(mark.tolist(), abs=0.6)  # a ball bends a little


def test_stretch_makes_the_body_larger(ball_ct):
    larger = deform(ball_ct, Deformation(np.full(3, 0.8), np.zeros((3, 4, 4, 4))))
    inside, before = ((ct.hu > 0).sum() * np.prod(ct.spacing_mm) for ct in (larger, ball_ct))
    assert inside / before == pytest.approx(1 / 0.8**3, rel=0.08)


def test_moving_back_and_forth_returns(ball_ct):
    rng = np.random.default_rng(3)
    points = ball_ct.centre_mm + rng.uniform(-40, 40, (20, 3))
    deformation = sample_deformation(rng)
    assert deformation.source_mm(deformation.move(points, ball_ct), ball_ct) == pytest.approx(points, abs=1e-6)


def test_a_body_that_reaches_the_ends_of_the_ct_still_does(ball_ct):
    x, y = np.indices(ball_ct.hu.shape[:2])
    column = np.hypot(x - 40, y - 45) < 25
    hu = np.where(column[..., None], 0, -1000).astype(np.int16).repeat(ball_ct.hu.shape[2], axis=2)
    body = replace(ball_ct, hu=hu)
    for seed in range(10):
        tissue = (deform(body, sample_deformation(np.random.default_rng(seed))).hu > -500).sum(axis=(0, 1))
        assert tissue.min() > 0.6 * np.median(tissue), f"seed {seed}: an end is cut off"
