import hashlib

import numpy as np
import pytest
from pydantic import ValidationError

from calibration.calibration_set import CalibrationError
from calibration.observers import empty_histogram, observe
from calibration.ranges import ActivationRanges, coarse, read_ranges, write_ranges
from calibration.show import plot_ranges, ranges_table

MODEL, OTHER = "a" * 64, "b" * 64


def ranges(**changes):
    histogram = coarse(observe(empty_histogram(), np.linspace(0, 4, 1001, dtype=np.float32)))
    entries = {
        "onnx_sha256": MODEL,
        "calibration_set_sha256": "c" * 64,
        "images": 3,
        "amax": {"max": {"x": 4.0, "dead": 0.0}, "mse": {"x": 3.0, "dead": 0.0}},
        "histograms": {"x": histogram},
    }
    return ActivationRanges.model_validate(entries | changes)


def test_ranges_read_back_as_they_were_written_with_the_hash_of_the_file(tmp_path):
    path = tmp_path / "ranges.json"
    write_ranges(path, ranges())
    assert read_ranges(path) == (ranges(), hashlib.sha256(path.read_bytes()).hexdigest())


def test_ranges_of_one_method_are_given_for_their_model():
    assert ranges().of("mse", onnx_sha256=MODEL) == {"x": 3.0, "dead": 0.0}


def test_ranges_of_another_model_are_refused_naming_both():
    with pytest.raises(CalibrationError, match=f"{MODEL}.*{OTHER}"):
        ranges().of("mse", onnx_sha256=OTHER)


def test_a_method_that_was_not_recorded_is_refused():
    with pytest.raises(CalibrationError, match="'entropy'; there are max, mse"):
        ranges().of("entropy", onnx_sha256=MODEL)


@pytest.mark.parametrize(
    "amax",
    [
        {},
        {"max": {"x": float("nan")}},
        {"max": {"x": -1.0}},
        {"best": {"x": 1.0}},
        {"max": {"x": 1.0}, "mse": {"y": 1.0}},
    ],
    ids=["no method", "not a number", "negative", "unknown method", "other tensors"],
)
def test_ranges_that_make_no_sense_are_refused(amax):
    with pytest.raises(ValidationError):
        ranges(amax=amax)


def test_ranges_of_another_model_say_how_to_get_those_of_this_one():
    """The same checkpoint gives other bytes after an upgrade: to collect again on the old release would not help."""
    with pytest.raises(CalibrationError, match=r"exported by another .*this software; publish fp32 anew, then"):
        ranges().of("max", onnx_sha256=OTHER)


def test_a_torn_file_says_what_to_do(tmp_path):
    path = tmp_path / "ranges.json"
    write_ranges(path, ranges())
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CalibrationError, match=r"ranges\.json: not activation ranges .*collect them again"):
        read_ranges(path)


def test_a_coarse_histogram_counts_the_same_values():
    stored = ranges().histograms["x"]
    assert sum(stored.counts) + stored.zeros == 1001
    assert stored.zeros == 1
    assert stored.counts[0] == pytest.approx(1000 / 128, abs=1)  # values at equal steps fill bins alike
    assert stored.reach == 4.0


def test_the_table_shows_each_method_and_its_share_of_the_largest():
    table = ranges_table(ranges())
    cells = [list(column.cells) for column in table.columns]
    assert cells == [["x", "dead"], ["4", "0"], ["3 (75 %)", "0"]]


def test_the_picture_is_drawn_also_of_a_tensor_that_is_always_zero(tmp_path):
    path = tmp_path / "ranges.png"
    plot_ranges(ranges(), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    again = tmp_path / "again.png"
    plot_ranges(ranges(amax={"max": {"x": 4.0, "dead": 0.0}, "mse": {"x": 1.0, "dead": 0.0}}), again)
    assert again.read_bytes() != path.read_bytes()  # another clip is another picture
