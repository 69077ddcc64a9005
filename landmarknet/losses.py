"""The losses of a training: output heatmaps, intermediate supervision on every pyramid level, presence by the gate.

`coordinate_terms` is DSNT's own loss; every other network trains on `loss_terms`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from landmarknet.comparators import DILATED_STRIDE, expected_cell
from landmarknet.dataset import Sample
from landmarknet.fast_head import site_weights, to_full_resolution
from landmarknet.network import KINDS, SINGLE_KINDS, STRIDES, Prediction
from landmarknet.targets import level_sigma

PEAK_WEIGHT = 10.0  # squared errors weigh 1 + 10 t: plain MSE on sparse maps tends to the zero map
LEVEL_SHARE, PRESENCE_SHARE = 0.25, 0.05
TINY = 1e-30  # below it a float32 logarithm is of nothing


def loss_terms(
    prediction: Prediction, sample: Sample, sigma: float, hard_share: float = 0.0, level_share: float = LEVEL_SHARE
) -> dict[str, Tensor]:
    """Return the weighted terms whose sum is the loss. ``sigma`` is the targets', in network px.

    ``hard_share`` of the batch's images, those with the largest error, count twice (online hard-example mining).
    ``level_share`` weighs the intermediate supervision; 0 leaves it out.
    """
    target, weight = sample.target, sample.mask * site_weights(sample.target.shape[-1], sample.target)[..., 0]
    if prediction.heatmaps.shape != target.shape:  # the plain head: the same target, each pixel for itself
        target = to_full_resolution(target)
        weight = to_full_resolution(sample.mask.expand_as(sample.target))
    levels = [
        peak_loss(p.float(), t, F.interpolate(sample.mask, size=(t.shape[-2], 1)), level_sigma(stride, sigma))
        for p, t, stride in zip(prediction.by_level, sample.by_level, STRIDES, strict=False)
    ]
    heatmaps = peak_loss(prediction.heatmaps.float(), target, weight, sigma, hard_share)
    return {
        "heatmaps": heatmaps,
        "levels": level_share * torch.stack(levels).mean() if levels else heatmaps.new_zeros(()),
        "presence": PRESENCE_SHARE * presence_loss(prediction, sample),
    }


def presence_loss(prediction: Prediction, sample: Sample) -> Tensor:
    """Return the cross-entropy of the gate, averaged over what is known; zero for a network without one."""
    if prediction.gate is None:
        return prediction.heatmaps.new_zeros(())
    known = (sample.present >= 0).float()
    presence = F.binary_cross_entropy_with_logits(
        prediction.gate.float(), sample.present.clamp_min(0), weight=known, reduction="sum"
    )
    return presence / known.sum().clamp_min(1)


def coordinate_terms(
    prediction: Prediction, sample: Sample, sigma: float, hard_share: float = 0.0, kinds: Sequence[str] = KINDS
) -> dict[str, Tensor]:
    """Return DSNT's terms under the names of `loss_terms`; only kinds of which an image shows one point at most count.

    "heatmaps" is the Euclidean distance in the paper's coordinates, in which the image is 2 wide; "levels" the
    Jensen-Shannon divergence between the softmax (B, n, S/8, S/8) and the target Gaussian of that stride, of weight 1.
    """
    share, target = prediction.by_level[0].float(), sample.by_level[STRIDES.index(DILATED_STRIDE)]
    single = torch.tensor([kind in SINGLE_KINDS for kind in kinds], device=share.device)
    shown = ((sample.present > 0) & single).float()  # (B, n)
    wanted = target / target.sum(dim=(2, 3), keepdim=True).clamp_min(TINY)
    apart = expected_cell(share) - gaussian_centre(target, level_sigma(DILATED_STRIDE, sigma))
    distance = shown * torch.linalg.vector_norm(apart, dim=2) * (2 / share.shape[-1])
    divergence = shown * jensen_shannon(share, wanted)
    weights = hard_weights(distance.detach(), hard_share) / shown.sum().clamp_min(1)
    return {
        "heatmaps": (weights * distance).sum(),
        "levels": (weights * divergence).sum(),
        "presence": PRESENCE_SHARE * presence_loss(prediction, sample),
    }


def gaussian_centre(maps: Tensor, sigma: float) -> Tensor:
    """Return the centre x, y (B, n, 2) of one sampled Gaussian per map (B, n, H, W), in px of the map.

    From the highest pixel's row and column and a neighbour each: ln(g(i) / g(i+1)) = (1 + 2 (i - x)) / (2 sigma^2).
    Exact wherever the centre lies, whereas a mean would be drawn inwards at the border. An empty map has no meaning.
    """
    centre = []
    for line in (maps.amax(dim=2), maps.amax(dim=3)):  # profiles along x, along y
        left = line.argmax(dim=2, keepdim=True).clamp_max(line.shape[2] - 2)
        ratio = line.gather(2, left).clamp_min(TINY) / line.gather(2, left + 1).clamp_min(TINY)
        centre.append(left + 0.5 - sigma**2 * ratio.log())
    return torch.cat(centre, dim=2)


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """Return the divergence (B, n), in nats, 0 to ln 2, of maps (B, n, H, W) that each sum to 1."""
    log_middle = ((p + q) / 2).clamp_min(TINY).log()
    gain = p * (p.clamp_min(TINY).log() - log_middle) + q * (q.clamp_min(TINY).log() - log_middle)
    return gain.sum(dim=(2, 3)) / 2


def peak_loss(prediction: Tensor, target: Tensor, weight: Tensor, sigma: float, hard_share: float = 0.0) -> Tensor:
    """Return the squared error per kind, relative to how much target the batch has of it, averaged over kinds.

    All are (B, n, H, W); ``weight`` holds the pixels a value stands for, 0 where nobody labelled; ``sigma`` is the
    targets' own, in px of their grid.
    """
    error = (weight * (1 + PEAK_WEIGHT * target) * (prediction - target).square()).sum(dim=(2, 3))  # (B, n)
    one_peak = 2 * math.pi * sigma**2
    relative = error / (weight * target).sum(dim=(0, 2, 3)).clamp_min(one_peak)
    return (relative * hard_weights(relative.detach(), hard_share)).sum(dim=0).mean()


def hard_weights(error: Tensor, hard_share: float) -> Tensor:
    """Return (B, n) weights of mean 1 in which, kind by kind, the hardest share of the images counts twice."""
    hard = round(hard_share * len(error))
    weights = torch.ones_like(error)
    if hard:
        weights.scatter_(0, error.topk(hard, dim=0).indices, 2.0)
    return weights / weights.mean(dim=0)
