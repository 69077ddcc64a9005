from dataclasses import replace

import numpy as np
import pytest
import torch

from landmarknet.simulate import (
    CLEAN_DRR,
    PLAIN,
    PORTAL_6MV,
    Field,
    blur,
    close_over,
    expose,
    field_mask,
    process,
    respond,
    sample_exposure,
    sample_field,
)

SIZE = 128


def grid(mm_per_px=1.0, size=SIZE):
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return torch.stack((x - (size - 1) / 2, (size - 1) / 2 - y), dim=-1) * mm_per_px


def thorax_with_a_rib():
    """200 mm of water, crossed by a strip whose bone adds 8 mm of water-equivalent excess."""
    paths = torch.zeros(2, SIZE, SIZE)
    paths[0] = 200.0
    paths[1, 60:68] = 8.0
    return paths


def contrast(exposure):
    quiet = replace(exposure, noise=0.0, gain_unevenness=0.0, blur_sigma_mm=0.0, couch_mm=0.0, field=None, response=1.0)
    image = expose(thorax_with_a_rib(), grid(), quiet, np.random.default_rng(0), lateral=False)
    relative = image + 1  # a response of exponent 1 is s - 1, s relative to the brightest
    return float(1 - relative[64].mean() / relative[20].mean())


def test_bone_shows_at_kv_and_nearly_vanishes_at_mv():
    kv, mv = contrast(replace(CLEAN_DRR, scatter=0.0)), contrast(replace(PORTAL_6MV, scatter=0.0))
    assert kv == pytest.approx(1 - np.exp(-0.0205 * 8), rel=1e-3)
    assert mv == pytest.approx(1 - np.exp(-0.0049 * 0.5 * 8), rel=1e-3)
    assert mv < kv / 7


def test_scatter_lowers_contrast_only():
    assert contrast(replace(PORTAL_6MV, scatter=0.4)) < contrast(replace(PORTAL_6MV, scatter=0.0))


def test_more_path_is_never_brighter():
    paths = torch.zeros(2, SIZE, SIZE)
    paths[0] = torch.linspace(0, 300, SIZE)
    exposure = replace(CLEAN_DRR, blur_sigma_mm=0.0)
    image = expose(paths, grid(), exposure, np.random.default_rng(0), lateral=False)
    assert (image.diff(dim=1) <= 0).all()


def test_field_edge_is_half_way_up_at_the_jaw():
    x = torch.stack((torch.tensor((-40.0, -39.999, 0.0, 30.0, 60.0)), torch.zeros(5)), dim=-1)
    mask = field_mask(x, Field((-40.0, 30.0), (-50.0, 50.0), 0.0, 3.0, transmission=0.0))
    assert mask.numpy() == pytest.approx((0.5, 0.5, 1.0, 0.5, 0.0), abs=1e-3)


def test_transmission_is_what_the_jaws_let_through():
    outside = torch.tensor(((500.0, 0.0),))
    assert float(field_mask(outside, Field((-40, 30), (-50, 50), 0.0, 3.0, 0.03))) == pytest.approx(0.03, abs=1e-4)


def test_noise_grows_as_the_signal_falls():
    paths = torch.zeros(2, SIZE, SIZE)
    paths[0, :, SIZE // 2 :] = 200.0
    noisy = replace(
        PORTAL_6MV, noise=0.02, scatter=0.0, gain_unevenness=0.0, blur_sigma_mm=0.0, couch_mm=0.0, field=None
    )
    image = expose(paths, grid(), noisy, np.random.default_rng(0), lateral=False) + 1
    bright, dark = image[:, : SIZE // 2], image[:, SIZE // 2 :]
    assert float(dark.std() / dark.mean()) > 1.3 * float(bright.std() / bright.mean())


def test_response_keeps_the_order_of_signals():
    signal = torch.linspace(0.01, 1.0, 50)
    for exponent in (0.0, 0.3, 1.0):
        assert (respond(signal, exponent).diff() > 0).all()


def test_blur_keeps_the_mean_and_widens_a_point():
    image = torch.zeros(65, 65)
    image[32, 32] = 1.0
    wide = blur(image, 3.0)
    assert float(wide.sum()) == pytest.approx(1.0, abs=1e-5)
    x = torch.arange(65.0) - 32
    assert float((wide.sum(0) * x**2).sum()) == pytest.approx(9.0, rel=1e-3)


@pytest.mark.parametrize("modality", ["kv", "mv"])
def test_every_drawn_exposure_gives_a_finite_varied_image(modality):
    for seed in range(40):
        rng = np.random.default_rng(seed)
        image = expose(thorax_with_a_rib(), grid(2.0), sample_exposure(rng, modality), rng, lateral=bool(seed % 2))
        assert torch.isfinite(image).all()
        assert float(image.std()) > 0


def test_the_same_seed_gives_the_same_image():
    def once():
        rng = np.random.default_rng(7)
        return expose(thorax_with_a_rib(), grid(), sample_exposure(rng, "mv"), rng, lateral=True)

    assert torch.equal(once(), once())


def ramp():
    return torch.linspace(0, 1, 100)[None].repeat(80, 1)


def test_plain_processing_changes_nothing():
    assert torch.equal(process(ramp(), PLAIN, 1.0, np.random.default_rng(0)), ramp())


def test_processing_clips_inverts_and_burns_labels_in():
    rng = np.random.default_rng(0)
    clipped = process(ramp(), replace(PLAIN, window=(0.1, 0.8)), 1.0, rng)
    assert (float(clipped.min()), float(clipped.max())) == pytest.approx((0.1, 0.8), abs=0.02)
    assert torch.equal(process(ramp(), replace(PLAIN, inverted=True), 1.0, rng), -ramp())
    labelled = process(ramp(), replace(PLAIN, labels=5), 1.0, rng)
    changed = labelled != ramp()
    assert 10 < int(changed.sum()) < 1500
    assert set(labelled[changed].tolist()) <= {0.0, 1.0}


def test_sharpening_steepens_an_edge():
    edge = torch.zeros(64, 64)
    edge[:, 32:] = 1.0
    sharp = process(edge, replace(PLAIN, sharpening=1.0, detail_sigma_mm=4.0), 1.0, np.random.default_rng(0))
    assert float(sharp[32, 32] - sharp[32, 31]) > 1.5
    assert float(sharp[32, 5]) == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("seed", range(30))
def test_a_jaw_closes_over_a_point_and_leaves_a_field(seed):
    rng = np.random.default_rng(seed)
    point_mm, before = rng.uniform(-60, 60, 2), sample_field(rng)
    field = close_over(point_mm, before, rng)
    at_point = field_mask(torch.from_numpy(point_mm[None]).float(), field)
    assert float(at_point) < 0.3
    assert field.x_mm[1] - field.x_mm[0] >= 30
    assert field.y_mm[1] - field.y_mm[0] >= 30
    assert sum(a != b for a, b in zip((*field.x_mm, *field.y_mm), (*before.x_mm, *before.y_mm), strict=True)) == 1


def test_where_no_jaw_leaves_30_mm_the_one_that_leaves_most_is_closed():
    field = close_over(np.array((0.0, 5.0)), Field((-10, 10), (-20, 20), 0.0, 3.0, 0.01), np.random.default_rng(1))
    assert field.y_mm[1] < 5.0
