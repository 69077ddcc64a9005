from dataclasses import replace

import pytest
import torch

from landmarknet.checkpoint import Checkpoint, load_network
from landmarknet.network import KINDS, STRIDES, BottomUp, LandmarkNet, NetworkConfig
from landmarknet.report import count_macs, mac_table

N = len(KINDS)
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
    assert prediction.heatmaps.shape == (2, N, size, size)
    assert prediction.gate.shape == (2, N)
    assert [tuple(p.shape) for p in prediction.by_level] == [(2, N, 384 // s, 384 // s) for s in STRIDES]


@pytest.mark.parametrize("bottom_up", ["resnet18", "resnet50"])
def test_stages_coarser_than_asked_are_dilated_instead(bottom_up):
    config = replace(SMALL, bottom_up=bottom_up)
    strided, dilated = BottomUp(config).eval(), BottomUp(config, coarsest=8).eval()
    dilated.load_state_dict(strided.state_dict())  # the same weights
    image = torch.rand(1, 1, 96, 96)
    with torch.no_grad():
        levels, fine = strided(image), dilated(image)
    assert [level.shape[-1] for level in fine] == [24, 12, 12, 12]
    # the same values, only more of them; float32 sums in another order
    assert torch.allclose(levels[2], fine[2][..., ::2, ::2], rtol=1e-4, atol=1e-6)
    assert torch.allclose(levels[3], fine[3][..., ::4, ::4], rtol=1e-4, atol=1e-6)
    assert levels[3].abs().max() > 1e-3


def test_without_a_gate_the_heatmaps_are_what_the_gate_would_multiply():
    gated = LandmarkNet(replace(SMALL, input_size=96)).eval()
    free = LandmarkNet(replace(SMALL, input_size=96, gate=False)).eval()
    missing = free.load_state_dict(gated.state_dict(), strict=False)
    assert {name.split(".")[0] for name in missing.unexpected_keys} == {"gate"}
    image = torch.rand(2, 1, 96, 96)
    with torch.no_grad():
        with_gate, without = gated(image), free(image)
    assert without.gate is None
    opening = torch.sigmoid(with_gate.gate)[:, :, None, None]
    assert opening.min() < 0.9, "or it would multiply by nothing"
    assert torch.equal(without.heatmaps * opening, with_gate.heatmaps)


def test_a_checkpoint_from_before_the_comparators_still_loads(tmp_path):
    network = LandmarkNet(replace(SMALL, kinds=KINDS[:3]))
    old = network.config.to_dict()
    for key in ("architecture", "gate", "input_size", "mm_per_net_px"):
        del old[key]
    checkpoint = Checkpoint(network.config, 1, network.state_dict(), {}, {}, {})
    torch.save({**vars(checkpoint), "network": old}, tmp_path / "weights.pt")
    loaded = load_network(tmp_path / "weights.pt")
    assert isinstance(loaded, LandmarkNet)
    assert loaded.config == network.config
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), checkpoint.averaged.values(), strict=True)
    )


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
    head, rule, *rows = mac_table().splitlines()
    assert (head.count("|"), rule.count("|")) == (5, 5)
    assert [row.split("|")[2].strip() for row in rows] == ["plain", "fast"] * (len(rows) // 2)
    assert len(rows) >= 4
