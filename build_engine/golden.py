"""Golden inputs and answers: what a release has to reproduce before it may serve."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from build_engine.recipe import RecipeError
from edge.backends import Backend
from edge.contract import Contract, Reading
from edge.detect import scale_ratios
from edge.engines import GOLDEN_INPUT_SCALE, Golden, golden_answers
from edge.portal_image import read_portal_image
from edge.preprocess import to_network_input

TOLERANCES = {"fp32": (0.05, 0.005), "fp16": (0.5, 0.02), "int8": (1.0, 0.02)}  # network px, score


def golden_input(path: Path, reading: Reading) -> np.ndarray:
    """Return an image as the network sees it, (1, 1, S, S) float32, rounded to what `golden.npz` stores."""
    image = read_portal_image(path)
    batch, _ = to_network_input(image.pixels, reading.input_size, scale_ratios(image, reading)[0])
    stored: np.ndarray = np.round(batch * GOLDEN_INPUT_SCALE).astype(np.int8).astype(np.float32) / GOLDEN_INPUT_SCALE
    return stored


def answers(backend: Backend, reading: Reading, inputs: Sequence[np.ndarray]) -> Golden:
    """Return golden inputs with what a backend answers."""
    return Golden(np.stack(inputs), np.stack([golden_answers(backend.infer(batch), reading) for batch in inputs]))


def golden_file(golden: Golden) -> bytes:
    """Return the bytes of ``golden.npz``."""
    buffer = io.BytesIO()
    stored = np.round(golden.batches * GOLDEN_INPUT_SCALE).astype(np.int8)
    np.savez_compressed(buffer, batches=stored, peaks=golden.peaks)
    return buffer.getvalue()


def demand_proof(contract: Contract, golden: Golden) -> None:
    """Raise `RecipeError` where no golden answer shows a kind: nothing would be proved about it."""
    best = golden.peaks[:, :, :, 2].max(axis=(0, 2))
    for promise, score in zip(contract.kinds, best, strict=True):
        if score < promise.threshold + contract.golden_tolerance_score:
            raise RecipeError(
                f"no golden image shows a {promise.kind} above its threshold {promise.threshold} (best {score:.3f}); "
                "name golden images that do"
            )
