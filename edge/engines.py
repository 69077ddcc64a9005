"""A release: a model, its contract, and golden inputs with their answers. Ready only after reproducing them.

Who vouches for one: the package itself for the release that it ships with; whoever names a plain folder for that one;
the site's signature for those of a store. A compiled plan is taken from a store only.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edge.backends import Backend, Inference, close_backend
from edge.config import Config, StalePolicy
from edge.contract import Contract, KindContract, Reading, read_contract
from edge.errors import BackendFailed, BadRelease, InferenceFailed
from edge.landmarks import ridge_points
from edge.manifest import SignedRelease
from edge.staleness import (
    BRING_BACK,
    REBUILD,
    Difference,
    MachineFacts,
    differences,
    failed_on,
    in_words,
    machine_facts,
    mends,
    rebuild_for,
)
from edge.store import CHOOSE, Store

SHIPPED_RELEASE = Path(__file__).parent / "release"
LINE_TOLERANCE_NET_PX = 0.5  # besides the contract's: the highest site of a flat ridge is a matter of rounding
TRY_ANYHOW: tuple[StalePolicy, ...] = ("serve", "rebuild")
FALL_BACK: tuple[StalePolicy, ...] = ("fallback", "rebuild")
GOLDEN_INPUT_SCALE = 127.0  # golden inputs are stored as int8


@dataclass(frozen=True, eq=False)
class Engine:
    """A backend that has shown that it keeps its contract.

    ``warnings`` say, in words for every result, what is not as it was meant: the machine, or the release itself.
    ``mend`` is what to do about them, for whoever checks; ``rebuild_for`` names what a rebuild on this machine mends.
    """

    backend: Backend
    contract: Contract
    contract_sha256: str
    manifest_sha256: str | None = None  # None: not of a store
    warnings: tuple[str, ...] = ()
    mend: str | None = None  # None where nothing is warned of
    rebuild_for: tuple[str, ...] = ()
    golden: Golden | None = None  # what it reproduced; None: it was not opened from a release


@dataclass(frozen=True, eq=False)
class Golden:
    """``batches`` (m, 1, 1, S, S) float32 and the `golden_answers` (m, n, K, 3) that the release gave for them."""

    batches: np.ndarray
    peaks: np.ndarray


Load = Callable[[bytes, Contract, int], Backend]  # model, contract, threads


def load_backend(model: bytes, contract: Contract, threads: int) -> Backend:
    """Load a model or plan into the backend of its flavour; raise `BackendFailed`."""
    if contract.flavour == "onnxruntime":
        from edge.backends.onnxruntime import OnnxRuntimeBackend

        return OnnxRuntimeBackend(model, threads, contract.precision_delivered)
    from edge.backends.tensorrt import TensorRTBackend

    return TensorRTBackend(model, contract.flavour, contract.precision_delivered)


def open_configured(config: Config) -> Engine:
    """Open what a configuration names: ``current`` of its store, or a plain release folder, or the shipped release."""
    if config.store is None:
        return open_engine(config.release, config.threads)
    return open_store_engine(Store(config.store, config.release_key), config.threads, config.stale)


def open_engine(release: Path | None, threads: int, load: Load = load_backend) -> Engine:
    """Check a release folder's hashes, load it, and have it reproduce its golden answers.

    ``None`` is the release that is shipped with this package. Nothing is signed there: the hashes stand in its own
    contract, so they show damage, not forgery. Raises `BadRelease` or `BackendFailed`.
    """
    folder = release or SHIPPED_RELEASE
    contract, contract_sha256 = read_contract(folder / "contract.json")
    model = _checked_bytes(folder / contract.model_file, contract.model_sha256)
    golden = read_golden(folder, contract)
    if contract.flavour != "onnxruntime":
        raise BadRelease(f"{folder}: made for {contract.flavour}, whose plans are signed: use a store, add it there")
    return Engine(_ready(model, contract, golden, threads, load), contract, contract_sha256, golden=golden)


def open_store_engine(store: Store, threads: int, stale: StalePolicy) -> Engine:
    """Open a store's ``current`` release, after checking its signature, hashes and contract; see `open_signed`.

    A release that fails a check raises `BadRelease`, whatever the policy: nothing stands in for what was altered.
    """
    in_use = store.current()
    if in_use is None:
        raise BadRelease(f"{store.root}: no release is in use; {CHOOSE}")
    release, expected = store.verify(in_use), store.newest_calibration_set(in_use)
    return open_signed(release, threads, stale, calibration_set_sha256=expected)


def open_signed(
    release: SignedRelease,
    threads: int,
    stale: StalePolicy,
    facts: Callable[[str], MachineFacts] = machine_facts,
    load: Load = load_backend,
    calibration_set_sha256: str | None = None,
) -> Engine:
    """Compare a checked release with this machine, load it, and have it reproduce its golden answers.

    One that does not fit or fails here raises `BackendFailed`, or gives way to the shipped release where ``stale`` is
    "fallback" or "rebuild". What does not fit is among the engine's warnings, or its message.
    ``calibration_set_sha256`` is the set that INT8 is expected to be built from, None where none is.
    """
    wanted: tuple[str, ...] = ()
    try:
        shipped, _ = read_contract(SHIPPED_RELEASE / "contract.json")
        here = replace(  # where this fails, the library or the GPU is missing, and no rebuild brings it back
            facts(release.manifest.flavour),
            checkpoint_sha256=shipped.checkpoint_sha256,
            calibration_set_sha256=calibration_set_sha256,
        )
        found = differences(release.manifest, here)
        wanted = (*rebuild_for(found), failed_on(release.manifest.flavour, here))
        return _open_as_built(release, threads, stale, found, load)
    except BackendFailed as exc:
        if stale not in FALL_BACK:
            raise
        mend = REBUILD if wanted else BRING_BACK
        return replace(_shipped_instead(release, str(exc), threads), mend=mend, rebuild_for=wanted)


def _open_as_built(
    release: SignedRelease, threads: int, stale: StalePolicy, found: tuple[Difference, ...], load: Load
) -> Engine:
    stopping = tuple(one for one in found if one.stops)
    if stale not in TRY_ANYHOW and stopping:
        raise BackendFailed(f"{in_words(release.manifest, found)}; {mends(stopping)}")
    golden = parse_golden(release.golden, release.folder / "golden.npz", release.contract)
    backend = _ready(release.model, release.contract, golden, threads, load)
    warnings = (in_words(release.manifest, found),) if found else ()
    hashes = release.contract_sha256, release.manifest_sha256
    return Engine(backend, release.contract, *hashes, warnings, mends(found) or None, rebuild_for(found), golden)


def _shipped_instead(release: SignedRelease, reason: str, threads: int) -> Engine:
    engine = open_engine(None, threads)
    same = engine.contract.checkpoint_sha256 == release.contract.checkpoint_sha256
    model = "of the same model" if same else "of ANOTHER MODEL"
    words = f"in place of release {release.manifest.release} serves {engine.contract.release}, {model}: {reason}"
    return replace(engine, warnings=(words,))


def _ready(model: bytes, contract: Contract, golden: Golden, threads: int, load: Load) -> Backend:
    backend = load(model, contract, threads)
    try:
        require_golden_answers(backend, contract, golden)
    except BackendFailed:
        close_backend(backend)
        raise
    return backend


def read_golden(folder: Path, contract: Contract) -> Golden:
    """Read ``golden.npz`` of a release folder, after checking its hash; raise `BadRelease` if it proves nothing."""
    path = folder / "golden.npz"
    return parse_golden(_checked_bytes(path, contract.golden_sha256), path, contract)


def parse_golden(data: bytes, path: Path, contract: Contract) -> Golden:
    """Read golden inputs and answers from bytes that were checked; raise `BadRelease` if they prove nothing."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            golden = Golden(arrays["batches"].astype(np.float32) / GOLDEN_INPUT_SCALE, arrays["peaks"])
    except Exception as exc:  # numpy and zipfile raise many kinds
        raise BadRelease(f"{path}: holds no golden answers ({exc}); publish the release again") from exc
    images, answer = len(golden.batches), (len(contract.kinds), contract.rows_per_kind, 3)
    inputs = (images, 1, 1, contract.input_size, contract.input_size)
    if images < 1 or golden.batches.shape != inputs or golden.peaks.shape != (images, *answer):
        raise BadRelease(
            f"{path}: inputs of shape {golden.batches.shape} and answers of shape {golden.peaks.shape} are not what "
            "the contract describes; publish the release again"
        )
    return golden


def golden_answers(inference: Inference, reading: Reading) -> np.ndarray:
    """Return what is compared, (n, K, 3): the peaks; for a line, read from the heatmap, its clearest points."""
    answers = inference.peaks.copy()
    for rows, promise, heatmap in zip(answers, reading.kinds, inference.heatmaps, strict=True):
        if promise.shape == "line":
            points = ridge_points(heatmap)
            best = points[np.argsort(-points[:, 2])[: len(rows)]]
            rows[:] = -1.0
            rows[: len(best)] = best
    return answers


def require_golden_answers(backend: Backend, contract: Contract, golden: Golden) -> None:
    """Raise `BackendFailed` where a landmark of the golden answers is missing, moved, or joined by another."""
    for number, (batch, expected) in enumerate(zip(golden.batches, golden.peaks, strict=True)):
        try:
            inference = backend.infer(batch)
        except InferenceFailed as exc:
            raise BackendFailed(f"golden image {number}: {exc}; release {contract.release} cannot run here") from exc
        _demand_form(inference, contract)
        answers = golden_answers(inference, contract)
        for promise, want, have in zip(contract.kinds, expected, answers, strict=True):
            fault = _difference(want, have, promise, contract)
            if fault:
                raise BackendFailed(
                    f"golden image {number}, {promise.kind}: {fault}; this machine does not compute what release "
                    f"{contract.release} promises: do not use it here, rebuild the release on this machine"
                )


def _demand_form(inference: Inference, contract: Contract) -> None:
    kinds, side = len(contract.kinds), contract.heatmap_size
    actual = inference.peaks.shape, inference.heatmaps.shape
    if actual != ((kinds, contract.rows_per_kind, 3), (kinds, side, side)):
        raise BackendFailed(
            f"the model of release {contract.release} gives peaks of shape {actual[0]} and heatmaps of shape "
            f"{actual[1]}, which its contract does not describe; rebuild the release"
        )


def _difference(want: np.ndarray, have: np.ndarray, promise: KindContract, contract: Contract) -> str | None:
    """Compare (K, 3) rows; those within the score tolerance of the threshold may come or go."""
    threshold, slack = promise.threshold, contract.golden_tolerance_score
    reach = contract.golden_tolerance_net_px + (LINE_TOLERANCE_NET_PX if promise.shape == "line" else 0.0)
    for these, others, verb in ((want, have, "lost"), (have, want, "gained")):
        for x, y, score in these[these[:, 2] >= threshold + slack]:
            distance = np.hypot(others[:, 0] - x, others[:, 1] - y)
            near = (distance <= reach) & (np.abs(others[:, 2] - score) <= slack)
            if not near.any():
                return f"{verb} a peak at ({x:.2f}, {y:.2f}) with score {score:.3f}"
    return None


def _checked_bytes(path: Path, sha256: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise BadRelease(f"{path}: cannot be read ({exc.strerror}); publish the release again") from exc
    if hashlib.sha256(data).hexdigest() != sha256:
        raise BadRelease(f"{path}: is not the file its contract names (SHA-256 differs); publish the release again")
    return data
