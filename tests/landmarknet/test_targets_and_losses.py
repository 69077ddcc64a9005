import numpy as np
import pytest
import torch

from landmarknet.dataset import Sample
from landmarknet.fast_head import to_full_resolution
from landmarknet.losses import loss_terms, peak_loss
from landmarknet.network import STRIDES, Prediction
from landmarknet.targets import heatmap, level_heatmap, site_heatmap


def test_target_is_a_gaussian_of_sigma_3_about_the_label():
    target = heatmap(np.array(((100.0, 60.0),)), 384)
    assert target[60, 100] == 1.0
    assert target[60, 103] == pytest.approx(np.exp(-0.5))
    assert target[63, 100] == pytest.approx(np.exp(-0.5))
    assert float(target.sum()) == pytest.approx(2 * np.pi * 9, rel=1e-3)


def test_two_labels_of_a_kind_do_not_add_up():
    assert float(heatmap(np.array(((50.0, 50.0), (51.0, 50.0))), 96).max()) == 1.0


def test_no_label_gives_zeros():
    assert float(heatmap(np.zeros((0, 2)), 96).abs().max()) == 0.0


@pytest.mark.parametrize("stride", STRIDES)
def test_level_targets_peak_at_the_cell_that_holds_the_label(stride):
    target = level_heatmap(np.array(((200.0, 120.0),)), 384, stride)
    assert target.shape == (384 // stride, 384 // stride)
    row, column = divmod(int(target.argmax()), 384 // stride)
    assert (row, column) == (120 // stride, 200 // stride)


def make_sample(n_points, mask=1.0, present=1.0):
    points = np.array(((100.0, 100.0),))[:n_points]
    return Sample(
        image=torch.zeros(1, 1, 384, 384),
        target=site_heatmap(points, 384)[None, None],
        by_level=tuple(level_heatmap(points, 384, s)[None, None] for s in STRIDES),
        mask=torch.full((1, 1, 288, 1), mask),
        present=torch.tensor(((present,),)),
    )


def perfect(sample, gate=20.0):
    return Prediction(sample.target.clone(), torch.full((1, 1), gate), tuple(t.clone() for t in sample.by_level))


def test_a_perfect_answer_costs_nothing():
    sample = make_sample(1)
    assert all(float(term) < 1e-6 for term in loss_terms(perfect(sample), sample).values())


def test_the_empty_map_costs_as_derived():
    # weight 1 + 10 t: integral of t^2 + 10 t^3 over the integral of t, for a Gaussian 1/2 + 10/3
    target = heatmap(np.array(((100.0, 100.0),)), 384)[None, None]
    loss = peak_loss(torch.zeros_like(target), target, torch.ones_like(target), sigma=3.0)
    assert float(loss) == pytest.approx(0.5 + 10 / 3, rel=1e-3)


def test_both_forms_of_the_head_have_one_loss_and_one_gradient():
    sample = make_sample(1)
    fast = torch.rand(sample.target.shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
    others = perfect(sample)
    loss_terms(others._replace(heatmaps=fast), sample)["heatmaps"].backward()
    by_sites, fast.grad = fast.grad.clone(), None
    loss_terms(others._replace(heatmaps=to_full_resolution(fast)), sample)["heatmaps"].backward()
    assert torch.allclose(fast.grad, by_sites, rtol=1e-4, atol=1e-9)
    assert by_sites.abs().max() > 1e-6


def test_what_nobody_labelled_costs_nothing():
    sample = make_sample(0, mask=0.0, present=-1.0)
    wrong = Prediction(
        torch.ones_like(sample.target), torch.full((1, 1), 5.0), tuple(torch.ones_like(t) for t in sample.by_level)
    )
    assert all(float(term) == 0.0 for term in loss_terms(wrong, sample).values())


def test_an_open_gate_on_an_empty_image_costs():
    sample = make_sample(0, present=0.0)
    terms = loss_terms(perfect(sample, gate=5.0), sample)
    assert float(terms["presence"]) > 0.1
    assert float(terms["heatmaps"]) == 0.0
