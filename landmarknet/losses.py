"""The losses of a training: output heatmaps, intermediate supervision on every pyramid level, presence by the gate."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from landmarknet.dataset import Sample
from landmarknet.fast_head import site_weights, to_full_resolution
from landmarknet.network import STRIDES, Prediction
from landmarknet.targets import SIGMA_NET_PX, level_sigma

PEAK_WEIGHT = 10.0  # squared errors weigh 1 + 10 t: plain MSE on sparse maps tends to the zero map
LEVEL_SHARE, PRESENCE_SHARE = 0.25, 0.05


def loss_terms(prediction: Prediction, sample: Sample) -> dict[str, Tensor]:
    """Return the weighted terms whose sum is the loss."""
    target, weight = sample.target, sample.mask * site_weights(sample.target.shape[-1], sample.target)[..., 0]
    if prediction.heatmaps.shape != target.shape:  # the plain head: the same target, each pixel for itself
        target = to_full_resolution(target)
        weight = to_full_resolution(sample.mask.expand_as(sample.target))
    levels = [
        peak_loss(p.float(), t, F.interpolate(sample.mask, size=(t.shape[-2], 1)), level_sigma(stride))
        for p, t, stride in zip(prediction.by_level, sample.by_level, STRIDES, strict=True)
    ]
    known = (sample.present >= 0).float()
    presence = F.binary_cross_entropy_with_logits(
        prediction.gate.float(), sample.present.clamp_min(0), weight=known, reduction="sum"
    )
    return {
        "heatmaps": peak_loss(prediction.heatmaps.float(), target, weight, SIGMA_NET_PX),
        "levels": LEVEL_SHARE * torch.stack(levels).mean(),
        "presence": PRESENCE_SHARE * presence / known.sum().clamp_min(1),
    }


def peak_loss(prediction: Tensor, target: Tensor, weight: Tensor, sigma: float) -> Tensor:
    """Return the squared error per kind, relative to how much target the batch has of it, averaged over kinds.

    All are (B, n, H, W); ``weight`` holds the pixels a value stands for, 0 where nobody labelled; ``sigma`` is the
    targets' own, in px of their grid.
    """
    error = (weight * (1 + PEAK_WEIGHT * target) * (prediction - target).square()).sum(dim=(0, 2, 3))
    one_peak = 2 * math.pi * sigma**2
    return (error / (weight * target).sum(dim=(0, 2, 3)).clamp_min(one_peak)).mean()
