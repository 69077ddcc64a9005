"""LandmarkNet: a feature pyramid applied twice, a heatmap per kind of landmark, and a gate over the kinds.

Source: BMC Med Inform Decis Mak 2020, s12911-020-01164-4, section Methods. Where the paper is silent the choice is
marked ‡. The head after the pyramids exists in two forms that share one set of weights: ``plain`` builds the
full-resolution tensor D as the paper does, ``fast`` computes the same numbers without it (`landmarknet.fast_head`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landmarknet import fast_head

KINDS = ("spinous_process", "tracheal_bifurcation", "louis_angle", "spine_line")
LINE_KINDS = ("spine_line",)  # a ridge, not peaks: the row of spinous processes, wherever along it they are
SINGLE_KINDS = ("tracheal_bifurcation", "louis_angle")  # at most one in an image
LATERAL_KINDS = ("louis_angle",)  # an edge behind which, in AP views, the spine lies: not labelled there
PAPER_SIZE = 384  # px: distances in tables are in px of the whole image fitted into this square, whatever the network's
STRIDES = (4, 8, 16, 32)
HeadForm = Literal["plain", "fast"]
Architecture = Literal["landmarknet", "dsnt", "deeplabv3", "prm"]  # the others: landmarknet.comparators


@dataclass(frozen=True)
class NetworkConfig:
    """``resnet50`` at width 1 is the paper's network; the others are for a CPU.

    Without ``gate`` LandmarkNet's heatmaps are not multiplied by anything: an ablation. Comparators have none to leave
    out, but for DSNT, which needs its own.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}  # read from TOML by pydantic

    kinds: tuple[str, ...] = KINDS
    bottom_up: Literal["resnet50", "resnet18"] = "resnet50"
    width: float = 1.0
    head_width: float = 1.0  # of the heatmap subnet alone: its maps are the largest by far
    input_size: int = PAPER_SIZE  # a multiple of 32
    mm_per_net_px: float | None = None  # at the isocentre; None fits the whole image into the square, as the paper does
    architecture: Architecture = "landmarknet"
    gate: bool = True

    def channels(self, full: int, width: float | None = None) -> int:
        """Return how many channels stand for ``full`` of the paper, a multiple of 8."""
        return max(8, round(full * (self.width if width is None else width) / 8) * 8)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> NetworkConfig:
        return NetworkConfig(**{**data, "kinds": tuple(data["kinds"])})


class Prediction(NamedTuple):
    """What the network says: ``heatmaps`` (B, n, S, S), S = the input's size (plain) or 3/4 of it (fast).

    ``gate`` is (B, n) before the sigmoid, None from a network without one; ``by_level`` P1 to P4, each
    (B, n, size/s, size/s), empty unless asked for.
    """

    heatmaps: Tensor
    gate: Tensor | None
    by_level: tuple[Tensor, ...]


def conv_bn(c_in: int, c_out: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Return convolution and batch normalisation; the bias is the normalisation's."""
    padding = kernel // 2 * dilation
    conv = nn.Conv2d(c_in, c_out, kernel, stride, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out))


class Residual(nn.Module):
    """A ResNet block: the ``body``, a shortcut that matches its shape, ReLU after the sum."""

    def __init__(self, body: nn.Module, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.body = body
        same = c_in == c_out and stride == 1
        self.shortcut: nn.Module = nn.Identity() if same else conv_bn(c_in, c_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = F.relu(self.body(x) + self.shortcut(x))
        return out


def bottleneck(c_in: int, c_mid: int, stride: int, dilations: tuple[int, int] = (1, 1)) -> Residual:
    """Return the block of the paper's Table 1: 1x1, 3x3, 1x1 to four times the channels."""
    body = nn.Sequential(
        conv_bn(c_in, c_mid, 1),
        nn.ReLU(),
        conv_bn(c_mid, c_mid, 3, stride, dilations[0]),
        nn.ReLU(),
        conv_bn(c_mid, 4 * c_mid, 1),
    )
    return Residual(body, c_in, 4 * c_mid, stride)


def basic(c_in: int, c_mid: int, stride: int, dilations: tuple[int, int] = (1, 1)) -> Residual:
    """Return the block of ResNet-18: two 3x3."""
    first = conv_bn(c_in, c_mid, 3, stride, dilations[0])
    body = nn.Sequential(first, nn.ReLU(), conv_bn(c_mid, c_mid, 3, dilation=dilations[1]))
    return Residual(body, c_in, c_mid, stride)


def gate_subnet(c_in: int, c_mid: int, n: int) -> nn.Sequential:
    """Return the two fully connected layers from pooled features (B, c_in) to (B, n), before the sigmoid."""
    return nn.Sequential(nn.Linear(c_in, c_mid), nn.ReLU(), nn.Linear(c_mid, n))


class BottomUp(nn.Module):
    """Stem ‡ (7x7/2, max-pool/2, as in ResNet) and the four stages C1 to C4.

    Where the stride would exceed ``coarsest`` it stays, and what follows is dilated instead: the same values, but at
    every cell of the finer map.
    """

    def __init__(self, config: NetworkConfig, coarsest: int = STRIDES[-1]) -> None:
        super().__init__()
        block, repeats, expansion = {
            "resnet50": (bottleneck, (3, 4, 6, 3), 4),
            "resnet18": (basic, (2, 2, 2, 2), 1),
        }[config.bottom_up]
        stem = config.channels(64)
        self.stem = nn.Sequential(conv_bn(1, stem, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1))
        self.stages = nn.ModuleList()
        self.channels: list[int] = []
        c_in = stem
        reached, dilation = STRIDES[0], 1
        for full, repeat, asked in zip((64, 128, 256, 512), repeats, STRIDES, strict=True):
            c_mid, stride = config.channels(full), min(asked, coarsest)
            before, dilation = dilation, asked // stride
            blocks = [block(c_in, c_mid, stride // reached, (before, dilation))]
            c_in, reached = c_mid * expansion, stride
            blocks += [block(c_in, c_mid, 1, (dilation, dilation)) for _ in range(repeat - 1)]
            self.stages.append(nn.Sequential(*blocks))
            self.channels.append(c_in)

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.stem(image)  # (B, 64, 96, 96)
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)  # (B, C, 384/s, 384/s), s = min(stride, coarsest)
        return levels


class TopDown(nn.Module):
    """1x1 laterals to 256 channels; each coarser level, doubled by nearest neighbour, is added to the finer one."""

    def __init__(self, c_in: Sequence[int], c_out: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(c, c_out, 1) for c in c_in)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        laterals = [lateral(c) for lateral, c in zip(self.laterals, levels, strict=True)]
        pyramid = [laterals[-1]]
        for lateral in reversed(laterals[:-1]):
            pyramid.insert(0, lateral + F.interpolate(pyramid[0], scale_factor=2.0, mode="nearest"))
        return pyramid  # P1 (B, 256, 96, 96) .. P4 (B, 256, 12, 12)


class LandmarkNet(nn.Module):
    """The whole network. ``head`` chooses the form, not the weights; it may be changed at any time."""

    def __init__(self, config: NetworkConfig, head: HeadForm = "fast") -> None:
        super().__init__()
        self.config, self.head = config, head
        n, p, d = len(config.kinds), config.channels(256), config.channels(128)
        h = config.channels(128, config.head_width)
        self.bottom_up = BottomUp(config)
        self.top_down = TopDown(self.bottom_up.channels, p)
        self.by_level = nn.ModuleList(nn.Conv2d(p, n, 1) for _ in STRIDES)  # intermediate supervision
        self.phi = nn.ModuleList(
            nn.Sequential(conv_bn(p, d, 3), nn.ReLU(), conv_bn(d, d, 3), nn.ReLU()) for _ in STRIDES
        )
        self.heatmap_conv = nn.Conv2d(len(STRIDES) * d, h, 3, padding=1, bias=False)  # the bias is the norm's
        self.heatmap_norm = nn.BatchNorm2d(h)  # ‡
        self.heatmap_out = nn.Conv2d(h, n, 1)
        self.gate = gate_subnet(len(STRIDES) * d, d, n) if config.gate else None

    def heatmap_layers(self) -> list[nn.Conv2d]:
        """Return the convolutions whose outputs are heatmaps."""
        return [self.heatmap_out, *(out for out in self.by_level if isinstance(out, nn.Conv2d))]

    def forward(self, image: Tensor, *, with_levels: bool = False) -> Prediction:
        """Map (B, 1, 384, 384) to heatmaps and gate; ``with_levels`` adds the intermediate heatmaps."""
        pyramid = self.top_down(self.bottom_up(image))
        features = [phi(p) for phi, p in zip(self.phi, pyramid, strict=True)]  # (B, 128, 384/s, 384/s)
        heatmaps = self.plain_heatmaps(features) if self.head == "plain" else self.fast_heatmaps(features)
        gate = None
        if self.gate is not None:
            gate = self.gate(torch.cat([f.mean(dim=(2, 3)) for f in features], dim=1))  # (B, n), before the sigmoid ‡
            heatmaps = heatmaps * torch.sigmoid(gate)[:, :, None, None]
        levels = tuple(out(p) for out, p in zip(self.by_level, pyramid, strict=True)) if with_levels else ()
        return Prediction(heatmaps, gate, levels)

    def plain_heatmaps(self, features: Sequence[Tensor]) -> Tensor:
        """Return (B, n, 384, 384) through D, as the paper draws it."""
        d = torch.cat(
            [F.interpolate(f, scale_factor=float(s), mode="nearest") for f, s in zip(features, STRIDES, strict=True)],
            dim=1,
        )  # (B, 512, 384, 384)
        out: Tensor = self.heatmap_out(F.relu(self.heatmap_norm(self.heatmap_conv(d))))
        return out

    def fast_heatmaps(self, features: Sequence[Tensor]) -> Tensor:
        """Return (B, n, 288, 288): the distinct samples of the plain form's heatmaps."""
        conv, norm = self.heatmap_conv.weight, self.heatmap_norm
        if norm.training:
            sites = fast_head.interleaved(fast_head.upsampled_conv(features, conv).phases())  # (B, 288, 288, 128)
            return self._heatmaps_of(fast_head.site_batch_norm(sites, norm)).permute(0, 3, 1, 2)
        scale, bias = fast_head.scale_and_bias(norm)
        phases = fast_head.upsampled_conv(features, conv * scale[:, None, None, None], bias).phases()
        heatmaps = [[self._heatmaps_of(phase) for phase in row] for row in phases]  # 3 x 3 of (B, 96, 96, n)
        return fast_head.interleaved(heatmaps).permute(0, 3, 1, 2)

    def _heatmaps_of(self, x: Tensor) -> Tensor:
        """Map (B, H, W, 128) behind the normalisation to (B, H, W, n)."""
        # Permuted, so that its gradient gets the strides of a channels-last weight: DistributedDataParallel warns, and
        # copies, where a 1x1 weight and its gradient differ in strides that no element tells apart.
        weight = self.heatmap_out.weight.permute(0, 2, 3, 1).flatten(1)  # (n, 128)
        return F.linear(F.relu(x), weight, self.heatmap_out.bias)
