import os

import pytest
import torch

from landmarknet.fast_head import to_full_resolution
from landmarknet.network import LandmarkNet, NetworkConfig

pytestmark = pytest.mark.gpu


@pytest.fixture
def cuda():
    if not torch.cuda.is_available():
        if os.environ.get("LANDMARKNET_REQUIRE_GPU") == "1":
            pytest.fail("LANDMARKNET_REQUIRE_GPU=1, but torch finds no CUDA device")
        pytest.skip("no CUDA device")
    return torch.device("cuda")


def test_fast_head_equals_the_plain_head_on_the_device(cuda):
    network = LandmarkNet(NetworkConfig()).eval().double().to(cuda)
    image = torch.randn(1, 1, 384, 384, dtype=torch.float64, device=cuda)
    with torch.no_grad():
        network.head = "plain"
        plain = network(image).heatmaps
        network.head = "fast"
        fast = network(image).heatmaps
    assert (plain - to_full_resolution(fast)).abs().max() < 1e-10
