"""Checkpoint -> export -> verify -> publish. Stops at the first stage that fails; nothing is published then."""

from __future__ import annotations

import hashlib
import io
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from build_engine.export import export_onnx
from build_engine.recipe import Recipe, RecipeError
from edge.backends import Backend
from edge.backends.onnxruntime import OnnxRuntimeBackend
from edge.contract import Contract, Reading
from edge.detect import scale_ratios
from edge.engines import GOLDEN_INPUT_SCALE, Golden, golden_answers, open_engine, require_golden_answers
from edge.portal_image import read_portal_image
from edge.preprocess import to_network_input
from landmarknet.checkpoint import checkpoint_sha256, load_checkpoint, load_network
from landmarknet.decode import TorchBackend
from landmarknet.network import LandmarkNet
from landmarknet.operating_point import reading_of

MODEL_FILE = "model.onnx"


def build_release(recipe: Recipe, say: Callable[[str], None]) -> Path:
    """Build what a recipe asks for and return the release folder, which replaces the one that was there."""
    if not recipe.checkpoint.is_file():
        raise RecipeError(f"checkpoint {recipe.checkpoint} does not exist; train one, or name another")
    network = load_network(recipe.checkpoint)
    if not isinstance(network, LandmarkNet):
        raise RecipeError(f"checkpoint {recipe.checkpoint} holds a comparator; only LandmarkNet makes a release")
    named = tuple(k.kind for k in recipe.kinds)
    if named != network.config.kinds:
        raise RecipeError(f"kinds {named} are not the network's {network.config.kinds}, in its order")
    say(f"export {recipe.checkpoint}")
    model = export_onnx(network)
    reading = reading_of(network.config, recipe.kinds)
    golden_inputs = [_golden_input(path, reading) for path in recipe.golden_images]
    backend = OnnxRuntimeBackend(model, threads=1, precision="fp32")
    golden = _golden_file(_answers(backend, reading, golden_inputs))
    contract = _contract(recipe, reading, model, golden)
    _demand_proof(contract, golden)
    say(f"verify against PyTorch on {len(golden_inputs)} golden images")
    require_golden_answers(backend, contract, _answers(TorchBackend(network), reading, golden_inputs))
    say(f"publish {recipe.output}")
    publish(recipe.output, {MODEL_FILE: model, "golden.npz": golden, "contract.json": _json(contract)})
    return recipe.output


def _demand_proof(contract: Contract, golden: bytes) -> None:
    """Golden answers without a landmark of a kind would prove nothing about that kind."""
    with np.load(io.BytesIO(golden)) as arrays:
        best = arrays["peaks"][:, :, :, 2].max(axis=(0, 2))
    for promise, score in zip(contract.kinds, best, strict=True):
        if score < promise.threshold + contract.golden_tolerance_score:
            raise RecipeError(
                f"no golden image shows a {promise.kind} above its threshold {promise.threshold} (best {score:.3f}); "
                "name golden images that do"
            )


def _golden_input(path: Path, reading: Reading) -> np.ndarray:
    image = read_portal_image(path)
    batch, _ = to_network_input(image.pixels, reading.input_size, scale_ratios(image, reading)[0])
    return np.round(batch * GOLDEN_INPUT_SCALE).astype(np.int8)


def _answers(backend: Backend, reading: Reading, inputs: list[np.ndarray]) -> Golden:
    batches = np.stack(inputs).astype(np.float32) / GOLDEN_INPUT_SCALE
    return Golden(batches, np.stack([golden_answers(backend.infer(batch), reading) for batch in batches]))


def _golden_file(golden: Golden) -> bytes:
    buffer = io.BytesIO()
    stored = np.round(golden.batches * GOLDEN_INPUT_SCALE).astype(np.int8)
    np.savez_compressed(buffer, batches=stored, peaks=golden.peaks)
    return buffer.getvalue()


def _contract(recipe: Recipe, reading: Reading, model: bytes, golden: bytes) -> Contract:
    training = load_checkpoint(recipe.checkpoint).training
    return Contract(
        **reading.model_dump(),
        release=recipe.release,
        model_file=MODEL_FILE,
        model_sha256=hashlib.sha256(model).hexdigest(),
        golden_sha256=hashlib.sha256(golden).hexdigest(),
        checkpoint_sha256=checkpoint_sha256(recipe.checkpoint),
        calibration_set_sha256=None,
        flavour="onnxruntime",
        precision="fp32",
        golden_tolerance_net_px=recipe.golden_tolerance_net_px,
        golden_tolerance_score=recipe.golden_tolerance_score,
        trained_on=(*training["patients"], *training["negatives"]),
    )


def _json(contract: Contract) -> bytes:
    return (contract.model_dump_json(by_alias=True, indent=2) + "\n").encode()


def publish(folder: Path, files: dict[str, bytes]) -> None:
    """Replace a release folder by one with these files, once it opens; files of other names (a model card) are kept."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        if folder.is_dir():
            shutil.copytree(folder, staged, dirs_exist_ok=True)
        for name, data in files.items():
            (staged / name).write_bytes(data)
        staged.chmod(0o755)
        open_engine(staged, threads=1)
        previous = folder.with_name(f".{folder.name}.previous")
        shutil.rmtree(previous, ignore_errors=True)
        if folder.is_dir():
            folder.rename(previous)
        staged.rename(folder)
        shutil.rmtree(previous, ignore_errors=True)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
