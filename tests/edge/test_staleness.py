import hashlib
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import onnxruntime
import pytest

from edge.backends.function import FunctionBackend
from edge.config import StalePolicy
from edge.contract import read_contract
from edge.engines import SHIPPED_RELEASE, open_signed
from edge.errors import BackendFailed, BadRelease
from edge.manifest import Manifest, SignedRelease
from edge.staleness import BRING_BACK, REBUILD, MachineFacts, differences, in_words, machine_facts, mends, rebuild_for

ZEROS = "0" * 64
MODEL, SET = "a" * 64, "b" * 64
HERE = MachineFacts("1.7.1", "RTX A4000", "8.6", "570.86, CUDA 12.8", MODEL, SET)

POLICIES = get_args(StalePolicy)


def manifest(flavour="tensorrt", **entries):
    """Return the manifest of a plan that was compiled on `HERE`, from what is expected there."""
    document = {
        "release": "room-1", "software": "landmarknet-edge 0", "created_utc": "2026-01-02T03:04:05Z", "files": {},
        "checkpoint_sha256": MODEL, "onnx_sha256": ZEROS, "calibration_set_sha256": SET, "ranges_sha256": None,
        "recipe_sha256": ZEROS, "flavour": flavour, "flavour_version": HERE.flavour_version, "gpu": HERE.gpu,
        "compute_capability": HERE.compute_capability, "driver": HERE.driver, "precision": "fp16", "delivered": {},
        "gate": {},
    }  # fmt: skip
    if flavour == "onnxruntime":
        document |= {"gpu": None, "compute_capability": None, "driver": None}
    return Manifest.model_validate(document | entries)


# --- what differs ---


@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt_rtx", "onnxruntime"])
def test_nothing_differs_where_a_release_was_built(flavour):
    assert differences(manifest(flavour), HERE) == ()


OTHERS = [
    ({"flavour_version": "1.8.0"}, "library", "library 1.8.0, built for 1.7.1"),
    ({"gpu": "RTX 5000 Ada"}, "GPU", "GPU RTX 5000 Ada, built for RTX A4000"),
    ({"compute_capability": "8.9"}, "compute capability", "compute capability 8.9, built for 8.6"),
    ({"driver": "580.65, CUDA 13.0"}, "driver", "driver 580.65, CUDA 13.0, built for 570.86, CUDA 12.8"),
    ({"checkpoint_sha256": "c" * 64}, "model", "model cccccccccccc expected, built from aaaaaaaaaaaa"),
    ({"calibration_set_sha256": "d" * 64}, "calibration set", "calibration set dddddddddddd expected, built from bbbb"),
]
# what a release cannot be expected to survive, by flavour
STOPS = {
    "tensorrt": {"library", "GPU", "compute capability"},
    "tensorrt_rtx": {"library", "compute capability"},
    "onnxruntime": set(),
}


@pytest.mark.parametrize(("other", "part", "words"), OTHERS, ids=[part for _, part, _ in OTHERS])
@pytest.mark.parametrize("flavour", STOPS)
def test_exactly_the_part_that_differs_is_named(flavour, other, part, words):
    found = differences(manifest(flavour), replace(HERE, **other))
    if flavour == "onnxruntime" and part in {"GPU", "compute capability", "driver"}:
        assert found == (), "an ONNX model was not built for a GPU"
        return
    (one,) = found
    assert one.part == part
    assert one.text.startswith(words)
    assert one.stops == (part in STOPS[flavour])


def test_all_that_differs_is_named_at_once():
    everything = replace(HERE, **{key: value for other, *_ in OTHERS for key, value in other.items()})
    found = differences(manifest(), everything)
    assert [one.part for one in found] == [part for _, part, _ in OTHERS]
    said = in_words(manifest(), found)
    assert "release room-1 (tensorrt)" in said
    assert all(words in said for *_, words in OTHERS)


def test_a_plan_that_was_compiled_without_a_gpu_asks_for_its_compute_capability_only():
    built = manifest("tensorrt_rtx", gpu=None, driver=None)
    assert differences(built, replace(HERE, gpu="RTX 3080", driver="580")) == ()
    (one,) = differences(built, replace(HERE, gpu="RTX 5090", compute_capability="12.0"))
    assert (one.part, one.stops) == ("compute capability", True)


def test_a_machine_without_what_a_plan_was_built_for_lacks_it():
    found = differences(manifest(), MachineFacts(HERE.flavour_version))
    assert [one.text.partition(",")[0] for one in found] == [
        "GPU missing", "compute capability missing", "driver missing",
    ]  # fmt: skip


def test_neither_a_float_release_nor_where_nothing_is_expected_differs_in_its_calibration_set():
    assert differences(manifest(calibration_set_sha256=None), HERE) == ()
    assert differences(manifest(), replace(HERE, calibration_set_sha256=None)) == ()


def test_the_facts_for_onnx_runtime_are_its_version():
    assert machine_facts("onnxruntime") == MachineFacts(onnxruntime.__version__)


def test_a_library_that_is_not_installed_is_named():
    with pytest.raises(BackendFailed, match=r"for no_such_library cannot run here .*; install"):
        machine_facts("no_such_library")


# --- what happens then ---


SEEN = np.zeros((1, 1, 48, 48), np.float32)
PLAN = b"a plan"


@pytest.fixture
def built(contract, rows):
    """Return a function: a checked release of flavour ``flavour``, and the answers that are golden in it."""
    shipped, _ = read_contract(SHIPPED_RELEASE / "contract.json")

    def make(flavour="tensorrt", **entries):
        peaks = rows([(20.0, 10.0, 0.9)], [])
        buffer = io.BytesIO()
        np.savez(buffer, batches=np.zeros((1, 1, 1, 48, 48), np.int8), peaks=peaks[None])
        promise = contract(flavour=flavour, model_file="model.plan", checkpoint_sha256=shipped.checkpoint_sha256)
        files = {
            "model.plan": PLAN,
            "golden.npz": buffer.getvalue(),
            "contract.json": promise.model_dump_json(by_alias=True).encode(),
            "manifest.json": b"what was signed",
            "manifest.sig": bytes(64),
        }
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if "manifest" not in name}
        of_shipped = {"checkpoint_sha256": promise.checkpoint_sha256, "calibration_set_sha256": None}
        signed = manifest(flavour, files=hashes, **(of_shipped | entries))
        return SignedRelease(Path("store/releases/room-1"), signed, promise, files), peaks

    return make


def never(*_):
    raise AssertionError("it must not be asked")


class Recorder:
    """A loader that keeps what it was asked to load, and gives a backend that answers with ``peaks``."""

    def __init__(self, peaks):
        self.peaks, self.asked, self.closed = peaks, [], 0

    def __call__(self, model, contract, threads):
        self.asked.append((model, contract.flavour, threads))
        backend = FunctionBackend(lambda _: self.peaks, contract.heatmap_size)
        backend.close = self.close
        return backend

    def close(self):
        self.closed += 1


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt_rtx", "onnxruntime"])
def test_a_release_that_fits_serves_without_a_warning(built, flavour, policy):
    release, peaks = built(flavour)
    load = Recorder(peaks)
    engine = open_signed(release, 3, policy, lambda _: HERE, load)
    assert load.asked == [(PLAN, flavour, 3)]
    assert (engine.contract, engine.warnings) == (release.contract, ())
    assert engine.manifest_sha256 == hashlib.sha256(b"what was signed").hexdigest()
    assert engine.contract_sha256 == hashlib.sha256(release.files["contract.json"]).hexdigest()
    assert np.array_equal(engine.backend.infer(SEEN).peaks, peaks)
    assert load.closed == 0


def test_the_facts_are_asked_for_the_flavour_of_the_release(built):
    release, peaks = built("tensorrt_rtx")
    asked = []
    open_signed(release, 1, "refuse", lambda flavour: asked.append(flavour) or HERE, Recorder(peaks))
    assert asked == ["tensorrt_rtx"]


@pytest.mark.parametrize(("other", "part", "words"), OTHERS[:3], ids=[part for _, part, _ in OTHERS[:3]])
def test_a_plan_of_another_machine_is_refused_before_it_is_loaded(built, other, part, words):
    release, _ = built()
    with pytest.raises(BackendFailed, match="landmarknet-build-engine RECIPE") as caught:
        open_signed(release, 1, "refuse", lambda _: replace(HERE, **other), never)
    assert words in str(caught.value)
    assert caught.value.exit_status == 78


@pytest.mark.parametrize(("other", "part", "words"), OTHERS[:3], ids=[part for _, part, _ in OTHERS[:3]])
def test_the_shipped_release_serves_in_place_of_a_plan_of_another_machine_and_says_so(built, other, part, words):
    release, _ = built()
    engine = open_signed(release, 1, "fallback", lambda _: replace(HERE, **other), never)
    shipped, _ = read_contract(SHIPPED_RELEASE / "contract.json")
    assert engine.contract == shipped
    assert engine.manifest_sha256 is None
    (warning,) = engine.warnings
    assert f"in place of release room-1 serves {shipped.release}, of the same model" in warning
    assert words in warning
    assert "landmarknet-build-engine RECIPE" in warning


def test_a_fallback_to_another_model_is_louder(built):
    release, _ = built()
    release = replace(release, contract=release.contract.model_copy(update={"checkpoint_sha256": "e" * 64}))
    engine = open_signed(release, 1, "fallback", lambda _: replace(HERE, gpu="other"), never)
    assert "ANOTHER MODEL" in engine.warnings[0]


def test_a_plan_of_another_machine_serves_where_it_is_told_to_and_says_so(built):
    release, peaks = built()
    load = Recorder(peaks)
    engine = open_signed(release, 1, "serve", lambda _: replace(HERE, gpu="RTX 5000 Ada"), load)
    assert load.asked == [(PLAN, "tensorrt", 1)]
    assert engine.contract == release.contract
    assert engine.warnings == (
        "release room-1 (tensorrt) does not fit this machine: GPU RTX 5000 Ada, built for RTX A4000",
    )


def test_until_it_is_rebuilt_the_old_one_serves_or_else_the_shipped_one(built):
    release, peaks = built()
    other = replace(HERE, gpu="RTX 5000 Ada")
    serving = open_signed(release, 1, "rebuild", lambda _: other, Recorder(peaks))
    assert serving.contract == release.contract
    assert "GPU RTX 5000 Ada" in serving.warnings[0]
    failing = open_signed(release, 1, "rebuild", lambda _: other, Recorder(np.full_like(peaks, -1)))
    assert failing.contract == read_contract(SHIPPED_RELEASE / "contract.json")[0]
    assert "in place of release room-1" in failing.warnings[0]


# --- what mends it, and what a rebuild would be for ---


@pytest.mark.parametrize(("other", "part", "words"), OTHERS, ids=[part for _, part, _ in OTHERS])
def test_a_rebuild_is_advised_where_it_mends_and_nowhere_else(other, part, words):
    found = differences(manifest(), replace(HERE, **other))
    assert (REBUILD in mends(found)) == bool(rebuild_for(found))
    if part == "calibration set":
        assert "use the release of the newer set" in mends(found)
    if part == "model":
        assert "leave it where the site means a model of its own" in mends(found)


def test_what_is_missing_has_to_come_back_and_each_mend_is_said_once():
    assert mends(differences(manifest(), MachineFacts(HERE.flavour_version))) == BRING_BACK
    found = differences(manifest(), replace(HERE, gpu="RTX 5000 Ada", driver="580.65", calibration_set_sha256="d" * 64))
    assert len(found) == 3
    assert mends(found).count(REBUILD) == 1
    assert mends(found).startswith(f"{REBUILD}; use the release of the newer set")


def test_an_engine_says_what_mends_its_warnings(built):
    release, peaks = built()
    other = replace(HERE, driver="580.65")
    assert open_signed(release, 1, "serve", lambda _: HERE, Recorder(peaks)).mend is None
    assert open_signed(release, 1, "serve", lambda _: other, Recorder(peaks)).mend == REBUILD
    sites_own, _ = built(checkpoint_sha256="c" * 64)
    assert REBUILD not in open_signed(sites_own, 1, "serve", lambda _: HERE, Recorder(peaks)).mend
    wrong = Recorder(np.full_like(peaks, -1))
    assert open_signed(release, 1, "fallback", lambda _: HERE, wrong).mend == REBUILD
    assert open_signed(release, 1, "fallback", broken, never).mend == BRING_BACK


def test_a_plan_whose_gpu_is_missing_is_not_to_be_rebuilt_here(built):
    release, _ = built()
    gone = MachineFacts(HERE.flavour_version)
    with pytest.raises(BackendFailed, match=f"GPU missing.*; {re.escape(BRING_BACK)}$") as caught:
        open_signed(release, 1, "refuse", lambda _: gone, never)
    assert REBUILD not in str(caught.value)


def test_a_rebuild_is_for_what_it_mends_and_a_model_is_not():
    for other, part, _ in OTHERS:
        mended = rebuild_for(differences(manifest(), replace(HERE, **other)))
        here = next(iter(other.values()))
        assert mended == (() if part in {"model", "calibration set"} else (f"{part} {here}",))


def test_no_rebuild_brings_back_what_is_missing():
    assert rebuild_for(differences(manifest(), MachineFacts(HERE.flavour_version))) == ()


def test_an_engine_says_what_a_rebuild_would_be_for_whatever_its_release_is_called(built):
    release, peaks = built()
    other = replace(HERE, driver="580.65")
    assert open_signed(release, 1, "rebuild", lambda _: HERE, Recorder(peaks)).rebuild_for == ()
    assert open_signed(release, 1, "rebuild", lambda _: other, Recorder(peaks)).rebuild_for == ("driver 580.65",)
    sites_own, _ = built(checkpoint_sha256="c" * 64)
    engine = open_signed(sites_own, 1, "rebuild", lambda _: HERE, Recorder(peaks))
    assert "model" in engine.warnings[0]
    assert engine.rebuild_for == ()


def test_a_release_that_fails_asks_for_a_rebuild_once_for_each_machine(built):
    release, peaks = built()
    wrong = Recorder(np.full_like(peaks, -1))
    failed = open_signed(release, 1, "rebuild", lambda _: HERE, wrong).rebuild_for
    machine = "library 1.7.1, GPU RTX A4000, compute capability 8.6, driver 570.86, CUDA 12.8"
    assert failed == (f"a release for tensorrt failed on {machine}",)
    elsewhere = open_signed(release, 1, "rebuild", lambda _: replace(HERE, driver="580.65"), wrong).rebuild_for
    assert elsewhere[0] == "driver 580.65"
    assert elsewhere[1] != failed[0]
    assert open_signed(release, 1, "rebuild", broken, never).rebuild_for == ()


@pytest.mark.parametrize("policy", POLICIES)
def test_another_version_of_onnx_runtime_is_a_warning_and_the_golden_answers_decide(built, policy):
    release, peaks = built("onnxruntime")
    facts = replace(HERE, flavour_version="1.8.0")
    engine = open_signed(release, 1, policy, lambda _: facts, Recorder(peaks))
    assert engine.contract == release.contract
    assert "library 1.8.0, built for 1.7.1" in engine.warnings[0]
    if policy not in {"fallback", "rebuild"}:
        with pytest.raises(BackendFailed, match="golden image 0"):
            open_signed(release, 1, policy, lambda _: facts, Recorder(np.full_like(peaks, -1)))


@pytest.mark.parametrize("entries", [{"checkpoint_sha256": "c" * 64}, {"driver": "550.1"}], ids=["model", "driver"])
def test_another_model_or_driver_is_a_warning(built, entries):
    release, peaks = built(**entries)
    engine = open_signed(release, 1, "refuse", lambda _: HERE, Recorder(peaks))
    assert len(engine.warnings) == 1


def broken(_):
    raise BackendFailed("the driver shows no GPU")


@pytest.mark.parametrize("policy", ["refuse", "serve"])
def test_a_machine_that_cannot_run_a_release_at_all_is_no_place_for_it(built, policy):
    with pytest.raises(BackendFailed, match="shows no GPU"):
        open_signed(built()[0], 1, policy, broken, never)


def test_where_the_gpu_is_gone_the_shipped_release_serves_and_says_so(built):
    engine = open_signed(built()[0], 1, "fallback", broken, never)
    assert engine.contract.flavour == "onnxruntime"
    assert re.search("room-1 .*shows no GPU", engine.warnings[0])


def test_a_plan_that_gives_other_answers_gives_its_device_back_and_gives_way(built):
    release, peaks = built()
    load = Recorder(peaks + np.float32([0.5, 0, 0]))  # network px; the contract allows 0.05
    with pytest.raises(BackendFailed, match="golden image 0, spinous_process"):
        open_signed(release, 1, "serve", lambda _: HERE, load)
    assert load.closed == 1
    engine = open_signed(release, 1, "fallback", lambda _: HERE, load)
    assert engine.contract.release != "small-1"
    assert "golden image 0, spinous_process" in engine.warnings[0]
    assert load.closed == 2


def test_golden_answers_that_prove_nothing_are_refused_whatever_the_policy(built):
    release, _ = built()
    release = replace(release, files=release.files | {"golden.npz": b"no archive"})
    with pytest.raises(BadRelease, match="holds no golden answers"):
        open_signed(release, 1, "fallback", lambda _: HERE, never)
