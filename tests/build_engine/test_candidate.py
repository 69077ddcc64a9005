from types import SimpleNamespace

import pytest

from build_engine.candidate import Candidate, fastest, give_back_layers, time_ratio
from build_engine.compiled import Compiled
from build_engine.recipe import RecipeError
from build_engine.sensitivity import LayerEffect
from edge.backends.function import FunctionBackend

ORDER = tuple(
    LayerEffect(name, effect) for effect, name in ((4.0, "d"), (3.0, "c"), (2.0, "b"), (1.0, "a"), (0.5, "e"))
)


def candidate(*, passed=True, keep=(), precision="int8", speed=1.0):
    compiled = Compiled(b"", "model.onnx", "onnxruntime", "1.0", {})
    gate = SimpleNamespace(passed=passed, faults=() if passed else ("it moves",))
    return Candidate(precision, compiled, FunctionBackend(lambda batch: batch), "onnxruntime", gate, keep, (), speed)


def attempts_that_pass_with(*needed):
    """Return an attempt that passes once the needed layers are in float, and what it was asked."""
    asked = []

    def attempt(keep):
        asked.append(keep)
        return candidate(passed=set(needed) <= set(keep), keep=keep)

    return attempt, asked


def test_what_passes_at_once_gives_no_layer_back_and_measures_none():
    attempt, asked = attempts_that_pass_with()
    chosen = give_back_layers(attempt, lambda: pytest.fail("nothing to measure"), lambda _: None)
    assert asked == [()]
    assert chosen.kept_float == ()


def test_the_layers_with_the_largest_effect_go_back_first_twice_as_many_each_time_then_half_of_the_rest():
    attempt, asked = attempts_that_pass_with("e")
    give_back_layers(attempt, lambda: tuple(LayerEffect(name, 1.0) for name in "abcd" * 8), lambda _: None)
    assert [len(keep) for keep in asked] == [0, 1, 2, 4, 8, 16, 24, 28, 30, 31], "32 in float would be no INT8"


def test_no_more_layers_go_back_than_have_to():
    layers = tuple(LayerEffect(str(number), 32.0 - number) for number in range(32))
    for needed in range(31):
        attempt, asked = attempts_that_pass_with(str(needed))
        chosen = give_back_layers(attempt, lambda: layers, lambda _: None)
        assert chosen.gate.passed
        assert chosen.effects == layers
        assert len(chosen.kept_float) == needed + 1
        assert len(set(asked)) == len(asked), "an attempt takes minutes"


def test_int8_in_name_alone_is_not_tried():
    attempt, asked = attempts_that_pass_with("e")
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


def test_auto_does_not_guess_what_it_cannot_time():
    with pytest.raises(RecipeError, match="time the engines"):
        fastest([candidate(speed=None), candidate(precision="fp16")])


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
