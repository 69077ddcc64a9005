import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landmarknet.fast_head import (
    interleaved,
    site_batch_norm,
    site_weights,
    terms_of_conv,
    to_full_resolution,
    to_sites,
    upsampled_conv,
)
from landmarknet.network import LandmarkNet, NetworkConfig

PAPER = NetworkConfig()
SMALL = NetworkConfig(bottom_up="resnet18", width=0.25, head_width=0.125)


def scrambled(network, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
            module.weight.data += 1
            module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=generator))
    return network


def both(network, image):
    network.head = "plain"
    plain = network(image)
    network.head = "fast"
    return plain, network(image)


@pytest.mark.parametrize("upsampling", [4, 8, 32])
@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (5, 2)])
def test_phases_are_the_convolution_of_the_upsampled_map(upsampling, shape):
    x = torch.randn(2, 3, *shape, dtype=torch.float64)
    weight = torch.randn(5, 3, 3, 3, dtype=torch.float64)
    full = F.conv2d(F.interpolate(x, scale_factor=float(upsampling)), weight, padding=1)

    phases = interleaved(terms_of_conv(x.permute(0, 2, 3, 1), weight).phases()).permute(0, 3, 1, 2)

    cell = torch.tensor([0] + [1] * (upsampling - 2) + [2])
    rows = torch.cat([3 * i + cell for i in range(shape[0])])
    columns = torch.cat([3 * i + cell for i in range(shape[1])])
    assert (phases[:, :, rows][:, :, :, columns] - full).abs().max() < 1e-12


def test_levels_add_up_to_the_convolution_of_their_concatenation():
    features = [torch.randn(1, c, 64 // s, 96 // s, dtype=torch.float64) for c, s in ((2, 4), (3, 8), (1, 16), (4, 32))]
    weight = torch.randn(6, 10, 3, 3, dtype=torch.float64)
    d = torch.cat([F.interpolate(f, scale_factor=float(s)) for f, s in zip(features, (4, 8, 16, 32), strict=True)], 1)

    sites = interleaved(upsampled_conv(features, weight).phases()).permute(0, 3, 1, 2)

    assert sites.shape == (1, 6, 48, 72)
    assert (to_full_resolution(sites) - F.conv2d(d, weight, padding=1)).abs().max() < 1e-12


@pytest.mark.parametrize("config", [PAPER, SMALL], ids=["paper-sized", "small"])
def test_fast_head_equals_the_plain_head_in_float64(config):
    network = scrambled(LandmarkNet(config)).double().eval()
    image = torch.randn(1, 1, 192, 192, dtype=torch.float64)  # 384 is tested in float32: a quarter of the time
    with torch.no_grad():
        plain, fast = both(network, image)
    assert plain.heatmaps.abs().max() > 1e-3, "an empty heatmap would equal anything"
    assert (plain.heatmaps - to_full_resolution(fast.heatmaps)).abs().max() < 1e-10
    assert (plain.gate - fast.gate).abs().max() < 1e-10


@pytest.mark.parametrize("config", [PAPER, SMALL], ids=["paper-sized", "small"])
def test_fast_head_equals_the_plain_head_in_float32(config):
    network = scrambled(LandmarkNet(config)).eval()
    with torch.no_grad():
        plain, fast = both(network, torch.randn(1, 1, 384, 384))
    scale = float(plain.heatmaps.abs().max())
    assert scale > 1e-3
    assert float((plain.heatmaps - to_full_resolution(fast.heatmaps)).abs().max()) < 1e-4 * max(1.0, scale)


@pytest.mark.parametrize("size", [(384, 384), (64, 160)], ids=["network size", "odd number of cells"])
def test_borders_agree_to_the_last_pixel(size):
    network = scrambled(LandmarkNet(SMALL)).double().eval()
    with torch.no_grad():
        plain, fast = both(network, torch.randn(1, 1, *size, dtype=torch.float64))
    difference = (plain.heatmaps - to_full_resolution(fast.heatmaps)).abs()
    for border in (difference[..., :5, :], difference[..., -5:, :], difference[..., :5], difference[..., -5:]):
        assert border.max() < 1e-10


@pytest.mark.parametrize("config", [PAPER, SMALL], ids=["paper-sized", "small"])
def test_training_mode_gives_the_same_heatmaps_statistics_and_gradients(config):
    # 128 px: the paper-sized head in float64, forward and backward, within CI's memory and time
    fast_net = scrambled(LandmarkNet(config, "fast")).double().train()
    plain_net = copy.deepcopy(fast_net)
    plain_net.head = "plain"
    image = torch.randn(2, 1, 128, 128, dtype=torch.float64)
    target = torch.randn(2, 4, 128, 128, dtype=torch.float64)

    plain, fast = plain_net(image).heatmaps, fast_net(image).heatmaps
    assert (plain - to_full_resolution(fast)).abs().max() < 1e-10

    ((plain - target) ** 2).sum().backward()
    weights = site_weights(96, fast)[..., 0]
    ((fast - to_sites(target)) ** 2 * weights).sum().backward()
    for (name, p), q in zip(plain_net.named_parameters(), fast_net.parameters(), strict=True):
        if p.grad is None:
            assert name.startswith("by_level"), "only the intermediate heatmaps were not asked for"
        else:
            assert (p.grad - q.grad).abs().max() <= 1e-9 * max(1.0, float(p.grad.abs().max())), name
    for (name, p), q in zip(plain_net.named_buffers(), fast_net.buffers(), strict=True):
        assert (p - q).abs().max() < 1e-10, name


def test_site_batch_norm_passes_the_numerical_gradient_check():
    norm = nn.BatchNorm2d(2).double()
    norm.weight.data = torch.tensor((1.3, -0.7), dtype=torch.float64)
    x = torch.randn(2, 6, 3, 2, dtype=torch.float64, requires_grad=True)[:, :, [0, 1, 2, 0, 1, 2]]
    x = x.detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda t: site_batch_norm(t, norm), (x,))


def test_sites_stand_for_the_pixels_of_their_block():
    full = torch.arange(64.0).reshape(8, 8)
    sites = to_sites(full)
    assert sites.shape == (6, 6)
    assert sites[0, 0] == full[0, 0]
    assert sites[1, 1] == full[1:3, 1:3].mean()
    assert sites[2, 4] == full[3, 5:7].mean()
    assert float((sites * site_weights(6, sites)[..., 0]).sum()) == pytest.approx(float(full.sum()))


def test_full_resolution_repeats_the_middle_of_each_block():
    line = to_full_resolution(torch.arange(36.0).reshape(6, 6))[0]
    assert line.tolist() == [0, 1, 1, 2, 3, 4, 4, 5]


def test_weights_are_shared_by_both_forms():
    network = LandmarkNet(SMALL, "plain")
    names = set(network.state_dict())
    network.head = "fast"
    assert set(network.state_dict()) == names


def test_autocast_training_keeps_float32_statistics():
    network = LandmarkNet(SMALL).train()
    with torch.autocast("cpu", torch.bfloat16):
        network(torch.randn(2, 1, 64, 64)).heatmaps.float().square().mean().backward()
    assert network.heatmap_norm.running_mean.dtype == torch.float32
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in network.parameters())


def test_zero_gate_silences_a_kind():
    network = scrambled(LandmarkNet(SMALL)).eval()
    with torch.no_grad():
        network.gate[-1].weight.zero_()
        network.gate[-1].bias.copy_(torch.tensor((-80.0, 80.0, 0.0, 0.0)))
        heatmaps = network(torch.randn(1, 1, 64, 64)).heatmaps[0]
    assert heatmaps[0].abs().max() < 1e-12
    assert heatmaps[1].abs().max() > 1e-3
