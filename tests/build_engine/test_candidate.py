import json
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest

from build_engine.candidate import (
    REFUSALS_MOST,
    Candidate,
    Refusal,
    fastest,
    gate_findings,
    give_back_layers,
    tell_warnings,
    time_ratio,
    warnings,
)
from build_engine.compiled import Compiled, SilentProgress
from build_engine.recipe import GateSettings, RecipeError
from build_engine.sensitivity import LayerEffect
from build_engine.verify import GateLimits, run_gate
from edge.backends.function import FunctionBackend
from edge.contract import KindContract

ORDER = tuple(
    LayerEffect(name, effect) for effect, name in ((4.0, "d"), (3.0, "c"), (2.0, "b"), (1.0, "a"), (0.5, "e"))
)


class ClosingBackend(FunctionBackend):
    """Holds something that has to be given back, as a backend on a GPU does; takes as long as it is told."""

    def __init__(self, seconds=0.0, clock=None):
        super().__init__(self.answer)
        self.seconds, self.clock, self.closed = seconds, clock, False

    def answer(self, batch):
        assert not self.closed
        if self.clock is not None:
            self.clock.now += self.seconds
        return batch

    def close(self):
        self.closed = True


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def candidate(*, passed=True, keep=(), precision="int8", speed=1.0, int8=32, fp16=32, backend=None):
    layers = {"int8": int8} if precision == "int8" else {"fp16": fp16} if precision == "fp16" else {}
    compiled = Compiled(b"", "model.onnx", "onnxruntime", "1.0", {**layers, "fp32": 19})
    gate = SimpleNamespace(passed=passed, faults=() if passed else ("it moves",))
    backend = backend or FunctionBackend(lambda batch: batch)
    return Candidate(precision, compiled, backend, "onnxruntime", gate, keep, (), speed)


def plan(precision, seconds, clock, *, passed=True, ran_on="tensorrt"):
    compiled = Compiled(b"", "model.plan", "tensorrt", "11.4", {}, gpu="NVIDIA RTX A2000")
    gate = SimpleNamespace(passed=passed, faults=() if passed else ("it moves",))
    return Candidate(precision, compiled, ClosingBackend(seconds, clock), ran_on, gate, batch=[[[0.0]]])


def attempts_that_pass_with(*needed):
    """Return an attempt that passes once the needed layers are in float, and what it was asked."""
    asked = []

    def attempt(keep):
        asked.append(keep)
        return candidate(passed=set(needed) <= set(keep), keep=keep)

    return attempt, asked


def louis_where(x_net, rows, painted):
    """Return a backend that gives the Louis angle at a place of the network's grid, and nothing else."""
    peaks = rows([], [], [(x_net, 24.0, 0.9)])
    return painted(lambda _: (peaks, np.zeros((3, 36, 36), np.float32)))


@pytest.mark.parametrize(
    ("lateral_only", "gantry_deg", "refused"),
    [(False, 2, True), (True, 2, False), (True, 0, True)],
    ids=["in every view", "in lateral views", "in lateral views, but an angle of 0 may be none"],
)
def test_the_gate_judges_the_louis_angle_in_an_ap_image_where_the_room_reports_it(
    samples, tmp_path, contract, rows, painted, lateral_only, gantry_deg, refused
):
    (tmp_path / "lidc0002").mkdir()
    name = "lidc0002_ap_mv_00.dcm"
    truths = json.loads((samples / "truth.json").read_text())
    in_ap = truths["images"][name]
    assert "louis_angle" in in_ap["unlabelled"]
    (tmp_path / "lidc0002" / "truth.json").write_text(json.dumps(truths | {"images": {name: in_ap}}))
    image = pydicom.dcmread(samples / name)
    image.GantryAngle = gantry_deg
    image.save_as(tmp_path / "lidc0002" / name)
    louis = KindContract(kind="louis_angle", threshold=0.5, at_most=1, lateral_only=lateral_only)
    reading = contract(kinds=[*(kind.model_dump() for kind in contract().kinds), louis.model_dump()])
    settings = GateSettings(images=tmp_path, patients=("lidc0002",))
    reference, moved = (
        gate_findings(louis_where(x, rows, painted), reading, settings, SilentProgress()) for x in (24.0, 25.2)
    )
    faults = run_gate(reference, moved, reading, GateLimits(least_images=1)).faults
    assert any(fault.startswith("louis_angle moves 1.20 px") for fault in faults) == refused


def test_gate_images_that_are_gone_meanwhile_end_the_build(tmp_path, contract):
    settings = GateSettings(images=tmp_path / "gone", patients=("lidc0002",))
    with pytest.raises(RecipeError, match=r"\[gate\]: .*truth.json: cannot be read .*landmarknet-train simulate"):
        gate_findings(FunctionBackend(lambda batch: batch), contract(), settings, SilentProgress())


def test_what_passes_at_once_gives_no_layer_back_and_measures_none():
    attempt, asked = attempts_that_pass_with()
    chosen = give_back_layers(attempt, lambda: pytest.fail("nothing to measure"), lambda _: None)
    assert asked == [()]
    assert chosen.kept_float == ()


def test_layers_of_the_least_effect_are_taken_into_int8_first_by_halves():
    attempt, asked = attempts_that_pass_with("d")
    chosen = give_back_layers(attempt, lambda: ORDER, lambda _: None)
    assert asked == [(), ("d", "c"), ("d",)]
    assert chosen.kept_float == ("d",)


def test_only_the_layers_that_move_a_landmark_stay_in_float_wherever_they_stand():
    layers = tuple(LayerEffect(str(number), 32.0 - number) for number in range(32))
    for guilty in ([0], [31], [3, 17], [0, 1, 2], [5, 12, 20, 28], list(range(0, 32, 4))):
        attempt, asked = attempts_that_pass_with(*map(str, guilty))
        chosen = give_back_layers(attempt, lambda: layers, lambda _: None)
        assert chosen.gate.passed
        assert chosen.effects == layers
        assert chosen.kept_float == tuple(map(str, guilty))
        assert len(set(asked)) == len(asked), "an attempt takes minutes"


def test_a_search_ends_with_what_has_passed_so_far():
    layers = tuple(LayerEffect(str(number), 128.0 - number) for number in range(128))
    guilty = set(map(str, range(64)))
    attempt, asked = attempts_that_pass_with(*guilty)
    chosen = give_back_layers(attempt, lambda: layers, lambda _: None)
    assert chosen.gate.passed
    assert guilty <= set(chosen.kept_float)
    assert len(asked) <= 2 * REFUSALS_MOST


def test_int8_in_name_alone_is_not_tried():
    attempt, asked = attempts_that_pass_with(*"dcbae")
    chosen = give_back_layers(attempt, lambda: ORDER, lambda _: None)
    assert max(map(len, asked)) == 4, "all five in float would be no INT8"
    assert not chosen.gate.passed


def test_a_single_layer_has_nothing_to_give_back():
    attempt, asked = attempts_that_pass_with("d")
    assert not give_back_layers(attempt, lambda: ORDER[:1], lambda _: None).gate.passed
    assert asked == [()]


def test_auto_takes_the_fastest_that_passes():
    slow_int8, half = candidate(speed=0.9), candidate(precision="fp16", speed=0.7)
    assert fastest([slow_int8, half]) is half
    assert fastest([candidate(speed=0.5), half]).precision == "int8"
    assert fastest([candidate(speed=0.5, passed=False), half]) is half


def test_auto_does_not_take_float16_that_is_computed_in_float32():
    plain, in_name = candidate(precision="fp32", speed=1.0), candidate(precision="fp16", speed=0.9, fp16=0)
    assert fastest([plain, in_name]) is plain
    with pytest.raises(RecipeError, match="no precision passes"):
        fastest([in_name])


def test_every_attempt_that_was_refused_is_kept_with_its_faults():
    attempt, _ = attempts_that_pass_with("c")
    chosen = give_back_layers(attempt, lambda: ORDER, lambda _: None)
    assert chosen.kept_float == ("c",)
    assert chosen.refused == (Refusal((), ("it moves",)), Refusal(("d",), ("it moves",), ("c",)))


def test_attempts_that_are_not_taken_give_their_device_back():
    made = []

    def attempt(keep):
        made.append(candidate(passed={"d", "c", "b"} <= set(keep), keep=keep, backend=ClosingBackend()))
        return made[-1]

    chosen = give_back_layers(attempt, lambda: ORDER, lambda _: None)
    assert ["".join(one.kept_float) for one in made] == ["", "dc", "dcb", "b", "db", "cb"]
    assert not chosen.backend.closed
    assert all(one.backend.closed for one in made if one.backend is not chosen.backend)


def test_int8_in_few_layers_or_without_gain_is_warned_of():
    assert warnings(candidate(int8=16, keep=("x",) * 16, speed=0.9)) == ()
    (few,) = warnings(candidate(int8=3, keep=("x",) * 29, speed=0.9))
    assert "3 of 32" in few
    (slow,) = warnings(candidate(int8=32, speed=1.0))
    assert "1.00 of the time of float32" in slow
    assert len(warnings(candidate(precision="fp16", speed=1.12))) == 1
    assert warnings(candidate(precision="fp32", speed=1.01)) == (), "it is float32"
    assert warnings(candidate(int8=32, speed=None)) == (), "not timed"


def test_warnings_are_said_of_what_passed():
    said = []
    tell_warnings(candidate(int8=3, keep=("x",) * 29, speed=1.11), said.append)
    assert [line.split(":")[0] for line in said] == ["WARNING", "WARNING"]
    tell_warnings(candidate(int8=3, keep=("x",) * 29, speed=1.11, passed=False), said.append)
    assert len(said) == 2


def test_auto_does_not_guess_what_it_cannot_time():
    clock = Clock()
    absent = plan("int8", 1.0, clock, ran_on="onnxruntime in place of tensorrt, whose plan was not run (no GPU)")
    with pytest.raises(RecipeError, match=r"time the engines, and int8 did not run here \(onnxruntime in place"):
        fastest([plan("fp16", 1.0, clock), absent], clock)


@pytest.mark.parametrize(
    ("fp32", "fp16", "int8", "taken"), [(4, 2, 1, "int8"), (4, 2, 2, "fp16"), (4, 2, 3, "fp16"), (1, 2, 3, "fp32")]
)
def test_auto_times_plans_where_they_ran(fp32, fp16, int8, taken):
    clock = Clock()
    plans = [plan(name, seconds, clock) for name, seconds in (("fp32", fp32), ("fp16", fp16), ("int8", int8))]
    chosen = fastest(plans, clock)
    assert chosen.precision == taken
    assert chosen.speed == pytest.approx({"fp32": fp32, "fp16": fp16, "int8": int8}[taken] / fp32)
    assert [one.backend.closed for one in plans] == [one.precision != taken for one in plans]


def test_auto_gives_back_the_device_of_what_did_not_pass():
    clock = Clock()
    refused, taken = plan("int8", 1.0, clock, passed=False), plan("fp16", 2.0, clock)
    assert fastest([taken, refused], clock).precision == "fp16"
    assert refused.backend.closed
    assert not taken.backend.closed


def test_auto_publishes_nothing_when_nothing_passes():
    with pytest.raises(RecipeError, match="no precision passes"):
        fastest([candidate(passed=False)])


def test_backends_are_timed_in_turns_and_warm():
    calls = []
    first = FunctionBackend(lambda batch: calls.append("first") or batch)
    other = FunctionBackend(lambda batch: calls.append("other") or batch)
    assert time_ratio(first, other, [[[0.0]]]) > 0
    pairs = [calls[i : i + 2] for i in range(0, len(calls), 2)]
    assert all(set(pair) == {"first", "other"} for pair in pairs)
    assert {pair[0] for pair in pairs} == {"first", "other"}
