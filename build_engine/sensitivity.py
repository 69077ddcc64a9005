"""Which layers suffer from INT8: one layer quantised at a time, everything else in float."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from build_engine.quantize import Form, quantisable_layers, quantise


@dataclass(frozen=True)
class LayerEffect:
    """What ``measure`` says of the model with this layer alone in INT8; larger is worse."""

    layer: str
    effect: float


def sensitivity(
    model: bytes,
    amax: Mapping[str, float],
    measure: Callable[[bytes], float],
    say: Callable[[str], None],
    form: Form = "tensorrt",
) -> list[LayerEffect]:
    """Return the effect of every quantisable layer, the largest first; one that is not a number counts as infinite.

    ``measure`` gets a graph and returns its damage. Raises `QuantiseError` where a range is missing.
    """
    layers = quantisable_layers(model)
    effects = []
    for number, layer in enumerate(layers, 1):
        others = [name for name in layers if name != layer]
        effect = measure(quantise(model, amax, others, form))
        effects.append(LayerEffect(layer, math.inf if math.isnan(effect) else effect))
        say(f"sensitivity {number}/{len(layers)}: {layer} {effect:.4g}")
    return sorted(effects, key=lambda each: -each.effect)
