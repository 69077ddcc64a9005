from pathlib import Path

import numpy as np
import pytest
import torch

from landmarknet.ct import CtVolume
from landmarknet.network import LandmarkNet, NetworkConfig

SMALL = NetworkConfig(bottom_up="resnet18", width=0.25, head_width=0.125)
SHARED_CT = Path(__file__).parents[3] / "shared" / "ct"


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_network():
    return scrambled(LandmarkNet(SMALL))


def scrambled(network: LandmarkNet, seed: int = 0) -> LandmarkNet:
    """Give batch norms weights and statistics that a fresh network does not have."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
            module.weight.data += 1
            module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=generator))
    return network.eval()


@pytest.fixture
def ball_ct():
    """An air volume with one ball of bone at LPS (30, -20, 15) mm, which is also its labelled carina."""
    spacing, origin = np.array((2.0, 2.0, 2.5)), np.array((-80.0, -90.0, -100.0))
    shape = (80, 90, 80)
    centre = np.array((30.0, -20.0, 15.0))
    axes = [origin[i] + np.arange(shape[i]) * spacing[i] for i in range(3)]
    distance = np.sqrt(sum((a - c) ** 2 for a, c in zip(np.meshgrid(*axes, indexing="ij"), centre, strict=True)))
    hu = np.where(distance <= 10.0, 1000, -1000).astype(np.int16)
    return CtVolume("ball", hu, spacing, origin, {"tracheal_bifurcation": centre[None]})


@pytest.fixture
def shared_ct():
    if not SHARED_CT.is_dir():
        pytest.skip("../shared/ct is absent: this test projects a real CT")
    return SHARED_CT
