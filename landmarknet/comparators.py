"""The networks that the paper's Table 3 compares with, small, their last layers adapted: one heatmap per kind.

Each maps (B, 1, S, S) to the `Prediction` of LandmarkNet, takes the same `NetworkConfig`, and has the same two forms of
output, so that training, decode and evaluation do not know which network they run. ``head_width`` does not apply.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landmarknet.fast_head import PIXELS_PER_BLOCK, SITE_OFFSETS, to_sites
from landmarknet.network import (
    SINGLE_KINDS,
    BottomUp,
    HeadForm,
    LandmarkNet,
    NetworkConfig,
    Prediction,
    conv_bn,
    gate_subnet,
)
from landmarknet.targets import PAPER_SIGMA_NET_PX

DILATED_STRIDE = 8
ASPP_RATES, ASPP_CROP_PX = (12, 24, 36), 513  # of DeepLabv3 at stride 8, and the crop that they were chosen for
PYRAMID_LEVELS = 4  # C of the pyramid residual module: ratios 2**(-1/4) to 2**-1
HOURGLASS_STACKS, HOURGLASS_DEPTH = 2, 4
# Not bilinear as in the papers: its peaks lie on cells' centres, so that even the best map of stride 8 is decoded
# 2.5 px off on average, of stride 4 0.65 px (targets of sigma 3 px, 64 random points); bicubic leaves 1.0 and 0.14 px.
UPSAMPLING = "bicubic"
MIN_CHANNELS = 16  # torch 2.13 crashes in the bfloat16 backward of convolutions with 8


class DeepLabV3(nn.Module):
    """Atrous spatial pyramid pooling on a dilated ResNet.

    Source: Chen, Papandreou, Schroff, Adam, "Rethinking Atrous Convolution for Semantic Image Segmentation",
    arXiv 1706.05587, 2017. Output stride 8: the last two stages of the `BottomUp` are dilated 2 and 4 times. Adapted:
    the last 1x1 convolution gives heatmaps in place of classes; the rates shrink with the input, because at 192 px a
    rate of 36 cells would leave only the middle tap inside the map; no multi-grid; the pooled branch has no
    normalisation, because a batch of one has no statistics over one pixel. Heatmaps are upsampled bicubically.
    """

    def __init__(self, config: NetworkConfig, head: HeadForm = "fast") -> None:
        super().__init__()
        self.config, self.head = config, head
        self.bottom_up = BottomUp(config, DILATED_STRIDE)
        c, d = self.bottom_up.channels[-1], config.channels(256)
        rates = [max(1, round(rate * config.input_size / ASPP_CROP_PX)) for rate in ASPP_RATES]
        branches = [conv_bn(c, d, 1), *(conv_bn(c, d, 3, dilation=rate) for rate in rates)]
        self.branches = nn.ModuleList(nn.Sequential(*branch, nn.ReLU()) for branch in branches)
        self.pooled = nn.Sequential(nn.Linear(c, d), nn.ReLU())
        self.merge = nn.Sequential(conv_bn((len(branches) + 1) * d, d, 1), nn.ReLU())
        self.heatmap_out = nn.Conv2d(d, len(config.kinds), 1)
        self.gate = None

    def heatmap_layers(self) -> list[nn.Conv2d]:
        """Return the convolutions whose outputs are heatmaps."""
        return [self.heatmap_out]

    def forward(self, image: Tensor, *, with_levels: bool = False) -> Prediction:  # noqa: ARG002  # it has no levels
        """Map (B, 1, S, S) to heatmaps; there is no gate and no intermediate supervision."""
        x = self.bottom_up(image)[-1]  # (B, 512, S/8, S/8)
        pooled = self.pooled(x.mean(dim=(2, 3)))[:, :, None, None].expand(-1, -1, *x.shape[2:])
        x = self.merge(torch.cat([*(branch(x) for branch in self.branches), pooled], dim=1))
        return Prediction(upsampled(self.heatmap_out(x), image.shape[-1], self.head), None, ())


class PyramidResidualNet(nn.Module):
    """A stacked hourglass of pyramid residual modules.

    Source: Yang, Li, Ouyang, Li, Wang, "Learning Feature Pyramids for Human Pose Estimation", ICCV 2017; the hourglass:
    Newell, Yang, Deng, ECCV 2016. Adapted: two stacks of the paper's up to eight; heatmaps of stride 4, as there, are
    upsampled bicubically to the input's size; the first stack is supervised as a pyramid's level of stride 4.
    """

    def __init__(self, config: NetworkConfig, head: HeadForm = "fast") -> None:
        super().__init__()
        self.config, self.head = config, head
        n, c, half, stem = (len(config.kinds), *(config.channels(full) for full in (256, 128, 64)))
        self.stem = nn.Sequential(
            conv_bn(1, stem, 7, 2),
            nn.ReLU(),
            PyramidResidual(stem, half),
            nn.MaxPool2d(2),
            PyramidResidual(half, half),
            PyramidResidual(half, c),
        )
        self.hourglasses = nn.ModuleList(
            nn.Sequential(Hourglass(HOURGLASS_DEPTH, c), PyramidResidual(c, c), conv_bn(c, c, 1), nn.ReLU())
            for _ in range(HOURGLASS_STACKS)
        )
        self.outs = nn.ModuleList(nn.Conv2d(c, n, 1) for _ in range(HOURGLASS_STACKS))
        self.features_back = nn.ModuleList(nn.Conv2d(c, c, 1) for _ in range(HOURGLASS_STACKS - 1))
        self.heatmaps_back = nn.ModuleList(nn.Conv2d(n, c, 1) for _ in range(HOURGLASS_STACKS - 1))
        self.gate = None

    def heatmap_layers(self) -> list[nn.Conv2d]:
        """Return the convolutions whose outputs are heatmaps."""
        return [out for out in self.outs if isinstance(out, nn.Conv2d)]

    def forward(self, image: Tensor, *, with_levels: bool = False) -> Prediction:
        """Map (B, 1, S, S) to heatmaps; ``with_levels`` adds the first stack's. There is no gate."""
        x = self.stem(image)  # (B, 256, S/4, S/4)
        stacks: list[Tensor] = []
        for number, (hourglass, out) in enumerate(zip(self.hourglasses, self.outs, strict=True)):
            features = hourglass(x)
            stacks.append(out(features))
            if number < HOURGLASS_STACKS - 1:
                x = x + self.features_back[number](features) + self.heatmaps_back[number](stacks[-1])
        heatmaps = upsampled(stacks[-1], image.shape[-1], self.head)
        return Prediction(heatmaps, None, (stacks[0],) if with_levels else ())


class PyramidResidual(nn.Module):
    """The pyramid residual module PRM-B: convolutions at several fractional scales of one input, summed.

    Adapted: adaptive instead of random fractional max-pooling, so that a training can be resumed bit for bit and an
    image has one answer; both branches share the normalisation of their input; the pyramid has a quarter of the
    output's channels (a sixth in the authors' code).
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        half, thin = c_out // 2, max(MIN_CHANNELS, c_out // 4)
        self.enter = nn.Sequential(nn.BatchNorm2d(c_in), nn.ReLU())
        self.single = nn.Sequential(conv_bn(c_in, half, 1), nn.ReLU(), nn.Conv2d(half, half, 3, padding=1, bias=False))
        self.thin = nn.Sequential(conv_bn(c_in, thin, 1), nn.ReLU())
        self.scales = nn.ModuleList(nn.Conv2d(thin, thin, 3, padding=1, bias=False) for _ in range(PYRAMID_LEVELS))
        self.widen = nn.Sequential(nn.BatchNorm2d(thin), nn.ReLU(), nn.Conv2d(thin, half, 1, bias=False))
        self.merge = nn.Sequential(nn.BatchNorm2d(half), nn.ReLU(), nn.Conv2d(half, c_out, 1))
        self.shortcut: nn.Module = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        entered = self.enter(x)
        thin = self.thin(entered)
        size = x.shape[2:]
        pyramid = torch.zeros_like(thin)
        for level, conv in enumerate(self.scales, start=1):
            ratio = 2 ** (-level / PYRAMID_LEVELS)
            small = conv(F.adaptive_max_pool2d(thin, [max(1, round(length * ratio)) for length in size]))
            pyramid = pyramid + F.interpolate(small, size=size, mode="bilinear", align_corners=False)
        out: Tensor = self.shortcut(x) + self.merge(self.single(entered) + self.widen(pyramid))
        return out


class Hourglass(nn.Module):
    """Halve ``depth`` times and come back; at every scale a skip past what is coarser. Shapes in and out are equal."""

    def __init__(self, depth: int, c: int) -> None:
        super().__init__()
        self.skip, self.down, self.up = PyramidResidual(c, c), PyramidResidual(c, c), PyramidResidual(c, c)
        self.inner: nn.Module = Hourglass(depth - 1, c) if depth > 1 else PyramidResidual(c, c)

    def forward(self, x: Tensor) -> Tensor:
        low = self.down(F.max_pool2d(x, 2, ceil_mode=True))  # an odd map's last row has a cell of its own
        low = self.up(self.inner(low))
        out: Tensor = self.skip(x) + F.interpolate(low, size=x.shape[2:], mode="nearest")
        return out


class Dsnt(nn.Module):
    """Coordinates as the mean of a spatial softmax: regression that stays fully convolutional.

    Source: Nibali, He, Morgan, Prendergast, "Numerical Coordinate Regression with Convolutional Neural Networks",
    arXiv 1801.07372, 2018. The ResNet is dilated to stride 8, as in the paper's own larger heatmaps. A regression
    always gives a point per kind, so only `SINGLE_KINDS` are trained and answered; adapted: a presence logit per kind,
    of the form of LandmarkNet's gate, says whether to believe it. The heatmaps that it returns are drawn: a Gaussian
    about each predicted point, as high as the presence is probable, and zeros for the other kinds.
    """

    answered: Tensor  # (n,) 1 or 0

    def __init__(self, config: NetworkConfig, head: HeadForm = "fast") -> None:
        super().__init__()
        self.config, self.head = config, head
        self.bottom_up = BottomUp(config, DILATED_STRIDE)
        c, n = self.bottom_up.channels[-1], len(config.kinds)
        self.heatmap_out = nn.Conv2d(c, n, 1, bias=False)  # a softmax is the same with any bias
        self.gate = gate_subnet(c, config.channels(128), n)
        answered = torch.tensor([float(kind in SINGLE_KINDS) for kind in config.kinds])
        self.register_buffer("answered", answered, persistent=False)

    def heatmap_layers(self) -> list[nn.Conv2d]:
        """Return the convolutions whose outputs are heatmaps."""
        return [self.heatmap_out]

    def forward(self, image: Tensor, *, with_levels: bool = False) -> Prediction:
        """Map (B, 1, S, S) to drawn heatmaps and presence; ``with_levels`` adds the softmax, (B, n, S/8, S/8)."""
        x = self.bottom_up(image)[-1]  # (B, 512, S/8, S/8)
        logits = self.heatmap_out(x).float()
        share = logits.flatten(2).softmax(dim=2).reshape(logits.shape)  # of one point, over the cells
        gate = self.gate(x.mean(dim=(2, 3)))  # (B, n)
        xy_net = (expected_cell(share) + 0.5) * DILATED_STRIDE - 0.5
        height = torch.sigmoid(gate.float()) * self.answered
        heatmaps = height[:, :, None, None] * gaussian_about(xy_net, image.shape[-1], self.head)
        return Prediction(heatmaps, gate, (share,) if with_levels else ())


Network = LandmarkNet | DeepLabV3 | PyramidResidualNet | Dsnt


def new_network(config: NetworkConfig, head: HeadForm = "fast") -> Network:
    """Return a fresh network of the configured architecture; ``head`` chooses the form of its heatmaps."""
    match config.architecture:
        case "landmarknet":
            return LandmarkNet(config, head)
        case "deeplabv3":
            return DeepLabV3(config, head)
        case "prm":
            return PyramidResidualNet(config, head)
        case "dsnt":
            return Dsnt(config, head)


def upsampled(heatmaps: Tensor, size: int, head: HeadForm) -> Tensor:
    """Upsample (B, n, S/s, S/s) to ``size`` = S; the fast form is its means on the 3S/4 sample sites."""
    full = F.interpolate(heatmaps.float(), size=(size, size), mode=UPSAMPLING, align_corners=False)
    return full if head == "plain" else to_sites(full)


def expected_cell(share: Tensor) -> Tensor:
    """Return the mean x, y (B, n, 2), in cells, of maps (B, n, H, W) that each sum to 1."""
    height, width = share.shape[2:]
    x = share.sum(dim=2) @ torch.arange(width, dtype=share.dtype, device=share.device)
    y = share.sum(dim=3) @ torch.arange(height, dtype=share.dtype, device=share.device)
    return torch.stack((x, y), dim=2)


def gaussian_about(xy_net: Tensor, size: int, head: HeadForm) -> Tensor:
    """Draw a Gaussian of the paper's sigma about each of (B, n, 2) points, network px, its highest pixel exactly 1."""
    offsets = range(PIXELS_PER_BLOCK) if head == "plain" else SITE_OFFSETS
    line = torch.tensor(
        [block + offset for block in range(0, size, PIXELS_PER_BLOCK) for offset in offsets], device=xy_net.device
    )
    along = torch.exp(-0.5 * ((line - xy_net[..., None]) / PAPER_SIGMA_NET_PX) ** 2)  # (B, n, 2, S or 3S/4)
    along = along / along.amax(dim=3, keepdim=True)
    return along[:, :, 1, :, None] * along[:, :, 0, None, :]
