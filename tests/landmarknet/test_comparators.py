from dataclasses import replace

import numpy as np
import pytest
import torch

from landmarknet.comparators import (
    DeepLabV3,
    Dsnt,
    PyramidResidualNet,
    expected_cell,
    gaussian_about,
    new_network,
    upsampled,
)
from landmarknet.dataset import Sample
from landmarknet.decode import LandmarkDetector, find_peaks
from landmarknet.fast_head import to_sites
from landmarknet.losses import coordinate_terms, loss_terms
from landmarknet.network import KINDS, SINGLE_KINDS, STRIDES, LandmarkNet, NetworkConfig
from landmarknet.targets import level_target, site_target

ARCHITECTURES = {"landmarknet": LandmarkNet, "dsnt": Dsnt, "deeplabv3": DeepLabV3, "prm": PyramidResidualNet}
SMALL = NetworkConfig(bottom_up="resnet18", width=0.25, head_width=0.25, input_size=96)
N, SIGMA = len(KINDS), 3.0
# The middle of a cell of stride 8.
AT_NET = (43.5, 51.5)


def small(architecture):
    torch.manual_seed(0)
    return new_network(replace(SMALL, architecture=architecture))


def sample_of(size=96):
    """A bright disc in noise: a bifurcation, a Louis angle, two processes and their line."""
    rng = np.random.default_rng(0)
    rows, columns = np.indices((size, size))
    image = np.exp(-0.5 * ((columns - AT_NET[0]) ** 2 + (rows - AT_NET[1]) ** 2) / 4**2) + 0.1 * rng.random(
        (size, size)
    )
    points = [np.array((AT_NET, (20.0, 80.0))) if kind not in SINGLE_KINDS else np.array((AT_NET,)) for kind in KINDS]
    named = list(zip(KINDS, points, strict=True))
    return Sample(
        image=torch.from_numpy(image.astype(np.float32))[None, None],
        target=torch.stack([site_target(kind, p, size, SIGMA) for kind, p in named])[None],
        by_level=tuple(torch.stack([level_target(k, p, size, s, SIGMA) for k, p in named])[None] for s in STRIDES),
        mask=torch.ones(1, N, size * 3 // 4, 1),
        present=torch.ones(1, N),
    )


def loss(network, sample):
    terms = coordinate_terms if isinstance(network, Dsnt) else loss_terms
    return sum(terms(network(sample.image, with_levels=True), sample, SIGMA).values())


@pytest.mark.parametrize(("architecture", "class_"), ARCHITECTURES.items())
def test_the_configuration_names_the_network(architecture, class_):
    assert type(small(architecture)) is class_
    assert type(new_network(NetworkConfig(width=0.125))) is LandmarkNet


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("head", "size"), [("plain", 96), ("fast", 72)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_heatmaps_of_every_network_have_the_size_of_their_form(architecture, head, size, training):
    network = new_network(replace(SMALL, architecture=architecture), head).train(training)
    with torch.no_grad():
        prediction = network(torch.rand(2, 1, 96, 96), with_levels=True)
        alone = network(torch.rand(2, 1, 96, 96))
    assert prediction.heatmaps.shape == (2, N, size, size)
    assert prediction.gate is None or prediction.gate.shape == (2, N)
    strides = {"landmarknet": STRIDES, "dsnt": (8,), "deeplabv3": (), "prm": (4,)}[architecture]
    assert [tuple(level.shape) for level in prediction.by_level] == [(2, N, 96 // s, 96 // s) for s in strides]
    assert alone.by_level == ()


@pytest.mark.parametrize("size", [128, 192])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_network_takes_other_sizes(architecture, size):
    network = new_network(replace(SMALL, architecture=architecture, input_size=size)).eval()
    with torch.no_grad():
        assert network(torch.rand(1, 1, size, size)).heatmaps.shape == (1, N, size * 3 // 4, size * 3 // 4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_batch_of_one_in_bfloat16_gives_every_parameter_a_gradient(architecture):
    # DistributedDataParallel waits for ever for a parameter without one
    network = small(architecture).train()
    with torch.autocast("cpu", torch.bfloat16):
        total = loss(network, sample_of())
    total.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(("architecture", "steps"), [("landmarknet", 80), ("dsnt", 40), ("deeplabv3", 40), ("prm", 40)])
def test_every_network_learns_one_image(architecture, steps):
    network, sample = small(architecture).train(), sample_of()
    kind = KINDS.index("tracheal_bifurcation")
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(network, sample).backward()
        optimizer.step()
    with torch.no_grad():
        for _ in range(30):  # the running statistics of the batch norms lag behind
            network(sample.image)
        peaks, _ = LandmarkDetector(network.eval())(sample.image)
    x, y, height = peaks[kind, 0].tolist()
    assert np.hypot(x - AT_NET[0], y - AT_NET[1]) < 2.0
    assert height > 0.5


def test_a_smooth_map_is_upsampled_to_itself_and_averaged_to_the_sites():
    def smooth(at_px):
        return torch.exp(-0.5 * ((at_px[:, None] - 43.0) ** 2 + (at_px - 50.0) ** 2) / 20.0**2)

    cells = smooth((torch.arange(12.0) + 0.5) * 8 - 0.5)[None, None]
    full = upsampled(cells, 96, "plain")
    off = (full[0, 0] - smooth(torch.arange(96.0)))[30:60, 35:65].abs().max()
    assert off < 0.02, "near the peak; a bilinear map would be 0.037 off"
    assert torch.equal(upsampled(cells, 96, "fast"), to_sites(full))


def test_the_expected_cell_is_the_mean_of_a_distribution():
    share = torch.zeros(1, 1, 4, 6)
    share[0, 0, 1, 2], share[0, 0, 3, 5] = 0.75, 0.25
    assert expected_cell(share)[0, 0].tolist() == pytest.approx((0.75 * 2 + 0.25 * 5, 0.75 * 1 + 0.25 * 3))


@pytest.mark.parametrize("head", ["plain", "fast"])
@pytest.mark.parametrize("xy_net", [(30.3, 51.7), (43.5, 12.0), (0.6, 95.0)])
def test_a_drawn_point_is_decoded_where_it_is(xy_net, head):
    drawn = gaussian_about(torch.tensor(xy_net)[None, None], 96, head)
    assert float(drawn.max()) == 1.0
    if head == "fast":
        x, y, height = find_peaks(drawn[0], 4, 8)[0, 0].tolist()
        assert height == 1.0
        # a peak in the first or last row is not moved: its own pixel
        assert (x, y) == pytest.approx(xy_net, abs=0.01 if 1 < min(xy_net) < 94 else 0.75)


def test_dsnt_draws_its_point_as_high_as_it_is_sure_and_nothing_for_several_landmarks():
    network = small("dsnt").eval()
    with torch.no_grad():
        network.gate[-1].weight.zero_()
        network.gate[-1].bias.fill_(np.log(3))  # a probability of 3/4
        heatmaps = network(torch.rand(1, 1, 96, 96)).heatmaps[0]
    heights = dict(zip(KINDS, heatmaps.amax(dim=(1, 2)).tolist(), strict=True))
    assert heights == pytest.approx({kind: 0.75 if kind in SINGLE_KINDS else 0.0 for kind in KINDS})
