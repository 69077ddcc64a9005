import numpy as np
import pytest
import torch

from landmarknet.dataset import Sample
from landmarknet.fast_head import to_full_resolution
from landmarknet.losses import coordinate_terms, gaussian_centre, hard_weights, jensen_shannon, loss_terms, peak_loss
from landmarknet.network import LINE_KINDS, STRIDES, Prediction
from landmarknet.targets import heatmap, level_sigma, level_target, site_target

SIGMA = 3.0
KIND = "louis_angle"


def test_target_is_a_gaussian_of_sigma_3_about_the_label():
    target = heatmap(np.array(((100.0, 60.0),)), 384, SIGMA)
    assert target[60, 100] == 1.0
    assert target[60, 103] == pytest.approx(np.exp(-0.5))
    assert target[63, 100] == pytest.approx(np.exp(-0.5))
    assert float(target.sum()) == pytest.approx(2 * np.pi * 9, rel=1e-3)


def test_two_labels_of_a_kind_do_not_add_up():
    assert float(heatmap(np.array(((50.0, 50.0), (51.0, 50.0))), 96, SIGMA).max()) == 1.0


def test_no_label_gives_zeros():
    assert float(heatmap(np.zeros((0, 2)), 96, SIGMA).abs().max()) == 0.0


@pytest.mark.parametrize("stride", STRIDES)
def test_level_targets_peak_at_the_cell_that_holds_the_label(stride):
    target = level_target(KIND, np.array(((200.0, 120.0),)), 384, stride, SIGMA)
    assert target.shape == (384 // stride, 384 // stride)
    row, column = divmod(int(target.argmax()), 384 // stride)
    assert (row, column) == (120 // stride, 200 // stride)


def test_a_line_is_a_ridge_that_ends_with_its_labels():
    (kind,) = LINE_KINDS
    target = to_full_resolution(site_target(kind, np.array(((40.0, 30.0), (60.0, 70.0))), 96, SIGMA))
    assert target[50, 50] > 0.97, "half way along the line; a site's mean of two pixels is a little lower"
    assert target[50, 62] < 0.01, "four sigma beside it"
    assert target[8, 40] < 0.01, "beyond the first label"


def make_sample(n_points, mask=1.0, present=1.0):
    points = np.array(((100.0, 100.0),))[:n_points]
    return Sample(
        image=torch.zeros(1, 1, 384, 384),
        target=site_target(KIND, points, 384, SIGMA)[None, None],
        by_level=tuple(level_target(KIND, points, 384, s, SIGMA)[None, None] for s in STRIDES),
        mask=torch.full((1, 1, 288, 1), mask),
        present=torch.tensor(((present,),)),
    )


def perfect(sample, gate=20.0):
    return Prediction(sample.target.clone(), torch.full((1, 1), gate), tuple(t.clone() for t in sample.by_level))


def test_a_perfect_answer_costs_nothing():
    sample = make_sample(1)
    assert all(float(term) < 1e-6 for term in loss_terms(perfect(sample), sample, SIGMA).values())


def test_the_empty_map_costs_as_derived():
    # weight 1 + 10 t: integral of t^2 + 10 t^3 over the integral of t, for a Gaussian 1/2 + 10/3
    target = heatmap(np.array(((100.0, 100.0),)), 384, SIGMA)[None, None]
    loss = peak_loss(torch.zeros_like(target), target, torch.ones_like(target), SIGMA)
    assert float(loss) == pytest.approx(0.5 + 10 / 3, rel=1e-3)


def test_both_forms_of_the_head_have_one_loss_and_one_gradient():
    sample = make_sample(1)
    fast = torch.rand(sample.target.shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
    others = perfect(sample)
    loss_terms(others._replace(heatmaps=fast), sample, SIGMA)["heatmaps"].backward()
    by_sites, fast.grad = fast.grad.clone(), None
    loss_terms(others._replace(heatmaps=to_full_resolution(fast)), sample, SIGMA)["heatmaps"].backward()
    assert torch.allclose(fast.grad, by_sites, rtol=1e-4, atol=1e-9)
    assert by_sites.abs().max() > 1e-6


def test_what_nobody_labelled_costs_nothing():
    sample = make_sample(0, mask=0.0, present=-1.0)
    wrong = Prediction(
        torch.ones_like(sample.target), torch.full((1, 1), 5.0), tuple(torch.ones_like(t) for t in sample.by_level)
    )
    assert all(float(term) == 0.0 for term in loss_terms(wrong, sample, SIGMA).values())


def test_an_open_gate_on_an_empty_image_costs():
    sample = make_sample(0, present=0.0)
    terms = loss_terms(perfect(sample, gate=5.0), sample, SIGMA)
    assert float(terms["presence"]) > 0.1
    assert float(terms["heatmaps"]) == 0.0


def test_without_a_share_of_the_levels_they_cost_nothing_but_the_rest_is_as_it_was():
    sample = make_sample(1)
    wrong = perfect(sample, gate=0.0)._replace(
        heatmaps=sample.target / 2, by_level=tuple(map(torch.ones_like, sample.by_level))
    )
    usual, without = loss_terms(wrong, sample, SIGMA), loss_terms(wrong, sample, SIGMA, level_share=0.0)
    doubled = loss_terms(wrong, sample, SIGMA, level_share=0.5)
    assert float(without["levels"]) == 0.0
    assert float(doubled["levels"]) == pytest.approx(2 * float(usual["levels"]))  # the usual share is 1/4
    assert float(usual["levels"]) > 0.1
    assert {k: float(usual[k]) for k in ("heatmaps", "presence")} == {
        k: float(without[k]) for k in ("heatmaps", "presence")
    }


def test_a_network_without_a_gate_has_no_presence_to_pay_for():
    sample = make_sample(1)
    assert float(loss_terms(perfect(sample, gate=-5.0), sample, SIGMA)["presence"]) > 0.1
    assert float(loss_terms(perfect(sample)._replace(gate=None), sample, SIGMA)["presence"]) == 0.0


def test_hard_weights_have_mean_1_and_count_the_hardest_share_twice():
    error = torch.tensor(((1.0, 8.0), (2.0, 7.0), (3.0, 6.0), (4.0, 5.0)))  # (B, n): each kind has its own hard images
    weights = hard_weights(error, 0.25)
    # one of four counts twice: weights 1, 1, 1, 2 divided by their mean 5/4
    assert weights[:, 0].tolist() == pytest.approx((0.8, 0.8, 0.8, 1.6))
    assert weights[:, 1].tolist() == pytest.approx((1.6, 0.8, 0.8, 0.8))
    assert torch.equal(hard_weights(error, 0.0), torch.ones(4, 2))


def test_hard_examples_weigh_more_in_the_loss():
    target = heatmap(np.array(((48.0, 48.0),)), 96, SIGMA).expand(2, 1, 96, 96)
    prediction = target.clone()
    prediction[1] = 0.0  # one of two images is missed altogether
    plain, hard = (peak_loss(prediction, target, torch.ones_like(target), SIGMA, share) for share in (0.0, 0.5))
    assert float(hard) == pytest.approx(float(plain) * 4 / 3)  # its weight is 2 over the mean 3/2


@pytest.mark.parametrize("xy_net", [(100.3, 57.9), (0.0, 383.0), (383.0, 0.2), (3.4, 380.0)])
def test_the_centre_of_a_sampled_gaussian_is_found_at_the_border_too(xy_net):
    stride = 8
    target = level_target(KIND, np.array((xy_net,)), 384, stride, SIGMA)[None, None]
    (found,) = gaussian_centre(target, level_sigma(stride, SIGMA))[0]
    assert found.tolist() == pytest.approx([(c + 0.5) / stride - 0.5 for c in xy_net], abs=1e-4)  # float32 logarithms


def test_jensen_shannon_is_0_for_equals_and_ln_2_for_strangers():
    p, q = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    p[..., 0, 0], q[..., 3, 3] = 1.0, 1.0
    assert float(jensen_shannon(p, p)) == pytest.approx(0.0, abs=1e-6)
    assert float(jensen_shannon(p, q)) == pytest.approx(np.log(2), rel=1e-6)


def coordinate_sample(points, present):
    """(B, 1) samples of 96 px, a point each; whether the kind is present is said apart from the maps."""
    targets = [np.array((point,)) for point in points]
    return Sample(
        image=torch.zeros(len(points), 1, 96, 96),
        target=torch.stack([site_target(KIND, p, 96, SIGMA)[None] for p in targets]),
        by_level=tuple(torch.stack([level_target(KIND, p, 96, s, SIGMA)[None] for p in targets]) for s in STRIDES),
        mask=torch.ones(len(points), 1, 72, 1),
        present=torch.tensor(present)[:, None],
    )


def one_cell(*cells):
    share = torch.zeros(len(cells), 1, 12, 12)
    for number, (x, y) in enumerate(cells):
        share[number, 0, y, x] = 1.0
    return Prediction(torch.zeros(len(cells), 1, 72, 72), torch.zeros(len(cells), 1), (share,))


def test_a_coordinate_costs_its_distance_in_half_images():
    sample = coordinate_sample([(3.5 + 8 * 2, 3.5 + 8 * 5)], [1.0])  # the centre of cell (2, 5)
    right = coordinate_terms(one_cell((2, 5)), sample, SIGMA, kinds=(KIND,))
    away = coordinate_terms(one_cell((5, 9)), sample, SIGMA, kinds=(KIND,))
    assert float(right["heatmaps"]) == pytest.approx(0.0, abs=1e-5)
    assert float(away["heatmaps"]) == pytest.approx(5 * 2 / 12, rel=1e-5)  # 3 and 4 cells; 12 cells are 2 wide
    assert 0 < float(right["levels"]) < float(away["levels"]) < np.log(2)


def test_images_that_do_not_show_the_kind_leave_its_coordinate_alone():
    points = [(40.0, 40.0)] * 3
    alone = coordinate_terms(one_cell((1, 1)), coordinate_sample(points[:1], [1.0]), SIGMA, kinds=(KIND,))
    beside = one_cell((1, 1), (9, 9), (0, 5))
    among = coordinate_terms(beside, coordinate_sample(points, [1.0, 0.0, -1.0]), SIGMA, kinds=(KIND,))
    for term in ("heatmaps", "levels"):
        assert float(among[term]) == pytest.approx(float(alone[term]))
    none = coordinate_terms(one_cell((1, 1)), coordinate_sample(points[:1], [0.0]), SIGMA, kinds=(KIND,))
    assert float(none["heatmaps"]) == float(none["levels"]) == 0.0
    assert float(none["presence"]) > 0.0


def test_a_kind_with_several_landmarks_has_no_coordinate():
    sample = coordinate_sample([(40.0, 40.0)], [1.0])
    terms = coordinate_terms(one_cell((9, 9)), sample, SIGMA, kinds=("spinous_process",))
    assert float(terms["heatmaps"]) == float(terms["levels"]) == 0.0
