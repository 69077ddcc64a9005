import pytest
import torch

from landmarknet.network import STRIDES, LandmarkNet, NetworkConfig
from landmarknet.report import count_macs, mac_table

SMALL = NetworkConfig(bottom_up="resnet18", width=0.25, head_width=0.125)


def test_bottom_up_of_the_paper_has_the_channels_and_sizes_of_table_1():
    network = LandmarkNet(NetworkConfig()).eval()
    with torch.no_grad():
        levels = network.bottom_up(torch.zeros(1, 1, 480, 480))
    assert [tuple(level.shape[1:]) for level in levels] == [
        (256, 120, 120),
        (512, 60, 60),
        (1024, 30, 30),
        (2048, 15, 15),
    ]


@pytest.mark.parametrize(("head", "size"), [("plain", 384), ("fast", 288)])
def test_heatmaps_have_the_size_of_their_form(head, size):
    network = LandmarkNet(SMALL, head).eval()
    with torch.no_grad():
        prediction = network(torch.zeros(2, 1, 384, 384), with_levels=True)
    assert prediction.heatmaps.shape == (2, 3, size, size)
    assert prediction.gate.shape == (2, 3)
    assert [tuple(p.shape) for p in prediction.by_level] == [(2, 3, 384 // s, 384 // s) for s in STRIDES]


def test_three_equal_channels_of_the_paper_fold_into_one():
    three = torch.nn.Conv2d(3, 8, 7, 2, padding=3, bias=False)
    one = torch.nn.Conv2d(1, 8, 7, 2, padding=3, bias=False)
    one.weight.data = three.weight.data.sum(dim=1, keepdim=True)
    image = torch.randn(1, 1, 64, 64)
    # float32 sums of 147 products in another order
    assert torch.allclose(three(image.expand(-1, 3, -1, -1)), one(image), atol=1e-5)


def test_config_survives_its_dictionary():
    assert NetworkConfig.from_dict(SMALL.to_dict()) == SMALL


def test_fast_head_needs_a_fifth_of_the_arithmetic():
    # fast-head.md: 105.59 against 20.43 GMAC with their conventions; the ratio is what matters
    plain, fast = count_macs(NetworkConfig(), "plain"), count_macs(NetworkConfig(), "fast")
    assert 100e9 < plain < 110e9
    assert fast / plain == pytest.approx(0.193, abs=0.004)


def test_mac_table_has_a_row_per_network_and_head():
    assert mac_table().count("\n") == 5
